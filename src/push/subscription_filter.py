"""Subscription filters, and the immutable task attributes they compare: read from the submission and cached."""

from __future__ import annotations

from msgspec import Struct

from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.subjects import submission_filter
from ..events.task import TaskSubmitted
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .hub import LiveEvent, LoggedEvent

REMEMBERED = 20_000


class TaskAttributes(Struct, frozen=True):
    task_type: str
    project: str


class SubscriptionFilter(Struct, frozen=True, kw_only=True):
    """The events of a scope that a subscriber wants. An empty field selects all."""

    types: frozenset[str] = frozenset()
    """Of tasks."""
    events: frozenset[str] = frozenset()
    """Names of events, such as `TaskSucceeded`."""
    project: str = ""

    def has(self, task_type: str, project: str) -> bool:
        """Return True if the filter selects tasks of a type and project."""
        return (not self.types or task_type in self.types) and self.project in ("", project)


class TaskAttributeReader:
    def __init__(self, reading: Connection) -> None:
        self._reading = reading
        self._known: dict[TaskRef, TaskAttributes] = {}

    async def wants(self, choice: SubscriptionFilter, update: LoggedEvent | LiveEvent) -> bool:
        """Return True if a filter selects an event. Raises StoreUnavailable if its task cannot be read."""
        if choice.events and type(update.event).__name__ not in choice.events:
            return False
        if not choice.types and not choice.project:
            return True
        if isinstance(update.event, TaskSubmitted):
            facts = self._remember(update.ref, TaskAttributes(update.event.task_type, update.event.project))
        else:
            facts = await self.facts(update.ref)
        return choice.has(facts.task_type, facts.project)

    async def facts(self, ref: TaskRef) -> TaskAttributes:
        """Return the attributes of a task; empty ones if its submission is past the retention."""
        known = self._known.get(ref)
        return known if known is not None else self._remember(ref, await self._read(ref))

    def _remember(self, ref: TaskRef, facts: TaskAttributes) -> TaskAttributes:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[ref] = facts
        return facts

    async def _read(self, ref: TaskRef) -> TaskAttributes:
        # From the leader: a replica that lags may not have the task yet.
        position = await last_position(self._reading, TASKS, submission_filter(ref))
        event = decode(task_codec, position).recorded.event if position else None
        return (
            TaskAttributes(event.task_type, event.project)
            if isinstance(event, TaskSubmitted)
            else TaskAttributes("", "")
        )
