"""Limits, the tasks that count towards them, and the flows that wait for them.

The types refer to each other: a task names its limits and its flow, a limit its tasks and the flows that it blocks.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Literal, NamedTuple

from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import NO_PLAN, Plan, Priority
from .fair_queue import FairQueue
from .windows import window

LimitKind = Literal["window", "servers", "owner", "type", "key", "project"]


class LimitKey(NamedTuple):
    kind: LimitKind
    name: tuple[str, ...]
    """window: owner, window, pool; servers: pool, type, labels as `name=value`; owner: owner; type: type; key: owner,
    type, concurrency key; project: owner, type, project."""


class Bounds(NamedTuple):
    """The bounds of a limit; None: unbounded."""

    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None


class Stage(Enum):
    HELD = "held"
    QUEUED = "queued"
    RUNNING = "running"
    REPORTED = "reported"
    """A report took it, and no worker started it: it counts towards its owner's limits and no shared ones."""
    RETRYING = "retrying"
    """It waits for its next attempt, and returns to its queue when that is due."""


class TaskEntry(Struct, kw_only=True, eq=False):
    ref: TaskRef
    sequence: int
    """Of its last event that moved it; of a held task, of its last event of any kind."""
    created_sequence: int
    pool: str
    priority: Priority
    task_type: str
    submitted_at: float
    """Seconds since the epoch, as all instants here."""
    stage: Stage
    granted: bool = False
    granted_at: float = 0.0
    plan: Plan = NO_PLAN
    attempt: int = 0
    renewed_after: int = 0
    """Sequence of its end before it was retried; ends of parents before that do not matter. 0: it was not retried."""
    parents: AbstractSet[str] = frozenset()
    """Ids of the parents it still waits for."""
    limits: tuple[Limit, ...] = ()
    """The limits it needs free capacity of, in the order of `limit_keys`."""
    flow: Flow | None = None
    """The flow in which it waits for free capacity; None: it does not."""

    @property
    def window(self) -> str:
        return window(self.pool, self.priority, self.task_type, self.plan)


class Flow:
    """The held tasks of one owner that need the same limits, in order."""

    def __init__(self, owner: str, priority: Priority, limits: tuple[Limit, ...]) -> None:
        self.owner = owner
        self.priority = priority
        self.limits = limits
        """The limits that the next task needs free capacity of."""
        self.queue: FairQueue[Flow] | None = None
        """The fair queue it waits in; None: none."""
        self.blocked_at: Limit | None = None
        """The limit that blocked it last; to be rechecked once the flow was served."""
        self._entries: OrderedDict[TaskRef, TaskEntry] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def since(self) -> float:
        """When its first task was submitted, seconds since the epoch."""
        return next(iter(self._entries.values())).submitted_at

    def first(self) -> TaskEntry:
        return next(iter(self._entries.values()))

    def append(self, entry: TaskEntry) -> None:
        self._entries[entry.ref] = entry

    def put_back(self, entry: TaskEntry) -> None:
        """Return a removed task to the front."""
        self._entries[entry.ref] = entry
        self._entries.move_to_end(entry.ref, last=False)

    def remove(self, entry: TaskEntry) -> None:
        self._entries.pop(entry.ref, None)

    def place_of(self, entry: TaskEntry) -> int:
        """Return how many tasks of the flow come before one, in time proportional to that."""
        return next(place for place, ref in enumerate(self._entries) if ref == entry.ref)


class Limit:
    def __init__(self, key: LimitKey, bounds: Bounds, ageing_seconds: float, now: float, known_for: float) -> None:
        """`known_for`: for how many seconds no task of this limit is known to have started."""
        self.key = key
        self.blocked: FairQueue[Flow] = FairQueue(ageing_seconds)
        self.counted = 0
        """Tasks that run or were granted their start. Of a window: queued tasks."""
        self.pending: dict[TaskRef, TaskEntry] = {}
        """Granted tasks that have not started, oldest first. Each has a token reserved."""
        self.members: dict[TaskRef, TaskEntry] = {}
        """Of a concurrency key: all its active tasks."""
        self.active = 0
        """Number of active tasks that need this limit."""
        self._is_full = False
        self.bounds = bounds
        self._tokens: TokenBucket | None = None
        if bounds.per_second is not None:
            self._tokens = TokenBucket(bounds.per_second, _burst(bounds), known_for * bounds.per_second, now)

    @property
    def is_closed(self) -> bool:
        """True if it admits no task at all: no server could take one."""
        return self.bounds.concurrency == 0

    def is_unused(self, now: float) -> bool:
        """Return True if the limit has no state worth keeping."""
        full = self._tokens is None or self._tokens.available(now) >= self._tokens.burst
        return full and not self.active

    def enter(self, entry: TaskEntry) -> None:
        """Count a task, if it counts here at its present stage."""
        if not self._counts(entry):
            return
        self.counted += 1
        if entry.granted and entry.stage is Stage.QUEUED and self.key.kind != "window":
            self.pending[entry.ref] = entry

    def leave(self, entry: TaskEntry) -> bool:
        """Uncount a task, before its stage changes; return True if that frees capacity."""
        if not self._counts(entry):
            return False
        self.counted -= 1
        self.pending.pop(entry.ref, None)
        return True

    def _counts(self, entry: TaskEntry) -> bool:
        stage, kind = entry.stage, self.key.kind
        if kind == "window":
            return stage is Stage.QUEUED
        if stage is Stage.RUNNING:
            return True
        if stage is Stage.QUEUED:
            return entry.granted
        if stage is Stage.REPORTED:
            return kind in ("owner", "key", "project")
        return stage is Stage.RETRYING and kind == "project"  # else a later chapter would overtake it

    def set_bounds(self, bounds: Bounds, now: float) -> None:
        """Change the bounds. Starts before there was a rate do not count towards it."""
        rate_changed = (bounds.per_second, bounds.burst) != (self.bounds.per_second, self.bounds.burst)
        self.bounds = bounds
        if bounds.per_second is None:
            self._tokens = None
        elif rate_changed or self._tokens is None:
            level = self._tokens.available(now) if self._tokens else float(_burst(bounds))
            self._tokens = TokenBucket(bounds.per_second, _burst(bounds), level, now)

    def resume(self, now: float) -> None:
        """Reserve a token for each task that a former scheduler granted; more tokens would forget its recent starts."""
        if self._tokens is not None:
            self._tokens = TokenBucket(self._tokens.per_second, self._tokens.burst, float(len(self.pending)), now)

    def available(self, now: float) -> float:
        """Return the free capacity: how many more tasks may be released now.

        A full window has none until half of it is free, so that releases are stored in batches.
        """
        if self.key.kind == "window":
            return self._available_in_window()
        concurrency = self.bounds.concurrency
        available = math.inf if concurrency is None else concurrency - self.counted
        if self._tokens is not None:
            available = min(available, self._tokens.available(now) - len(self.pending))
        return available

    def tokens(self, now: float) -> float | None:
        """Return how many starts the rate limit allows now, beside those that were granted; None: there is none."""
        return None if self._tokens is None else max(0.0, self._tokens.available(now) - len(self.pending))

    def _available_in_window(self) -> float:
        size = self.bounds.concurrency
        if size is None:
            return math.inf
        if self.counted >= size:
            self._is_full = True
        elif self.counted <= size // 2:
            self._is_full = False
        return 0 if self._is_full else size - self.counted

    def opens_at(self, now: float) -> float | None:
        """Return when the next token makes capacity for one task; None if it does not depend on time."""
        if self._tokens is None or (self.bounds.concurrency is not None and self.counted >= self.bounds.concurrency):
            return None
        wanted = len(self.pending) + 1.0
        return self._tokens.reaches_at(wanted, now) if wanted <= self._tokens.burst else None

    def started(self, entry: TaskEntry, now: float) -> None:
        """Take a token for a task that has started, if it counts here. It was pending until this is seen."""
        if self._tokens is not None and self._counts(entry):
            self._tokens.take(now)


class TokenBucket:
    """A rate limit. The bucket fills with `per_second` tokens a second up to `burst`; each start takes one.

    Times are seconds of one clock. In t seconds at most `burst + t * per_second` tokens are taken, if callers take one
    only while `available` is at least 1. A clock that jumps allows up to `burst` more.
    """

    def __init__(self, per_second: float, burst: int, level: float, now: float) -> None:
        """`level`: tokens in the bucket now."""
        self.per_second = per_second
        self.burst = burst
        self._level = min(level, float(burst))
        self._as_of = now

    def available(self, now: float) -> float:
        """Return how many tokens are in the bucket."""
        self._as_of = min(self._as_of, now)  # the clock was set back: do not wait until it has caught up
        return min(float(self.burst), self._level + (now - self._as_of) * self.per_second)

    def take(self, now: float) -> None:
        """Take a token. A start that was not asked for leaves a debt."""
        self._level = self.available(now) - 1.0
        self._as_of = now

    def reaches_at(self, tokens: float, now: float) -> float:
        """Return when the bucket has so many tokens; `tokens` is at most `burst`."""
        return now + max(0.0, tokens - self.available(now)) / self.per_second


def _burst(bounds: Bounds) -> int:
    return bounds.burst or max(1, math.ceil(bounds.per_second or 0))
