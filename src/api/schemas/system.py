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


class Storage(Struct, kw_only=True, rename="camel"):
    """The space of the store, by the limit that is reached first."""

    used_bytes: int
    limit_bytes: int | None
    """Null: unknown. NATS is external, and neither its account nor its streams have a limit."""
    free_bytes: int | None
    """Null: unknown."""
    percent: float | None
    """Used, of the limit. Null: unknown."""
    limited_by: Literal["disk", "server", "account", "stream", "unknown"]
    """`disk` of the data folder, `server`: `max_file_store`, `account`, `stream`: `max_bytes` of one."""
    reserve_bytes: int
    """Kept for tasks that were accepted: with less free, new work is refused (503)."""
    accepting: bool
    """False while new work is refused for lack of space."""


class Index(Struct, kw_only=True, rename="camel"):
    """The index of tasks of this process, which lists and figures are read from."""

    state: Literal["filling", "current", "behind"]
    """`filling`: lists are a 503 until it has read the log once. `behind`: many events are missing, and
    lists are a 503 if they stay so for 2 s."""
    lag_events: int
    """Events of the log that it does not reflect."""
    percent: float
    """Part of the log that it reflects."""


class Ready(Struct, kw_only=True):
    """State of everything that a request depends on."""

    status: Literal["ok", "degraded", "unavailable", "draining"]
    """`degraded`: the store takes no new work, or a process of `taskstream up` does not run; everything else goes on.
    `draining`: this process shuts down; send new requests to another."""
    version: str
    nats: NatsHealth
    storage: Storage | None
    """Null: NATS does not answer."""
    projection_lag_events: int
    """Task events that the projection has not read yet; lists read them from the log."""
    index: Index | None
    """Null: NATS does not answer, or this process is a worker and has none."""
    servers: dict[str, int]
    """Number of servers online, offline, in maintenance, and with an open circuit."""
    halted: dict[str, str]
    """Background services of this process, and of the others of its `taskstream up`, that have stopped because they
    cannot read an event, each with the reason."""
    warnings: list[str]
    """Weaknesses of settings and storage, each with what to do."""


class Front(Struct, kw_only=True):
    """The service, its version, and links."""

    name: str = "Taskstream"
    version: str
    docs: str = "/docs"
    console: str = "/console/"
    health: str = "/health/ready"
