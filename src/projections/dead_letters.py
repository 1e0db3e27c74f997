"""Dead letters: tasks that failed for good, until somebody retries or discards them.

A task that was late, or whose parent failed, is no dead letter: a retry would fail in the same way.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from ..events.task import FailureKind
from .task_view import TaskView

DeadLetterKind: TypeAlias = Literal[
    "rejected", "failed", "busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"
]
"""The kinds of failure that a retry may not repeat."""
KINDS: frozenset[FailureKind] = frozenset(get_args(DeadLetterKind))


def is_dead_letter(view: TaskView) -> bool:
    """Return True for a task that failed for good and was not deleted."""
    return view.status == "FAILED" and view.failure in KINDS and not view.deleted
