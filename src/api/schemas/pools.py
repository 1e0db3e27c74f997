"""Pools, and pauses of pools and types, as admins send and read them. Times are ISO 8601 in UTC."""

from __future__ import annotations

from msgspec import Struct

from ...commands.pause import Pause
from ...events.task import Priority
from ...instants import iso
from ...scheduling.depth import Reason
from .shared import Page


class PauseInfo(Struct, kw_only=True):
    """A pause: queued tasks wait, running ones go on."""

    since: str
    by: str
    """The `sub` of the caller's token."""
    reason: str


class PauseAnswer(Struct, kw_only=True):
    """The pool or type is paused or resumed."""

    name: str
    success: bool = True
    pause: PauseInfo | None
    """Null: not paused."""


class PoolServer(Struct, kw_only=True, rename="camel"):
    """A server that serves a pool, and possibly others."""

    id: str
    available: bool
    """True if it can get tasks: online, not in maintenance, circuit closed."""
    running: int
    """Running tasks of all pools, as of about a second ago."""
    room: int
    """Free slots."""
    overflow: bool
    """True if it takes work only above its overflow thresholds."""


class PoolSummary(Struct, kw_only=True, rename="camel"):
    """A queue of tasks, and the servers that serve it."""

    name: str
    pause: PauseInfo | None
    """Null: not paused."""
    types: list[str]
    """Types whose tasks are queued here. `default` also queues tasks of undefined types."""
    paused_types: list[str]
    servers: list[PoolServer]
    """By id; the first 1,000."""
    server_count: int
    waiting: dict[Priority, int]
    """All waiting tasks, held or in the queue, by priority. As `taskstream_queue_depth` has them."""
    waiting_for: dict[Reason, int]
    """The same tasks by what each waits for first: `queued` for a free slot, others as `kind` of its holds."""
    counted_at: str | None
    """When they were counted, about a second ago. Null: no scheduler has reported; only queued tasks are counted."""
    running: int | None
    """Tasks that run. Null: the index of tasks cannot say it now."""
    starts_per_minute: float | None
    """Of attempts, on average over about the last minute. Null: likewise."""
    in_hand: dict[Priority, int]
    """Tasks taken from the queue: running, or waiting to be queued again because no server was free."""
    oldest_waiting: str | None
    """Since when the oldest task waits that could start: its time has come and its parents have ended. Null: none."""


class PoolPage(Page, kw_only=True, rename="camel"):
    """Pools, by name."""

    pools: list[PoolSummary]


class PoolDemand(Struct, kw_only=True, rename="camel"):
    """What an autoscaler needs to know of a pool. Each figure is about a second old."""

    eligible: int
    """Tasks that would start at once if there were slots enough. Without those that wait for their time, a retry,
    parents, a limit or the end of a pause; with those that no server takes."""
    running: int
    slots: int
    """Tasks that its available servers run at once, together; these may serve other pools, too."""
    oldest_seconds: float
    """How long the oldest task waits whose time has come and whose parents have ended; 0 if none is eligible."""
    desired: int
    """Slots that are wanted: `eligible` and `running` together."""
    counted_at: str | None
    """When a scheduler counted the eligible tasks. Null: none has for 30 s, so they are those in the pool's queue."""


def pause_info(pause: Pause | None) -> PauseInfo | None:
    return PauseInfo(since=iso(pause.since), by=pause.by.id, reason=pause.reason) if pause else None
