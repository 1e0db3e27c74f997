"""The reader of tasks: one from its own history, many from the projection with the tail of the log folded in.

Both are current: a read sees every write that was acknowledged before it began.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..errors import NotFound, StoreUnavailable
from ..events import task as events
from ..events.codec import task_codec
from ..events.envelope import NULL, Stored
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, word_of
from ..events.subjects import (
    events_filter,
    history_filter,
    submission_filter,
    task_ref,
    task_root,
    task_word,
    tasks_filter,
)
from ..events.task import StoredResult, TaskEvent
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import (
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    Position,
    last_position,
    last_sequence,
    position_at,
    read,
    read_backwards,
)
from ..streams.jetstream.newest import read_newest
from ..streams.log import Log, decode
from ..streams.topology.definitions import TASKS
from .active import projected, ref_of
from .reports import ReportSearch
from .submissions import RECENT_LENGTH, Stretch, newest_first
from .task_view import ACTIVE, Listed, TaskView, fold, ref_of_view, view_key, view_keys_of
from .task_view import decode as decode_view

LONGEST_TAIL = 2_000
"""Most unprojected events that a list folds; if there are more, it reads each task's history instead."""
TAIL_BYTES = 16 * 1024 * 1024
"""Likewise, in bytes: payloads and results are in the events."""
PAGE_BYTES = 8 * 1024 * 1024
"""Content of events after which a page of a history ends."""
CLOCK_TOLERANCE = timedelta(seconds=5)
"""Largest difference between the clock that dates events and that of NATS."""
LOADED_AT_ONCE = 32
MOST_SEARCHED = 2_000
"""Submissions, or views that changed lately, that one request searches for tasks of its list."""
LONGEST_WALK = RECENT_LENGTH
"""Most submissions that one page searches before it returns what it has found, with a cursor. So a first page never has
to search the log."""

Tail = dict[TaskRef, list[Stored[TaskEvent]]]
"""Events that the bucket does not reflect yet, by task."""


class LastReport(NamedTuple):
    """What the last report of the present attempt says, beside its progress and message."""

    custom_data: Raw = NULL
    data: StoredResult | None = None
    """The result as far as it is known: of the last report that had data."""
    data_sequence: int = 0
    """Sequence of the event that has it."""


class TaskDetail(NamedTuple):
    """A task with its payload and result."""

    ref: TaskRef
    view: TaskView
    payload: Raw
    result: StoredResult | None
    result_sequence: int
    """Sequence of the event that has the result; 0 without one."""
    report: LastReport | None = None
    """Of an attempt that runs; None before its first report."""


class TaskResult(NamedTuple):
    """A result of a task, and the sequence of the event that has it."""

    ref: TaskRef
    sequence: int
    stored: StoredResult


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
    in_project: bool = False
    """True: only tasks of a project, whichever it is."""
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
            and (not self.in_project or bool(view.project))
            and self.batch in ("", view.batch)
            and self.schedule in ("", view.schedule)
            and (self.created_since is None or view.created_at >= self.created_since)
            and (self.created_before is None or view.created_at < self.created_before)
        )


class TaskReader:
    def __init__(self, log: Log[TaskEvent], reading: Connection, bucket: Bucket) -> None:
        self._log = log
        self._reading = reading
        self._bucket = bucket
        self._reports = ReportSearch(reading)

    async def detail(self, ref: TaskRef, *, deleted: bool = False) -> TaskDetail:
        """Return a task with its payload and result, of which a large one is not read.

        Raises NotFound; unless `deleted`, also for a deleted task.
        """
        return self.detail_of(ref, await self.present_history(ref, deleted=deleted))

    def detail_of(self, ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> TaskDetail:
        """Return the task that a history describes."""
        view: TaskView | None = None
        payload = Raw(b"null")
        report: LastReport | None = None
        for stored in history:
            view = fold(view, stored)
            report = next_report(report, stored.recorded.event, stored.sequence)
            if isinstance(stored.recorded.event, events.TaskSubmitted):
                payload = stored.recorded.event.payload
        if view is None:
            raise NotFound("task", ref.id)
        result = _current_result(ref, history)
        sequence = result.sequence if result else 0
        is_running = view.status == "PROCESSING"
        return TaskDetail(ref, view, payload, result and result.stored, sequence, report if is_running else None)

    async def result(self, ref: TaskRef, sequence: int | None, *, deleted: bool = False) -> TaskResult:
        """Return the result of a task's event at a sequence; None: its present result. Raises NotFound."""
        if sequence is not None:
            await self.last_event(ref, deleted=deleted)
            return await self.result_at(ref, sequence)
        found = _current_result(ref, await self.history(ref, deleted=deleted))
        if found is None:
            raise NotFound("result of task", ref.id)
        return found

    async def result_at(self, ref: TaskRef, sequence: int) -> TaskResult:
        """Return the result of a task's event at a sequence, also of a deleted task. Raises NotFound."""
        position = await position_at(self._reading, TASKS, sequence)
        if position is not None and position.subject.startswith(f"{task_root(ref)}."):
            found = _result_in(ref, decode(task_codec, position))
            if found is not None:
                return found
        raise NotFound("result of task", ref.id)

    async def payload(self, ref: TaskRef, *, deleted: bool = False) -> Raw:
        """Return the payload of a task as submitted; nothing else of it is read. Raises NotFound as `history` does."""
        await self.last_event(ref, deleted=deleted)
        position = await last_position(self._reading, TASKS, submission_filter(ref))
        event = None if position is None else decode(task_codec, position).recorded.event
        if not isinstance(event, events.TaskSubmitted):
            raise NotFound("payload of task", ref.id)  # past its retention
        return event.payload

    async def history(self, ref: TaskRef, *, deleted: bool = False) -> list[Stored[TaskEvent]]:
        """Return the events that the state of a task follows from, oldest first: of its reports only the last one.

        Raises NotFound if there are none; unless `deleted`, also for a deleted task.
        """
        history = await self._log.load(task_root(ref))
        if not history or (isinstance(history[-1].recorded.event, events.TaskDeleted) and not deleted):
            raise NotFound("task", ref.id)
        return history

    async def present_history(self, ref: TaskRef, *, deleted: bool = False) -> list[Stored[TaskEvent]]:
        """Return the events that the view and the last report of a task follow from, oldest first.

        Of the reports of the last attempt: the last one, and the last ones with a percentage and with data. A view of
        them lacks `chapters`. Raises as `history` does.
        """
        history = await self.history(ref, deleted=deleted)
        reports = [stored for stored in history if isinstance(stored.recorded.event, events.ProgressReported)]
        starts = [stored.sequence for stored in history if isinstance(stored.recorded.event, events.AttemptStarted)]
        started = starts[-1] if starts else 0
        if not reports or reports[-1].sequence < started:
            return history
        sequence, recorded = reports[-1]
        assert isinstance(recorded.event, events.ProgressReported)
        earlier = await self._reports.before(ref, started, sequence, recorded.event)
        known = {stored.sequence: stored for stored in history}
        known |= {position.sequence: decode(task_codec, position) for position in earlier}
        return sorted(known.values(), key=lambda stored: stored.sequence)

    async def count_events(self, ref: TaskRef) -> int:
        """Return the number of a task's events. NATS counts them: none is read."""
        return await self._log.count(task_root(ref))

    async def last_event(self, ref: TaskRef, *, deleted: bool) -> Position:
        """Return the last event of a task. Raises as `history` does."""
        last = await last_position(self._reading, TASKS, history_filter(task_root(ref)))
        if last is None or (task_word(last.subject) == word_of(events.TaskDeleted) and not deleted):
            raise NotFound("task", ref.id)
        return last

    async def history_page(
        self,
        ref: TaskRef,
        after: int,
        limit: int,
        *,
        words: AbstractSet[str] = frozenset(),
        deleted: bool = False,
    ) -> tuple[list[Stored[TaskEvent]], int | None]:
        """Return up to `limit` events of a task after a sequence, and where the next page starts, None after the last.

        `words`: of these kinds only; empty: of all. A page ends after PAGE_BYTES. Raises as `history` does.
        """
        await self.last_event(ref, deleted=deleted)
        filters = _filters(ref, words)
        most_bytes = PAGE_BYTES // len(filters)
        found: list[Position] = []
        ends: list[int] = []
        """Where the page ends for each kind that has more."""
        for each in filters:
            positions, has_more = await self._forward(each, after, limit, most_bytes)
            found += positions
            ends += [positions[-1].sequence] if has_more else []
        shown = [position for position in sorted(found) if not ends or position.sequence <= min(ends)][:limit]
        has_more = bool(ends) or len(shown) < len(found)
        return [decode(task_codec, position) for position in shown], shown[-1].sequence if shown and has_more else None

    async def newest_page(
        self,
        ref: TaskRef,
        before: int | None,
        limit: int,
        *,
        words: AbstractSet[str] = frozenset(),
        deleted: bool = False,
    ) -> tuple[list[Stored[TaskEvent]], int | None]:
        """Return up to `limit` events of a task before a sequence (None: the last ones), newest first.

        And the sequence before which the next page starts, None after the oldest event. Else as `history_page`.
        """
        last = await self.last_event(ref, deleted=deleted)
        filters = _filters(ref, words)
        most_bytes = PAGE_BYTES // len(filters)
        found: list[Position] = []
        ends: list[int] = []
        for each in filters:
            positions, has_more = await self._backward(each, before or last.sequence + 1, limit, most_bytes)
            found += positions
            ends += [positions[-1].sequence] if has_more else []
        ordered = sorted(found, reverse=True)
        shown = [position for position in ordered if not ends or position.sequence >= max(ends)][:limit]
        has_more = bool(ends) or len(shown) < len(found)
        return [decode(task_codec, position) for position in shown], shown[-1].sequence if shown and has_more else None

    async def _forward(
        self, filter_subject: str, after: int, limit: int, most_bytes: int
    ) -> tuple[list[Position], bool]:
        """Return the events on a filter after a sequence, and True if there are more than these."""
        last = await last_sequence(self._reading, TASKS, filter_subject)
        found: list[Position] = []
        tries = 0
        while len(found) < limit and (reached := found[-1].sequence if found else after) < last:
            positions = await read(
                self._reading, TASKS, filter_subject, reached + 1, limit - len(found), most_bytes=most_bytes
            )
            found += positions
            if sum(len(position.data) for position in found) > most_bytes:
                break
            if not positions:  # from a replica that lags behind
                tries += 1
                if tries >= STALE_REPLICA_TRIES:
                    raise StoreUnavailable(f"no replica of {TASKS} has caught up")
                await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        return found, bool(found) and found[-1].sequence < last

    async def _backward(
        self, filter_subject: str, before: int, limit: int, most_bytes: int
    ) -> tuple[list[Position], bool]:
        """Return the events on a filter before a sequence, newest first, and True if there are older ones."""
        last = await last_sequence(self._reading, TASKS, filter_subject)
        for _ in range(STALE_REPLICA_TRIES):
            found = await read_newest(self._reading, TASKS, filter_subject, before, limit, most_bytes)
            if last >= before or last == (found.positions[0].sequence if found.positions else 0):
                return found
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {TASKS} has caught up")

    async def active(self, wanted: TaskFilter, limit: int, before: int | None = None) -> ListedTasks:
        """Return up to `limit` tasks that have not ended, newest submission first, as `page` does.

        If more than a thousand of an owner's have not ended, or ended in the last seconds, it searches at most
        MOST_SEARCHED submissions.
        """
        return await self.page(replace(wanted, statuses=ACTIVE), limit, before, most_searched=MOST_SEARCHED)

    async def ended_lately(self, wanted: TaskFilter, since: datetime, limit: int) -> list[Listed]:
        """Return up to `limit` tasks of one owner that ended at an instant or later, the last end first.

        Of what the projection reflects, it searches the MOST_SEARCHED views that changed last, without the events: a
        result may be large.
        """
        assert wanted.owner is not None
        checkpoint = await projected(self._bucket)
        tail = await self._tail(wanted.owner, checkpoint)
        ahead = set(tail) if tail is not None else await self._ended_after(wanted.owner, checkpoint, limit)
        projected_ends: list[TaskRef] = []
        searched = 0
        walk = self._bucket.newest(view_keys_of(wanted.owner), since - CLOCK_TOLERANCE, limit)
        async with contextlib.aclosing(walk):
            async for entries in walk:
                for entry in entries:
                    ref, view = ref_of_view(entry.key), decode_view(entry.value)
                    has_ended = view.ended_at is not None and view.ended_at >= since and wanted.matches(view)
                    if has_ended and ref not in ahead:
                        projected_ends.append(ref)
                searched += len(entries)
                if len(projected_ends) >= limit or searched >= MOST_SEARCHED:
                    break
        refs = ahead.union(projected_ends[:limit])
        found = [
            Listed(ref, view)
            for ref, view in (await self._views(list(refs), tail)).items()
            if view.ended_at is not None and view.ended_at >= since and wanted.matches(view)
        ]
        found.sort(key=lambda listed: (listed.view.ended_at or since, listed.view.sequence), reverse=True)
        return found[:limit]

    async def _ended_after(self, owner: str, checkpoint: int, limit: int) -> set[TaskRef]:
        """Return about `limit` tasks of an owner whose last events after the checkpoint are ends, as far as searched.

        For a projection that is far behind. Their results are in the events, so it stops after TAIL_BYTES.
        """
        found: set[TaskRef] = set()
        upper = await last_sequence(self._reading, TASKS, tasks_filter(owner)) + 1
        for word in sorted(ENDING_WORDS):
            size = 0
            steps = read_backwards(self._reading, TASKS, tasks_filter(owner, word), checkpoint + 1, upper, limit)
            async with contextlib.aclosing(steps):
                async for positions, _ in steps:
                    found |= {task_ref(position.subject) for position in positions[:limit]}
                    size += sum(len(position.data) for position in positions)
                    if len(found) >= limit or size >= TAIL_BYTES:
                        break
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

    async def projected_views(self, refs: Sequence[TaskRef]) -> AsyncGenerator[dict[TaskRef, TaskView], None]:
        """Yield the views of tasks as the projection has them, a few at a time; it may lack the latest events."""
        for start in range(0, len(refs), LOADED_AT_ONCE):
            keys = {view_key(ref): ref for ref in refs[start : start + LOADED_AT_ONCE]}
            entries = await self._bucket.get_many(list(keys))
            yield {keys[key]: decode_view(entry.value) for key, entry in entries.items()}

    async def page(
        self, wanted: TaskFilter, limit: int, before: int | None = None, *, most_searched: int | None = None
    ) -> ListedTasks:
        """Return up to `limit` tasks, newest submission first, submitted before the sequence `before`.

        It searches at most `most_searched` submissions, LONGEST_WALK by default.
        """
        most_searched = LONGEST_WALK if most_searched is None else most_searched
        checkpoint = await projected(self._bucket)
        tail = await self._tail(wanted.owner, checkpoint)
        if wanted.statuses and wanted.statuses <= ACTIVE and tail is not None:
            active = await self._active(wanted.owner)
            if active is not None:
                return await self._page_of(list(active | tail.keys()), tail, wanted, limit, before)
        found: list[Listed] = []
        walked = 0
        at_once = min(limit, LONGEST_WALK)
        walk = newest_first(self._reading, self._bucket, wanted.owner, checkpoint, before, at_once)
        async with contextlib.aclosing(walk) as stretches:
            async for stretch in stretches:
                places, rest = stretch.places[: most_searched - walked], stretch.rest
                if len(places) < len(stretch.places):  # of a batch of tasks, a stretch has more than was asked for
                    rest = places[-1].sequence
                views = await self._views([place.ref for place in places], tail)
                for place in places:
                    view = views.get(place.ref)
                    if view is None or not wanted.matches(view):
                        continue
                    found.append(Listed(place.ref, view))
                    if len(found) == limit:
                        return ListedTasks(found, rest if place == places[-1] else place.sequence)
                walked += len(places)
                if walked >= most_searched:
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
        """Return the events after a sequence, by task; None if they are LONGEST_TAIL or TAIL_BYTES, or more."""
        positions = await read(
            self._reading, TASKS, tasks_filter(owner), after + 1, LONGEST_TAIL, most_bytes=TAIL_BYTES
        )
        if len(positions) >= LONGEST_TAIL or sum(len(position.data) for position in positions) > TAIL_BYTES:
            return None
        tail: Tail = {}
        for position in positions:
            tail.setdefault(task_ref(position.subject), []).append(decode(task_codec, position))
        return tail

    async def _views(self, refs: Sequence[TaskRef], tail: Tail | None) -> dict[TaskRef, TaskView]:
        """Return the current view of each task."""
        if tail is None:
            return await self._folded(refs)
        entries = await self._bucket.get_many([view_key(ref) for ref in refs]) if refs else {}
        views = {}
        for ref in refs:
            entry = entries.get(view_key(ref))
            view = decode_view(entry.value) if entry else None
            for stored in tail.get(ref, ()):
                view = fold(view, stored)
            if view is not None:
                views[ref] = view
        # NATS leaves a key out of a batch that is written while it is read: the log has the task all the same.
        missing = [ref for ref in refs if ref not in views]
        return views | await self._folded(missing) if missing else views

    async def _folded(self, refs: Sequence[TaskRef]) -> dict[TaskRef, TaskView]:
        """Return the view of each task from its history. No more than LOADED_AT_ONCE histories are in memory."""
        places = asyncio.Semaphore(LOADED_AT_ONCE)
        views: dict[TaskRef, TaskView] = {}

        async def load(ref: TaskRef) -> None:
            view: TaskView | None = None
            async with places, contextlib.aclosing(self._log.steps(task_root(ref))) as steps:
                async for step in steps:
                    for stored in step:
                        view = fold(view, stored)
            if view is not None:
                views[ref] = view

        await asyncio.gather(*map(load, refs))
        return views


def _filters(ref: TaskRef, words: AbstractSet[str]) -> list[str]:
    """Return the filters of a task's events, of some kinds or (empty) of all."""
    if not words:
        return [history_filter(task_root(ref))]
    return [events_filter(ref, word) for word in sorted(words)]


def next_report(report: LastReport | None, event: TaskEvent, sequence: int) -> LastReport | None:
    """Return the last report of an attempt after one more event of its task; None before the first one."""
    match event:
        case events.AttemptStarted():
            return None
        case events.ProgressReported():
            if event.data is not None:
                return LastReport(event.custom_data, event.data, sequence)
            known = report or LastReport()
            return known._replace(custom_data=event.custom_data)
        case _:
            return report


def _result_in(ref: TaskRef, stored: Stored[TaskEvent]) -> TaskResult | None:
    """Return the result, or the data of a report, that an event has."""
    event = stored.recorded.event
    if isinstance(event, events.ProgressReported):
        return None if event.data is None else TaskResult(ref, stored.sequence, event.data)
    return _current_result(ref, [stored])


def _current_result(ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> TaskResult | None:
    """Return the result of the task's last end; None if it has none, or was retried since."""
    found: TaskResult | None = None
    for sequence, recorded in history:
        match recorded.event:
            case events.TaskSucceeded() | events.TaskFailed() as ended:
                found = TaskResult(ref, sequence, ended.result) if ended.result is not None else None
            case events.TaskQueued(renewed=True) | events.TaskHeld(renewed=True):
                found = None
            case _:
                pass
    return found
