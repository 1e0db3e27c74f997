"""Deciders for holds and late tasks; a part of `task`. They never refuse a command."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, assert_never

from ..events.task import FailureKind, Plan, Priority, TaskCancelled, TaskEvent, TaskFailed, TaskHeld, TaskQueued
from ..instants import iso
from .task_commands import CancelUnstarted, FailByParent, HoldTask, ReleaseTask
from .task_state import Ended, Held, Processing, TaskFacts, TaskState, Unknown, Waiting


def hold(command: HoldTask, state: TaskState) -> Sequence[TaskEvent]:
    return [TaskHeld(reason=command.reason)] if isinstance(state, Waiting) else []


def release(command: ReleaseTask, state: TaskState) -> Sequence[TaskEvent]:
    return [queue_held(state.facts, command.submission)] if isinstance(state, Held) else []


class HeldTask(Protocol):
    """What a release depends on: the decider knows it from the state, the scheduler from its entry of the task."""

    @property
    def pool(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def attempt(self) -> int: ...


def queue_held(task: HeldTask, submission: int) -> TaskQueued:
    """Return the release of a held task. `submission`: sequence of its TaskSubmitted; 0: not known.

    Before the first attempt the dispatcher needs no more of the history than the submission; later it reads it all.
    """
    return TaskQueued(
        pool=task.pool,
        priority=task.priority,
        reason="nothing holds it any more",
        granted=True,
        submission=0 if task.attempt else submission,
    )


def expire(state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    kind: FailureKind
    match state:
        case Held(facts=facts) | Waiting(facts=facts):
            server_id, last, kind = "", last_start(facts.plan), late_kind(facts.plan)
        case Processing(facts=facts):
            server_id, last, kind = state.server_id, facts.plan.ends_by, "deadline"
        case Ended() | Unknown():
            return []
        case _:
            assert_never(state)
    if last is None or last > now:
        return []
    missed = "ended" if kind == "deadline" else "started again" if facts.attempt else "started"
    error = f"it had not {missed} by {iso(last)}"
    if isinstance(state, Waiting) and facts.unserved_since is not None:
        error += f"; the last attempt: {facts.unserved_reason}"
    return [TaskFailed(attempt=facts.attempt, server_id=server_id, kind=kind, error=error)]


def end_busy_wait(state: TaskState, now: datetime) -> Sequence[TaskEvent]:
    if not isinstance(state, Waiting) or state.facts.busy_until is None or state.facts.busy_until > now:
        return []
    facts = state.facts
    error = busy_for_too_long(facts, facts.unserved_reason)
    return [TaskFailed(attempt=facts.attempt, server_id="", kind="busy", error=error)]


def busy_for_too_long(facts: TaskFacts, reason: str) -> str:
    """Return the error of a task that no server took for as long as its type's `busyFor`."""
    assert facts.unserved_since is not None
    return (
        f"no server has taken it since {iso(facts.unserved_since)}, longer than the `busyFor` of its type "
        f"({facts.policy.busy_for.total_seconds():g} s); the last attempt: {reason}. Retry it when servers have "
        f"capacity, or raise `busyFor`"
    )


def last_start(plan: Plan) -> datetime | None:
    """Return the instant from which a task may not start any more; None if there is none."""
    return min((at for at in (plan.expires_at, plan.ends_by) if at is not None), default=None)


def late_kind(plan: Plan) -> FailureKind:
    """Return the failure of a task that did not start in time: by the earlier of its two last instants."""
    return "deadline" if last_start(plan) == plan.ends_by else "expired"


def option(kind: FailureKind) -> str:
    """Return the option of the submission that a task missed."""
    return "deadline" if kind == "deadline" else "expiresAt"


def attempt_deadline(facts: TaskFacts, now: datetime, *, reports_later: bool) -> datetime:
    """Return the deadline of an attempt that starts now. `reports_later`: its server reports by callback."""
    longer = facts.policy.callback_timeout if reports_later else None
    deadline = now + (longer or facts.policy.timeout)
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


def cancel_unstarted(command: CancelUnstarted, state: TaskState) -> Sequence[TaskEvent]:
    if isinstance(state, Held | Waiting) and state.facts.attempt == 0:
        return [TaskCancelled(attempt=0, server_id="", reason=command.reason)]
    return []
