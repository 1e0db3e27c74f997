"""The topic `tasks:`: rows of the tasks that changed, for any number of filters from one reading of the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from msgspec import Raw

from ...container import Container
from ...errors import StoreError
from ...events.ids import TaskRef
from ...events.subjects import SCHEDULER_FENCE, task_ref
from ...index.lists import SERVICE
from ...index.query import TaskQuery
from ...projections.task_view import Listed
from ...streams.jetstream.messages import read_some, stream_info
from ...streams.tail import LogReplaced
from ...streams.topology.definitions import TASKS
from ..schemas.tasks import task_summary
from .channels import FLUSH_SECONDS, RETRY_SECONDS, Channel, LiveFrame, frame

log = structlog.get_logger(__name__)

MOST_ROWS = 200
"""Tasks of one frame."""
LINGER_SECONDS = 0.05
"""How long the reader of the log waits for further events: it wakes less often."""
TRIES = 8
"""How often a place that is ahead of this process is waited for."""
LONGEST_SEQUENCE = 19
"""Digits of a sequence."""
MOST_CAUGHT_UP = 5_000
"""Events that a listener may be behind; further behind, the page reads its list again."""


class TaskChanges:
    """Follows the log while anybody wants rows: notes which tasks changed, and reads their rows once for all.

    The log is read by the tail that push and the index share. Of an event only the subject is looked at.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._channels: set[RowsChannel] = set()
        self._working: asyncio.Task[None] | None = None
        self.position = 0
        """Sequence up to which all changes were noted."""
        self.started = asyncio.Event()
        """Set while the log is followed."""

    def join(self, channel: RowsChannel) -> None:
        self._channels.add(channel)
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="live-tasks")

    def leave(self, channel: RowsChannel) -> None:
        self._channels.discard(channel)
        if not self._channels and self._working is not None:
            self._working.cancel()
            self._working = None
            self.position = 0
            self.started.clear()

    async def _work(self) -> None:
        while True:
            flushing = asyncio.create_task(self._flush_often())
            try:
                await self._follow()
            except StoreError as error:
                log.warning("live.retrying", reason=str(error))
            finally:
                flushing.cancel()
                self.started.clear()
            for channel in self._channels:
                channel.lose()
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        self.position = int((await stream_info(self._container.reading, TASKS))["state"]["last_seq"])
        self.started.set()
        with contextlib.suppress(LogReplaced):
            batches = self._container.tail.follow(self.position, LINGER_SECONDS)
            async with contextlib.aclosing(batches):
                async for positions in batches:
                    if positions:
                        refs = refs_of(position.subject for position in positions)
                        self.position = positions[-1].sequence
                        for channel in self._channels:
                            channel.note(refs)

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            position = self.position
            changed = {channel: channel.take() for channel in self._channels}
            wanted = dict.fromkeys(ref for refs, _ in changed.values() for ref in refs)
            try:
                listed = await self._container.lists.views(list(wanted), user=SERVICE)
            except StoreError as error:
                for channel in changed:
                    channel.publish(frame("stale", error=str(error)))
                    channel.publish(frame("reset", str(position)))
                continue
            rows = Rows(self._container, listed)
            for channel, (refs, more) in changed.items():
                channel.flush(rows, refs, more, position)


def refs_of(subjects: Iterable[str]) -> dict[TaskRef, None]:
    """Return the tasks that subjects name, in order, each once."""
    return dict.fromkeys(task_ref(subject) for subject in subjects if subject != SCHEDULER_FENCE)


class Rows:
    """Tasks as rows, each encoded once."""

    def __init__(self, container: Container, listed: Sequence[Listed]) -> None:
        self._settings = container.settings
        self._listed: Mapping[TaskRef, Listed] = {each.ref: each for each in listed}
        self._encoded: dict[TaskRef, Raw] = {}

    def of(self, wanted: TaskQuery, refs: Iterable[TaskRef], place: str, more: int) -> LiveFrame:
        """Return a frame with the rows of tasks that match, and the ids of those that do not."""
        rows: list[Raw] = []
        left: list[str] = []
        for ref in refs:
            listed = self._listed.get(ref)
            if listed is not None and wanted.matches(listed.ref, listed.view):
                rows.append(self._row(listed))
            else:
                left.append(ref.id)
        return frame("tasks", place, len(rows) + len(left), rows=rows, left=left, more=more)

    def _row(self, listed: Listed) -> Raw:
        found = self._encoded.get(listed.ref)
        if found is None:
            found = self._encoded[listed.ref] = Raw(msgspec.json.encode(task_summary(listed, self._settings)))
        return found


class RowsChannel(Channel):
    """The rows of one filter."""

    def __init__(self, container: Container, changes: TaskChanges, wanted: TaskQuery) -> None:
        super().__init__()
        self._container = container
        self._changes = changes
        self._wanted = wanted
        self._changed: dict[TaskRef, None] = {}
        self._more = 0
        self._published: int | None = None
        """Up to where the changes are in frames; None: nothing was published."""

    @property
    def position(self) -> str:
        return str(self._end)

    @property
    def _end(self) -> int:
        return self._changes.position if self._published is None else self._published

    def note(self, refs: Mapping[TaskRef, None]) -> None:
        """Note which tasks changed; the first MOST_ROWS, the others are counted."""
        owner = self._wanted.owner
        for ref in refs:
            if (owner is None or ref.owner == owner) and ref not in self._changed:
                if len(self._changed) < MOST_ROWS:
                    self._changed[ref] = None
                else:
                    self._more += 1

    def take(self) -> tuple[dict[TaskRef, None], int]:
        """Return what changed since the last call, and how many more."""
        taken = self._changed, self._more
        self._changed, self._more = {}, 0
        return taken

    def flush(self, rows: Rows, refs: Mapping[TaskRef, None], more: int, position: int) -> None:
        self._published = position
        if refs:
            self.publish(rows.of(self._wanted, refs, str(position), more))

    def lose(self) -> None:
        """Tell the listeners that changes were missed: they read their lists again."""
        self._changed, self._more, self._published = {}, 0, None
        self.publish(frame("reset"))

    async def ready(self) -> None:
        await self._changes.started.wait()

    async def work(self) -> None:
        self._changes.join(self)
        await asyncio.Event().wait()

    def stop(self) -> None:
        self._changes.leave(self)
        super().stop()

    async def catch_up(self, place: str) -> list[LiveFrame]:
        """Return the rows of what changed since a place; `reset` if that is too much or not known."""
        reading = self._container.reading
        is_place = place.isascii() and place.isdigit() and len(place) <= LONGEST_SEQUENCE
        for _ in range(TRIES):  # another process may have been ahead
            end = self._end
            if not is_place or int(place) <= end:
                break
            await asyncio.sleep(FLUSH_SECONDS)
        if not is_place or not end - MOST_CAUGHT_UP <= int(place) <= end:
            return [frame("reset", str(end))]
        after, refs = int(place), dict[TaskRef, None]()
        while after < end:
            positions = await read_some(reading, TASKS, ">", after + 1, min(1_000, end - after))
            if not positions:
                return [frame("reset", str(end))]
            refs |= refs_of(position.subject for position in positions if position.sequence <= end)
            after = positions[-1].sequence
        mine = [ref for ref in refs if self._wanted.owner in (None, ref.owner)]
        if not mine:
            return []
        shown = mine[-MOST_ROWS:]
        listed = await self._container.lists.views(shown, user=SERVICE)
        return [Rows(self._container, listed).of(self._wanted, shown, str(end), len(mine) - len(shown))]
