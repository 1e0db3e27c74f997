"""Deciders of a task: pure functions over its history.

decide(command, state, now) -> events      [] means "already done", a raise means "not allowed"
evolve(state, recorded) -> state           folds one event; never refuses, since an event is a fact
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never

from ..errors import (
    AlreadyEnded,
    AlreadyExists,
    AttemptNotCurrent,
    IdempotencyConflict,
    KeyDestroyed,
    NotDue,
    NotFound,
    NotGranted,
    NotQueued,
    NotRetryable,
    RetryTooLate,
    TimeIsUp,
)
from ..events import task as events
from ..events.task import FailureKind, TaskEvent
from ..instants import iso
from . import task_commands as commands
from . import task_holds, task_reports
from .task_commands import TaskCommand
from .task_state import Ended, Held, Processing, TaskFacts, TaskState, Unknown, Waiting

FINAL_KINDS: frozenset[FailureKind] = frozenset({"rejected", "failed"})
"""Failures that a retry would only repeat."""
BY_CALLBACK = "it reports by callback, and learns of it then"
ALREADY_STREAMED = "its answer had begun to stream, so it is not tried again"
EARLIEST_START = timedelta(milliseconds=250)
"""How early a retry may start, since the timer fires by another machine's clock."""
LONGEST_RETRY_AFTER = timedelta(hours=1)
"""Upper bound of a server's Retry-After, which may exceed the backoff cap."""


def decide(  # noqa: PLR0912 - one case for each command
    command: TaskCommand, state: TaskState, now: datetime
) -> Sequence[TaskEvent]:
    """Return the events of a command; none if it is done already.

    Raises a subclass of errors.Refused if the command is not allowed in this state.
    """
    match command:
        case commands.SubmitTask():
            return submit(command, state)
        case commands.StartAttempt():
            return start_attempt(command, state, now)
        case commands.AcceptAttempt():
            return accept_attempt(command, state)
        case commands.ReportProgress():
            return task_reports.report_progress(command, state, now)
        case commands.SucceedTask():
            return task_reports.succeed(command, state, now)
        case commands.FailTask():
            return task_reports.fail(command, state, now)
        case commands.FailAttempt():
            return fail_attempt(command, state, now)
        case commands.ReturnAttempt():
            return return_attempt(command, state, now)
        case commands.CancelTask():
            return cancel(command, state)
        case commands.ReportCancel():
            return report_cancel(command, state)
        case commands.RetryTask():
            return retry(command, state, now)
        case commands.DeleteTask():
            return delete(command, state)
        case commands.RequeueTask():
            return requeue(command, state, now)
        case commands.HoldTask():
            return task_holds.hold(command, state)
        case commands.ReleaseTask():
            return task_holds.release(command, state)
        case commands.ExpireTask():
            return task_holds.expire(state, now)
        case commands.EndBusyWait():
            return task_holds.end_busy_wait(state, now)
        case commands.FailByParent():
            return task_holds.fail_by_parent(command, state)
        case commands.CancelUnstarted():
            return task_holds.cancel_unstarted(command, state)
        case _:
            assert_never(command)


def submit(command: commands.SubmitTask, state: TaskState) -> Sequence[TaskEvent]:
    match state:
        case Unknown():
            return [command.submission]
        case Held() | Waiting() | Processing() | Ended():
            if state.facts.fingerprint == command.submission.fingerprint:
                return []
            raise IdempotencyConflict if command.repeatable else AlreadyExists
        case _:
            assert_never(state)


def start_attempt(command: commands.StartAttempt, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    match state:
        case Held():
            raise NotQueued
        case Waiting(not_before=datetime() as due) if due > now + EARLIEST_START:
            raise NotDue
        case Waiting(facts=facts) if (last := task_holds.last_start(facts.plan)) is not None and last <= now:
            raise TimeIsUp
        case Waiting(granted=False) if command.needs_grant:
            raise NotGranted
        case Waiting(facts=facts):
            return [
                events.AttemptStarted(
                    attempt=facts.attempt + 1,
                    server_id=command.server_id,
                    worker_id=command.worker_id,
                    deadline=task_holds.attempt_deadline(facts, now, reports_later=command.reports_later),
                    token_digest=command.token_digest,
                )
            ]
        case Processing() if state.token_digest == command.token_digest:
            return []  # our own claim: it was stored, and its answer was lost
        case Processing():
            raise AttemptNotCurrent(state.facts.attempt)
        case Ended():
            raise AlreadyEnded(state.outcome)
        case Unknown():
            raise NotFound("task", "")
        case _:
            assert_never(state)


def accept_attempt(command: commands.AcceptAttempt, state: TaskState) -> Sequence[TaskEvent]:
    running = _running(state)
    if running is None or running.facts.attempt != command.attempt or running.accepted:
        return []  # the callback came before the acceptance
    return [
        events.AttemptAccepted(attempt=command.attempt, backend_task_id=command.backend_task_id, lease=command.lease)
    ]


def fail_attempt(command: commands.FailAttempt, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    running = _running(state)
    if running is None or running.facts.attempt != command.attempt:
        return []  # the attempt is over already
    facts = running.facts
    if command.kind == "timeout" and running.deadline == facts.plan.ends_by:
        return [_ended_by_failure(running, "deadline", f"it had not ended by {iso(running.deadline)}")]
    if running.has_streamed:
        return [_ended_by_failure(running, command.kind, f"{command.error}; {ALREADY_STREAMED}", command.answer)]
    if command.kind in FINAL_KINDS or facts.failures + 1 >= facts.policy.attempts:
        return [_ended_by_failure(running, command.kind, command.error, command.answer)]
    retry_at = now + backoff(command, facts)
    last = task_holds.last_start(facts.plan)
    if last is not None and last <= retry_at:
        return [_ended_by_failure(running, task_holds.late_kind(facts.plan), _too_late(command.error, facts, last))]
    return [
        events.AttemptFailed(
            attempt=command.attempt,
            server_id=running.server_id,
            kind=command.kind,
            error=command.error,
            retry_at=retry_at,
        )
    ]


def _too_late(error: str, facts: TaskFacts, last: datetime) -> str:
    option = task_holds.option(task_holds.late_kind(facts.plan))
    return f"{error}; another attempt could not start before its `{option}`, {iso(last)}"


def _ended_by_failure(
    running: Processing, kind: FailureKind, error: str, answer: events.ErrorAnswer | None = None
) -> events.TaskFailed:
    attempt, server_id = running.facts.attempt, running.server_id
    return events.TaskFailed(attempt=attempt, server_id=server_id, kind=kind, error=error, answer=answer)


def backoff(command: commands.FailAttempt, facts: TaskFacts) -> timedelta:
    """Return the backoff: full jitter over 1, 2, 4, 8 … times the base, up to the cap.

    None after a lost worker, which says nothing about the task. Source: Marc Brooker, "Exponential Backoff And
    Jitter".
    """
    if command.kind == "worker_lost":
        return timedelta(0)
    policy = facts.policy
    factor: int = 2 ** min(facts.failures, 40)  # 2^40 microseconds are 12 days
    # Compared by division: the product may be more than a timedelta can hold.
    bound = policy.backoff_cap if policy.backoff_cap / factor < policy.backoff_base else policy.backoff_base * factor
    asked = min(command.retry_after or timedelta(0), LONGEST_RETRY_AFTER)
    return max(bound * command.jitter, asked)


def return_attempt(command: commands.ReturnAttempt, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    running = _running(state)
    if running is None or running.facts.attempt != command.attempt:
        return []
    if running.has_streamed:
        return [_ended_by_failure(running, "worker_lost", f"{command.reason}; {ALREADY_STREAMED}")]
    if command.kind != "shutdown":
        facts = running.facts
        last = task_holds.last_start(facts.plan)
        if last is not None and last <= now:
            kind = task_holds.late_kind(facts.plan)
            return [_ended_by_failure(running, kind, _too_late(command.reason, facts, last))]
        if facts.busy_until is not None and facts.busy_until <= now:
            return [_ended_by_failure(running, "busy", task_holds.busy_for_too_long(facts, command.reason))]
    return [
        events.AttemptReturned(
            attempt=command.attempt, server_id=running.server_id, reason=command.reason, kind=command.kind
        )
    ]


def cancel(command: commands.CancelTask, state: TaskState) -> Sequence[TaskEvent]:
    match state:
        case Held() | Waiting():
            return [events.TaskCancelled(attempt=0, server_id="", reason=command.reason)]
        case Processing(facts=facts):
            cancelled = events.TaskCancelled(attempt=facts.attempt, server_id=state.server_id, reason=command.reason)
            if not state.accepted or not state.server_id or state.lease is not None:
                return [cancelled]  # whoever makes the call, or has the attempt, reports what becomes of it
            # No call is open that could be closed, and the server learns of it when it reports next.
            outcome = events.CancelReported(
                attempt=facts.attempt, server_id=state.server_id, outcome="impossible", detail=BY_CALLBACK
            )
            return [cancelled, outcome]
        case Ended(outcome="cancelled"):
            return []
        case Ended():
            raise AlreadyEnded(state.outcome)
        case Unknown():
            raise NotFound("task", "")
        case _:
            assert_never(state)


def report_cancel(command: commands.ReportCancel, state: TaskState) -> Sequence[TaskEvent]:
    """Return no event for an attempt that was not cancelled, is reported on, or belongs to the time before a retry."""
    match state:
        case Ended(unreported=attempt, deleted=False) if attempt and attempt == command.attempt:
            return [
                events.CancelReported(
                    attempt=attempt,
                    server_id=state.facts.last_server_id,
                    outcome=command.outcome,
                    detail=command.detail,
                )
            ]
        case Unknown():
            raise NotFound("task", "")
        case _:
            return []


def retry(command: commands.RetryTask, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    match state:
        case Ended(deleted=True):
            raise NotFound("task", "")
        case Ended(facts=facts) if state.outcome != "succeeded":
            if facts.key_id:
                raise KeyDestroyed
            if (last := task_holds.last_start(facts.plan)) is not None and last <= now:
                raise RetryTooLate(task_holds.option(task_holds.late_kind(facts.plan)))
            if facts.plan.depends_on:
                return [events.TaskHeld(reason=command.reason, renewed=True)]
            return [
                events.TaskQueued(
                    pool=facts.pool,
                    priority=facts.priority,
                    reason=command.reason,
                    renewed=True,
                    bulk=command.bulk,
                )
            ]
        case Ended():
            raise NotRetryable("finished")
        case Held() | Waiting():
            raise NotRetryable("waiting")
        case Processing():
            raise NotRetryable("being processed")
        case Unknown():
            raise NotFound("task", "")
        case _:
            assert_never(state)


def delete(command: commands.DeleteTask, state: TaskState) -> Sequence[TaskEvent]:
    match state:
        case Held() | Waiting() | Processing():
            return [*cancel(commands.CancelTask(reason=command.reason), state), events.TaskDeleted()]
        case Ended(deleted=False):
            return [events.TaskDeleted()]
        case Ended():
            return []
        case Unknown():
            raise NotFound("task", "")
        case _:
            assert_never(state)


def requeue(command: commands.RequeueTask, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    if not isinstance(state, Waiting) or (state.not_before is not None and state.not_before > now):
        return []  # it has moved on, or its timer has not fired yet
    facts = state.facts
    return [events.TaskQueued(pool=facts.pool, priority=facts.priority, reason=command.reason, granted=state.granted)]


def _running(state: TaskState) -> Processing | None:
    return state if isinstance(state, Processing) else None
