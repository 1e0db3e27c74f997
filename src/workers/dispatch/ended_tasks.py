"""The tasks that ended lately, as the log says.

A killed NATS may forget that the queue was drained, and fill it again from the floor of its sources (ADR 9). A new task
then waits behind messages of tasks that have ended. A worker that knows of the ends drops these messages at once,
without a claim that the log would refuse.
"""

from __future__ import annotations

from ...events.ids import TaskRef

REMEMBERED = 20_000
"""About 6 MB."""


class EndedTasks:
    """The last ends that this worker has read in the log."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._ends: dict[TaskRef, int] = {}

    def add(self, ref: TaskRef, sequence: int) -> None:
        """Remember an end, and forget the oldest beyond the limit. Repeating is safe."""
        self._ends.pop(ref, None)
        self._ends[ref] = sequence
        if len(self._ends) > self._remembered:
            del self._ends[next(iter(self._ends))]

    def ended_after(self, ref: TaskRef, sequence: int) -> bool:
        """Return True if a task is known to have ended after an event of it: a claim guarded by that would fail."""
        return self._ends.get(ref, 0) > sequence
