"""Ready tasks, decoded from queue messages if possible, else read from their histories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from nats.aio.msg import Msg

from ...commands.commands import Commands
from ...commands.task_state import Waiting
from ...events.codec import task_codec
from ...events.envelope import Stored
from ...events.ids import TaskRef
from ...events.subjects import task_ref
from ...events.task import TaskEvent, TaskQueued, TaskSubmitted
from ...projections.fleet import Fleet
from ...scheduling.rules import needs_grant
from ...streams.jetstream.consumers import delivery_info
from ...streams.jetstream.messages import Position
from ...streams.log import decode
from ...streams.tail import Tail
from ...streams.topology.definitions import TASKS
from ..attempts.runner import ReadyTask
from .ended_tasks import EndedTasks

SOURCES_REMEMBERED = 16
"""One message is asked for its source several times in a row."""


class ReadyTasks:
    """Turns queue messages into tasks."""

    def __init__(self, commands: Commands, tail: Tail, fleet: Fleet, ended_tasks: EndedTasks) -> None:
        """`tail`: of the TASKS log."""
        self._ended_tasks = ended_tasks
        self._commands = commands
        self._tail = tail
        self._fleet = fleet

    def has_ended(self, message: Msg) -> bool:
        """Return True if the message's task is known to have ended since the message was made."""
        stream, sequence, ref = _source(message)
        return stream == TASKS and self._ended_tasks.ended_after(ref, sequence)

    def without_read(self, message: Msg) -> ReadyTask | None:
        """Return the task of a first delivery whose submission is in the message or in the tail; else None: `load` it.

        Raises UnreadableEvent.
        """
        ref, queued = _queued_by(message)
        if queued is None:
            return None
        match queued.recorded.event:
            case TaskSubmitted():
                return self._ready(ref, message, [queued])
            case TaskQueued(submission=sequence) if sequence and (submission := self._tail.find(sequence)):
                return self._ready(ref, message, [decode(task_codec, submission), queued])
        return None

    async def load(self, message: Msg) -> ReadyTask | None:
        """Return the task as its history says; None if it is not waiting, and so not to be started.

        Raises StoreUnavailable or UnreadableEvent.
        """
        ref, queued = _queued_by(message)
        return self._ready(ref, message, await self._history(ref, queued))

    async def _history(self, ref: TaskRef, queued: Stored[TaskEvent] | None) -> list[Stored[TaskEvent]]:
        """Return the history; of a task that was not tried yet only its submission and the event that queued it."""
        if queued is not None and isinstance(queued.recorded.event, TaskQueued) and queued.recorded.event.submission:
            submission = await self._commands.tasks.log.at(queued.recorded.event.submission)
            if submission is not None:
                return [submission, queued]
        return await self._commands.tasks.history(ref)

    def _ready(self, ref: TaskRef, message: Msg, history: Sequence[Stored[TaskEvent]]) -> ReadyTask | None:
        known = self._commands.tasks.fold(history)
        if not isinstance(known.state, Waiting):
            return None
        submission = next(stored.recorded for stored in history if isinstance(stored.recorded.event, TaskSubmitted))
        submitted = cast(TaskSubmitted, submission.event)
        return ReadyTask(
            ref=ref,
            message=message,
            known=known,
            submitted=submitted,
            request_id=submission.cause,
            avoid=known.state.facts.last_server_id,
            needs_grant=needs_grant(self._fleet, ref, submitted.task_type, submitted.plan),
        )


def task_of(message: Msg) -> TaskRef:
    """Return the task of a queue message."""
    return _source(message)[2]


def _queued_by(message: Msg) -> tuple[TaskRef, Stored[TaskEvent] | None]:
    """Return the task and the event that queued it; None where later events may exist.

    A message that was delivered before, or that a retry timer brought, may be of a task that has moved on.
    """
    stream, sequence, ref = _source(message)
    if stream != TASKS or delivery_info(message).delivered > 1:
        return ref, None
    return ref, decode(task_codec, Position(sequence, message.subject, message.data))


def _source(message: Msg) -> tuple[str, int, TaskRef]:
    """Return stream, sequence and task of the message that JetStream copied into DISPATCH."""
    return _read_source(message.headers["Nats-Stream-Source"])  # type: ignore[index]


@lru_cache(maxsize=SOURCES_REMEMBERED)
def _read_source(header: str) -> tuple[str, int, TaskRef]:
    stream, sequence, *_, subject, _ = header.split(" ")
    if stream == TASKS:
        return stream, int(sequence), task_ref(subject)
    _, _, _, _, owner, unique = subject.split(".")
    return stream, int(sequence), TaskRef(owner, unique)
