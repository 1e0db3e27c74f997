"""The runner of batches: one API process at a time validates, submits, counts and finalizes all of them.

Authoritative: the log of batch jobs, and for the tasks their own log. Safety: a batch of tasks is stored as a whole,
under an id that follows from the job, so no line is submitted twice; and only the last try to write the results ends a
job, so each line has one result. Liveness: the process that takes the lease goes on from the log, and waits where
there is no room.

It is fair: jobs take turns, a few steps run at a time, and after each step its job rests for as long as the step took.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime

import structlog
from msgspec import Struct, field

from .....clock import utc_now
from .....commands.batch_job import (
    AcceptInput,
    BatchJob,
    BatchJobCommand,
    CountBatchJob,
    FinalizeBatchJob,
    FinishBatchJob,
    RejectInput,
)
from .....commands.task_commands import CancelTask, ExpireTask, TaskCommand
from .....container import Container
from .....errors import FileTooLarge, QuotaExceeded, StoreError
from .....events.batch_job import BatchOutcome, LineCounts, LineError
from .....events.envelope import Actor
from .....events.ids import BatchJobRef, BatchRef, batch_job_cause, batch_of_job
from .....events.subjects import BATCH_JOB_SUBJECTS
from .....projections.batch_jobs import BATCH_JOB_STATES
from .....projections.latest_states import UnfinishedStates
from .....projections.task_view import ACTIVE
from .....runtime.service import Service
from .....streams.jetstream.consumers import follow
from .....streams.leases import Lease, Membership
from .....streams.topology.definitions import BATCH_JOBS
from ....auth.access import Origin
from ....task_actions import BulkCommand
from .inputs import InputLost, Inputs
from .line_tasks import LineTasks, WindowOver
from .result_files import ResultWriter, file_ids
from .submitting import Submitter

log = structlog.get_logger(__name__)

BY = Actor("system", "batches")
CANCEL = CancelTask(reason="its batch was cancelled")
STEPS_AT_ONCE = 4
"""Steps of different jobs that run at the same time: a long one delays no other job."""
SHORTEST_REST_SECONDS = 0.02
LONGEST_REST_SECONDS = 2.0
FIRST_LOOK_SECONDS = 0.25
LONGEST_LOOK_SECONDS = 5.0
"""How often the tasks of a job are counted: less and less often while nothing changes."""
LONGEST_WAIT_SECONDS = 30.0
"""Longest pause after a failure of the store, or without room; the first one is a second."""
ENDED_AT_ONCE = 16
"""Tasks that are cancelled at the same time."""
LOST = LineError(
    code="input_file_deleted",
    message="The input file was deleted before all of its requests were submitted.",
    param="input_file_id",
)
TOO_LARGE = LineError(
    code="output_too_large", message="The results are larger than a file may be; split the batch.", param=""
)


class _Progress(Struct):
    """What this process knows of a job."""

    due_at: float = 0.0
    """By the event loop's clock."""
    wait_seconds: float = 0.5
    look_seconds: float = FIRST_LOOK_SECONDS
    is_sure: bool = False
    """True if no batch of tasks is stored that the job does not record."""
    ended: dict[int, LineCounts] = field(default_factory=dict)
    """Counts of the batches of tasks that have ended, by number."""


class _Tally(Struct, frozen=True):
    """How far the tasks of a job are."""

    counts: LineCounts
    active: int
    open: Sequence[BatchRef]
    """Batches of tasks with active ones."""


class BatchRunner(Service):
    """Carries out batches while its process holds the lease."""

    def __init__(self, container: Container, members: Membership) -> None:
        super().__init__("batches", lease=Lease(members, "batches"))
        self._container = container
        self._unfinished = UnfinishedStates(BATCH_JOB_STATES)
        self._caught_up = asyncio.Event()
        self._news = asyncio.Event()
        self._progress: dict[BatchJobRef, _Progress] = {}
        self._steps: dict[BatchJobRef, asyncio.Task[None]] = {}
        self._tasks = LineTasks(container)
        self._inputs = Inputs(container.files, self._tasks)
        self._submitter = Submitter(container, self._inputs, self._tasks, BY)
        self._writer = ResultWriter(container, self._inputs, self._tasks, BY)

    async def _serve(self) -> None:
        """Carry out batches until the lease is lost or the service is stopped."""
        self._unfinished, self._progress = UnfinishedStates(BATCH_JOB_STATES), {}
        self._caught_up.clear()
        try:
            await self._serve_together(self._follow(), self._step_all())
        finally:
            steps = list(self._steps.values())
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
            self._steps.clear()

    async def _follow(self) -> None:
        steps = follow(self._container.consuming, BATCH_JOBS, [BATCH_JOB_SUBJECTS], 0)
        async with contextlib.aclosing(steps) as batches:
            async for positions in batches:
                self._unfinished.apply(positions)
                if not positions:
                    self._caught_up.set()
                for ref, job in self._unfinished.states.items():
                    if job.cancelling_at is not None and ref in self._progress:
                        self._progress[ref].due_at = 0.0
                self._news.set()

    async def _step_all(self) -> None:
        await self._caught_up.wait()
        while True:
            self._news.clear()
            now = asyncio.get_running_loop().time()
            unfinished = self._unfinished.states
            self._progress = {ref: self._progress.get(ref) or _Progress() for ref in unfinished}
            waiting = sorted(
                (progress.due_at, ref) for ref, progress in self._progress.items() if ref not in self._steps
            )
            for due_at, ref in waiting:
                if due_at > now or len(self._steps) >= STEPS_AT_ONCE:
                    break
                step = self._steps[ref] = asyncio.create_task(self._try_step(ref, self._progress[ref]))
                step.add_done_callback(lambda _, ref=ref: self._end_step(ref))  # type: ignore[misc]
            until = min((due_at for due_at, ref in waiting if ref not in self._steps), default=None)
            if len(self._steps) >= STEPS_AT_ONCE:
                until = None  # the end of a step is news
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(until - now, SHORTEST_REST_SECONDS)):
                    await self._news.wait()

    def _end_step(self, ref: BatchJobRef) -> None:
        self._steps.pop(ref, None)
        self._news.set()

    async def _try_step(self, ref: BatchJobRef, progress: _Progress) -> None:
        """Carry out one step of a job; after a failure the job waits, and the others go on."""
        started = time.monotonic()
        try:
            pause = await self.step(ref, progress)
        except (StoreError, QuotaExceeded) as error:
            pause = self._longer_wait(ref, progress, str(error))
        except Exception as error:
            log.exception("batch.broken", batch=ref.id)
            pause = self._longer_wait(ref, progress, repr(error))
        else:
            progress.wait_seconds = 0.5
            took = time.monotonic() - started
            pause = max(pause, min(max(took, SHORTEST_REST_SECONDS), LONGEST_REST_SECONDS))
        progress.due_at = asyncio.get_running_loop().time() + pause

    def _longer_wait(self, ref: BatchJobRef, progress: _Progress, reason: str) -> float:
        progress.is_sure = False  # the outcome of an append may be unknown
        progress.wait_seconds = min(2 * progress.wait_seconds, LONGEST_WAIT_SECONDS)
        log.warning("batch.waiting", batch=ref.id, seconds=progress.wait_seconds, reason=reason)
        return progress.wait_seconds

    async def step(self, ref: BatchJobRef, progress: _Progress) -> float:
        """Carry out the next step of a job; return after how many seconds it has another one.

        Raises StoreError, QuotaExceeded, StoreReserved: it is to be tried again.
        """
        known = await self._container.commands.batch_jobs.load(ref)
        job, now = known.state, utc_now()
        if not isinstance(job, BatchJob) or job.is_over:
            return 0.0
        if job.finalizing is not None:
            await self._finalize(ref, job, job.finalizing.outcome)
            return 0.0
        if job.validated_at is None:
            await self._validate(ref, job, now)
            return 0.0
        if not progress.is_sure:
            if (found := await self._submitter.stored(ref, job)) is not None:
                await self._tell(ref, found)
                return 0.0
            progress.is_sure = True
        return await self._go_on(ref, job, now, progress)

    async def _validate(self, ref: BatchJobRef, job: BatchJob, now: datetime) -> None:
        if job.cancelling_at is not None:
            await self._finalize(ref, job, "cancelled")
            return
        if now >= job.created.expires_at:
            await self._finalize(ref, job, "expired")
            return
        try:
            total, errors = await self._inputs.check(ref, job)
        except WindowOver:
            return
        except InputLost:
            errors, total = [LOST], 0
        await self._tell(ref, RejectInput(errors=tuple(errors)) if errors else AcceptInput(total=total))

    async def _go_on(self, ref: BatchJobRef, job: BatchJob, now: datetime, progress: _Progress) -> float:
        """Submit the next lines, or count those that have ended."""
        tally = await self._tally(ref, job, progress)
        is_stopped = job.cancelling_at is not None or now >= job.created.expires_at
        is_lost = False
        if is_stopped:
            await self._end_tasks(
                ref, tally, CancelTask(reason="its batch was cancelled") if job.cancelling_at else ExpireTask()
            )
            tally = await self._tally(ref, job, progress)
        elif not job.is_submitted and (room := self._submitter.room(ref, job, tally.active)):
            try:
                advanced = await self._submitter.submit_next(ref, job, room)
            except InputLost:
                is_lost = True
            except WindowOver:
                return 0.0
            else:
                progress.is_sure = advanced is not None
                if advanced is not None:
                    await self._tell(ref, advanced)
                progress.look_seconds = FIRST_LOOK_SECONDS
                return 0.0
        if not tally.active and (is_stopped or is_lost or job.is_submitted):
            await self._finalize(ref, job, await self._outcome(ref, job, now, is_lost=is_lost))
            return 0.0
        return await self._count(ref, job, tally, progress)

    async def _count(self, ref: BatchJobRef, job: BatchJob, tally: _Tally, progress: _Progress) -> float:
        """Record how many lines have ended; return when to look again."""
        if tally.counts != job.counts:
            await self._tell(ref, CountBatchJob(counts=tally.counts))
            progress.look_seconds = FIRST_LOOK_SECONDS
        else:
            progress.look_seconds = min(2 * progress.look_seconds, LONGEST_LOOK_SECONDS)
        left = (job.created.expires_at - utc_now()).total_seconds()
        return min(progress.look_seconds, left) if left > 0 else progress.look_seconds

    async def _tally(self, ref: BatchJobRef, job: BatchJob, progress: _Progress) -> _Tally:
        """Count the tasks of a job; those of batches that had ended before are not looked at again."""
        pending = {
            batch_of_job(ref, number): number for number in range(1, job.batches + 1) if number not in progress.ended
        }
        found = await self._container.lists.batch_counts(list(pending), user=ref.owner)
        completed = sum(each.completed for each in progress.ended.values())
        failed = sum(each.failed for each in progress.ended.values())
        open_batches, active = [], 0
        for batch, counts in found.items():
            completed += counts.finished
            failed += counts.failed
            active += counts.active
            if counts.active:
                open_batches.append(batch)
            else:
                progress.ended[pending[batch]] = LineCounts(completed=counts.finished, failed=counts.failed)
        return _Tally(LineCounts(completed=completed, failed=failed), active, open_batches)

    async def _outcome(self, ref: BatchJobRef, job: BatchJob, now: datetime, *, is_lost: bool) -> BatchOutcome:
        """Return how a job ends whose tasks have ended."""
        if job.cancelling_at is not None:
            return "cancelled"
        if is_lost:
            return "failed"
        if now < job.created.expires_at:
            return "completed"
        if not job.is_submitted:
            return "expired"
        batches = [batch_of_job(ref, number) for number in range(1, job.batches + 1)]
        counts = await self._container.lists.batch_counts(batches, user=ref.owner)
        return "expired" if any(each.late for each in counts.values()) else "completed"

    async def _end_tasks(self, ref: BatchJobRef, tally: _Tally, command: TaskCommand) -> None:
        """Give a command to all tasks that have not ended. One that refuses it has ended, or is about to."""
        signed: Origin = {"by": BY, "cause": batch_job_cause(ref.id)}
        bulk = BulkCommand(self._container, signed, command, at_once=ENDED_AT_ONCE, skips_unreadable=True)
        for batch in tally.open:
            tasks = await self._container.lists.of_batch(batch, deleted=True, user=ref.owner)
            await bulk.run([task.ref for task in tasks if task.view.status in ACTIVE])

    async def _finalize(self, ref: BatchJobRef, job: BatchJob, outcome: BatchOutcome) -> None:
        """Write the files of results, and end the job."""
        earlier = job.finalizing
        if earlier is not None:
            await self._writer.remove(ref, earlier)
        attempt = (earlier.attempt if earlier else 0) + 1
        output_file, error_file = file_ids(ref, attempt)
        begun = await self._tell(
            ref,
            FinalizeBatchJob(
                outcome=outcome, attempt=attempt, lines=job.lines, output_file=output_file, error_file=error_file
            ),
        )
        if not isinstance(begun, BatchJob) or begun.finalizing is None or begun.finalizing.attempt != attempt:
            return  # a cancel, or more lines, came in between
        try:
            finished = await self._writer.write(ref, begun, [LOST] if outcome == "failed" else [])
        except FileTooLarge:
            await self._finish_without_files(ref, begun, outcome)
        else:
            await self._tell(ref, finished)

    async def _finish_without_files(self, ref: BatchJobRef, job: BatchJob, outcome: BatchOutcome) -> None:
        attempt = (job.finalizing.attempt if job.finalizing else 0) + 1
        output_file, error_file = file_ids(ref, attempt)
        await self._tell(
            ref,
            FinalizeBatchJob(
                outcome=outcome if outcome == "cancelled" else "failed",
                attempt=attempt,
                lines=job.lines,
                output_file=output_file,
                error_file=error_file,
            ),
        )
        await self._tell(
            ref,
            FinishBatchJob(
                attempt=attempt, counts=job.counts, has_output=False, has_errors=False, usage=None, errors=(TOO_LARGE,)
            ),
        )

    async def _tell(self, ref: BatchJobRef, command: BatchJobCommand) -> object:
        """Give a command to a job; return its state afterwards."""
        handled = await self._container.commands.batch_jobs.handle(ref, command, by=BY)
        return handled.known.state
