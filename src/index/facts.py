"""What the index records of a view beside its fields: the cause of its hold, its labels and its searchable values."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from ..events.task import NO_PLAN
from ..projections.task_view import TaskView, awaited

Hold: TypeAlias = Literal[
    "parents",  # it was held until the tasks it depends on have ended
    "time",  # it was held until its `runAt`
    "limit",  # for capacity of a limit, or space in its owner's window
    "retry",  # until its next attempt is due
    "server-busy",  # a busy server returned it
]
HOLDS: tuple[Literal[""] | Hold, ...] = ("", *get_args(Hold))
"""Causes of holds, in the order in which a task waits; the first stands for none. A file has their places."""

HELD: frozenset[Hold] = frozenset({"parents", "time", "limit"})
"""Holds of tasks that are in no queue."""


def hold_of(view: TaskView) -> Literal[""] | Hold:
    """Return what a waiting task waits for, as far as its own history says it; empty for no task that waits so.

    Parents that have ended and a time that has come are not in the history: a task held for one of these may wait for a
    limit by now. `GET /api/task/{id}/why` knows.
    """
    if view.status != "WAITING":
        return ""
    if view.held:
        plan = awaited(view)
        return "parents" if plan.depends_on else "time" if plan.not_before is not None else "limit"
    if view.retry_at is not None:
        return "retry"
    return "server-busy" if view.busy_until is not None else ""


def attributes_of(view: TaskView) -> set[str]:
    """Return the attributes of a task: its labels, required or preferred, and the values of searchable fields."""
    plan = view.plan or NO_PLAN
    labels = [*plan.require.items(), *plan.prefer.items()]
    return {label(key, value) for key, value in labels} | {payload(path, value) for path, value in view.indexed.items()}


def searchable(text: str) -> str:
    """Return an error, or a part of one, as the index has it: LIKE of SQLite reads no further than a NUL."""
    return text.replace("\0", "\ufffd")


def label(key: str, value: str) -> str:
    """Return the attribute of a label: `label.region=eu`. Two different labels never give the same one."""
    escaped = key.replace("%", "%25").replace("=", "%3D")
    return f"label.{escaped}={value}"


def payload(path: str, value: str) -> str:
    """Return the attribute of a searchable field: `payload.customer=acme`. No path has a `=`."""
    return f"payload.{path}={value}"
