"""The state of the service that alarms are decided from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct, field

from ..commands.pause import Pause
from ..commands.server import Present, Removed


class PoolLoad(Struct, frozen=True, kw_only=True):
    """A pool and what waits in it, as the scheduler last counted."""

    name: str
    pause: Pause | None = None
    waiting_for: Mapping[str, int] = field(default_factory=dict)
    """Numbers of waiting tasks by reason, as of `scheduling.depth`."""
    turn_since: datetime | None = None
    """Since when some of its tasks have waited for the scheduler alone without a break; None: they do not."""


class TypeLoad(Struct, frozen=True, kw_only=True):
    """A type and its waiting tasks."""

    name: str
    pools: frozenset[str]
    """Those in which its tasks may wait."""
    waiting: int
    pause: Pause | None = None
    is_served: bool
    """A server that is online and not in maintenance takes its tasks, as far as the type goes."""


class StuckPool(Struct, frozen=True, kw_only=True):
    """A pool of which a waiting task could start now on a server with a free slot."""

    pool: str
    task_id: str
    """One of its oldest tasks."""
    since: datetime
    """UTC. Since when the server could take it, and nothing new was taken from any queue of that server."""
    server_id: str
    waiting: int
    """Tasks in its queues."""


class StoreFigures(Struct, frozen=True, kw_only=True):
    """The space of the store."""

    accepting: bool
    text: str
    """What is wrong with the space and what to do; empty: nothing."""
    percent: float | None
    free_bytes: int | None


class EndFigures(Struct, frozen=True, kw_only=True):
    """Tasks that ended within a window."""

    window: timedelta
    failed: int
    ended: int


class FailedSchedule(Struct, frozen=True, kw_only=True):
    """A schedule whose last runs could not be submitted."""

    id: str
    name: str
    owner: str
    at: datetime
    error: str
    path: str


class MissedSchedule(Struct, frozen=True, kw_only=True):
    """A schedule whose last due runs were missed, and that has not run since."""

    id: str
    name: str
    owner: str
    at: datetime
    """When that was found."""


class DisabledWebhook(Struct, frozen=True, kw_only=True):
    """A webhook that the service has disabled."""

    id: str
    owner: str
    url: str
    at: datetime
    reason: str


class PausedWebhook(Struct, frozen=True, kw_only=True):
    """A webhook whose receiver asks for pauses, and accepts nothing in between."""

    id: str
    owner: str
    url: str
    since: datetime
    until: datetime
    pauses: int


class Situation(Struct, frozen=True, kw_only=True):
    """The state of the service. None and empty: not known, or nothing; neither is an alarm."""

    now: datetime
    is_store_reachable: bool = True
    servers: Sequence[Present] = ()
    removed: Sequence[Removed] = ()
    running: Mapping[str, int] = field(default_factory=dict)
    """Running tasks by server."""
    pools: Sequence[PoolLoad] = ()
    types: Sequence[TypeLoad] = ()
    stuck: Sequence[StuckPool] = ()
    report_due_since: datetime | None = None
    """When the scheduler reported last; without a report, since when this process listens."""
    held: int = 0
    """Held tasks."""
    store: StoreFigures | None = None
    ends: EndFigures | None = None
    halted: Mapping[str, str] = field(default_factory=dict)
    """Services that have stopped, each with the reason."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Servers, types and pools that are left out, by key, each with the reason."""
    missing: Sequence[str] = ()
    """Processes that do not run."""
    worker_seen_at: datetime | None = None
    """When a worker last gave a sign of life; without one, since when this process listens."""
    worker_late: timedelta = timedelta(seconds=30)
    """How long workers may give none: a restarted worker gives one within seconds."""
    schedules: Sequence[FailedSchedule] = ()
    missed: Sequence[MissedSchedule] = ()
    disabled: Sequence[DisabledWebhook] = ()
    paused: Sequence[PausedWebhook] = ()
    clock_difference_ms: float | None = None
    index_lag: int | None = None
    """Events that the index lacks, if it is behind."""
    crowded_owners: int = 0
    """Owners that have nearly used their quota of stored bytes."""
    is_durable: bool = True
    """False: NATS is known to acknowledge before it syncs."""
