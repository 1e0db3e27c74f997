"""The tasks whose views are not written yet, and the instant at which each is due.

A view is written when its task has ended or has rested, so a short task is written once. A task that never rests is
written all the same. Times are monotonic, in seconds.
"""

from __future__ import annotations

import math

from msgspec import Struct

from ..events.ids import TaskRef

REST_SECONDS = 1.0
"""Time without an event after which the view of a task is written: shorter writes more often, longer lags more."""
LONGEST_SECONDS = 2.0
"""Longest time between an event and the view that reflects it, also if the task never rests. Readers that need a
current projection wait a little longer than this."""
GATHER_SECONDS = 0.1
"""How long views that are due wait for others: they are looked for, and the checkpoint is written, once for all."""
MOST_UNWRITTEN = 10_000
"""Tasks that wait for their view to be written; of more, the oldest are due at once."""
MOST_UNWRITTEN_BYTES = 32 * 1024 * 1024
"""The same in bytes of their events: a view may keep a payload."""


class _UnwrittenTask(Struct):
    first_sequence: int
    """Of its events that no view reflects."""
    first_at: float
    size_bytes: int
    due_at: float


class Unwritten:
    """Tasks with events that no written view reflects."""

    def __init__(self) -> None:
        self._tasks: dict[TaskRef, _UnwrittenTask] = {}
        """In order of their first sequences."""
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, ref: TaskRef) -> bool:
        return ref in self._tasks

    def clear(self) -> None:
        self._tasks.clear()
        self._size_bytes = 0

    def add(self, ref: TaskRef, sequence: int, size_bytes: int, now: float, *, has_ended: bool) -> None:
        """Add an event of a task; events come in the order of the log. `has_ended`: the task, after this event."""
        self._size_bytes += size_bytes
        task = self._tasks.get(ref)
        if task is None:
            task = self._tasks[ref] = _UnwrittenTask(sequence, now, 0, math.inf)
        task.size_bytes += size_bytes
        task.due_at = -math.inf if has_ended else min(now + REST_SECONDS, task.first_at + LONGEST_SECONDS)

    def take_due(self, now: float) -> list[TaskRef]:
        """Remove the tasks that are due, and return them."""
        due = [ref for ref, task in self._tasks.items() if task.due_at <= now]
        self._remove(due)
        if len(self._tasks) > MOST_UNWRITTEN or self._size_bytes > MOST_UNWRITTEN_BYTES:
            oldest = self._oldest()
            self._remove(oldest)
            due += oldest
        return due

    def take_all(self) -> list[TaskRef]:
        """Remove all tasks, and return them."""
        tasks = list(self._tasks)
        self.clear()
        return tasks

    @property
    def first_sequence(self) -> int | None:
        """The sequence of the oldest event that no written view reflects; None if there is none."""
        return next((task.first_sequence for task in self._tasks.values()), None)

    @property
    def next_at(self) -> float | None:
        """When the next tasks are to be taken; None if none is unwritten."""
        due_at = min([task.due_at for task in self._tasks.values()], default=None)
        return None if due_at is None else due_at + GATHER_SECONDS

    def _oldest(self) -> list[TaskRef]:
        """Return the oldest tasks, so many that half of what is allowed is left."""
        tasks, size_bytes = len(self._tasks), self._size_bytes
        oldest: list[TaskRef] = []
        for ref, task in self._tasks.items():
            if tasks <= MOST_UNWRITTEN // 2 and size_bytes <= MOST_UNWRITTEN_BYTES // 2:
                break
            oldest.append(ref)
            tasks -= 1
            size_bytes -= task.size_bytes
        return oldest

    def _remove(self, refs: list[TaskRef]) -> None:
        for ref in refs:
            self._size_bytes -= self._tasks.pop(ref).size_bytes
