"""The front page and health as clients see them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Liveness(Struct, kw_only=True):
    """The process runs."""

    status: Literal["ok"] = "ok"


class NatsHealth(Struct, kw_only=True):
    """The store."""

    connected: bool
    version: str
    durability: Literal["always", "interval", "unknown"]
    """`always`: what is acknowledged is on disk."""
    clock_difference_ms: float | None
    """How far NATS' clock is ahead of ours."""


class Ready(Struct, kw_only=True):
    """What a request depends on, and how that is."""

    status: Literal["ok", "unavailable", "draining"]
    """`draining`: this process was asked to end; send what comes next to another."""
    version: str
    nats: NatsHealth
    storage: dict[str, int]
    """Bytes: `used`, and the `limit` JetStream has (-1: none)."""
    projection_lag_events: int
    """Events of the log that lists read from the log itself, because they are not projected yet."""
    servers: dict[str, int]
    """How many are online, offline, in maintenance, and have an open circuit."""
    halted: dict[str, str]
    """Background services of this process that have stopped because they cannot read an event, each with the reason."""
    warnings: list[str]
    """What is weaker than it should be, each with what to do."""


class Front(Struct, kw_only=True):
    """What this is, and where to go on."""

    name: str = "Taskstream"
    version: str
    docs: str = "/docs"
    health: str = "/health/ready"
