"""The limits in force: from the fleet's log, and windows from the pace of each pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..commands.server import Present
from ..commands.task_type import TypeState
from ..events.ids import TaskRef
from ..events.limits import Limits
from ..events.task import Plan
from ..events.task_type import OnConflict
from .depth import Unserved
from .eligibility import is_there_for
from .limit import Bounds, LimitKey
from .windows import SMALLEST_WINDOW, Windows

KINDS_REMEMBERED = 10_000
"""Kinds of tasks (pool, type, labels) of which it is remembered whether a server takes them."""


class FleetState(Protocol):
    """The parts of the fleet that limits depend on."""

    def servers(self) -> Iterable[Present]: ...
    def pools(self) -> Iterable[str]: ...
    def pools_of(self, server: Present) -> Iterable[str]: ...
    def pool_waits(self, name: str) -> bool: ...
    def type_waits(self, name: str) -> bool: ...
    def type_state(self, name: str) -> TypeState: ...
    def is_paused(self, name: str) -> bool: ...
    def type_limits(self, name: str) -> Limits: ...
    def owner_limits(self, owner: str) -> Limits: ...


class Served:
    """Whether any server could take tasks of a kind; computed once, until `forget` is called after a change."""

    def __init__(self, fleet: FleetState) -> None:
        self._fleet = fleet
        self._found: dict[tuple[str, ...], bool] = {}

    def __call__(self, pool: str, task_type: str, *labels: str) -> bool:
        """Return True if a server could take such tasks and neither their pool nor their type is paused."""
        kind = (pool, task_type, *labels)
        if kind not in self._found:
            if len(self._found) >= KINDS_REMEMBERED:
                self._found.clear()
            require = dict(label.split("=", 1) for label in labels)
            fleet = self._fleet
            self._found[kind] = not (fleet.pool_waits(pool) or fleet.type_waits(task_type)) and any(
                pool in fleet.pools_of(server) and is_there_for(server, task_type, require)
                for server in fleet.servers()
            )
        return self._found[kind]

    def forget(self) -> None:
        """Discard what was computed: a server, a pause or a type has changed."""
        self._found.clear()


class FleetRules:
    """The rules as of the last event of the fleet's log."""

    def __init__(self, fleet: FleetState) -> None:
        self._fleet = fleet
        self._served = Served(fleet)
        self.windows = Windows()

    def observe(self, started: Mapping[str, int], seconds: float) -> None:
        """Record how many tasks each pool started in the last `seconds`, and the slots of its servers."""
        slots = dict.fromkeys(self._fleet.pools(), 0)
        for server in self._fleet.servers():
            if server.online and not server.maintenance:
                for pool in self._fleet.pools_of(server):
                    slots[pool] = slots.get(pool, 0) + server.settings.max_concurrent
        self.windows.observe(slots, started, seconds)

    def bounds(self, limit: LimitKey) -> Bounds:
        match limit.kind:
            case "window":
                return Bounds(concurrency=self.windows.sizes.get(limit.name[2], SMALLEST_WINDOW))
            case "servers":
                return Bounds(concurrency=None if self._served(*limit.name) else 0)
            case "owner":
                return _bounds(self._fleet.owner_limits(limit.name[0]))
            case "type":
                return _bounds(self._fleet.type_limits(limit.name[0]))
            case "key":
                definition = self._fleet.type_state(limit.name[1]).definition
                return Bounds(concurrency=definition.key_concurrency if definition else 1)
            case "project":
                return Bounds(concurrency=1)

    def unserved(self, limit: LimitKey) -> Unserved:
        """Return why no server takes tasks of a limit of kind `servers`."""
        pool, task_type, *_ = limit.name
        if self._fleet.is_paused(pool):
            return "pool-paused"
        return "type-paused" if self._fleet.type_waits(task_type) else "no-server"

    def forget_servers(self) -> None:
        """Discard what was computed of servers: a server, a pause or a type has changed."""
        self._served.forget()

    def on_conflict(self, task_type: str) -> OnConflict:
        definition = self._fleet.type_state(task_type).definition
        return definition.on_conflict if definition else "wait"


def needs_grant(fleet: FleetState, ref: TaskRef, task_type: str, plan: Plan | None) -> bool:
    """Return True if a task shares a limit with others, so that only the scheduler may let it start."""
    return (
        (plan is not None and bool(plan.concurrency_key or plan.project))
        or fleet.type_limits(task_type).is_any
        or fleet.owner_limits(ref.owner).is_any
    )


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.concurrency, limits.per_second, limits.burst)
