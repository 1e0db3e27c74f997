"""Turns of the two queues of one pool and priority: the first queue, and the bulk queue of owners with many tasks.

A round serves each owner in the first queue once, then one task of the bulk queue. It ends when an owner comes again,
or after LONGEST_ROUND owners. So the bulk queue gets the share of one owner, and no stream of new owners starves it. If
one queue is empty, the other has every slot.
"""

from __future__ import annotations

LONGEST_ROUND = 16
"""Owners served before a task of the bulk queue. More make bulk slower beside a crowd of owners with a task each; fewer
make the crowd slower.
"""
MOST_OWED = 64
"""Turns that the bulk queue may be owed. It is owed more than one only if several tasks of the first queue were taken
together."""


class BulkTurns:
    """The turns as one worker takes them. Other workers take their own, so the shares hold in sum."""

    def __init__(self) -> None:
        self.owed = 0
        """Tasks of the bulk queue that come before the next one of the first queue."""
        self._served: set[str] = set()
        """Owners that were served in this round."""

    def took_first(self, owner: str) -> None:
        """Record a task of the first queue, taken while the bulk queue had tasks."""
        if owner in self._served or len(self._served) >= LONGEST_ROUND:
            self.owed = min(self.owed + 1, MOST_OWED)
            self._served.clear()
        self._served.add(owner)

    def took_bulk(self, count: int) -> None:
        """Record tasks of the bulk queue."""
        self.owed = max(0, self.owed - count)

    def bulk_is_empty(self) -> None:
        """Record that the bulk queue has no task: it is owed nothing."""
        self.owed = 0
        self._served.clear()

    def is_bulks(self, *, first_has_more: bool) -> bool:
        """Return True if the next task comes from the bulk queue, which has some."""
        return self.owed > 0 or not first_has_more

    def most_of_first(self, most: int, *, bulk_has_more: bool) -> int:
        """Return how many tasks to take from the first queue, if `most` may be taken now.

        Beside a bulk queue half of them: if all are of one owner, the other half is the bulk queue's.
        """
        if not bulk_has_more:
            return most
        return 0 if self.owed else (most + 1) // 2

    def most_of_bulk(self, most: int, *, first_has_more: bool) -> int:
        """Return how many tasks to take from the bulk queue, if `most` may be taken now."""
        return min(most, self.owed) if first_has_more else most
