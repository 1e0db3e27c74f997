"""Servers, as admins send and read them. Times are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ...backends.dialects import dialect_of
from ...backends.exchange_body import ExchangeBody, shown_exchange
from ...backends.presets import presets
from ...commands.server import CircuitIsClosed, Present, Removed
from ...errors import InvalidInput
from ...events.envelope import Stored
from ...events.server import LONGEST_MODEL, MOST_MODELS, HealthExpectation, Mode, Overflow, ServerEvent
from ...instants import iso
from ...projections.heartbeats import BusyServer, Heartbeat, RemovedCheck
from ...scheduling.asks import AskReport
from ...wire.fields import (
    HEADER_NAME_PATTERN,
    HEADER_VALUE_PATTERN,
    JSON_PATH_PATTERN,
    NAME_PATTERN,
    DurationSeconds,
    Name,
    ServerName,
)
from .detection import DetectAnswer, DetectedInfo, detected_info
from .dialects import ServerDialectName
from .shared import Page, ReasonBody

_URL = {"format": "uri", "pattern": "^https?://"}
"""For the API document only: `wire.addresses` has better errors for invalid URLs."""


_Url = Annotated[str, Meta(min_length=1, max_length=2048, extra_json_schema=_URL)]
_Types = Annotated[list[Name], Meta(max_length=100)]
_Concurrency = Annotated[int, Meta(ge=1, le=10_000)]
_Weight = Annotated[int, Meta(ge=1, le=1_000)]
_ApiKey = Annotated[str, Meta(min_length=1, max_length=4096, pattern=HEADER_VALUE_PATTERN)]
_ServerLabels = Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=50)]
_BusyStatus = Annotated[list[Annotated[int, Meta(ge=400, le=599)]], Meta(max_length=20)]
_AuthHeader = Annotated[str, Meta(min_length=1, max_length=64, pattern=HEADER_NAME_PATTERN)]
_RemoveAfter = Annotated[float, Meta(ge=0.001, le=366 * 86_400, extra={"unit": "seconds"})]
_Model = Annotated[str, Meta(min_length=1, max_length=LONGEST_MODEL, pattern=NAME_PATTERN)]
_Models = Literal["discover"] | Annotated[list[_Model], Meta(max_length=MOST_MODELS)]
_Status = Annotated[int, Meta(ge=100, le=599)]
PresetName = Annotated[str, Meta(max_length=64, extra_json_schema={"enum": list(presets())})]


class Endpoints(Struct, kw_only=True, forbid_unknown_fields=True):
    """URLs of a server."""

    predict: _Url
    """http(s) URL that takes tasks (POST)."""
    health: _Url | None = None
    """http(s) URL whose 2xx means healthy (GET). Null: the dialect's own check, if it has one (`oip`), else heartbeats
    keep the server online."""


class EndpointsChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """The URLs of a server to change; others stay."""

    predict: _Url | UnsetType = UNSET
    health: _Url | UnsetType | None = UNSET
    """Null: the dialect's own check, if it has one, else heartbeats keep the server online."""


class OverflowBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """When an overflow server takes work: from either threshold until half of it. At least one is required."""

    waiting: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    """More than this many tasks wait in its pools."""
    oldest: DurationSeconds | None = None
    """The oldest task in its pools has waited this many seconds."""


class ExpectBody(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the answer to a health check must have. At least one is required."""

    status: _Status | Annotated[list[_Status], Meta(min_length=1, max_length=20)] | UnsetType = UNSET
    """This status, or one of these. By default any 2xx."""
    json: (
        Annotated[
            dict[
                Annotated[str, Meta(max_length=256, pattern=JSON_PATH_PATTERN)],
                Annotated[str, Meta(max_length=256)] | int | float | bool | None,
            ],
            Meta(min_length=1, max_length=10),
        ]
        | UnsetType
    ) = UNSET
    """Values that its JSON body must have, by path: `{"$.model.loaded": true, "$.workers[0]": "up"}`."""


class RegisterBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A backend server to register. Registering the same id again replaces it."""

    id: ServerName
    """Its name in paths."""
    name: Name
    provider: Name
    mode: Mode = "push"
    """`push`: tasks are sent to its endpoints. `pull`: it has none; its pullers ask for tasks with
    `POST /api/attempts/take`."""
    endpoints: Endpoints | UnsetType = UNSET
    """Required, unless `mode` is `pull`."""
    is_async: bool = msgspec.field(name="async", default=False)
    """True: it may answer 202 and report later."""
    callback: bool = False
    """True: it reports by PUT to the `callback_url` of the request."""
    types: _Types = []
    """Task types it serves; empty: all."""
    max_concurrent: _Concurrency = 10
    """Tasks it runs at once."""
    weight: _Weight = 1
    """Its share under weighted balancing."""
    api_key: _ApiKey | None = None
    """Sent to the server as bearer token, or in `authHeader`. Encrypted at rest, never returned."""
    auth_header: _AuthHeader | None = None
    """Header that carries the API key as it is, such as `X-API-Key`; null: `Authorization`, as a bearer token."""
    labels: _ServerLabels = {}
    """Free text by which tasks choose servers (`require`, `prefer`)."""
    overflow: OverflowBody | None = None
    """When it takes work; null: whenever it has a free slot."""
    busy_status: _BusyStatus | None = None
    """Statuses by which it says that it is busy (4xx, 5xx): the task waits and loses no attempt. Null: 429 and 503;
    empty: none."""
    health_auth: bool = False
    """True: the health check carries the API key."""
    health_expect: ExpectBody | None = None
    """What a healthy answer has; null: any 2xx."""
    remove_after: _RemoveAfter | UnsetType | None = UNSET
    """Seconds offline after which it is removed; null: never. Left out: as TASKSTREAM_SERVER_REMOVE_AFTER says."""
    dialect: ServerDialectName | None = None
    """Wire format it speaks; null: that of the task's type, else `taskstream`. `auto`: it is found out."""
    model: Name | None = None
    """Its model there, for the dialect `oip`; null: `endpoints.predict` names it."""
    exchange: ExchangeBody | None = None
    """With the dialect `bare`: what is sent, and how answers are read. Null: the payload is the body of the request,
    and the answer the result."""
    preset: PresetName | None = None
    """A preset, which sets all fields that are not sent: see `GET /api/presets`."""
    models: _Models | None = None
    """Of the tasks whose payload names a `model`, it gets those of these; `discover`: of those that it lists itself.
    Null: it gets such tasks only while no server for their type has this set."""


PRESENT_STATE = frozenset(
    {
        "status", "statusReason", "statusSince", "offlineSince", "maintenance", "maintenanceReason", "maintenanceSince",
        "circuit", "circuitOpenUntil", "circuitReason", "circuitOwner", "registeredAt", "lastHeartbeat", "latencyMs",
        "busySince", "nextTryAt", "currentLimit", "activeTasks", "reportedActiveTasks", "metrics", "hasApiKey",
        "removed", "createdAt", "updatedAt", "dialectDetected", "openAsks", "servedModels",
    }
)  # fmt: skip
"""Fields of a registration that are ignored: a server's present state, which older clients keep beside its settings and
send along, and which a server read with GET has."""


class ServerPatch(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The settings of a server to change; others stay. Null removes a setting."""

    name: Name | UnsetType = UNSET
    provider: Name | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    """`pull` removes its endpoints, `push` needs them."""
    endpoints: EndpointsChange | UnsetType = UNSET
    is_async: bool | UnsetType = msgspec.field(name="async", default=UNSET)
    callback: bool | UnsetType = UNSET
    types: _Types | UnsetType = UNSET
    """Replaces the list."""
    max_concurrent: _Concurrency | UnsetType = UNSET
    weight: _Weight | UnsetType = UNSET
    api_key: _ApiKey | UnsetType | None = UNSET
    """Null: none."""
    auth_header: _AuthHeader | UnsetType | None = UNSET
    """Null: `Authorization`, as a bearer token."""
    labels: _ServerLabels | UnsetType = UNSET
    """Replaces all labels."""
    overflow: OverflowBody | UnsetType | None = UNSET
    """Null: it takes work whenever it has a free slot."""
    busy_status: _BusyStatus | UnsetType | None = UNSET
    """Null: 429 and 503."""
    health_auth: bool | UnsetType = UNSET
    health_expect: ExpectBody | UnsetType | None = UNSET
    """Null: any 2xx."""
    remove_after: _RemoveAfter | UnsetType | None = UNSET
    """Seconds; null: never."""
    dialect: ServerDialectName | UnsetType | None = UNSET
    """Null: that of the task's type, else `taskstream`."""
    model: Name | UnsetType | None = UNSET
    """Null: `endpoints.predict` names it."""
    exchange: ExchangeBody | UnsetType | None = UNSET
    """Replaces all of it. Null: the payload is the body of the request, and the answer the result."""
    models: _Models | UnsetType | None = UNSET
    """Null: it is not chosen by model."""


class RestoreBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How to restore a removed server."""

    api_key: _ApiKey | UnsetType | None = UNSET
    """Its API key from now on; null: none. Required if the server had a key, and it was destroyed."""


MOST_METRICS = 8 * 1024
"""Bytes of a heartbeat's metrics, as JSON. A list may have 5,000 servers with theirs."""


class HeartbeatBody(Struct, kw_only=True, rename="camel"):
    """A heartbeat, with the load of the server."""

    status: Annotated[str, Meta(max_length=64)] | None = None
    active_tasks: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metrics: dict[str, Any] | None = None
    """Any values, shown with the server until its next heartbeat; at most 8 KiB of JSON."""


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
    mode: Mode
    """`pull`: its pullers ask for tasks."""
    endpoints: dict[str, str | None]
    """Null for a pulled server."""
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
    auth_header: str | None
    """Header that carries the API key; null: `Authorization`, as a bearer token."""
    health_auth: bool
    """True: the health check carries the API key."""
    health_expect: ExpectBody | None
    """What a healthy answer has; null: any 2xx."""
    remove_after: float | UnsetType | None = UNSET
    """Seconds offline after which it is removed; null: never. Missing: as TASKSTREAM_SERVER_REMOVE_AFTER says."""
    dialect: str | None
    """Wire format it speaks, as registered; null: that of the task's type, else `taskstream`."""
    dialect_detected: DetectedInfo | None
    """With `auto`: what it was found to speak; null: not known yet, so it is offline."""
    model: str | None
    """Its model there, for the dialect `oip`; null: `endpoints.predict` names it."""
    exchange: ExchangeBody | None
    """What is sent to it, and how its answers are read; null: as its dialect does."""
    preset: str | None
    """The preset it was registered with; null: none, or `exchange` was changed since."""
    models: Literal["discover"] | list[str] | None
    """Models by which it is chosen, as registered; null: it is not."""
    served_models: list[str] | None
    """Those it serves now; null: it is not chosen by model."""
    status: Literal["online", "offline"]
    status_reason: str
    """Why it has this status."""
    status_since: str
    """Since when it has this status for this reason."""
    offline_since: str | None
    """Since when it is offline, for whatever reason; null: it is online."""
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
    active_tasks: int
    """Attempts of the service that run on it now."""
    open_asks: int | None
    """Requests of its pullers that are open and wait for a task now; null: it is pushed, or no worker answers."""
    reported_active_tasks: int | None
    """From the server's last heartbeat. It may count other work, too."""
    metrics: dict[str, Any] | None
    """From the server's last heartbeat."""
    removed: RemovedInfo | None
    """Null: it is registered. Only the list of removed servers has others."""


class RemovedInfo(Struct, kw_only=True, rename="camel"):
    """The removal of a server."""

    since: str
    """When it was removed."""
    reason: str
    by: dict[str, str]
    """Who removed it: `kind` (user, timer) and `id`."""
    returns: bool
    """True: it was removed for being offline, and is restored as soon as it answers a check or sends a heartbeat."""
    restorable: bool
    """True: `POST /api/servers/{id}/restore` restores it as it was. False: its API key was destroyed, so the request
    must have `apiKey`."""
    last_check: str | None
    """When it was last checked; null: never since its removal."""
    last_check_reason: str | None
    """Why that check did not restore it."""
    next_check: str | None
    """When it is checked next; null: unknown yet, or never."""


class ServerPage(Page, kw_only=True, rename="camel"):
    """Servers, by id."""

    servers: list[ServerSummary]


class RecordedServerEvent(Struct, kw_only=True):
    """An event of a server's history, as recorded."""

    sequence: int
    """Sequence in the log: it grows, with gaps."""
    id: str
    at: str
    by: dict[str, str]
    """Who did it: `kind` (user, server, worker, timer, system) and `id`."""
    cause: str
    """The request id, or the sequence of the event, that caused it."""
    event: Any
    """Its `type`, and the fields of the type that differ from their defaults."""


class ServerEventPage(Struct, kw_only=True, rename="camel"):
    """Events of a server, oldest first; with `before`, newest first."""

    server_id: str
    events: list[RecordedServerEvent]
    next_after: int | None
    """Pass as `after` to get the next page; null after the last page, and with `before`."""
    next_before: int | None
    """Pass as `before` to get the next page, of older events; null after the last page, and without `before`."""
    total: int
    """Events of the server, of all kinds."""


class RegisterAnswer(Struct, kw_only=True):
    """The server is registered."""

    id: str
    success: bool = True
    reset: list[str]
    """Settings of the replaced registration that were left out and so have their defaults now; `apiKey`: the stored key
    is destroyed. Empty for a new server."""
    detected: DetectAnswer | UnsetType = UNSET
    """With the dialect `auto`: what it was found to speak now. Missing: another dialect, or it was found before."""


class ShortServer(Struct, kw_only=True, rename="camel"):
    """A server, as `service` tokens see it."""

    id: str
    status: Literal["online", "offline"]
    is_async: bool = msgspec.field(name="async")
    callback: bool
    types: list[str]
    max_concurrent: int
    last_heartbeat: str | None
    """The last heartbeat, successful health check or successful task."""


class ShortServerPage(Page, kw_only=True, rename="camel"):
    """Servers, by id, as `service` tokens see them."""

    servers: list[ShortServer]


def short_server(server: Present, heartbeat: Heartbeat | None) -> ShortServer:
    settings = server.settings
    return ShortServer(
        id=settings.server_id,
        status="online" if server.online else "offline",
        is_async=settings.is_async,
        callback=settings.callback,
        types=list(settings.types),
        max_concurrent=settings.max_concurrent,
        last_heartbeat=iso(heartbeat.seen_at) if heartbeat else None,
    )


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


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def server_summary(
    server: Present,
    heartbeat: Heartbeat | None,
    busy: BusyServer | None,
    running: int,
    removed: RemovedInfo | None = None,
    asks: AskReport | None = None,
) -> ServerSummary:
    """Return what clients see of a server. `running`: the attempts that run on it. `asks`: of its pullers."""
    settings = server.settings
    circuit = server.circuit
    until = getattr(circuit, "until", None)
    seconds = settings.remove_after.total_seconds() if settings.remove_after is not None else UNSET
    return ServerSummary(
        id=settings.server_id,
        name=settings.name,
        provider=settings.provider,
        mode=settings.mode,
        endpoints={"predict": settings.predict_url or None, "health": settings.health_url},
        is_async=settings.is_async,
        callback=settings.callback,
        types=list(settings.types),
        max_concurrent=settings.max_concurrent,
        weight=settings.weight,
        labels=settings.labels,
        overflow=_overflow(settings.overflow),
        busy_status=sorted(dialect_of(settings).busy_status if settings.busy_status is None else settings.busy_status),
        has_api_key=bool(settings.api_key_id),
        auth_header=settings.auth_header or None,
        health_auth=settings.health_auth,
        health_expect=_expectation(settings.health_expect),
        remove_after=None if settings.is_permanent else seconds,
        dialect=server.registered.dialect or None,
        dialect_detected=detected_info(server.detected),
        model=settings.model or None,
        exchange=shown_exchange(server.registered.exchange) if server.registered.exchange else None,
        preset=settings.preset or None,
        models="discover" if settings.finds_models else _listed(settings.models),
        served_models=_listed(server.models),
        status="online" if server.online else "offline",
        status_reason=server.status_reason,
        status_since=iso(server.status_since),
        offline_since=None if server.online else iso(server.changed_at),
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
        active_tasks=running,
        open_asks=asks.asks if asks else None,
        reported_active_tasks=heartbeat.active_tasks if heartbeat else None,
        metrics=heartbeat.metrics if heartbeat else None,
        removed=removed,
    )


def recorded_server_event(stored: Stored[ServerEvent]) -> RecordedServerEvent:
    recorded = stored.recorded
    return RecordedServerEvent(
        sequence=stored.sequence,
        id=recorded.id,
        at=iso(recorded.at),
        by=recorded.by.shown(),
        cause=recorded.cause,
        event=recorded.event,
    )


def removed_info(removed: Removed, check: RemovedCheck | None) -> RemovedInfo:
    """Return what clients see of a removal. `check`: the last one since."""
    by = removed.by
    had_key = removed.before is not None and bool(removed.before.settings.api_key_id)
    return RemovedInfo(
        since=iso(removed.removed_at),
        reason=removed.reason,
        by=by.shown() if by else {},
        returns=removed.is_kept,
        restorable=removed.is_kept or not had_key,
        last_check=iso(check.seen_at) if check else None,
        last_check_reason=check.reason if check else None,
        next_check=iso(check.next_at) if check and removed.is_kept else None,
    )


def expectation(body: ExpectBody | None) -> HealthExpectation | None:
    """Return what a health check must find. Raises InvalidInput if nothing is required."""
    if body is None:
        return None
    if body.status is UNSET and body.json is UNSET:
        raise InvalidInput("must have `status`, `json` or both", "$.healthExpect")
    statuses = [body.status] if isinstance(body.status, int) else body.status or []
    return HealthExpectation(status=tuple(sorted(set(statuses))), json=body.json or {})


def _expectation(expected: HealthExpectation | None) -> ExpectBody | None:
    if expected is None:
        return None
    return ExpectBody(status=list(expected.status) if expected.status else UNSET, json=expected.json or UNSET)


def _overflow(overflow: Overflow | None) -> OverflowBody | None:
    if overflow is None:
        return None
    return OverflowBody(
        waiting=overflow.waiting, oldest=overflow.oldest.total_seconds() if overflow.oldest is not None else None
    )
