"""Subscription filters, and the immutable task attributes they compare: read from the submission and cached."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from ..events.codec import task_codec
from ..events.envelope import Recorded
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.subjects import submission_filter
from ..events.task import FacadeRequest, TaskEvent, TaskSubmitted
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from ..wire.trace import Trace, TraceContext
from .updates import LiveEvent, LoggedEvent

SUBMITTED = word_of(TaskSubmitted)
REMEMBERED = 20_000
NO_TRACE = Trace()


class TaskAttributes(Struct, frozen=True):
    task_type: str = ""
    project: str = ""
    trace: Trace = NO_TRACE
    """The request that submitted it."""
    facade: FacadeRequest | None = None
    """The request of another service's API that it was; None: it was none."""


class SubscriptionFilter(Struct, frozen=True, kw_only=True):
    """The events of a scope that a subscriber wants. An empty field selects all."""

    types: frozenset[str] = frozenset()
    """Of tasks."""
    events: frozenset[str] = frozenset()
    """Names of events, such as `TaskSucceeded`."""
    project: str = ""

    @property
    def needs_task(self) -> bool:
        """Return True if it compares attributes of the task."""
        return bool(self.types or self.project)

    def selects(self, update: LoggedEvent | LiveEvent, task: TaskAttributes | None) -> bool:
        """Return True if it selects an event of a task; None only if no attributes are needed."""
        if self.events and type(update.event).__name__ not in self.events:
            return False
        if task is None:
            return not self.needs_task
        return (not self.types or task.task_type in self.types) and self.project in ("", task.project)


EVERYTHING = SubscriptionFilter()


class TaskAttributeReader:
    def __init__(self, reading: Connection) -> None:
        self._reading = reading
        self._known: dict[TaskRef, TaskAttributes] = {}
        self._under_way: dict[TaskRef, asyncio.Task[TaskAttributes]] = {}

    async def wants(self, choice: SubscriptionFilter, update: LoggedEvent | LiveEvent) -> bool:
        """Return True if a filter selects an event. Raises StoreUnavailable if its task cannot be read."""
        return choice.selects(update, await self.of(update) if choice.needs_task else None)

    async def of(self, update: LoggedEvent | LiveEvent) -> TaskAttributes:
        """Return the attributes of an event's task. Raises StoreUnavailable if it cannot be read."""
        if isinstance(update, LoggedEvent) and update.kind == SUBMITTED and isinstance(update.event, TaskSubmitted):
            return self._remember(update.ref, _attributes(update.stored.recorded))
        return await self.facts(update.ref)

    async def facts(self, ref: TaskRef) -> TaskAttributes:
        """Return the attributes of a task; empty ones if its submission is past the retention.

        Those who ask at the same time share one read.
        """
        known = self._known.get(ref)
        if known is not None:
            return known
        reading = self._under_way.get(ref)
        if reading is None:
            reading = self._under_way[ref] = asyncio.create_task(self._read(ref), name="task-attributes")
            reading.add_done_callback(lambda done: self._done(ref, done))
        return await asyncio.shield(reading)

    def _done(self, ref: TaskRef, reading: asyncio.Task[TaskAttributes]) -> None:
        del self._under_way[ref]
        if not reading.cancelled() and reading.exception() is None:
            self._remember(ref, reading.result())

    def _remember(self, ref: TaskRef, facts: TaskAttributes) -> TaskAttributes:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[ref] = facts
        return facts

    async def _read(self, ref: TaskRef) -> TaskAttributes:
        # From the leader: a replica that lags may not have the task yet.
        position = await last_position(self._reading, TASKS, submission_filter(ref))
        return _attributes(decode(task_codec, position).recorded) if position else TaskAttributes()


def _attributes(recorded: Recorded[TaskEvent]) -> TaskAttributes:
    event = recorded.event
    if not isinstance(event, TaskSubmitted):
        return TaskAttributes()
    return TaskAttributes(
        event.task_type,
        event.project,
        Trace(recorded.cause, TraceContext(event.trace, event.trace_state)),
        event.facade,
    )
