"""The submission of a batch's lines: as room appears, up to 1,000 together, each once.

The ids of tasks follow from the batch, the number of the stored batch of tasks, and the place in it. A batch of tasks
is stored as a whole, known by the lines in it. So a process that goes on after a crash finds what is stored, and one
that comes late is refused.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from msgspec.structs import replace

from .....commands.batch_job import AdvanceBatchJob, BatchJob
from .....container import Container
from .....errors import AlreadyExists, IdempotencyConflict, NotFound, UnreadableEvent
from .....events.codec import task_codec
from .....events.envelope import Actor
from .....events.ids import BatchJobRef, BatchRef, TaskRef, batch_job_cause, batch_of_job, nth
from .....events.subjects import submission_filter
from .....events.task import TaskSubmitted
from .....streams.jetstream.messages import last_position
from .....streams.log import decode
from .....streams.topology.definitions import TASKS
from .inputs import Inputs
from .line_tasks import LINE, LineTasks, fingerprint_of
from .requests import InvalidLine

MOST_TOGETHER = 1_000
MOST_BYTES_TOGETHER = 8 * 1024 * 1024
"""Bytes of lines after which a batch of tasks is stored."""
MOST_UNDER_WAY = 5_000
"""Tasks of a batch that have not ended. A cancel has no more to cancel, and queues no more to hold."""


class _Read(NamedTuple):
    """Lines that were read, as tasks."""

    tasks: list[TaskSubmitted]
    lines: int
    """Lines of the input up to the last of them."""
    offset: int


class Submitter:
    """Submits the lines of batches as tasks."""

    def __init__(self, container: Container, inputs: Inputs, tasks: LineTasks, by: Actor) -> None:
        self._container = container
        self._inputs = inputs
        self._tasks = tasks
        self._by = by

    def room(self, ref: BatchJobRef, job: BatchJob, under_way: int) -> int:
        """Return how many tasks may be submitted now; 0 also if it is better to wait for more room.

        A tenth of the owner's quota of waiting tasks is left to their other submissions.
        """
        left = min(job.total - job.lines, MOST_TOGETHER)
        most = MOST_UNDER_WAY
        limit = self._container.fleet.allowance(ref.owner).waiting
        room = most - under_way
        if limit is not None:
            most = min(most, limit)
            room = min(room, limit - limit // 10 - self._container.submissions.admission.waiting(ref.owner))
        return min(left, room) if room >= min(left, max(most // 4, 1)) else 0

    async def submit_next(self, ref: BatchJobRef, job: BatchJob, room: int) -> AdvanceBatchJob | None:
        """Store the tasks of the next lines; return what is to be recorded, None if another process stored others.

        Raises InputLost, WindowOver, StoreError, QuotaExceeded, StoredTooMuch, StoreReserved.
        """
        number = job.batches + 1
        batch = batch_of_job(ref, number)
        found = await self._read(ref, job, batch, room)
        if found.tasks:
            name = fingerprint_of(ref, number, job.lines + 1, found.lines, len(found.tasks))
            submissions = [
                (nth(batch, place), replace(task, batch_size=len(found.tasks), fingerprint=name))
                for place, task in enumerate(found.tasks)
            ]
            try:
                await self._container.submissions.submit_tasks(
                    batch, submissions, by=self._by, cause=batch_job_cause(ref.id)
                )
            except (IdempotencyConflict, AlreadyExists):
                return None
        return AdvanceBatchJob(
            batches=job.batches + bool(found.tasks),
            lines=found.lines,
            offset=found.offset,
            tasks=len(found.tasks),
        )

    async def stored(self, ref: BatchJobRef, job: BatchJob) -> AdvanceBatchJob | None:
        """Return what is to be recorded of the next batch of tasks if it is stored already; None: it is not.

        Raises InputLost, StoreError.
        """
        batch = batch_of_job(ref, job.batches + 1)
        try:
            tasks = await self._container.lists.of_batch(batch, deleted=True, user=ref.owner)
        except NotFound:
            return None
        last = await self._line_of(tasks[-1].ref)
        lines, offset = job.lines, job.offset
        async with contextlib.aclosing(self._inputs.lines(ref, job, offset)) as found:
            async for line in found:
                lines, offset = lines + 1, line.end
                if lines >= last:
                    break
        return AdvanceBatchJob(batches=job.batches + 1, lines=lines, offset=offset, tasks=len(tasks))

    async def _line_of(self, ref: TaskRef) -> int:
        position = await last_position(self._container.reading, TASKS, submission_filter(ref))
        event = decode(task_codec, position).recorded.event if position else None
        if not isinstance(event, TaskSubmitted) or event.facade is None:
            raise UnreadableEvent(ref.id, position.sequence if position else 0, "it is no task of a batch")
        return int(event.facade.metadata[LINE])

    async def _read(self, ref: BatchJobRef, job: BatchJob, batch: BatchRef, room: int) -> _Read:
        """Return the tasks of the next lines. A line that its type refuses by now is passed over."""
        tasks: list[TaskSubmitted] = []
        lines, offset = job.lines, job.offset
        async with contextlib.aclosing(self._inputs.lines(ref, job, offset)) as found:
            async for line in found:
                lines, end = lines + 1, line.end
                with contextlib.suppress(InvalidLine):
                    tasks.append(self._tasks.task_of(job, self._tasks.read(job, line.text), lines, batch))
                is_full = len(tasks) >= room or end - job.offset >= MOST_BYTES_TOGETHER
                offset = end
                if is_full or lines >= job.total:
                    break
        return _Read(tasks, lines, offset)
