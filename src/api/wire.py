"""The shapes of the task surface, as clients know them. Times are milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..commands.server import CircuitIsClosed, Present
from ..commands.task_type import TypeState
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.task import Priority, TaskEvent
from ..projections.heartbeats import Heartbeat
from ..projections.task_reader import Listed, TaskDetail
from ..projections.task_view import Status, TaskView
from ..settings import Settings

# `$` alone would let a line feed follow: so does Python read it, though ECMA 262 does not.
NAME_PATTERN = r"^[^\x00-\x1f\x7f]+$(?!\n)"
SERVER_ID_PATTERN = r"^(?!(?:\.{1,2}|cleanup)$)[^\x00-\x1f\x7f/]+$(?!\n)"
TYPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
POOL_NAME_PATTERN = r"^[A-Za-z0-9_-]+$(?!\n)"
PATTERNS = {
    NAME_PATTERN: "text without control characters",
    SERVER_ID_PATTERN: "text without control characters and slashes that is not `.`, `..` or `cleanup`",
    TYPE_NAME_PATTERN: "letters, digits, dots, dashes and underscores, the first a letter or digit",
    POOL_NAME_PATTERN: "letters, digits, dashes and underscores",
}
"""What each pattern means, for those whose text does not match."""

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)]
ServerName = Annotated[str, Meta(min_length=1, max_length=128, pattern=SERVER_ID_PATTERN)]
"""An id that a path can carry: `cleanup` and dots mean something else there."""


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _optional(instant: datetime | None) -> int | None:
    return milliseconds(instant) if instant else None


def iso(instant: datetime) -> str:
    """Return ISO 8601 in UTC, with milliseconds and a `Z`."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


# Tasks


class TaskSummary(Struct, kw_only=True, rename="camel"):
    """A task as lists show it."""

    id: str
    status: Status
    type: str
    priority: Priority
    owner: str
    """The `sub` of whoever submitted it."""
    server_id: str | None
    """The server that has it or had it last; null before the first."""
    error: str | None
    """Why it failed, or why the last attempt did; null if nothing did."""
    progress: float | None
    """Percent, as the server last reported it."""
    message: str | None
    """As the server last reported it."""
    attempt: int
    """Ordinal of the last try; 0 before the first."""
    attempts: int
    """Tries it gets in all."""
    created_at: int
    """Milliseconds since the epoch, as are all times of a task."""
    updated_at: int
    started_at: int | None
    """When the first try began."""
    ended_at: int | None
    next_attempt_at: int | None
    """When the next try is due, while it waits for one."""
    callback_url: str
    """Where its updates go (PUT)."""


class TaskDetails(TaskSummary, kw_only=True, rename="camel"):
    """A task with what was asked and what came of it."""

    request: Any
    """The payload as submitted."""
    result: Any
    """A TaskResult, or null."""


class TaskAnswer(Struct, kw_only=True, rename="camel"):
    """A task, and its id once more, where older clients look for it."""

    task_id: str
    task_details: TaskDetails


class TaskPage(Struct, kw_only=True, rename="camel"):
    """Tasks, newest first."""

    tasks: list[TaskSummary]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last. A page may be short and still have one."""


class RecordedEvent(Struct, kw_only=True):
    """An event of a task's history, as recorded."""

    sequence: int
    """Place in the log; grows, with gaps."""
    id: str
    at: str
    """ISO 8601, UTC."""
    by: dict[str, str]
    """Who did it: `kind` (user, server, worker, timer, system) and `id`."""
    cause: str
    """The request id, or the sequence of the event, that led to it."""
    event: Any
    """Its `type`, and what the type has."""


class EventPage(Struct, kw_only=True, rename="camel"):
    """Events of a task, oldest first."""

    task_id: str
    events: list[RecordedEvent]
    next_after: int | None
    """Pass as `after` for the next page; null after the last."""


def _summary_fields(ref: TaskRef, view: TaskView, settings: Settings) -> dict[str, Any]:
    return {
        "id": ref.id,
        "status": view.status,
        "type": view.task_type,
        "priority": view.priority,
        "owner": view.owner,
        "server_id": view.server_id or None,
        "error": view.error or None,
        "progress": view.progress,
        "message": view.message,
        "attempt": view.attempt,
        "attempts": view.attempts,
        "created_at": milliseconds(view.created_at),
        "updated_at": milliseconds(view.updated_at),
        "started_at": _optional(view.started_at),
        "ended_at": _optional(view.ended_at),
        "next_attempt_at": _optional(view.retry_at),
        "callback_url": f"{settings.callback_base}/api/task/{ref.id}",
    }


def task_answer(detail: TaskDetail, settings: Settings) -> TaskAnswer:
    fields = _summary_fields(detail.ref, detail.view, settings)
    details = TaskDetails(**fields, request=detail.payload, result=detail.result)
    return TaskAnswer(task_id=detail.ref.id, task_details=details)


def task_summary(listed: Listed, settings: Settings) -> TaskSummary:
    return TaskSummary(**_summary_fields(listed.ref, listed.view, settings))


def recorded_event(stored: Stored[TaskEvent]) -> RecordedEvent:
    recorded = stored.recorded
    return RecordedEvent(
        sequence=stored.sequence,
        id=recorded.id,
        at=iso(recorded.at),
        by={"kind": recorded.by.kind, "id": recorded.by.id},
        cause=recorded.cause,
        event=recorded.event,
    )


# Servers


_URL = {"format": "uri", "pattern": "^https?://"}
"""For the description only: what is wrong with an address is said better where addresses are read."""


class Endpoints(Struct, kw_only=True):
    """Where a server is called."""

    predict: Annotated[str, Meta(min_length=1, max_length=2048, extra_json_schema=_URL)]
    """http(s) URL that takes tasks (POST)."""
    health: Annotated[str, Meta(max_length=2048, extra_json_schema=_URL)] | None = None
    """http(s) URL whose 2xx means healthy (GET); without one, heartbeats keep the server online."""


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
    """Free text of yours."""


class HeartbeatBody(Struct, kw_only=True, rename="camel"):
    """A sign of life, with what the server wants to say of its load."""

    status: Annotated[str, Meta(max_length=64)] | None = None
    active_tasks: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metrics: dict[str, Any] | None = None


class MaintenanceBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a server is to take nothing new."""

    maintenance: bool
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
    has_api_key: bool
    """Whether it has one; the key itself is never shown."""
    status: Literal["online", "offline"]
    status_reason: str
    """What decided the status."""
    status_since: str
    """When it got that status."""
    maintenance: bool
    maintenance_reason: str | None
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


class ServerPage(Struct, kw_only=True, rename="camel"):
    """Servers, by id."""

    servers: list[ServerSummary]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last."""


class ServerDone(Struct, kw_only=True):
    """It is done."""

    id: str
    success: bool = True


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
        has_api_key=bool(settings.api_key_id),
        status="online" if server.online else "offline",
        status_reason=server.status_reason,
        status_since=iso(server.changed_at),
        maintenance=server.maintenance,
        maintenance_reason=server.maintenance_reason or None,
        circuit="closed" if isinstance(circuit, CircuitIsClosed) else "open" if until else "half-open",
        circuit_open_until=iso(until) if until else None,
        registered_at=iso(server.registered_at),
        last_heartbeat=iso(heartbeat.seen_at) if heartbeat else None,
        latency_ms=heartbeat.latency_ms if heartbeat else None,
        active_tasks=heartbeat.active_tasks if heartbeat else None,
        metrics=heartbeat.metrics if heartbeat else None,
    )


# Types

TypeName = Annotated[str, Meta(min_length=1, max_length=64, pattern=TYPE_NAME_PATTERN)]
PoolName = Annotated[str, Meta(min_length=1, max_length=32, pattern=POOL_NAME_PATTERN)]
DurationSeconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


class TypeBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Settings of a task type; what is left out is as the service's settings say."""

    schema: dict[str, Any] | None = None
    """JSON Schema that every payload of the type must keep to."""
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Tries in all, the first included."""
    backoff_base: DurationSeconds | None = None
    """Seconds; the upper bound of the first backoff, which doubles with each failure."""
    backoff_cap: DurationSeconds | None = None
    """Seconds; the longest backoff."""
    timeout: DurationSeconds | None = None
    """Seconds that one attempt may take."""
    priority: Priority = "normal"
    """Of tasks that name none."""
    pool: PoolName | UnsetType = UNSET
    """Queue its tasks wait in; by default one of its own."""
    description: Annotated[str, Meta(max_length=1000)] = ""


class TypeSummary(Struct, kw_only=True, rename="camel"):
    """A type's settings, with the service's own where it has none. Durations are seconds."""

    name: str
    defined: bool
    """False for `default` as long as nobody has put settings for it."""
    schema: Any
    """JSON Schema of its payloads; null: any payload."""
    attempts: int
    backoff_base: float
    backoff_cap: float
    timeout: float
    priority: Priority
    pool: str
    """Queue its tasks wait in."""
    description: str


class TypePage(Struct, kw_only=True, rename="camel"):
    """Types, by name."""

    types: list[TypeSummary]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last."""


class TypeDone(Struct, kw_only=True):
    """It is done."""

    name: str
    success: bool = True


def type_summary(name: str, state: TypeState, settings: Settings) -> TypeSummary:
    definition = state.definition

    def seconds(own: timedelta | None, default: float) -> float:
        return own.total_seconds() if own is not None else default

    return TypeSummary(
        name=name,
        defined=definition is not None,
        schema=definition.payload_schema if definition else None,
        attempts=(definition.attempts if definition else None) or settings.attempts,
        backoff_base=seconds(definition.backoff_base if definition else None, settings.retry_base),
        backoff_cap=seconds(definition.backoff_cap if definition else None, settings.retry_cap),
        timeout=seconds(definition.timeout if definition else None, settings.attempt_timeout),
        priority=definition.priority if definition else "normal",
        pool=definition.pool if definition else "default",
        description=definition.description if definition else "",
    )
