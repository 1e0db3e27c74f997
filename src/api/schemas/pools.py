"""Pools, and pauses of pools and types, as admins send and see them. Times are ISO 8601, in UTC."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...commands.pause import Pause
from ...events.task import Priority
from ...wire.fields import iso
from .page import Page


class PauseBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Why something is paused or resumed."""

    reason: Annotated[str, Meta(max_length=300)] = ""
    """Kept in the log, and shown as long as the pause lasts."""


class PauseInfo(Struct, kw_only=True):
    """A pause: tasks wait, what runs goes on."""

    since: str
    by: str
    """Who asked for it: the subject of the token."""
    reason: str


class PauseAnswer(Struct, kw_only=True):
    """It is paused, or no longer."""

    name: str
    success: bool = True
    pause: PauseInfo | None
    """Null: it is not paused."""


class PoolServer(Struct, kw_only=True, rename="camel"):
    """A server that serves a pool, perhaps among others."""

    id: str
    available: bool
    """Whether it is given tasks at all: it is online, not in maintenance, and its circuit is closed."""
    running: int
    """Tasks of any pool that it runs, as of a moment ago."""
    room: int
    """How many more it takes."""
    overflow: bool
    """Whether it takes work only when much waits."""


class PoolSummary(Struct, kw_only=True, rename="camel"):
    """A queue of tasks, and who serves it."""

    name: str
    pause: PauseInfo | None
    """Null: it is not paused."""
    types: list[str]
    """Those whose tasks wait, or may still wait, here. In `default` so may those of types that nobody has defined."""
    paused_types: list[str]
    servers: list[PoolServer]
    """By id; the first 1,000."""
    server_count: int
    waiting: dict[Priority, int]
    """Tasks that have not been taken out of the queue."""
    in_hand: dict[Priority, int]
    """Tasks taken out: in a call, or given back for a while because no server could take them."""
    oldest_waiting: str | None
    """When the longest waiting of `waiting` came into the queue; null: none waits."""


class PoolPage(Page, kw_only=True, rename="camel"):
    """Pools, by name."""

    pools: list[PoolSummary]


def pause_info(pause: Pause | None) -> PauseInfo | None:
    return PauseInfo(since=iso(pause.since), by=pause.by.id, reason=pause.reason) if pause else None
