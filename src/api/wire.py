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

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Any text without control characters."""


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
    server_id: str | None
    error: str | None
    progress: float | None
    message: str | None
    attempt: int
    attempts: int
    created_at: int
    updated_at: int
    started_at: int | None
    ended_at: int | None
    next_attempt_at: int | None
    callback_url: str


class TaskDetails(TaskSummary, kw_only=True, rename="camel"):
    """A task with what was asked and what came of it."""

    request: Any
    """The payload as submitted."""
    result: Any
    """A TaskResult, or null."""


class TaskAnswer(Struct, kw_only=True, rename="camel"):
    task_id: str
    task_details: TaskDetails


class TaskPage(Struct, kw_only=True, rename="camel"):
    tasks: list[TaskSummary]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last. A page may be short and still have one."""


class RecordedEvent(Struct, kw_only=True):
    """An event of a task's history, as recorded."""

    sequence: int
    id: str
    at: str
    by: dict[str, str]
    cause: str
    event: Any


class EventPage(Struct, kw_only=True, rename="camel"):
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


class Endpoints(Struct, kw_only=True, forbid_unknown_fields=True):
    predict: Annotated[str, Meta(min_length=1, max_length=2048)]
    health: Annotated[str, Meta(max_length=2048)] | None = None


class RegisterBody(Struct, kw_only=True, rename="camel"):
    """A backend server as it announces itself. Registering the same id again replaces it."""

    id: Name
    name: Name
    provider: Name
    endpoints: Endpoints
    is_async: bool = msgspec.field(name="async", default=False)
    callback: bool = False
    types: Annotated[list[Name], Meta(max_length=100)] = []
    """Task types it serves; empty: all."""
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000)] = 10
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    api_key: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """Sent to the server as bearer token; sealed at rest, never shown."""
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=50)] = {}


class HeartbeatBody(Struct, kw_only=True, rename="camel"):
    status: Annotated[str, Meta(max_length=64)] | None = None
    active_tasks: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metrics: dict[str, Any] | None = None


class MaintenanceBody(Struct, kw_only=True, forbid_unknown_fields=True):
    maintenance: bool
    reason: Annotated[str, Meta(max_length=300)] = ""


class CleanupBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    max_age_mins: Annotated[float, Meta(ge=0, le=525_600)] = 3
    """Servers offline for longer are removed."""


class ServerSummary(Struct, kw_only=True, rename="camel"):
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
    status: Literal["online", "offline"]
    status_reason: str
    status_since: str
    maintenance: bool
    maintenance_reason: str | None
    circuit: Literal["closed", "open", "half-open"]
    circuit_open_until: str | None
    registered_at: str
    last_heartbeat: str | None
    latency_ms: float | None
    active_tasks: int | None
    """As the server said itself, in its last heartbeat."""
    metrics: dict[str, Any] | None


class ServerPage(Struct, kw_only=True, rename="camel"):
    servers: list[ServerSummary]
    next_cursor: str | None


class ServerDone(Struct, kw_only=True):
    id: str
    success: bool = True


class HeartbeatAnswer(Struct, kw_only=True, rename="camel"):
    id: str
    success: bool = True
    last_heartbeat: str


class MaintenanceAnswer(Struct, kw_only=True):
    id: str
    success: bool = True
    maintenance: bool


class CleanupAnswer(Struct, kw_only=True, rename="camel"):
    success: bool = True
    removed_servers: list[str]


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
        has_api_key=settings.has_api_key,
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

TypeName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PoolName = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_-]+$")]
DurationSeconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


class TypeBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Settings of a task type; what is left out is as the service's settings say."""

    schema: dict[str, Any] | None = None
    """JSON Schema that every payload of the type must keep to."""
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    backoff_base: DurationSeconds | None = None
    """Seconds."""
    backoff_cap: DurationSeconds | None = None
    timeout: DurationSeconds | None = None
    """Seconds that one attempt may take."""
    priority: Priority = "normal"
    pool: PoolName | UnsetType = UNSET
    """Queue its tasks wait in; by default one of its own."""
    description: Annotated[str, Meta(max_length=1000)] = ""


class TypeSummary(Struct, kw_only=True, rename="camel"):
    name: str
    defined: bool
    """False for `default` as long as nobody has put settings for it."""
    schema: Any
    attempts: int
    backoff_base: float
    backoff_cap: float
    timeout: float
    priority: Priority
    pool: str
    description: str


class TypePage(Struct, kw_only=True, rename="camel"):
    types: list[TypeSummary]
    next_cursor: str | None


class TypeDone(Struct, kw_only=True):
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
