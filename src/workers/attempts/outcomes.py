"""Progress and outcomes of attempts, recorded in the log; with NATS away they wait without a limit.

The log comes first; then the timer that the outcome needs is set.
"""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace

from ...backends.dialects.dialect import Accepted, Answer, Busy, Completed, Failed, FailedByBackend, Unsent, Update
from ...backends.exchanges import CancelReport, OnUpdate
from ...clock import jitter, utc_now
from ...commands.handler import PATIENCE_SECONDS, Known
from ...commands.task import BY_CALLBACK
from ...commands.task_commands import AcceptAttempt, EndBusyWait, FailAttempt, ReportCancel, Reporter, ReturnAttempt
from ...commands.task_state import Ended, Processing, TaskState, Waiting
from ...container import Container
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...events.subjects import server_token
from ...events.task import ReturnKind
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...streams.timers import AttemptDue, Timers
from ..fleet.slots import Slots

log = structlog.get_logger(__name__)

PROGRESS_PAUSE_SECONDS = 0.5
"""Pause before a report that could not be stored is tried again; later ones wait in the server's connection."""


TOO_LATE = "late"
"""Name of the outcome of an attempt that was over for the log."""
WORKER_LOST = Failed(kind="worker_lost", error="the worker that made the call is gone")
LEASE_LOST = Failed(kind="worker_lost", error="the puller did not renew its lease")
DEADLINE_PASSED = Failed(kind="timeout", error="the server did not report before the attempt's deadline")


async def fail_attempt(
    container: Container,
    ref: TaskRef,
    attempt: int,
    failure: Failed,
    *,
    by: Actor,
    cause: str = "",
    known: Known[TaskState] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Record that an attempt failed and set the timer of its retry.

    Safe to repeat: an attempt that has ended stays as it is, and its timer is set once more.
    """
    command = FailAttempt(
        attempt=attempt,
        kind=failure.kind,
        error=failure.error,
        jitter=jitter(),
        retry_after=failure.retry_after,
        answer=failure.answer,
    )
    handled = await container.commands.task(
        ref, command, by=by, cause=cause, known=known, patience_seconds=patience_seconds
    )
    await set_retry(container.timers, ref, handled.known.state)


NOT_ACKNOWLEDGED = "its puller is told when it renews or asks; it has not said that it stopped"
EARLY = timedelta(milliseconds=250)
"""How early a timer may fire, by another machine's clock."""
LATE = timedelta(seconds=5)
"""How late a lease's timer fires if nothing ran that could renew the lease: it is given once more."""


async def end_if_due(container: Container, ref: TaskRef, due: AttemptDue, *, by: Actor) -> None:
    """Fail an accepted attempt whose deadline has passed, or whose puller did not renew its lease.

    If its task was cancelled, record that its puller has not said that it stopped. Does nothing to any other attempt
    that has ended. A lease that ran out while this service was down is given once more, so
    that its puller can renew it. Raises Refused.
    """
    known = await container.commands.tasks.load(ref)
    state, now = known.state, utc_now()
    if isinstance(state, Ended) and state.unreported == due.attempt:
        told = ReportCancel(attempt=due.attempt, outcome="requested", detail=NOT_ACKNOWLEDGED)
        await container.commands.task(ref, told, by=by, known=known)
    if not isinstance(state, Processing) or state.facts.attempt != due.attempt:
        return
    failure = DEADLINE_PASSED
    if is_of_lease(state, due, now):
        if due.at is not None and now > due.at + LATE:
            await container.timers.watch_deadline(ref, due.attempt, state.due_at(now))
            return
        failure = LEASE_LOST
    await fail_attempt(container, ref, due.attempt, failure, by=by, known=known)


def is_of_lease(state: Processing, due: AttemptDue, now: datetime) -> bool:
    """Return True if a timer that fired was set to the end of a puller's lease, not to the deadline of its attempt."""
    at = due.at if due.at is not None else now + EARLY
    return state.lease is not None and at < state.deadline


async def set_retry(timers: Timers, ref: TaskRef, state: TaskState) -> None:
    """Set the timer of a task that waits for its next attempt; for any other state do nothing."""
    if isinstance(state, Waiting) and state.not_before is not None:
        await timers.queue_task(ref, state.facts.pool, state.facts.priority, state.not_before)


async def end_busy_wait(container: Container, ref: TaskRef, *, by: Actor) -> None:
    """Fail a task for which every server has been busy for too long; if it has time left, set its timer again."""
    state = (await container.commands.task(ref, EndBusyWait(), by=by)).known.state
    if isinstance(state, Waiting) and state.facts.busy_until is not None:
        await container.timers.watch_busy_wait(ref, state.facts.busy_until)


class Outcomes:
    """Records the outcomes of this worker's attempts. `claimed` is a task as the attempt's start left it."""

    def __init__(self, container: Container, slots: Slots, worker: Actor) -> None:
        self._container = container
        self._commands = container.commands
        self._reports = container.reports
        self._slots = slots
        self._worker = worker

    def forwarder(self, ref: TaskRef, claimed: Known[TaskState]) -> OnUpdate:
        """Return a function that records the progress of an attempt, and does nothing once the attempt is over.

        It waits for NATS without a limit.
        """
        reporter, cause = _reporter(claimed), str(claimed.sequence)
        counts = True

        async def record(update: Update) -> None:
            nonlocal counts
            while counts:
                try:
                    await self._reports.progress(ref, update, reporter, by=self._worker, cause=cause, known=claimed)
                    return
                except Refused as refusal:
                    log.info("progress.refused", task=ref.id, reason=str(refusal))
                    counts = False
                except StoreUnavailable as error:
                    log.warning("progress.delayed", task=ref.id, reason=str(error))
                    await asyncio.sleep(PROGRESS_PAUSE_SECONDS)

        return record

    async def record(
        self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Answer, dialect: str = ""
    ) -> str:
        """Record an outcome and set the timer it needs; then its queue message may be acked, or nak'ed if it returned.

        Return the name of the outcome, for metrics and spans.

        An outcome that the log refuses (the task was cancelled, the attempt declared lost) is dropped: TOO_LATE.
        `dialect`: that the server spoke, for the metrics.
        Raises StoreUnavailable only if a timer could not be set.
        """
        try:
            outcome = await self._append(ref, server_id, claimed, answer)
        except Refused as refusal:
            log.info("outcome.dropped", task=ref.id, attempt=_reporter(claimed).attempt, reason=str(refusal))
            outcome = TOO_LATE
        labelled(metrics.attempts, server_id, outcome, dialect).inc()
        return outcome

    async def report_cancel(self, ref: TaskRef, claimed: Known[TaskState], report: CancelReport) -> None:
        """Record what became of an attempt whose task was cancelled; if it was not, or NATS is away, do nothing."""
        command = ReportCancel(attempt=_processing(claimed).facts.attempt, outcome=report.outcome, detail=report.detail)
        try:
            await self._commands.task(ref, command, by=self._worker, cause=str(claimed.sequence))
        except (Refused, StoreUnavailable) as error:
            log.info("cancel-report.dropped", task=ref.id, reason=str(error))

    async def return_attempt(
        self,
        ref: TaskRef,
        claimed: Known[TaskState],
        reason: str,
        kind: ReturnKind = "shutdown",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Record that the attempt came to nothing and does not count; then its queue message is to be nak'ed."""
        await self._reports.flush(ref, patience_seconds)
        command = ReturnAttempt(attempt=_processing(claimed).facts.attempt, reason=reason, kind=kind)
        await self._commands.task(ref, command, by=self._worker, known=claimed, patience_seconds=patience_seconds)

    async def _append(self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Answer) -> str:
        """Append the outcome; return its name for the metrics."""
        attempt, cause = _processing(claimed).facts.attempt, str(claimed.sequence)
        match answer:
            case Completed() | FailedByBackend():
                await self._reports.end(
                    ref,
                    answer,
                    _reporter(claimed),
                    by=self._worker,
                    cause=cause,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                return "succeeded" if isinstance(answer, Completed) else "failed"
            case Accepted():
                await self._accept(ref, server_id, claimed, answer)
                return "accepted"
            case Busy() | Unsent():
                kind: ReturnKind = "busy" if isinstance(answer, Busy) else "unsent"
                facts = _processing(claimed).facts
                if facts.unserved_since is None:
                    # Before the event: the timer of a return that was not stored does nothing.
                    await self._container.timers.watch_busy_wait(ref, utc_now() + facts.policy.busy_for)
                await self.return_attempt(ref, claimed, answer.error, kind, math.inf)
                return kind
            case Failed():
                await self._reports.flush(ref, math.inf)
                await fail_attempt(
                    self._container,
                    ref,
                    attempt,
                    answer,
                    by=self._worker,
                    cause=cause,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                return answer.kind

    async def _accept(self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Accepted) -> None:
        """Record that the server accepted the attempt, and set the timer of its deadline or lease at the same time.

        Whoever ends an accepted attempt cancels its timer, so the timer must not be set after the acceptance is known.
        """
        attempt = _processing(claimed).facts.attempt
        due_at = replace(_processing(claimed), lease=answer.lease).due_at(utc_now())
        timers = self._container.timers
        timer = asyncio.create_task(timers.watch_deadline(ref, attempt, due_at))
        state: TaskState | None = None
        try:
            handled = await self._commands.task(
                ref,
                AcceptAttempt(attempt=attempt, backend_task_id=answer.backend_task_id, lease=answer.lease),
                by=self._worker,
                cause=str(claimed.sequence),
                known=claimed,
                patience_seconds=math.inf,
            )
            state = handled.known.state
        finally:
            [failure] = await asyncio.gather(timer, return_exceptions=True)
            if not _is_running(state, attempt):
                await self._correct_deadline(ref)
        if not _is_running(state, attempt):  # the callback was faster than the acceptance
            self._slots.ended_elsewhere(server_token(server_id), ref)
        elif failure is not None:
            await timers.watch_deadline(ref, attempt, due_at)

    async def _correct_deadline(self, ref: TaskRef) -> None:
        """Set or cancel the timer of a task's deadline, after one that came too late may have replaced it."""
        state = (await self._commands.tasks.load(ref)).state
        if isinstance(state, Processing) and state.accepted:
            await self._container.timers.watch_deadline(ref, state.facts.attempt, state.due_at(utc_now()))
        elif not (isinstance(state, Ended) and state.unreported):
            await self._container.timers.cancel("deadline", ref)


def outcome_of(answer: Answer) -> str:
    """Return the name of an answer's outcome for spans, as metrics have it."""
    match answer:
        case Completed():
            return "succeeded"
        case FailedByBackend():
            return "failed"
        case Accepted():
            return "accepted"
        case Busy():
            return "busy"
        case Unsent():
            return "unsent"
        case Failed(kind=kind):
            return kind


def after_answer(answer: Answer) -> CancelReport:
    """Return what became of an attempt that was answered before it could be cancelled."""
    match answer:
        case Completed() | FailedByBackend() | Busy() | Unsent() | Failed(kind="rejected"):
            return CancelReport("confirmed", "the server had ended before it could be told")
        case Accepted():
            return CancelReport("impossible", BY_CALLBACK)
        case Failed():
            return CancelReport("unconfirmed", answer.error)


def _is_running(state: TaskState | None, attempt: int) -> bool:
    return isinstance(state, Processing) and state.facts.attempt == attempt


def _processing(claimed: Known[TaskState]) -> Processing:
    assert isinstance(claimed.state, Processing)
    return claimed.state


def _reporter(claimed: Known[TaskState]) -> Reporter:
    return Reporter(kind="worker", attempt=_processing(claimed).facts.attempt)
