"""A limit, the tasks that count against it, and the flows that wait for it.

The types refer to each other: a task names its limits and its flow, a limit its tasks and the flows parked at it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import Literal, NamedTuple

from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import NO_PLAN, Plan, Priority
from .fair_queue import FairQueue
from .windows import window

LimitKind = Literal["window", "servers", "owner", "type", "key"]


class LimitKey(NamedTuple):
    kind: LimitKind
    name: tuple[str, ...]
    """window: owner, window, pool; servers: pool, type, labels as `name=value`; owner: owner; type: type; key: owner,
    type, concurrency key."""


class Bounds(NamedTuple):
    """How much a gate lets through; None: any number."""

    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None


class Stage(Enum):
    HELD = auto()
    QUEUED = auto()
    RUNNING = auto()
    RETRYING = auto()
    """It comes back to its queue by itself when its retry is due."""


class TaskEntry(Struct, kw_only=True, eq=False):
    ref: TaskRef
    sequence: int
    """Of its last event of those the book heeds; of a held task, of its very last."""
    created_sequence: int
    pool: str
    priority: Priority
    task_type: str
    submitted_at: float
    """Seconds since the epoch, as all instants of the book."""
    stage: Stage
    granted: bool = False
    granted_at: float = 0.0
    plan: Plan = NO_PLAN
    attempt: int = 0
    renewed_after: int = 0
    """Sequence of its end after which it was retried: how a parent ended before that is no matter. 0: it was not."""
    parents: AbstractSet[str] = frozenset()
    """Ids of the tasks it still waits for."""
    limits: tuple[Limit, ...] = ()
    """What must have room for it to start, its owner's window first; the book finds them."""
    flow: Flow | None = None
    """Where it waits for room; None: it does not."""

    @property
    def window(self) -> str:
        return window(self.pool, self.priority, self.task_type, self.plan)

    @property
    def is_counted(self) -> bool:
        """Whether it counts against the limits on how many run."""
        return self.stage is Stage.RUNNING or (self.stage is Stage.QUEUED and self.granted)

    @property
    def is_pending(self) -> bool:
        """Whether it was counted in and has not started."""
        return self.stage is Stage.QUEUED and self.granted


class Flow:
    """One owner's tasks of one window and one concurrency key: those that pass the same gates."""

    def __init__(self, owner: str, priority: Priority, limits: tuple[Limit, ...]) -> None:
        self.owner = owner
        self.priority = priority
        self.limits = limits
        """What must have room for the next task."""
        self.line: FairQueue[Flow] | None = None
        """Where the lane waits for its turn; None: nowhere."""
        self.via: Limit | None = None
        """The gate at which it was parked, and which is to be looked at again once it has had its turn."""
        self._entries: OrderedDict[TaskRef, TaskEntry] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def since(self) -> float:
        """When the first task was submitted, seconds since the epoch."""
        return next(iter(self._entries.values())).submitted_at

    def first(self) -> TaskEntry:
        return next(iter(self._entries.values()))

    def append(self, entry: TaskEntry) -> None:
        self._entries[entry.ref] = entry

    def put_back(self, entry: TaskEntry) -> None:
        """Put a task that was taken out to the front again."""
        self._entries[entry.ref] = entry
        self._entries.move_to_end(entry.ref, last=False)

    def remove(self, entry: TaskEntry) -> None:
        self._entries.pop(entry.ref, None)

    def place_of(self, entry: TaskEntry) -> int:
        """Return how many tasks of the lane come before one. Walks the lane."""
        return next(place for place, ref in enumerate(self._entries) if ref == entry.ref)


class Limit:
    def __init__(self, key: LimitKey, bounds: Bounds, ageing_seconds: float, now: float, known_for: float) -> None:
        """`known_for`: for how many seconds nothing that passes here has started, as far as is known."""
        self.key = key
        self.parked: FairQueue[Flow] = FairQueue(ageing_seconds)
        self.counted = 0
        """Tasks that run, or were counted in to run."""
        self.pending: dict[TaskRef, TaskEntry] = {}
        """Those counted in that have not started, the oldest first. Each has a token reserved."""
        self.members: dict[TaskRef, TaskEntry] = {}
        """Of a concurrency key: all tasks that name it and have not ended."""
        self.passing = 0
        """Tasks that have not ended and are to pass here, or have."""
        self._is_full = False
        self.bounds = bounds
        self._tokens: TokenBucket | None = None
        if bounds.per_second is not None:
            self._tokens = TokenBucket(bounds.per_second, _burst(bounds), known_for * bounds.per_second, now)

    @property
    def is_shut(self) -> bool:
        """Whether it lets nothing through, however little there is: no server could take it."""
        return self.bounds.concurrency == 0

    def is_unused(self, now: float) -> bool:
        """Tell whether nothing would be lost with the gate."""
        full = self._tokens is None or self._tokens.available(now) >= self._tokens.burst
        return full and not self.passing

    def enter(self, entry: TaskEntry) -> None:
        """Count a task in, if it counts here as what it is now."""
        if self.key.kind == "window":
            self.counted += entry.stage is Stage.QUEUED
        elif entry.is_counted:
            self.counted += 1
            if entry.is_pending:
                self.pending[entry.ref] = entry

    def leave(self, entry: TaskEntry) -> bool:
        """Count a task out again, which still is what it was counted in as; tell whether that makes room."""
        if self.key.kind == "window":
            counts = entry.stage is Stage.QUEUED
        else:
            counts = entry.is_counted
            self.pending.pop(entry.ref, None)
        self.counted -= counts
        return counts

    def set_bounds(self, bounds: Bounds, now: float) -> None:
        """Change the limits. Starts from before there was a rate do not count against it."""
        rate_changed = (bounds.per_second, bounds.burst) != (self.bounds.per_second, self.bounds.burst)
        self.bounds = bounds
        if bounds.per_second is None:
            self._tokens = None
        elif rate_changed or self._tokens is None:
            level = self._tokens.available(now) if self._tokens else float(_burst(bounds))
            self._tokens = TokenBucket(bounds.per_second, _burst(bounds), level, now)

    def resume(self, now: float) -> None:
        """Count what was counted in before the book began: each task had a token reserved, and more is not known."""
        if self._tokens is not None:
            self._tokens = TokenBucket(self._tokens.per_second, self._tokens.burst, float(len(self.pending)), now)

    def room(self, now: float) -> float:
        """Return how many more may be let through now.

        A window that was full takes nothing until half of it is free: what goes into a queue then goes there together.
        """
        if self.key.kind == "window":
            return self._room_in_window()
        concurrency = self.bounds.concurrency
        room = math.inf if concurrency is None else concurrency - self.counted
        if self._tokens is not None:
            room = min(room, self._tokens.available(now) - len(self.pending))
        return room

    def _room_in_window(self) -> float:
        size = self.bounds.concurrency
        if size is None:
            return math.inf
        if self.counted >= size:
            self._is_full = True
        elif self.counted <= size // 2:
            self._is_full = False
        return 0 if self._is_full else size - self.counted

    def opens_at(self, now: float) -> float | None:
        """Return when time alone will make room for one; None if it does not depend on time."""
        if self._tokens is None or (self.bounds.concurrency is not None and self.counted >= self.bounds.concurrency):
            return None
        wanted = len(self.pending) + 1.0
        return self._tokens.reaches_at(wanted, now) if wanted <= self._tokens.burst else None

    def started(self, now: float) -> None:
        """Heed that a task that passes here has started. What counts is when it is seen: till then it was pending."""
        if self._tokens is not None:
            self._tokens.take(now)


class TokenBucket:
    """Fills with `per_second` tokens a second up to `burst`; each start takes one.

    Times are seconds of one clock. Within any stretch of t seconds at most `burst + t * per_second` tokens are taken,
    as long as whoever takes one has seen `available` be at least 1 for it. Where the clock jumps, up to `burst` more.
    """

    def __init__(self, per_second: float, burst: int, level: float, now: float) -> None:
        """`level`: how many tokens are in it now."""
        self.per_second = per_second
        self.burst = burst
        self._level = min(level, float(burst))
        self._as_of = now

    def available(self, now: float) -> float:
        """Return how many tokens are in the bucket."""
        self._as_of = min(self._as_of, now)  # the clock was put back: it does not stand still until then
        return min(float(self.burst), self._level + (now - self._as_of) * self.per_second)

    def take(self, now: float) -> None:
        """Take a token out; what was started without asking leaves a debt."""
        self._level = self.available(now) - 1.0
        self._as_of = now

    def reaches_at(self, tokens: float, now: float) -> float:
        """Return when there will be so many tokens, at most `burst`."""
        return now + max(0.0, tokens - self.available(now)) / self.per_second


def _burst(bounds: Bounds) -> int:
    return bounds.burst or max(1, math.ceil(bounds.per_second or 0))
