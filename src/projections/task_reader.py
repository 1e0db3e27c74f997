"""The reader of tasks: one from its own history, many from the projection with the tail of the log folded in.

Both are current: a read sees every write that was acknowledged before it began.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Raw, Struct

from ..errors import NotFound
from ..events import task as events
from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.kinds import ACTIVATING_WORDS, ENDING_WORDS
from ..events.subjects import task_ref, task_root, tasks_filter
from ..events.task import StoredFile, StoredResult, TaskEvent
from ..streams.buckets import Bucket, BucketEntry
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_sequence, read
from ..streams.log import Log, decode
from ..streams.results import Results
from ..streams.topology.definitions import TASKS
from .active import projected, ref_of
from .submissions import RECENT_LENGTH, Stretch, newest_first
from .task_view import ACTIVE, Listed, TaskView, fold, view_key
from .task_view import decode as decode_view

LONGEST_TAIL = 2_000
"""Most unprojected events that a list folds; if there are more, it reads each task's history instead."""
LOADED_AT_ONCE = 32
LONGEST_WALK = RECENT_LENGTH
"""Submissions that one page searches before it returns what it has found, with a cursor. So a first page never has to
search the log."""

Tail = dict[TaskRef, list[Stored[TaskEvent]]]
"""Events that the bucket does not reflect yet, by task."""


class TaskDetail(NamedTuple):
    """A task with its payload and result."""

    ref: TaskRef
    view: TaskView
    payload: Raw
    result: Raw | None


class ListedTasks(NamedTuple):
    tasks: list[Listed]
    cursor: int | None
    """Where the next page starts; None after the last. A page may be short, even empty, and still have one."""


class TaskFilter(Struct, frozen=True, kw_only=True):
    owner: str | None = None
    """Owner token; None: everybody's."""
    statuses: frozenset[str] = frozenset()
    """Empty: all."""
    types: frozenset[str] = frozenset()
    deleted: bool = False
    """True: include tasks that their owners deleted."""
    project: str = ""
    """Empty: any or none."""
    batch: str = ""
    schedule: str = ""
    """Id of the recurring schedule that submitted the tasks."""
    created_since: datetime | None = None
    created_before: datetime | None = None

    def matches(self, view: TaskView) -> bool:
        return (
            (not self.statuses or view.status in self.statuses)
            and (not self.types or view.task_type in self.types)
            and (self.deleted or not view.deleted)
            and self.project in ("", view.project)
            and self.batch in ("", view.batch)
            and self.schedule in ("", view.schedule)
            and (self.created_since is None or view.created_at >= self.created_since)
            and (self.created_before is None or view.created_at < self.created_before)
        )


class TaskReader:
    def __init__(self, log: Log[TaskEvent], reading: Connection, bucket: Bucket, results: Results) -> None:
        self._log = log
        self._reading = reading
        self._bucket = bucket
        self._results = results

    async def detail(self, ref: TaskRef, *, deleted: bool = False) -> TaskDetail:
        """Return a task with its payload and result. Raises NotFound; unless `deleted`, also for a deleted task."""
        return await self.detail_of(ref, await self.history(ref, deleted=deleted))

    async def detail_of(self, ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> TaskDetail:
        """Return the task that a history describes. A large result is read from the object store."""
        view: TaskView | None = None
        payload = Raw(b"null")
        for stored in history:
            view = fold(view, stored)
            if isinstance(stored.recorded.event, events.TaskSubmitted):
                payload = stored.recorded.event.payload
        if view is None:
            raise NotFound("task", ref.id)
        result = _stored_result(history)
        return TaskDetail(ref, view, payload, None if result is None else await self._results.read(result))

    async def file(self, ref: TaskRef, *, deleted: bool = False) -> StoredFile:
        """Return the file of a task's result. Raises NotFound, also if the result has none."""
        result = _stored_result(await self.history(ref, deleted=deleted))
        if result is None or result.file is None:
            raise NotFound("file in the result of task", ref.id)
        return result.file

    async def history(self, ref: TaskRef, *, deleted: bool = False) -> list[Stored[TaskEvent]]:
        """Return a task's events, oldest first.

        Raises NotFound if there are none; unless `deleted`, also for a deleted task.
        """
        history = await self._log.load(task_root(ref))
        if not history or (isinstance(history[-1].recorded.event, events.TaskDeleted) and not deleted):
            raise NotFound("task", ref.id)
        return history

    async def current(self, owner: str | None, ended_since: datetime | None) -> list[Listed]:
        """Return all tasks of an owner token (None: of everybody) that have not ended, newest submission first.

        With `ended_since`, also those that ended then or later. Without deleted tasks.
        """
        checkpoint = await projected(self._bucket)
        tail = await self._tail(owner, checkpoint)
        refs = await self._active(owner)
        if refs is None:
            refs = {ref_of(entry.key) for entry in await self._bucket.scan(f"active.*.{owner or '*'}.*")}
        refs |= await self._queued_since(owner, checkpoint) if tail is None else tail.keys()
        if ended_since is not None:
            for word in sorted(ENDING_WORDS):
                ended = await read(self._reading, TASKS, tasks_filter(owner, word), start_time=ended_since)
                refs |= {task_ref(position.subject) for position in ended}
        views = await self._views(list(refs), tail)
        listed = [
            Listed(ref, view)
            for ref, view in views.items()
            if not view.deleted
            and (view.ended_at is None or (ended_since is not None and view.ended_at >= ended_since))
        ]
        return sorted(listed, key=lambda task: task.view.created_sequence, reverse=True)

    async def snapshot(self, owner: str | None) -> tuple[int, list[Listed]]:
        """Return the tasks of an owner token (None: of everybody) that have not ended, newest submission first.

        The number is a sequence of the log; the tasks reflect it, or a later one.
        """
        sequence = await last_sequence(self._reading, TASKS, tasks_filter(owner))
        return sequence, await self.current(owner, None)

    async def _queued_since(self, owner: str | None, checkpoint: int) -> set[TaskRef]:
        """Return the tasks that were submitted, queued or held after the checkpoint."""
        found: set[TaskRef] = set()
        for word in ACTIVATING_WORDS:
            positions = await read(self._reading, TASKS, tasks_filter(owner, word), checkpoint + 1)
            found |= {task_ref(position.subject) for position in positions}
        return found

    async def sequence_at(self, at: datetime) -> int:
        """Return the sequence of the first event stored at an instant or later, else of the next event."""
        found = await read(self._reading, TASKS, ">", limit=1, start_time=at)
        return found[0].sequence if found else await last_sequence(self._reading, TASKS, ">") + 1

    async def views(self, refs: Sequence[TaskRef], owner: str | None) -> list[Listed]:
        """Return the present views of tasks, all of an owner token (None: of several owners), in the order given.

        Deleted tasks are included, missing ones are left out.
        """
        checkpoint = await projected(self._bucket)
        views = await self._views(refs, await self._tail(owner, checkpoint))
        return [Listed(ref, views[ref]) for ref in refs if ref in views]

    async def page(self, wanted: TaskFilter, limit: int, before: int | None = None) -> ListedTasks:
        """Return up to `limit` tasks, newest submission first, submitted before the sequence `before`."""
        checkpoint = await projected(self._bucket)
        tail = await self._tail(wanted.owner, checkpoint)
        if wanted.statuses and wanted.statuses <= ACTIVE and tail is not None:
            active = await self._active(wanted.owner)
            if active is not None:
                return await self._page_of(list(active | tail.keys()), tail, wanted, limit, before)
        found: list[Listed] = []
        walked = 0
        walk = newest_first(self._reading, self._bucket, wanted.owner, checkpoint, before, limit)
        async with contextlib.aclosing(walk) as stretches:
            async for places, rest in stretches:
                views = await self._views([place.ref for place in places], tail)
                for place in places:
                    view = views.get(place.ref)
                    if view is None or not wanted.matches(view):
                        continue
                    found.append(Listed(place.ref, view))
                    if len(found) == limit:
                        return ListedTasks(found, rest if place == places[-1] else place.sequence)
                walked += len(places)
                if walked >= LONGEST_WALK:
                    return ListedTasks(found, rest)
        return ListedTasks(found, None)

    async def submissions(self, owner: str | None, before: int | None, at_once: int) -> AsyncGenerator[Stretch, None]:
        """Yield the submissions of an owner token (None: of everybody) before a sequence, newest first.

        `at_once`: the approximate number per stretch.
        """
        checkpoint = await projected(self._bucket)
        walk = newest_first(self._reading, self._bucket, owner, checkpoint, before, at_once)
        async with contextlib.aclosing(walk) as stretches:
            async for stretch in stretches:
                yield stretch

    async def _active(self, owner: str | None) -> set[TaskRef] | None:
        """Return the tasks that have not ended, as far as projected; None if they are too many to sort in memory."""
        entries = await self._bucket.get_matching(f"active.*.{owner or '*'}.*")
        return None if entries is None else {ref_of(entry.key) for entry in entries}

    async def _page_of(
        self, refs: Sequence[TaskRef], tail: Tail, wanted: TaskFilter, limit: int, before: int | None
    ) -> ListedTasks:
        """Return a page of these tasks."""
        views = await self._views(refs, tail)
        found = [
            Listed(ref, view)
            for ref, view in views.items()
            if wanted.matches(view) and (before is None or view.created_sequence < before)
        ]
        found.sort(key=lambda listed: listed.view.created_sequence, reverse=True)
        shown = found[:limit]
        return ListedTasks(shown, shown[-1].view.created_sequence if len(found) > limit else None)

    async def _tail(self, owner: str | None, after: int) -> Tail | None:
        """Return the events after a sequence, by task; None if there are LONGEST_TAIL or more."""
        positions = await read(self._reading, TASKS, tasks_filter(owner), after + 1, LONGEST_TAIL)
        if len(positions) >= LONGEST_TAIL:
            return None
        tail: Tail = {}
        for position in positions:
            tail.setdefault(task_ref(position.subject), []).append(decode(task_codec, position))
        return tail

    async def _views(self, refs: Sequence[TaskRef], tail: Tail | None) -> dict[TaskRef, TaskView]:
        """Return the current view of each task."""
        if tail is None:
            entries: dict[str, BucketEntry] = {}
            events = await self._histories(refs)
        else:
            entries = await self._bucket.get_many([view_key(ref) for ref in refs]) if refs else {}
            events = tail
        views = {}
        for ref in refs:
            entry = entries.get(view_key(ref))
            view = decode_view(entry.value) if entry else None
            for stored in events.get(ref, ()):
                view = fold(view, stored)
            if view is not None:
                views[ref] = view
        return views

    async def _histories(self, refs: Sequence[TaskRef]) -> Tail:
        """Return all events of each task."""
        places = asyncio.Semaphore(LOADED_AT_ONCE)

        async def load(ref: TaskRef) -> list[Stored[TaskEvent]]:
            async with places:
                return await self._log.load(task_root(ref))

        return dict(zip(refs, await asyncio.gather(*map(load, refs)), strict=True))


def _stored_result(history: Sequence[Stored[TaskEvent]]) -> StoredResult | None:
    """Return the result of the task's last end; None if it has none, or was retried since."""
    result: StoredResult | None = None
    for stored in history:
        match stored.recorded.event:
            case events.TaskSucceeded() | events.TaskFailed() as ended:
                result = ended.result
            case events.TaskQueued(renewed=True) | events.TaskHeld(renewed=True):
                result = None
            case _:
                pass
    return result
