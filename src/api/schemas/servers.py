"""Servers as admins send and see them. Times are ISO 8601, in UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...commands.server import CircuitIsClosed, Present
from ...events.server import Overflow
from ...projections.heartbeats import Heartbeat
from ...wire.fields import DurationSeconds, Name, ServerName, iso
from .page import DoneTo, Page

_URL = {"format": "uri", "pattern": "^https?://"}
"""For the description only: what is wrong with an address is said better where addresses are read."""


class Endpoints(Struct, kw_only=True):
    """Where a server is called."""

    predict: Annotated[str, Meta(min_length=1, max_length=2048, extra_json_schema=_URL)]
    """http(s) URL that takes tasks (POST)."""
    health: Annotated[str, Meta(max_length=2048, extra_json_schema=_URL)] | None = None
    """http(s) URL whose 2xx means healthy (GET); without one, heartbeats keep the server online."""


class OverflowBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """When a server takes work: once either is so, and until half of it is no longer. At least one is given."""

    waiting: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    """More tasks than this wait in its pools."""
    oldest: DurationSeconds | None = None
    """Seconds that a task has waited there."""


class RegisterBody(Struct, kw_only=True, rename="camel"):
    """A backend server as it announces itself. Registering the same id again replaces it."""

    id: ServerName
    """What it is called in paths."""
    name: Name
    provider: Name
    endpoints: Endpoints
    is_async: bool = msgspec.field(name="async", default=False)
    """It may answer 202 and report later."""
    callback: bool = False
    """It reports by PUT to the `callback_url` it is given."""
    types: Annotated[list[Name], Meta(max_length=100)] = []
    """Task types it serves; empty: all."""
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Tasks it takes at once."""
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    """Its share under weighted balancing."""
    api_key: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """Sent to the server as bearer token; sealed at rest, never shown."""
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=50)] = {}
    """Text of yours; tasks may ask for servers that have it (`require`, `prefer`)."""
    overflow: OverflowBody | None = None
    """It takes work only when much waits; null: whenever it has room."""


class HeartbeatBody(Struct, kw_only=True, rename="camel"):
    """A sign of life, with what the server wants to say of its load."""

    status: Annotated[str, Meta(max_length=64)] | None = None
    active_tasks: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metrics: dict[str, Any] | None = None


class MaintenanceBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a server is to take nothing new."""

    maintenance: bool
    reason: Annotated[str, Meta(max_length=300)] = ""


class DrainBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Why a server is drained, or given work again."""

    reason: Annotated[str, Meta(max_length=300)] = ""


class CleanupBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which servers to remove."""

    max_age_mins: Annotated[float, Meta(ge=0, le=525_600)] = 3
    """Servers offline for longer are removed."""


class ServerSummary(Struct, kw_only=True, rename="camel"):
    """A server as it is now. Times are ISO 8601, UTC."""

    id: str
    name: str
    provider: str
    endpoints: dict[str, str | None]
    is_async: bool = msgspec.field(name="async")
    callback: bool
    types: list[str]
    max_concurrent: int
    weight: int
    labels: dict[str, str]
    overflow: OverflowBody | None
    has_api_key: bool
    """Whether it has one; the key itself is never shown."""
    status: Literal["online", "offline"]
    status_reason: str
    """What decided the status."""
    status_since: str
    """When it got that status."""
    maintenance: bool
    maintenance_reason: str | None
    maintenance_since: str | None
    circuit: Literal["closed", "open", "half-open"]
    """`open`: attempts kept failing, and nothing is sent until `circuitOpenUntil`; `half-open`: one is out to see."""
    circuit_open_until: str | None
    registered_at: str
    last_heartbeat: str | None
    """The last sign of life: a heartbeat, a good check or a task done well."""
    latency_ms: float | None
    """Of the last good health check."""
    active_tasks: int | None
    """As the server said itself, in its last heartbeat."""
    metrics: dict[str, Any] | None
    """As the server said itself, in its last heartbeat."""


class ServerPage(Page, kw_only=True, rename="camel"):
    """Servers, by id."""

    servers: list[ServerSummary]


class ServerDone(DoneTo, kw_only=True):
    """It is done."""


class HeartbeatAnswer(Struct, kw_only=True, rename="camel"):
    """The sign of life is noted."""

    id: str
    success: bool = True
    last_heartbeat: str
    """ISO 8601, UTC."""


class MaintenanceAnswer(Struct, kw_only=True):
    """The server is, or is no longer, in maintenance."""

    id: str
    success: bool = True
    maintenance: bool


class DrainAnswer(Struct, kw_only=True):
    """The server finishes what it has and takes nothing new."""

    id: str
    success: bool = True
    since: str
    """Since when it is drained: a server that was drained before goes on being so."""
    running: int
    """Tasks that it still runs."""
    drained: bool
    """Nothing runs on it, and nothing will before it is resumed: it may be switched off."""


class CleanupAnswer(Struct, kw_only=True, rename="camel"):
    """What was removed."""

    success: bool = True
    removed_servers: list[str]
    """Their ids; empty if there were none."""


def server_summary(server: Present, heartbeat: Heartbeat | None) -> ServerSummary:
    settings = server.settings
    circuit = server.circuit
    until = getattr(circuit, "until", None)
    return ServerSummary(
        id=settings.server_id,
        name=settings.name,
        provider=settings.provider,
        endpoints={"predict": settings.predict_url, "health": settings.health_url},
        is_async=settings.is_async,
        callback=settings.callback,
        types=list(settings.types),
        max_concurrent=settings.max_concurrent,
        weight=settings.weight,
        labels=settings.labels,
        overflow=_overflow(settings.overflow),
        has_api_key=bool(settings.api_key_id),
        status="online" if server.online else "offline",
        status_reason=server.status_reason,
        status_since=iso(server.changed_at),
        maintenance=server.maintenance,
        maintenance_reason=server.maintenance_reason or None,
        maintenance_since=iso(server.maintenance_since) if server.maintenance_since else None,
        circuit="closed" if isinstance(circuit, CircuitIsClosed) else "open" if until else "half-open",
        circuit_open_until=iso(until) if until else None,
        registered_at=iso(server.registered_at),
        last_heartbeat=iso(heartbeat.seen_at) if heartbeat else None,
        latency_ms=heartbeat.latency_ms if heartbeat else None,
        active_tasks=heartbeat.active_tasks if heartbeat else None,
        metrics=heartbeat.metrics if heartbeat else None,
    )


def _overflow(overflow: Overflow | None) -> OverflowBody | None:
    if overflow is None:
        return None
    return OverflowBody(
        waiting=overflow.waiting, oldest=overflow.oldest.total_seconds() if overflow.oldest is not None else None
    )
