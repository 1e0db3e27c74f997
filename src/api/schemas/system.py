"""The front page and health, as clients read them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Liveness(Struct, kw_only=True):
    """The process runs."""

    status: Literal["ok"] = "ok"


class NatsHealth(Struct, kw_only=True):
    """State of NATS."""

    connected: bool
    version: str
    durability: Literal["always", "interval", "unknown"]
    """`always`: everything acknowledged is on disk."""
    clock_difference_ms: float | None
    """NATS' clock minus this process' clock."""


class Ready(Struct, kw_only=True):
    """State of everything that a request depends on."""

    status: Literal["ok", "unavailable", "draining"]
    """`draining`: this process shuts down; send new requests to another."""
    version: str
    nats: NatsHealth
    storage: dict[str, int]
    """Bytes: `used`, and JetStream's `limit` (-1: none)."""
    projection_lag_events: int
    """Task events that the projection has not read yet; lists read them from the log."""
    servers: dict[str, int]
    """Number of servers online, offline, in maintenance, and with an open circuit."""
    halted: dict[str, str]
    """Background services of this process that have stopped because they cannot read an event, each with the reason."""
    warnings: list[str]
    """Weaknesses of settings and storage, each with what to do."""


class Front(Struct, kw_only=True):
    """The service, its version, and links."""

    name: str = "Taskstream"
    version: str
    docs: str = "/docs"
    health: str = "/health/ready"
