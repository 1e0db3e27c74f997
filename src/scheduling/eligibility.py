"""Eligibility of servers for a task. Dispatch acts on it, and `/why` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ..commands.pause import Pause
from ..commands.server import CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present, Removed
from ..events.server import Overflow, ServerRegistered
from ..events.task import MODEL
from ..instants import iso

MODELS_NAMED = 10
"""Models named in a text."""

Verdict: TypeAlias = Literal[
    "able",
    "other-types",  # does not serve the task's type
    "label-missing",  # lacks a label that the task requires
    "model-missing",  # does not serve the model that the task's payload names
    "offline",
    "removed",  # for being offline: it comes back when it answers
    "maintenance",  # or being drained
    "circuit-open",  # its attempts failed repeatedly
    "circuit-half-open",  # one attempt probes whether it has recovered
    "busy",  # it said so, and has taken no task since
    "at-limit",  # runs `maxConcurrent` tasks, or as many as it takes
    "unasked",  # it is pulled, and none of its pullers asks for a task
    "standby",  # an overflow server whose bounds are not reached
]


class Standing(NamedTuple):
    """A server and its load."""

    server: Present
    running: int | None = None
    """Number of tasks it runs; None: not known."""
    stands_by: bool = False
    """True for an overflow server whose bounds are not reached."""
    busy_since: datetime | None = None
    """UTC. Since when it has said that it is busy; None: it takes tasks."""
    next_try_at: datetime | None = None
    """UTC. When a busy server gets its next task, at the earliest."""
    limit: int | None = None
    """How many tasks it takes at a time, by its busy answers; None: as many as registered."""
    open_asks: int | None = None
    """Of a pulled server: requests of its pullers that are open; None: it is pushed, or that is not known."""
    unasked_for: timedelta | None = None
    """How long ago a puller asked last; None: not known."""


class Considered(Struct, frozen=True, kw_only=True):
    """A server as a place for one task."""

    server_id: str
    verdict: Verdict
    text: str
    """The verdict in words, with its figures."""
    until: datetime | None = None
    """UTC. When it ends without anyone's action; None: not known."""
    since: datetime | None = None
    """UTC. Since when it is busy, offline for that reason, or removed; None: it is not, or it is not known."""
    reason: str = ""
    """Why it is offline, or was removed; empty: it is not."""
    models: tuple[str, ...] = ()
    """Those it serves, where the task's model is not among them."""


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
    """Return True if a server takes tasks of a type; a server without types takes all."""
    return not settings.types or task_type in settings.types


def missing_label(settings: ServerRegistered, require: Mapping[str, str]) -> str | None:
    """Return the first required label that a server lacks, as `key=value`; None if it has all. MODEL is none."""
    labels = settings.labels
    return next((f"{key}={value}" for key, value in require.items() if key != MODEL and labels.get(key) != value), None)


def serves_model(server: Present, require: Mapping[str, str]) -> bool:
    """Return True if a server serves the model among the required labels, or there is none."""
    return MODEL not in require or require[MODEL] in (server.models or ())


def meets(server: Present, require: Mapping[str, str]) -> bool:
    """Return True if a server has all required labels, and serves the model among them."""
    return missing_label(server.settings, require) is None and serves_model(server, require)


def is_able(server: Present, task_type: str, require: Mapping[str, str]) -> bool:
    """Return True if a server with a free slot could take such a task now."""
    return isinstance(server.circuit, CircuitIsClosed) and is_there_for(server, task_type, require)


def is_there_for(server: Present, task_type: str, require: Mapping[str, str]) -> bool:
    """Return the same, whatever the circuit: only another attempt can show that the server has recovered."""
    return (
        serves(server.settings, task_type)
        and server.online
        and not server.maintenance
        and (not require or meets(server, require))
    )


def as_seen_by(owner: str, server: Present) -> Present:
    """Return a server as it is for an owner (by token): its circuit is on trial if only another's tasks opened it."""
    match server.circuit:
        case CircuitIsOpen(owner=cause, failures=failures) if cause not in ("", owner):
            return replace(server, circuit=CircuitIsHalfOpen(failures=failures))
    return server


def considered(task_type: str, require: Mapping[str, str], standings: Iterable[Standing]) -> list[Considered]:
    """Return the verdict on each server for a task of a type that requires labels, in the order given."""
    return [considered_one(standing, task_type, require) for standing in standings]


def considered_one(standing: Standing, task_type: str, require: Mapping[str, str]) -> Considered:
    """Return the verdict on a server; of several reasons, the one that lasts longest."""
    server, running = standing.server, standing.running
    settings = server.settings

    def verdict(code: Verdict, text: str, until: datetime | None = None, since: datetime | None = None) -> Considered:
        return Considered(server_id=server.server_id, verdict=code, text=text, until=until, since=since)

    if not serves(settings, task_type):
        return verdict("other-types", f"does not serve the type {task_type!r}")
    if (label := missing_label(settings, require)) is not None:
        return verdict("label-missing", f"lacks the label {label}")
    if not serves_model(server, require):
        models = server.models or ()
        return Considered(
            server_id=server.server_id,
            verdict="model-missing",
            text=f"does not serve the model {require[MODEL]!r}; {served_models(models)}",
            models=models,
        )
    if not server.online:
        return Considered(
            server_id=server.server_id,
            verdict="offline",
            text=f"is offline: {server.status_reason}",
            since=server.status_since,
            reason=server.status_reason,
        )
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
    if standing.busy_since is not None:
        text = f"has answered since {iso(standing.busy_since)} that it is busy; it is tried again after a pause"
        return verdict("busy", text, standing.next_try_at, standing.busy_since)
    if running is not None and running >= settings.max_concurrent:
        return verdict("at-limit", f"runs {running} of at most {settings.max_concurrent} tasks")
    if running is not None and standing.limit is not None and running >= standing.limit:
        registered = f"{settings.max_concurrent} are registered"
        return verdict("at-limit", f"runs {running} tasks, and said that it was busy when sent more; {registered}")
    if standing.stands_by:
        return verdict("standby", "helps out only when more tasks wait, or wait for longer")
    if standing.open_asks == 0:
        if standing.unasked_for is None:
            return verdict("unasked", "no puller of it asks for a task now")
        return verdict("unasked", f"no puller of it has asked for {standing.unasked_for.total_seconds():.0f} s")
    load = (
        f"runs {running} of at most {settings.max_concurrent} tasks" if running is not None else "may have a free slot"
    )
    return verdict("able", load)


def considered_removed(removed: Removed, task_type: str, require: Mapping[str, str]) -> Considered | None:
    """Return the verdict on a removed server that would fit a task and comes back when it answers; None for others."""
    if not removed.is_kept or removed.before is None:
        return None
    settings = removed.before.settings
    if not serves(settings, task_type) or not meets(removed.before, require):
        return None
    text = f"was removed ({removed.reason}); it is restored when it answers"
    return Considered(
        server_id=removed.server_id, verdict="removed", text=text, since=removed.removed_at, reason=removed.reason
    )


def served_models(models: Iterable[str]) -> str:
    """Return which models are served, in words: the first MODELS_NAMED by name."""
    names = sorted(set(models))
    if not names:
        return "served: none"
    more = f" and {len(names) - MODELS_NAMED} more" if len(names) > MODELS_NAMED else ""
    return f"served: {', '.join(names[:MODELS_NAMED])}{more}"


def stops(pool: str, pool_pause: Pause | None, task_type: str, type_pause: Pause | None) -> list[Stop]:
    """Return the pauses that keep tasks of a type in their pool."""
    found = []
    if pool_pause is not None:
        found.append(Stop(kind="pool-paused", name=pool, pause=pool_pause))
    if type_pause is not None:
        found.append(Stop(kind="type-paused", name=task_type, pause=type_pause))
    return found


def allowance(overflow: Overflow, waiting: int, oldest: timedelta, at_once: int, *, helping: bool) -> int:
    """Return how many tasks an overflow server may take until the next check; 0: it stands by.

    `waiting`: tasks that wait. `oldest`: how long the oldest has waited; past that bound the server takes `at_once`
    tasks, as many as it runs concurrently. `helping`: it started to help, and goes on until half of a bound is reached;
    without that hysteresis it would start and stop with each task.
    """
    part = 2 if helping else 1
    if overflow.waiting is not None and waiting > overflow.waiting // part:
        return waiting - overflow.waiting // 2
    if overflow.oldest is not None and oldest >= overflow.oldest / part:
        return min(waiting, at_once)
    return 0
