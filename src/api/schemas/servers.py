"""Servers, as admins send and read them. Times are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...backends.dialects import dialect_of
from ...commands.server import CircuitIsClosed, Present
from ...events.server import Overflow
from ...instants import iso
from ...projections.heartbeats import BusyServer, Heartbeat
from ...wire.fields import DurationSeconds, Name, ServerName
from .shared import Page, ReasonBody

_URL = {"format": "uri", "pattern": "^https?://"}
"""For the API document only: `wire.addresses` has better errors for invalid URLs."""


class Endpoints(Struct, kw_only=True):
    """URLs of a server."""

    predict: Annotated[str, Meta(min_length=1, max_length=2048, extra_json_schema=_URL)]
    """http(s) URL that takes tasks (POST)."""
    health: Annotated[str, Meta(max_length=2048, extra_json_schema=_URL)] | None = None
    """http(s) URL whose 2xx means healthy (GET); without one, heartbeats keep the server online."""


class OverflowBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """When an overflow server takes work: from either threshold until half of it. At least one is required."""

    waiting: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    """More than this many tasks wait in its pools."""
    oldest: DurationSeconds | None = None
    """The oldest task in its pools has waited this many seconds."""


class RegisterBody(Struct, kw_only=True, rename="camel"):
    """A backend server to register. Registering the same id again replaces it."""

    id: ServerName
    """Its name in paths."""
    name: Name
    provider: Name
    endpoints: Endpoints
    is_async: bool = msgspec.field(name="async", default=False)
    """True: it may answer 202 and report later."""
    callback: bool = False
    """True: it reports by PUT to the `callback_url` of the request."""
    types: Annotated[list[Name], Meta(max_length=100)] = []
    """Task types it serves; empty: all."""
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Tasks it runs at once."""
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    """Its share under weighted balancing."""
    api_key: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """Sent to the server as bearer token. Encrypted at rest, never returned."""
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=50)] = {}
    """Free text by which tasks choose servers (`require`, `prefer`)."""
    overflow: OverflowBody | None = None
    """When it takes work; null: whenever it has a free slot."""
    busy_status: Annotated[list[Annotated[int, Meta(ge=400, le=599)]], Meta(max_length=20)] | None = None
    """Statuses by which it says that it is busy (4xx, 5xx): the task waits and loses no attempt. Null: 429 and 503;
    empty: none."""


class HeartbeatBody(Struct, kw_only=True, rename="camel"):
    """A heartbeat, with the load of the server."""

    status: Annotated[str, Meta(max_length=64)] | None = None
    active_tasks: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metrics: dict[str, Any] | None = None


class MaintenanceBody(ReasonBody, kw_only=True, forbid_unknown_fields=True):
    """The beginning or the end of maintenance."""

    maintenance: bool


class CleanupBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The servers to remove."""

    max_age_mins: Annotated[float, Meta(ge=0, le=525_600)] = 3
    """Servers offline for longer are removed."""


class ServerSummary(Struct, kw_only=True, rename="camel"):
    """The present state of a server. Times are ISO 8601, UTC."""

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
    busy_status: list[int]
    """Statuses by which it says that it is busy."""
    has_api_key: bool
    """True if an API key is stored; the key itself is never returned."""
    status: Literal["online", "offline"]
    status_reason: str
    """Why it has this status."""
    status_since: str
    """When it got this status."""
    maintenance: bool
    maintenance_reason: str | None
    maintenance_since: str | None
    circuit: Literal["closed", "open", "half-open"]
    """Circuit breaker. `open`: no tasks until `circuitOpenUntil`, or only a trial of another owner than the one whose
    tasks failed; `half-open`: one task on trial."""
    circuit_open_until: str | None
    circuit_reason: str | None
    """Why it opened; null: it is closed."""
    circuit_owner: str | None
    """The only owner whose tasks failed, while `open`; null: there are several, or no task can be the cause."""
    registered_at: str
    last_heartbeat: str | None
    """The last heartbeat, successful health check or successful task."""
    latency_ms: float | None
    """Of the last successful health check."""
    busy_since: str | None
    """Since when it has answered that it is busy, without taking a task; null: it takes tasks."""
    next_try_at: str | None
    """When a busy server gets its next task, at the earliest."""
    current_limit: int
    """Tasks it is sent at a time now: `maxConcurrent`, or fewer since it said that it was busy."""
    active_tasks: int | None
    """From the server's last heartbeat."""
    metrics: dict[str, Any] | None
    """From the server's last heartbeat."""


class ServerPage(Page, kw_only=True, rename="camel"):
    """Servers, by id."""

    servers: list[ServerSummary]


class HeartbeatAnswer(Struct, kw_only=True, rename="camel"):
    """The heartbeat is recorded."""

    id: str
    success: bool = True
    last_heartbeat: str
    """ISO 8601, UTC."""


class MaintenanceAnswer(Struct, kw_only=True):
    """Maintenance has begun or ended."""

    id: str
    success: bool = True
    maintenance: bool


class DrainAnswer(Struct, kw_only=True):
    """The server finishes its tasks and gets no new ones."""

    id: str
    success: bool = True
    since: str
    """When the drain began; repeating it does not change this."""
    running: int
    """Tasks still running on it."""
    drained: bool
    """True: nothing runs on it, and nothing starts before it is resumed. It is safe to shut down."""


class CleanupAnswer(Struct, kw_only=True, rename="camel"):
    """The removed servers."""

    success: bool = True
    removed_servers: list[str]
    """Their ids."""


def server_summary(server: Present, heartbeat: Heartbeat | None, busy: BusyServer | None) -> ServerSummary:
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
        busy_status=sorted(dialect_of(settings).busy_status if settings.busy_status is None else settings.busy_status),
        has_api_key=bool(settings.api_key_id),
        status="online" if server.online else "offline",
        status_reason=server.status_reason,
        status_since=iso(server.changed_at),
        maintenance=server.maintenance,
        maintenance_reason=server.maintenance_reason or None,
        maintenance_since=iso(server.maintenance_since) if server.maintenance_since else None,
        circuit="closed" if isinstance(circuit, CircuitIsClosed) else "open" if until else "half-open",
        circuit_open_until=iso(until) if until else None,
        circuit_reason=getattr(circuit, "reason", "") or None,
        circuit_owner=getattr(circuit, "owner", "") or None,
        registered_at=iso(server.registered_at),
        last_heartbeat=iso(heartbeat.seen_at) if heartbeat else None,
        latency_ms=heartbeat.latency_ms if heartbeat else None,
        busy_since=iso(busy.since) if busy and busy.since else None,
        next_try_at=iso(busy.next_try_at) if busy and busy.next_try_at else None,
        current_limit=min((busy and busy.limit) or settings.max_concurrent, settings.max_concurrent),
        active_tasks=heartbeat.active_tasks if heartbeat else None,
        metrics=heartbeat.metrics if heartbeat else None,
    )


def _overflow(overflow: Overflow | None) -> OverflowBody | None:
    if overflow is None:
        return None
    return OverflowBody(
        waiting=overflow.waiting, oldest=overflow.oldest.total_seconds() if overflow.oldest is not None else None
    )
