"""Admission of held tasks: which flow may release its next task, given the free capacity of all limits.

A flow is a candidate, or it is blocked at one limit without capacity. When that limit has capacity again, its next
blocked flow becomes a candidate. So a choice costs the same, however many tasks wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from ..events.task import NO_PLAN, Priority
from ..events.task_type import OnConflict
from .depth import Unserved
from .fair_queue import FairQueue
from .limit import Bounds, Flow, Limit, LimitKey, LimitKind, TaskEntry
from .windows import labels

ENOUGH = 1.0 - 1e-9
"""Capacity for one task, with tolerance for rounding."""


class LimitRules(Protocol):
    """The limits in force."""

    def bounds(self, limit: LimitKey) -> Bounds:
        """Return the bounds of a limit.

        A window's size depends on how fast its pool starts tasks. Kind `servers` is unbounded, or 0 if no server could
        take such a task.
        """

    def unserved(self, limit: LimitKey) -> Unserved:
        """Return why no server takes tasks of a limit of kind `servers`."""

    def on_conflict(self, task_type: str) -> OnConflict:
        """Return what happens to a new task whose concurrency key is in use."""


class Limiter:
    def __init__(self, rules: LimitRules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when all starts are counted here."""
        self._rules = rules
        self._ageing_seconds = ageing_seconds
        self._began_at = began_at
        self._limits: dict[LimitKey, Limit] = {}
        self._of_plain: dict[tuple[str, str, Priority, str], tuple[Limit, ...]] = {}
        """By owner, pool, priority and type: the limits of tasks without a plan, which most are."""
        self._flows: dict[tuple[Limit, ...], Flow] = {}
        self._candidates: FairQueue[Flow] = FairQueue(ageing_seconds)
        self._to_recheck: set[Limit] = set()
        """Limits that may have capacity again, and block flows."""
        self._opens_at: list[tuple[float, int, LimitKey]] = []
        """A heap of when rate limits may have capacity again; some entries are stale."""
        self._tiebreak = itertools.count()

    # Limits

    def __len__(self) -> int:
        """Return the number of limits, unbounded ones included."""
        return len(self._limits)

    def limits(self) -> Iterable[Limit]:
        return self._limits.values()

    def limit(self, key: LimitKey, now: float) -> Limit:
        limit = self._limits.get(key)
        if limit is None:
            known_for = max(0.0, now - self._began_at)
            limit = self._limits[key] = Limit(key, self._rules.bounds(key), self._ageing_seconds, now, known_for)
        return limit

    def known(self, key: LimitKey) -> Limit | None:
        """Return a limit that some active task needs, None for another."""
        return self._limits.get(key)

    def limits_of(self, entry: TaskEntry, now: float) -> tuple[Limit, ...]:
        """Return the limits of a task, in the order of `limit_keys`."""
        if entry.plan is not NO_PLAN:
            return tuple([self.limit(key, now) for key in limit_keys(entry)])
        plain = (entry.ref.owner, entry.pool, entry.priority, entry.task_type)
        limits = self._of_plain.get(plain)
        if limits is None:
            limits = self._of_plain[plain] = tuple([self.limit(key, now) for key in limit_keys(entry)])
        return limits

    def held_back(self) -> Counter[str]:
        """Return how many tasks a full window blocks, by pool."""
        found: Counter[str] = Counter()
        for limit in self._limits.values():
            if limit.key.kind == "window" and limit.blocked:
                found[limit.key.name[2]] += sum(map(len, limit.blocked))
        return found

    def begin(self, now: float) -> None:
        """Record that all active tasks are counted: from now on every start is seen."""
        self._began_at = now
        for limit in self._limits.values():
            limit.resume(now)

    def refresh(self, now: float, only: LimitKind | None = None) -> None:
        """Apply changed rules to all limits, or to those of one kind."""
        for limit in self._limits.values():
            if only in (None, limit.key.kind):
                limit.set_bounds(self._rules.bounds(limit.key), now)
                self.recheck(limit)

    def tidy(self, now: float) -> None:
        """Drop limits that no active task needs."""
        self._of_plain.clear()
        for key in [key for key, limit in self._limits.items() if limit.is_unused(now)]:
            self._to_recheck.discard(self._limits.pop(key))

    def recheck(self, limit: Limit) -> None:
        """Recheck a limit, which may have capacity again, before the next choice."""
        if len(limit.blocked):
            self._to_recheck.add(limit)

    # Flows

    def add(self, entry: TaskEntry, now: float, *, first: bool = False) -> None:
        """Add a task that needs nothing but free capacity; `first`: return it to the front of its flow."""
        flow = self._flows.get(entry.limits)
        if flow is None:
            flow = self._flows[entry.limits] = Flow(entry.ref.owner, entry.priority, entry.limits)
        if first:
            flow.put_back(entry)
        else:
            flow.append(entry)
        entry.flow = flow
        if flow.queue is None:
            self._enqueue(flow, now)
        elif first:
            flow.queue.update(flow)

    def remove(self, entry: TaskEntry) -> None:
        """Remove a task, if it is in a flow."""
        flow, entry.flow = entry.flow, None
        if flow is None:
            return
        was_first = flow.first() is entry
        flow.remove(entry)
        if flow:
            if was_first and flow.queue is not None:
                flow.queue.update(flow)
            return
        if flow.queue is not None:
            flow.queue.remove(flow)
        del self._flows[flow.limits]

    def pop(self, now: float) -> TaskEntry | None:
        """Remove and return the next task whose limits all have capacity; None if there is none.

        The caller counts it towards its limits before it asks for the next.
        """
        while (flow := self._next_flow(now)) is not None:
            closed = next((limit for limit in flow.limits if limit.available(now) < ENOUGH), None)
            if closed is not None:
                self._block(flow, closed, now)
                continue
            entry = flow.first()
            flow.remove(entry)
            entry.flow = None
            if flow:
                self._enqueue(flow, now)
            else:
                del self._flows[flow.limits]
            return entry
        return None

    def next_at(self) -> float | None:
        """Return when a rate limit may have capacity again; None if none will."""
        return self._opens_at[0][0] if self._opens_at else None

    def advance(self, now: float) -> None:
        """Recheck the rate limits whose time has come."""
        while self._opens_at and self._opens_at[0][0] <= now:
            _, _, key = heapq.heappop(self._opens_at)
            if limit := self._limits.get(key):
                self.recheck(limit)

    def _enqueue(self, flow: Flow, now: float) -> None:
        """Make a flow a candidate, or put it behind the flows that one of its limits blocks."""
        limit = next((limit for limit in flow.limits if len(limit.blocked)), None)
        if limit is None:
            self._candidates.put(flow)
        else:
            self._block(flow, limit, now)
            self._to_recheck.add(limit)

    def _next_flow(self, now: float) -> Flow | None:
        while self._to_recheck:
            limit = self._to_recheck.pop()
            if limit.available(now) < ENOUGH:
                self._check_at(limit, now)
            elif (blocked := limit.blocked.pop(now)) is not None:
                blocked.blocked_at = limit
                self._candidates.put(blocked)
        flow = self._candidates.pop(now)
        if flow is not None and flow.blocked_at is not None:
            self._to_recheck.add(flow.blocked_at)
            flow.blocked_at = None
        return flow

    def _block(self, flow: Flow, limit: Limit, now: float) -> None:
        limit.blocked.put(flow)
        self._check_at(limit, now)

    def _check_at(self, limit: Limit, now: float) -> None:
        if len(limit.blocked) and (opens_at := limit.opens_at(now)) is not None:
            heapq.heappush(self._opens_at, (opens_at, next(self._tiebreak), limit.key))


def limit_keys(entry: TaskEntry) -> list[LimitKey]:
    """Return the keys of a task's limits."""
    owner = entry.ref.owner
    keys = [
        LimitKey("window", (owner, entry.window, entry.pool)),
        LimitKey("servers", (entry.pool, entry.task_type, *labels(entry.plan))),
        LimitKey("owner", (owner,)),
        LimitKey("type", (entry.task_type,)),
    ]
    if entry.plan.concurrency_key:
        keys.append(LimitKey("key", (owner, entry.task_type, entry.plan.concurrency_key)))
    if entry.plan.project:
        keys.append(LimitKey("project", (owner, entry.task_type, entry.plan.project)))
    return keys
