"""Room: the gates that tasks pass on their way into a queue, and the lanes of those that wait for it.

A lane is a candidate, or parked at the gate that has no room for it; when a gate has room again, the lane whose turn it
is becomes a candidate. So each choice costs the same, however many tasks wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from ..events.task_type import OnConflict
from .fair_queue import FairQueue
from .limit import Bounds, Flow, Limit, LimitKey, LimitKind, TaskEntry
from .windows import labels

SERVERS = 1
"""Place of the servers among the gates of a task; its owner's window is the first."""
ENOUGH = 1.0 - 1e-9
"""Room for one, but for how numbers are rounded."""


class LimitRules(Protocol):
    """What the settings say at the moment."""

    def bounds(self, limit: LimitKey) -> Bounds:
        """Return the limits of a gate. A window's depends on how fast its pool takes tasks.

        Servers have none, or 0 where none of those that are there could take such a task.
        """

    def on_conflict(self, task_type: str) -> OnConflict:
        """Return what becomes of a newcomer whose concurrency key is taken."""


class Limiter:
    def __init__(self, rules: LimitRules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when all that starts is counted here."""
        self._rules = rules
        self._ageing_seconds = ageing_seconds
        self._began_at = began_at
        self._limits: dict[LimitKey, Limit] = {}
        self._flows: dict[tuple[Limit, ...], Flow] = {}
        self._candidates: FairQueue[Flow] = FairQueue(ageing_seconds)
        self._may_open: set[Limit] = set()
        """Gates that may have room again, and have lanes parked."""
        self._opens_at: list[tuple[float, int, LimitKey]] = []
        """A heap of when time alone may make room; with outdated ones."""
        self._tiebreak = itertools.count()

    # Gates

    def __len__(self) -> int:
        """Return how many limits are kept in mind, those that nothing bounds included."""
        return len(self._limits)

    def limits(self) -> Iterable[Limit]:
        return self._limits.values()

    def limit(self, key: LimitKey, now: float) -> Limit:
        limit = self._limits.get(key)
        if limit is None:
            known_for = max(0.0, now - self._began_at)
            limit = self._limits[key] = Limit(key, self._rules.bounds(key), self._ageing_seconds, now, known_for)
        return limit

    def limits_of(self, entry: TaskEntry, now: float) -> tuple[Limit, ...]:
        """Return what a task passes, in the order of `limit_keys`."""
        return tuple(self.limit(key, now) for key in limit_keys(entry))

    def held_back(self) -> Counter[str]:
        """Return how many tasks wait for room in their owner's window, by pool."""
        found: Counter[str] = Counter()
        for limit in self._limits.values():
            if limit.key.kind == "window" and limit.parked:
                found[limit.key.name[2]] += sum(map(len, limit.parked))
        return found

    def begin(self, now: float) -> None:
        """Note that all active tasks are counted: from now on what starts is known."""
        self._began_at = now
        for limit in self._limits.values():
            limit.resume(now)

    def refresh(self, now: float, only: LimitKind | None = None) -> None:
        """Heed that the rules have changed: of all gates, or of those of one kind."""
        for limit in self._limits.values():
            if only in (None, limit.key.kind):
                limit.set_bounds(self._rules.bounds(limit.key), now)
                self.may_open(limit)

    def tidy(self, now: float) -> None:
        """Forget gates that nothing passes any more."""
        for key in [key for key, limit in self._limits.items() if limit.is_unused(now)]:
            self._may_open.discard(self._limits.pop(key))

    def may_open(self, limit: Limit) -> None:
        """Have a gate looked at that may have room again."""
        if len(limit.parked):
            self._may_open.add(limit)

    # Those that wait

    def add(self, entry: TaskEntry, now: float, *, first: bool = False) -> None:
        """Have a task wait for room; `first`: before the others of its lane, from which it was taken."""
        flow = self._flows.get(entry.limits)
        if flow is None:
            flow = self._flows[entry.limits] = Flow(entry.ref.owner, entry.priority, entry.limits)
        if first:
            flow.put_back(entry)
        else:
            flow.append(entry)
        entry.flow = flow
        if flow.line is None:
            self._line_up(flow, now)
        elif first:
            flow.line.note(flow)

    def remove(self, entry: TaskEntry) -> None:
        """Have a task wait no more; one that does not is no error."""
        flow, entry.flow = entry.flow, None
        if flow is None:
            return
        was_first = flow.first() is entry
        flow.remove(entry)
        if flow:
            if was_first and flow.line is not None:
                flow.line.note(flow)
            return
        if flow.line is not None:
            flow.line.remove(flow)
        del self._flows[flow.limits]

    def pop(self, now: float) -> TaskEntry | None:
        """Take out the task whose turn it is, and for which all its gates have room; None if there is none.

        The caller counts it in at its gates before the next is asked for.
        """
        while (flow := self._next_lane(now)) is not None:
            shut = next((limit for limit in flow.limits if limit.room(now) < ENOUGH), None)
            if shut is not None:
                self._park(flow, shut, now)
                continue
            entry = flow.first()
            flow.remove(entry)
            entry.flow = None
            if flow:
                self._line_up(flow, now)
            else:
                del self._flows[flow.limits]
            return entry
        return None

    def next_at(self) -> float | None:
        """Return when time alone may make room, None if it will not."""
        return self._opens_at[0][0] if self._opens_at else None

    def heed(self, now: float) -> None:
        """Look at the gates for which time alone may have made room."""
        while self._opens_at and self._opens_at[0][0] <= now:
            _, _, key = heapq.heappop(self._opens_at)
            if limit := self._limits.get(key):
                self.may_open(limit)

    def _line_up(self, flow: Flow, now: float) -> None:
        """Make a lane a candidate, or have it wait behind those that are parked where it will pass."""
        limit = next((limit for limit in flow.limits if len(limit.parked)), None)
        if limit is None:
            self._candidates.put(flow)
        else:
            self._park(flow, limit, now)
            self._may_open.add(limit)

    def _next_lane(self, now: float) -> Flow | None:
        while self._may_open:
            limit = self._may_open.pop()
            if limit.room(now) < ENOUGH:
                self._remind(limit, now)
            elif (parked := limit.parked.pop(now)) is not None:
                parked.via = limit
                self._candidates.put(parked)
        flow = self._candidates.pop(now)
        if flow is not None and flow.via is not None:
            self._may_open.add(flow.via)
            flow.via = None
        return flow

    def _park(self, flow: Flow, limit: Limit, now: float) -> None:
        limit.parked.put(flow)
        self._remind(limit, now)

    def _remind(self, limit: Limit, now: float) -> None:
        if len(limit.parked) and (opens_at := limit.opens_at(now)) is not None:
            heapq.heappush(self._opens_at, (opens_at, next(self._tiebreak), limit.key))


def limit_keys(entry: TaskEntry) -> list[LimitKey]:
    """Return the names of the gates that a task passes."""
    owner = entry.ref.owner
    keys = [
        LimitKey("window", (owner, entry.window, entry.pool)),
        LimitKey("servers", (entry.pool, entry.task_type, *labels(entry.plan))),
        LimitKey("owner", (owner,)),
        LimitKey("type", (entry.task_type,)),
    ]
    if entry.plan.concurrency_key:
        keys.append(LimitKey("key", (owner, entry.task_type, entry.plan.concurrency_key)))
    return keys
