"""Deciders for reports on a task; a part of `task`.

They return no events for an end that is recorded already. They raise AttemptNotCurrent if the reporter may not report
on the task now, TimeIsUp if it may not start any more, AlreadyEnded, ResultExpired, and NotFound.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from ..errors import AlreadyEnded, AttemptNotCurrent, NotFound, ResultExpired, TimeIsUp
from ..events.task import AttemptStarted, ProgressReported, TaskEvent, TaskFailed, TaskSucceeded
from .task_commands import FailTask, Reporter, ReportProgress, SucceedTask
from .task_holds import attempt_deadline, last_start
from .task_state import Ended, Held, Outcome, Processing, TaskFacts, TaskState, Unknown, Waiting


def report_progress(command: ReportProgress, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    facts = _reported(command.reporter, state)
    report = ProgressReported(
        attempt=_attempt_reported(facts, state),
        progress=command.progress,
        message=command.message,
        custom_data=command.custom_data,
        lines=command.lines,
        output=command.output,
        batch=command.batch,
        reports=command.reports,
        notes=command.notes,
        merged=command.merged,
        data=command.data,
        parts=command.parts,
        earlier=state.reported if isinstance(state, Processing) else 0,
    )
    if isinstance(state, Processing):
        return [report]
    if (last := last_start(facts.plan)) is not None and last <= now:
        raise TimeIsUp
    # It had not started: the reporter takes it by this report. No worker chose a server, so it occupies none.
    claim = AttemptStarted(
        attempt=report.attempt,
        server_id=command.reporter.server_named,
        worker_id="",
        deadline=attempt_deadline(facts, now, reports_later=True),
    )
    return [claim, report]


def succeed(command: SucceedTask, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    if _already_ended(state, "succeeded", command.update_digest):
        return []
    facts = _reported(command.reporter, state)
    _check_time(command.decided_by, now)
    return [
        TaskSucceeded(
            attempt=_attempt_reported(facts, state),
            server_id=_server_reported(command.reporter, state),
            result=command.result,
            update_digest=command.update_digest,
            notes=command.notes,
        )
    ]


def fail(command: FailTask, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    if _already_ended(state, "failed", command.update_digest):
        return []
    facts = _reported(command.reporter, state)
    _check_time(command.decided_by, now)
    return [
        TaskFailed(
            attempt=_attempt_reported(facts, state),
            server_id=_server_reported(command.reporter, state),
            kind="failed",
            error=command.error,
            result=command.result,
            update_digest=command.update_digest,
            notes=command.notes,
        )
    ]


def check_reporter(reporter: Reporter, state: TaskState) -> None:
    """Raise what every report of a reporter would raise now, whatever it says.

    An end that is sent again may be recorded already, so a task that an update has ended is not refused here.
    """
    if not isinstance(state, Ended) or not state.update_digest:
        _reported(reporter, state)


def _check_time(decided_by: datetime | None, now: datetime) -> None:
    if decided_by is not None and now > decided_by:
        raise ResultExpired


def _already_ended(state: TaskState, outcome: Outcome, update_digest: str) -> bool:
    """Return True if the task ended by this update. Raises AlreadyEnded if it ended otherwise."""
    if not isinstance(state, Ended):
        return False
    if state.outcome == outcome and state.update_digest == update_digest:
        return True
    raise AlreadyEnded(state.outcome)


def _reported(reporter: Reporter, state: TaskState) -> TaskFacts:
    """Return the facts if the reporter may report on the task now. Raises AttemptNotCurrent, AlreadyEnded, NotFound."""
    match state:
        case Unknown():
            raise NotFound("task", "")
        case Ended():
            raise AlreadyEnded(state.outcome)
        case Processing(facts=facts):
            by_attempt = reporter.attempt is not None and reporter.attempt != facts.attempt
            by_other_server = reporter.kind == "server" and reporter.server_id not in ("", state.server_id)
            if by_attempt or (by_other_server and state.server_id):
                raise AttemptNotCurrent(facts.attempt)
            return facts
        case Held(facts=facts):
            if reporter.kind == "person" and reporter.attempt is None:
                return facts
            raise AttemptNotCurrent(None)  # a server that took it by a report would bypass its limits
        case Waiting(facts=facts):
            # Before the first attempt any server may take it; later only a person may end it.
            if reporter.attempt is None and (facts.attempt == 0 or reporter.kind == "person"):
                return facts
            raise AttemptNotCurrent(None)
        case _:
            assert_never(state)


def _attempt_reported(facts: TaskFacts, state: TaskState) -> int:
    return facts.attempt if isinstance(state, Processing) else facts.attempt + 1


def _server_reported(reporter: Reporter, state: TaskState) -> str:
    return state.server_id if isinstance(state, Processing) else reporter.server_named
