"""The reader of single tasks: each from its own history, so a read sees every write that was acknowledged before it.

The index lists tasks (`index/lists.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from msgspec import Raw

from ..errors import NotFound
from ..events import task as events
from ..events.codec import task_codec
from ..events.envelope import NULL, Stored
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.subjects import (
    events_filter,
    history_filter,
    submission_filter,
    task_root,
    task_word,
)
from ..events.task import FacadeRequest, StoredResult, TaskEvent
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.history_pages import newest_first, oldest_first
from ..streams.jetstream.messages import (
    Position,
    last_position,
    position_at,
)
from ..streams.log import Log, decode
from ..streams.topology.definitions import TASKS
from .reports import ReportSearch
from .task_view import Listed, TaskView, fold, view_key
from .task_view import decode as decode_view

LOADED_AT_ONCE = 32


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
    facade: FacadeRequest | None = None
    """The request of another service's API that it was; None: it was none."""


class TaskResult(NamedTuple):
    """A result of a task, and the sequence of the event that has it."""

    ref: TaskRef
    sequence: int
    stored: StoredResult


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
        facade: FacadeRequest | None = None
        report: LastReport | None = None
        for stored in history:
            view = fold(view, stored)
            report = next_report(report, stored.recorded.event, stored.sequence)
            if isinstance(stored.recorded.event, events.TaskSubmitted):
                payload, facade = stored.recorded.event.payload, stored.recorded.event.facade
        if view is None:
            raise NotFound("task", ref.id)
        result = _current_result(ref, history)
        sequence = result.sequence if result else 0
        is_running = view.status == "PROCESSING"
        last = report if is_running else None
        return TaskDetail(ref, view, payload, result and result.stored, sequence, last, facade)

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

        `words`: of these kinds only; empty: of all. A page ends after 8 MiB. Raises as `history` does.
        """
        await self.last_event(ref, deleted=deleted)
        found = await oldest_first(self._reading, TASKS, _filters(ref, words), after, limit)
        return [decode(task_codec, position) for position in found.positions], found.following

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
        found = await newest_first(self._reading, TASKS, _filters(ref, words), before or last.sequence + 1, limit)
        return [decode(task_codec, position) for position in found.positions], found.following

    async def views(self, refs: Sequence[TaskRef]) -> list[Listed]:
        """Return the present views of a few tasks, from their histories, in the order given.

        Deleted tasks are included, missing ones are left out. No more than LOADED_AT_ONCE histories are in memory.
        """
        places = asyncio.Semaphore(LOADED_AT_ONCE)

        async def load(ref: TaskRef) -> TaskView | None:
            view: TaskView | None = None
            async with places:
                for stored in await self._log.load(task_root(ref)):
                    view = fold(view, stored)
            return view

        views = await asyncio.gather(*map(load, refs))
        return [Listed(ref, view) for ref, view in zip(refs, views, strict=True) if view is not None]

    async def projected_views(self, refs: Sequence[TaskRef]) -> AsyncGenerator[dict[TaskRef, TaskView], None]:
        """Yield the views of tasks as the projection has them, a few at a time; it may lack the latest events."""
        for start in range(0, len(refs), LOADED_AT_ONCE):
            keys = {view_key(ref): ref for ref in refs[start : start + LOADED_AT_ONCE]}
            entries = await self._bucket.get_many(list(keys))
            yield {keys[key]: decode_view(entry.value) for key, entry in entries.items()}


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
