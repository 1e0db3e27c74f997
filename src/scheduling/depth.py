"""The depth of the queues: every waiting task, by pool, priority, and what it waits for first.

Tasks are counted in groups as they move. What a task waits for is found for each group and each flow, when it is asked
for: a pause or a full limit concerns many tasks at once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import Priority
from .limit import Limit, LimitKey, LimitKind, Stage, TaskEntry

Unserved: TypeAlias = Literal["pool-paused", "type-paused", "no-server"]
Reason: TypeAlias = Literal[
    "queued",  # in its queue: for a free slot, and for the tasks before it
    "retry",  # for the time of its next attempt
    "time",  # for its `runAt`
    "parents",
    "owner-limit",
    "type-limit",
    "concurrency-key",
    "project",  # for a task of its project that runs
    "window",  # for its owner's tasks that are in the queue
    "store-full",  # for space: the rest is reserved for running tasks
    "turn",  # for the scheduler, which is about to queue it
    Unserved,
]
LimitReason: TypeAlias = Literal["window", "owner-limit", "type-limit", "concurrency-key", "project", "no-server"]
LIMIT_REASONS: Mapping[LimitKind, LimitReason] = {
    "window": "window",
    "owner": "owner-limit",
    "type": "type-limit",
    "key": "concurrency-key",
    "project": "project",
    "servers": "no-server",
}
"""What the tasks behind a limit wait for. Behind `servers` it may be the end of a pause instead."""
SERVERS = 1
"""Index of the limit of kind `servers` in `TaskEntry.limits`."""


class Depth(Struct, frozen=True, array_like=True):
    """How many tasks of a pool and priority wait for the same."""

    pool: str
    priority: Priority
    reason: Reason
    count: int


class Depths(NamedTuple):
    """All waiting tasks, without those that are none."""

    by_pool: list[Depth]
    by_type: dict[str, dict[Reason, int]]


class Group(NamedTuple):
    """Waiting tasks that are counted together."""

    what: Literal["queue", "retry", "time", "parents", "limits"]
    priority: Priority
    servers: LimitKey
    """Their limit of kind `servers`, which names pool and type."""

    @property
    def is_ready(self) -> bool:
        """True if they could start, if there were slots and no limits."""
        return self.what in ("queue", "limits")


class DepthCounter:
    """Counts the waiting tasks. Call `update` after every change of a task."""

    def __init__(self) -> None:
        self._groups: dict[Group, int] = {}
        self._of: dict[TaskRef, Group] = {}
        self._ready: dict[str, OrderedDict[TaskRef, float]] = {}
        """By pool: the tasks that could start, in the order in which they became so, with that time."""

    def update(self, entry: TaskEntry, now: float) -> None:
        """Count a task where it waits now, or nowhere if it does not wait."""
        group, before = _group_of(entry), self._of.get(entry.ref)
        if group == before:
            return
        if before is not None:
            self._leave(before)
        if group is None:
            self._of.pop(entry.ref, None)
        else:
            self._of[entry.ref] = group
            self._groups[group] = self._groups.get(group, 0) + 1
        if group is not None and group.is_ready:
            self._ready.setdefault(entry.pool, OrderedDict()).setdefault(entry.ref, _ready_since(entry, before, now))
        elif before is not None and before.is_ready:
            self._drop_ready(entry.ref, before)

    def remove(self, ref: TaskRef) -> None:
        """Count a task no more: it has ended."""
        if (before := self._of.pop(ref, None)) is not None:
            self._leave(before)
            if before.is_ready:
                self._drop_ready(ref, before)

    def depths(
        self, limits: Iterable[Limit], unserved: Mapping[LimitKey, Unserved], queued: Reason = "queued"
    ) -> Depths:
        """Return the depths, by pool and by type.

        `limits`: all that block flows. `unserved`: why no server takes tasks of a kind, without kinds that one takes.
        `queued`: what tasks in their queues wait for.
        """
        found: Counter[tuple[str, str, Priority, Reason]] = Counter()
        for group, count in self._groups.items():
            pool, task_type = group.servers.name[:2]
            match group.what:
                case "queue":
                    found[pool, task_type, group.priority, unserved.get(group.servers, queued)] += count
                case "limits":
                    found[pool, task_type, group.priority, "turn"] += count
                case "retry" | "time" | "parents" as what:
                    found[pool, task_type, group.priority, what] += count
        for limit in limits:
            for flow in limit.blocked:
                servers = flow.limits[SERVERS].key
                pool, task_type = servers.name[:2]
                reason: Reason = LIMIT_REASONS[limit.key.kind]
                if limit.key.kind == "servers":
                    reason = unserved.get(servers, "no-server")
                found[pool, task_type, flow.priority, reason] += len(flow)
                found[pool, task_type, flow.priority, "turn"] -= len(flow)
        return _summed(found)

    def kinds(self) -> set[LimitKey]:
        """Return the limits of kind `servers` of all waiting tasks."""
        return {group.servers for group in self._groups}

    def oldest(self) -> dict[str, float]:
        """Return since when the oldest task of each pool waits that could start, in seconds since the epoch."""
        return {pool: next(iter(ready.values())) for pool, ready in self._ready.items()}

    def _leave(self, group: Group) -> None:
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _drop_ready(self, ref: TaskRef, group: Group) -> None:
        pool = group.servers.name[0]
        ready = self._ready[pool]
        del ready[ref]
        if not ready:
            del self._ready[pool]


def _summed(found: Mapping[tuple[str, str, Priority, Reason], int]) -> Depths:
    by_pool: Counter[tuple[str, Priority, Reason]] = Counter()
    by_type: dict[str, dict[Reason, int]] = {}
    for (pool, task_type, priority, reason), count in found.items():
        if count:
            by_pool[pool, priority, reason] += count
            reasons = by_type.setdefault(task_type, {})
            reasons[reason] = reasons.get(reason, 0) + count
    return Depths([Depth(*where, count) for where, count in by_pool.items() if count], by_type)


def _group_of(entry: TaskEntry) -> Group | None:
    match entry.stage:
        case Stage.RUNNING | Stage.REPORTED:
            return None
        case Stage.QUEUED:
            return Group("queue", entry.priority, entry.limits[SERVERS].key)
        case Stage.RETRYING:
            return Group("retry", entry.priority, entry.limits[SERVERS].key)
        case Stage.HELD:
            what: Literal["parents", "limits", "time"] = (
                "parents" if entry.parents else "limits" if entry.flow is not None else "time"
            )
            return Group(what, entry.priority, entry.limits[SERVERS].key)


def _ready_since(entry: TaskEntry, before: Group | None, now: float) -> float:
    """Return since when a task could start: for one that is new here, as its history says."""
    if before is None and not entry.attempt:
        return max(entry.submitted_at, entry.granted_at)
    return now
