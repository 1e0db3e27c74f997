"""Which timers of a task its present state needs."""

from __future__ import annotations

from datetime import timedelta

from ..events.subjects import TimerKind
from .task_state import Ended, Held, Processing, TaskState, Unknown, Waiting


def timers_over(before: TaskState, after: TaskState) -> list[TimerKind]:
    """Return the kinds of timers that a change of state leaves without a purpose; empty if none was set.

    A timer that brought the change has fired. It is in the list, too: cancelling it does nothing.
    """
    kinds: list[TimerKind] = []
    match before:
        case Processing(lease=timedelta(), facts=facts) if _is_unreported(after, facts.attempt):
            pass  # by then its puller has said that it stopped, or it is reported that it has not
        case Processing(accepted=True, facts=facts):
            if not isinstance(after, Processing) or after.facts.attempt != facts.attempt:
                kinds.append("deadline")
        case Waiting(not_before=at) if at is not None and isinstance(after, Ended | Held):
            kinds.append("retry")
        case _:
            pass
    if _waits_for_busy(before) and not _waits_for_busy(after):
        kinds.append("busy")
    return kinds


def _is_unreported(after: TaskState, attempt: int) -> bool:
    """Return True if a task was cancelled during an attempt, and nothing says what became of that."""
    return isinstance(after, Ended) and after.unreported == attempt


def _waits_for_busy(state: TaskState) -> bool:
    """Return True if a timer fails the task should every server stay busy."""
    return not isinstance(state, Unknown | Ended) and state.facts.unserved_since is not None
