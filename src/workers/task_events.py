"""The reader of the task log that reports freed slots and cancellations to dispatch; one per worker."""

from __future__ import annotations

import contextlib

import structlog

from ..errors import UnreadableEvent
from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, FREEING_WORDS, word_of
from ..events.subjects import TASK_SUBJECTS, freed_server, task_ref, task_word, tasks_filter
from ..events.task import TaskCancelled, TaskFailed, TaskSucceeded
from ..runtime.service import Service
from ..streams.client.connection import Connection
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position, last_sequence_of_most
from ..streams.log import decode
from ..streams.tail import Tail
from ..streams.topology.definitions import TASKS
from .attempts.runner import AttemptRunner
from .dispatch.ended_tasks import EndedTasks
from .fleet.slots import Slots

log = structlog.get_logger(__name__)
CANCELLED = word_of(TaskCancelled)
REPORTED = frozenset({word_of(TaskSucceeded), word_of(TaskFailed)})
FREEING_SUBJECTS = [tasks_filter(word=word) for word in sorted(FREEING_WORDS)]
RETRY_SECONDS = 1.0


class TaskEventListener(Service):
    """Reports ended attempts, ended tasks and cancellations to other parts, from the log and so without gaps.

    Callbacks end attempts through the API, and calls of a server's former holder end without a call of this worker.
    While other services of the worker follow the tail of the log, this one reads the tail too. Otherwise NATS sends it
    only the events it needs: about one per task instead of four.
    """

    def __init__(
        self, tail: Tail, connection: Connection, slots: Slots, runner: AttemptRunner, ended_tasks: EndedTasks
    ) -> None:
        super().__init__("task-events", period_seconds=0.0, retry_seconds=RETRY_SECONDS)
        self._tail = tail
        self._connection = connection
        self._slots = slots
        self._runner = runner
        self._ended_tasks = ended_tasks
        self._after = 0
        """Sequence of the last event that was reported."""

    async def begin(self) -> None:
        """Start at the present end of the log. Raises StoreUnavailable."""
        self._after = await last_sequence_of_most(self._connection, TASKS, TASK_SUBJECTS)

    async def _serve(self) -> None:
        """Report events until the tail gains its first or loses its last other reader."""
        shares = self._tail.reader_count > 0
        source = (
            self._tail.follow(self._after) if shares else follow(self._connection, TASKS, FREEING_SUBJECTS, self._after)
        )
        async with contextlib.aclosing(source) as batches:
            async for positions in batches:
                for position in positions:
                    self._report(position)
                    self._after = position.sequence
                if shares != (self._tail.reader_count > shares):
                    return

    def _report(self, position: Position) -> None:
        word = task_word(position.subject)
        if word not in FREEING_WORDS:
            return
        ref = task_ref(position.subject)
        self._slots.ended_elsewhere(freed_server(position.subject), ref)
        if word in ENDING_WORDS:
            self._ended_tasks.add(ref, position.sequence)
        if word == CANCELLED or (word in REPORTED and self._runner.is_calling(ref)):
            self._end_call(ref, position)

    def _end_call(self, ref: TaskRef, position: Position) -> None:
        try:
            recorded = decode(task_codec, position).recorded
        except UnreadableEvent as error:  # the call goes on; its outcome is refused by the log
            log.warning("task-events.unreadable", reason=str(error))
            return
        match recorded.event:
            case TaskCancelled(attempt=attempt):
                self._runner.cancel_call(ref, attempt)
            case TaskSucceeded(attempt=attempt) | TaskFailed(attempt=attempt) if recorded.by.kind == "server":
                self._runner.end_call(ref, attempt)
