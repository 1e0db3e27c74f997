"""What listeners are offered: an event of the log, or a report of progress that the log does not have yet."""

from __future__ import annotations

from functools import cached_property

import structlog
from msgspec.structs import replace

from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.subjects import task_ref, task_word
from ..events.task import TaskEvent
from ..streams.jetstream.messages import Position
from ..streams.log import decode
from .live import LiveReport

log = structlog.get_logger(__name__)


class LoggedEvent:
    """An event of a task at its place in the log; decoded once, for all listeners."""

    def __init__(self, position: Position) -> None:
        self.sequence = position.sequence
        self.size_bytes = len(position.data)
        self.subject = position.subject
        self.ref = task_ref(position.subject)
        self.kind = task_word(position.subject)
        """As the subject has it: `submitted`, `progressed`, …"""
        self.encoded: bytes | None = None
        """As it is sent, once somebody has sent it."""
        self.encoded_without_bodies: bytes | None = None
        self.queues = 0
        """How many queues it waits in."""
        self._position = position

    @cached_property
    def stored(self) -> Stored[TaskEvent]:
        """The event. Raises UnreadableEvent."""
        return decode(task_codec, self._position)

    @property
    def event(self) -> TaskEvent:
        return self.stored.recorded.event

    def with_event(self, event: TaskEvent) -> LoggedEvent:
        """Return this with another event in its place."""
        other = LoggedEvent(self._position)
        sequence, recorded = self.stored
        other.stored = Stored(sequence, replace(recorded, event=event))
        return other


def event_at(position: Position) -> LoggedEvent | None:
    """Return the event of a message; None if its subject names no task: then nobody can subscribe to it."""
    try:
        return LoggedEvent(position)
    except ValueError:
        log.warning("hub.skipped", subject=position.subject, sequence=position.sequence)
        return None


class LiveEvent:
    """A report of progress that the log does not have yet."""

    def __init__(self, ref: TaskRef, report: LiveReport, size_bytes: int) -> None:
        self.ref = ref
        self.size_bytes = size_bytes
        self.report = report
        self.event = report.event
        self.encoded: bytes | None = None
        """As it is sent, once somebody has sent it."""
        self.encoded_without_bodies: bytes | None = None
        self.queues = 0
        """How many queues it waits in."""
        self.position = 0
        """Up to where the hub had read the log when this came."""
