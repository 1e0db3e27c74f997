"""What a server reports of an attempt, and what became of it: into the log, however long NATS may be away.

The log comes first; then the timer that the outcome calls for is set.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta

import structlog

from ...backends.dialects.dialect import Accepted, Answer, Completed, Failed, FailedByBackend, Update
from ...clock import jitter
from ...commands.commands import Commands
from ...commands.handler import PATIENCE_SECONDS, Known
from ...commands.task import AcceptAttempt, FailAttempt, Processing, Reporter, ReturnAttempt, TaskState, Waiting
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...events.subjects import server_token
from ...events.task import FailureKind
from ...push.attempt_reports import AttemptReports
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...streams.timers import Timers
from ..fleet.slots import Slots

log = structlog.get_logger(__name__)

PROGRESS_PAUSE_SECONDS = 0.5
"""How long a report waits that cannot be stored now; what comes after it waits in the server's connection."""


async def fail_attempt(
    commands: Commands,
    timers: Timers,
    ref: TaskRef,
    *,
    attempt: int,
    kind: FailureKind,
    error: str,
    by: Actor,
    cause: str = "",
    retry_after: timedelta | None = None,
    known: Known[TaskState] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Record that an attempt failed and have the task queued again when its retry is due.

    Safe to repeat: an attempt that was dealt with stays as it is, and its timer is set once more.
    """
    command = FailAttempt(attempt=attempt, kind=kind, error=error, jitter=jitter(), retry_after=retry_after)
    handled = await commands.task(ref, command, by=by, cause=cause, known=known, patience_seconds=patience_seconds)
    await set_retry(timers, ref, handled.known.state)


async def set_retry(timers: Timers, ref: TaskRef, state: TaskState) -> None:
    """Set the timer of a task that waits for its next attempt; for any other state do nothing."""
    if isinstance(state, Waiting) and state.not_before is not None:
        await timers.queue_task(ref, state.facts.pool, state.facts.priority, state.not_before)


class ProgressForwarder:
    """Records what a server streams of one attempt, as long as the attempt counts."""

    def __init__(self, reports: AttemptReports, ref: TaskRef, claimed: Known[TaskState], worker: Actor) -> None:
        self._reports = reports
        self._ref = ref
        self._claimed = claimed
        self._worker = worker
        self._reporter = _reporter(claimed)
        self._counts = True

    async def __call__(self, update: Update) -> None:
        """Record an update, waiting for NATS as long as need be. Once the attempt no longer counts, do nothing."""
        while self._counts:
            try:
                await self._reports.progress(
                    self._ref,
                    update,
                    self._reporter,
                    by=self._worker,
                    cause=str(self._claimed.sequence),
                    known=self._claimed,
                )
                return
            except Refused as refusal:
                log.info("progress.refused", task=self._ref.id, reason=str(refusal))
                self._counts = False
            except StoreUnavailable as error:
                log.warning("progress.waits", task=self._ref.id, reason=str(error))
                await asyncio.sleep(PROGRESS_PAUSE_SECONDS)


class Outcomes:
    """Records the outcomes of this worker's attempts. `claimed` is a task as the attempt's start left it."""

    def __init__(
        self, commands: Commands, timers: Timers, reports: AttemptReports, slots: Slots, worker: Actor
    ) -> None:
        self._commands = commands
        self._timers = timers
        self._reports = reports
        self._slots = slots
        self._worker = worker

    def forwarder(self, ref: TaskRef, claimed: Known[TaskState]) -> ProgressForwarder:
        """Return what records the progress of an attempt."""
        return ProgressForwarder(self._reports, ref, claimed, self._worker)

    async def record(self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Answer) -> None:
        """Record an outcome and set the timer it calls for; then its queue message may be acked.

        An outcome that the log no longer wants (the task was cancelled, the attempt declared lost) is dropped.
        Raises StoreUnavailable only where a timer could not be set.
        """
        try:
            outcome = await self._append(ref, server_id, claimed, answer)
        except Refused as refusal:
            log.info("outcome.dropped", task=ref.id, attempt=_reporter(claimed).attempt, reason=str(refusal))
            outcome = "late"
        labelled(metrics.attempts, server_id, outcome).inc()

    async def return_attempt(self, ref: TaskRef, claimed: Known[TaskState], reason: str) -> None:
        """Record that the attempt was given up before its outcome was known; it does not count."""
        await self._reports.flush(ref)
        command = ReturnAttempt(attempt=_processing(claimed).facts.attempt, reason=reason)
        await self._commands.task(ref, command, by=self._worker, known=claimed)

    async def _append(self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Answer) -> str:
        """Append what an answer comes to; return its name for the metrics."""
        attempt, cause = _processing(claimed).facts.attempt, str(claimed.sequence)
        match answer:
            case Completed() | FailedByBackend():
                await self._reports.end(
                    ref,
                    answer,
                    _reporter(claimed),
                    name=str(attempt),
                    by=self._worker,
                    cause=cause,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                return "succeeded" if isinstance(answer, Completed) else "failed"
            case Accepted(backend_task_id=backend_task_id):
                handled = await self._commands.task(
                    ref,
                    AcceptAttempt(attempt=attempt, backend_task_id=backend_task_id),
                    by=self._worker,
                    cause=cause,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                state = handled.known.state
                if isinstance(state, Processing) and state.facts.attempt == attempt:
                    await self._timers.watch_deadline(ref, attempt, state.deadline)
                else:  # the callback was faster than the acceptance
                    self._slots.ended_elsewhere(server_token(server_id), ref)
                return "accepted"
            case Failed(kind=kind, error=error, retry_after=retry_after):
                await self._reports.flush(ref, math.inf)
                await fail_attempt(
                    self._commands,
                    self._timers,
                    ref,
                    attempt=attempt,
                    kind=kind,
                    error=error,
                    by=self._worker,
                    cause=cause,
                    retry_after=retry_after,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                return kind


def _processing(claimed: Known[TaskState]) -> Processing:
    assert isinstance(claimed.state, Processing)
    return claimed.state


def _reporter(claimed: Known[TaskState]) -> Reporter:
    return Reporter(kind="worker", attempt=_processing(claimed).facts.attempt)
