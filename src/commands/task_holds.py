"""What holds a task, and what becomes of it then: pure decisions, a part of those of `task`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, assert_never

from ..events.task import FailureKind, Plan, TaskCancelled, TaskEvent, TaskFailed, TaskHeld, TaskQueued
from .task_commands import ExpireTask, FailByParent, HoldTask, ReleaseTask
from .task_state import Ended, Facts, Held, Processing, TaskState, Unknown, Waiting

HoldCommand: TypeAlias = HoldTask | ReleaseTask | ExpireTask | FailByParent


def decide(command: HoldCommand, state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    """Return the events that carry out the command, none if there is nothing to do; none of them is ever refused."""
    match command:
        case HoldTask():
            return hold(command, state)
        case ReleaseTask():
            return release(command, state)
        case ExpireTask():
            return expire(state, now)
        case FailByParent():
            return fail_by_parent(command, state)
        case _:
            assert_never(command)


def hold(command: HoldTask, state: TaskState) -> Sequence[TaskEvent]:
    return [TaskHeld(reason=command.reason)] if isinstance(state, Waiting) else []


def release(command: ReleaseTask, state: TaskState) -> Sequence[TaskEvent]:
    if not isinstance(state, Held):
        return []
    return [TaskQueued(pool=state.facts.pool, priority=state.facts.priority, reason=command.reason, granted=True)]


def expire(state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    match state:
        case Held(facts=facts) | Waiting(facts=facts):
            server_id, last = "", last_start(facts.plan)
        case Processing(facts=facts):
            server_id, last = state.server_id, facts.plan.ends_by
        case Ended() | Unknown():
            return []
        case _:
            assert_never(state)
    if last is None or last > now:
        return []
    is_deadline = facts.plan.ends_by is not None and facts.plan.ends_by <= now
    kind: FailureKind = "deadline" if is_deadline else "expired"
    error = f"it had not {'ended' if is_deadline else 'started'} by {last.isoformat(timespec='milliseconds')}"
    return [TaskFailed(attempt=facts.attempt, server_id=server_id, kind=kind, error=error)]


def last_start(plan: Plan) -> datetime | None:
    """Return the instant from which on a task is not started any more, None if there is none."""
    return min((at for at in (plan.expires_at, plan.ends_by) if at is not None), default=None)


def attempt_deadline(facts: Facts, now: datetime) -> datetime:
    """Return when the time of an attempt that starts now is over."""
    deadline = now + facts.policy.timeout
    return min(deadline, facts.plan.ends_by) if facts.plan.ends_by else deadline


def fail_by_parent(command: FailByParent, state: TaskState) -> Sequence[TaskEvent]:
    if not isinstance(state, Held):
        return []
    said = f"{command.parent_id}, on which it depends, {command.outcome}"
    match state.facts.plan.on_parent_failure:
        case "fail":
            return [TaskFailed(attempt=state.facts.attempt, server_id="", kind="parent_failed", error=said)]
        case "skip":
            return [TaskCancelled(attempt=0, server_id="", reason=f"skipped: {said}")]
        case "run":
            return []
        case _ as never:
            assert_never(never)
