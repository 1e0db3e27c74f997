"""Which servers may be given a task, and why the others are not: pure, over what is known of them.

The same answers for dispatch, which acts on them, and for who asks why a task waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from ..commands.pause import Pause
from ..commands.server import CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present
from ..events.server import Overflow, ServerRegistered

Verdict: TypeAlias = Literal[
    "able",
    "other-types",  # it does not serve the task's type
    "label-missing",  # the task requires a label that it does not have
    "offline",
    "maintenance",  # or being drained, which is the same
    "circuit-open",  # its attempts kept failing
    "circuit-half-open",  # one attempt is out to see whether it has recovered
    "at-limit",  # it runs as many tasks as it takes
    "standby",  # it helps out only when more tasks wait, or wait for longer
]


class Standing(NamedTuple):
    """A server and what is known of its load."""

    server: Present
    running: int | None = None
    """Tasks that it runs; None: not known."""
    stands_by: bool = False
    """It is an overflow server whose bounds are not reached."""


class Considered(Struct, frozen=True, kw_only=True):
    """A server as a place for one task."""

    server_id: str
    verdict: Verdict
    text: str
    """The verdict in words, with its particulars."""
    until: datetime | None = None
    """UTC. When that is over by itself; None: not known."""


class Stop(Struct, frozen=True, kw_only=True):
    """A pause that keeps a task from being given to any server."""

    kind: Literal["pool-paused", "type-paused"]
    name: str
    pause: Pause

    @property
    def text(self) -> str:
        reason = f": {self.pause.reason}" if self.pause.reason else ""
        return f"the {self.kind.removesuffix('-paused')} {self.name!r} was paused by {self.pause.by.id}{reason}"


def serves(settings: ServerRegistered, task_type: str) -> bool:
    """Tell whether a server takes tasks of a type; without types it takes all."""
    return not settings.types or task_type in settings.types


def missing_label(settings: ServerRegistered, require: Mapping[str, str]) -> str | None:
    """Return the first required label, as `key=value`, that a server does not have; None if it has all."""
    return next((f"{key}={value}" for key, value in require.items() if settings.labels.get(key) != value), None)


def is_able(server: Present, task_type: str, require: Mapping[str, str]) -> bool:
    """Tell whether a server could take such a task now, if it had room."""
    return isinstance(server.circuit, CircuitIsClosed) and is_there_for(server, task_type, require)


def is_there_for(server: Present, task_type: str, require: Mapping[str, str]) -> bool:
    """Tell the same, but for whether its attempts kept failing: only another attempt can show that it has recovered."""
    return (
        serves(server.settings, task_type)
        and server.online
        and not server.maintenance
        and (not require or missing_label(server.settings, require) is None)
    )


def considered(task_type: str, require: Mapping[str, str], standings: Iterable[Standing]) -> list[Considered]:
    """Return what each server is as a place for a task of a type that requires labels, in the order given."""
    return [considered_one(standing, task_type, require) for standing in standings]


def considered_one(standing: Standing, task_type: str, require: Mapping[str, str]) -> Considered:
    """Return what a server is as a place for a task. Of several reasons the one that lasts longest is given."""
    server, running = standing.server, standing.running
    settings = server.settings

    def verdict(code: Verdict, text: str, until: datetime | None = None) -> Considered:
        return Considered(server_id=server.server_id, verdict=code, text=text, until=until)

    if not serves(settings, task_type):
        return verdict("other-types", f"does not serve the type {task_type!r}")
    if (label := missing_label(settings, require)) is not None:
        return verdict("label-missing", f"lacks the label {label}")
    if not server.online:
        return verdict("offline", f"is offline: {server.status_reason}")
    if server.maintenance:
        reason = f": {server.maintenance_reason}" if server.maintenance_reason else ""
        return verdict("maintenance", f"is in maintenance and takes nothing new{reason}")
    match server.circuit:
        case CircuitIsOpen(until=until):
            return verdict("circuit-open", "its attempts kept failing; nothing is sent for a while", until)
        case CircuitIsHalfOpen():
            return verdict("circuit-half-open", "its attempts kept failing; one is out to see whether it has recovered")
        case CircuitIsClosed():
            pass
    if running is not None and running >= settings.max_concurrent:
        return verdict("at-limit", f"runs {running} of at most {settings.max_concurrent} tasks")
    if standing.stands_by:
        return verdict("standby", "helps out only when more tasks wait, or wait for longer")
    room = f"runs {running} of at most {settings.max_concurrent} tasks" if running is not None else "may have room"
    return verdict("able", room)


def stops(pool: str, pool_pause: Pause | None, task_type: str, type_pause: Pause | None) -> list[Stop]:
    """Return the pauses that keep a task of a type from leaving its pool."""
    found = []
    if pool_pause is not None:
        found.append(Stop(kind="pool-paused", name=pool, pause=pool_pause))
    if type_pause is not None:
        found.append(Stop(kind="type-paused", name=task_type, pause=type_pause))
    return found


def allowance(overflow: Overflow, waiting: int, oldest: timedelta, at_once: int, *, helping: bool) -> int:
    """Return how many tasks an overflow server may take until somebody looks again; 0: it stands by.

    By how many tasks wait and for how long the oldest has. One that helps goes on until half of what it began at: at
    the bound itself it would start and stop with each task. `at_once`: tasks it runs side by side; what it takes
    because one has waited for long.
    """
    part = 2 if helping else 1
    if overflow.waiting is not None and waiting > overflow.waiting // part:
        return waiting - overflow.waiting // 2
    if overflow.oldest is not None and oldest >= overflow.oldest / part:
        return min(waiting, at_once)
    return 0
