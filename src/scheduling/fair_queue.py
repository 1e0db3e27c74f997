"""Fair order of flows: strict priority, owners in round robin, and ageing against starvation."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from ..events.task import PRIORITIES, Priority

STALE_FOR_EACH = 2
STALE = 64
"""Stale heap entries kept, for each flow and in all, before they are removed together."""


class FairQueueItem(Protocol):
    """A flow as the queue sees it."""

    owner: str
    priority: Priority
    queue: Any
    """The `FairQueue` it is in; None: in none."""

    @property
    def since(self) -> float:
        """When its first task was submitted, seconds since the epoch."""


L = TypeVar("L", bound=FairQueueItem)


class FairQueue(Generic[L]):
    """Flows that wait, served one at a time. A flow that is served and put back goes to the end."""

    def __init__(self, ageing_seconds: float) -> None:
        """`ageing_seconds`: a flow whose first task has waited longer is served first; 0: no ageing."""
        self._ageing_seconds = ageing_seconds
        self._owners: dict[Priority, OrderedDict[str, OrderedDict[L, None]]] = {
            priority: OrderedDict() for priority in PRIORITIES
        }
        self._oldest: list[tuple[float, int, L]] = []
        """A heap of flows below the highest priority, by submission of their first task; some entries are stale."""
        self._tiebreak = itertools.count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[L]:
        for owners in self._owners.values():
            for flows in owners.values():
                yield from flows

    def put(self, flow: L) -> None:
        """Add a flow that has tasks and is in no queue, behind its owner's other flows."""
        self._owners[flow.priority].setdefault(flow.owner, OrderedDict())[flow] = None
        self._count += 1
        flow.queue = self
        self.update(flow)

    def update(self, flow: L) -> None:
        """Record that another task is now the first of a flow in this queue."""
        if not self._ageing_seconds or flow.priority == PRIORITIES[0]:
            return
        if len(self._oldest) > STALE_FOR_EACH * self._count + STALE:
            self._oldest = [self._age_of(each) for each in self if each.priority != PRIORITIES[0]]
            heapq.heapify(self._oldest)
        heapq.heappush(self._oldest, self._age_of(flow))

    def remove(self, flow: L) -> None:
        owners = self._owners[flow.priority]
        del owners[flow.owner][flow]
        if not owners[flow.owner]:
            del owners[flow.owner]
        self._count -= 1
        flow.queue = None

    def pop(self, now: float) -> L | None:
        """Remove and return the next flow; None if the queue is empty."""
        flow = self._first_aged(now)
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

    def _first_aged(self, now: float) -> L | None:
        while self._oldest and self._oldest[0][0] + self._ageing_seconds <= now:
            since, _, flow = self._oldest[0]
            if flow.queue is self and flow.since == since:
                return flow
            heapq.heappop(self._oldest)
        return None

    def _age_of(self, flow: L) -> tuple[float, int, L]:
        return flow.since, next(self._tiebreak), flow
