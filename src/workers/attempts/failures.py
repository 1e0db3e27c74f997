"""The end of an attempt that came to nothing, wherever that is noticed: in the log first, then its retry is set."""

from __future__ import annotations

from datetime import timedelta

from ...clock import jitter
from ...commands.commands import Commands
from ...commands.handler import PATIENCE_SECONDS, Known
from ...commands.task import FailAttempt, TaskState, Waiting
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...events.task import FailureKind
from ...streams.timers import Timers


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
