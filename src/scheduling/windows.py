"""Windows: how much of an owner's may be in a queue at a time, so that others' come soon after."""

from __future__ import annotations

from ..events.task import Plan, Priority


def window(pool: str, priority: Priority, task_type: str, plan: Plan | None) -> str:
    """Return the name of the window that a task passes into its queue: one for all that the same servers can take.

    So those that no server takes do not keep their owner's others out of the queue.
    """
    return f"{priority} {pool} {task_type} {','.join(labels(plan))}"


def labels(plan: Plan | None) -> list[str]:
    """Return the labels that a task requires of its server, as `name=value`, in a fixed order."""
    return [f"{name}={value}" for name, value in sorted(plan.require.items())] if plan else []
