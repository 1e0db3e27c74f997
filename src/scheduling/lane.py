"""Held tasks that only wait for room, and that are stopped by the same limits: first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from ..events.ids import TaskRef
from ..events.task import Priority

if TYPE_CHECKING:
    from .entry import Entry
    from .gate import Gate
    from .line import Line


class Lane:
    """One owner's tasks of one window and one concurrency key: those that pass the same gates."""

    def __init__(self, owner: str, priority: Priority, gates: tuple[Gate, ...]) -> None:
        self.owner = owner
        self.priority = priority
        self.gates = gates
        """What must have room for the next task."""
        self.line: Line | None = None
        """Where the lane waits for its turn; None: nowhere."""
        self.via: Gate | None = None
        """The gate at which it was parked, and which is to be looked at again once it has had its turn."""
        self._entries: OrderedDict[TaskRef, Entry] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def since(self) -> float:
        """When the first task was submitted, seconds since the epoch."""
        return next(iter(self._entries.values())).submitted_at

    def first(self) -> Entry:
        return next(iter(self._entries.values()))

    def append(self, entry: Entry) -> None:
        self._entries[entry.ref] = entry

    def put_back(self, entry: Entry) -> None:
        """Put a task that was taken out to the front again."""
        self._entries[entry.ref] = entry
        self._entries.move_to_end(entry.ref, last=False)

    def remove(self, entry: Entry) -> None:
        self._entries.pop(entry.ref, None)

    def place_of(self, entry: Entry) -> int:
        """Return how many tasks of the lane come before one. Walks the lane."""
        return next(place for place, ref in enumerate(self._entries) if ref == entry.ref)
