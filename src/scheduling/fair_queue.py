"""Lanes in the order in which they get their turn: strict priority, owners by turns, and nobody waits for ever."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from ..events.task import PRIORITIES, Priority

OUTDATED_FOR_EACH = 2
OUTDATED = 64
"""How many outdated ages are kept, for each lane and in all, before they are thrown out together."""


class FairQueueItem(Protocol):
    """What waits for its turn."""

    owner: str
    priority: Priority
    line: Any
    """The `FairQueue` in which it waits; None: in none."""

    @property
    def since(self) -> float:
        """When its first task was submitted, seconds since the epoch."""


L = TypeVar("L", bound=FairQueueItem)


class FairQueue(Generic[L]):
    """Lanes of which one at a time gets its turn. One that has had it goes to the end when it is put back."""

    def __init__(self, ageing_seconds: float) -> None:
        """`ageing_seconds`: a lane whose first task has waited longer comes before all others; 0: none does."""
        self._ageing_seconds = ageing_seconds
        self._owners: dict[Priority, OrderedDict[str, OrderedDict[L, None]]] = {
            priority: OrderedDict() for priority in PRIORITIES
        }
        self._oldest: list[tuple[float, int, L]] = []
        """A heap of lanes below the highest priority, by when their first task was submitted; with outdated ones."""
        self._tiebreak = itertools.count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[L]:
        for owners in self._owners.values():
            for flows in owners.values():
                yield from flows

    def put(self, flow: L) -> None:
        """Add a lane that has tasks and is in no line, at the end of its owner's."""
        self._owners[flow.priority].setdefault(flow.owner, OrderedDict())[flow] = None
        self._count += 1
        flow.line = self
        self.note(flow)

    def note(self, flow: L) -> None:
        """Heed that another task is the first of a lane that waits here."""
        if not self._ageing_seconds or flow.priority == PRIORITIES[0]:
            return
        if len(self._oldest) > OUTDATED_FOR_EACH * self._count + OUTDATED:
            self._oldest = [self._age_of(each) for each in self if each.priority != PRIORITIES[0]]
            heapq.heapify(self._oldest)
        heapq.heappush(self._oldest, self._age_of(flow))

    def remove(self, flow: L) -> None:
        owners = self._owners[flow.priority]
        del owners[flow.owner][flow]
        if not owners[flow.owner]:
            del owners[flow.owner]
        self._count -= 1
        flow.line = None

    def pop(self, now: float) -> L | None:
        """Take out the lane whose turn it is, None if there is none."""
        flow = self._aged(now)
        if flow is None:
            owners = next((owners for owners in self._owners.values() if owners), None)
            if owners is None:
                return None
            flow = next(iter(next(iter(owners.values()))))
        owners = self._owners[flow.priority]
        self.remove(flow)
        if flow.owner in owners:
            owners.move_to_end(flow.owner)
        return flow

    def _aged(self, now: float) -> L | None:
        while self._oldest and self._oldest[0][0] + self._ageing_seconds <= now:
            since, _, flow = self._oldest[0]
            if flow.line is self and flow.since == since:
                return flow
            heapq.heappop(self._oldest)
        return None

    def _age_of(self, flow: L) -> tuple[float, int, L]:
        return flow.since, next(self._tiebreak), flow
