"""Task types, as admins send them and all callers read them. Durations are in seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from ...commands.task_type import DEFAULT_POOL, TypeState
from ...events.limits import NO_LIMITS
from ...events.task import BUSY_FOR, Priority
from ...events.task_type import Accepts, OnConflict, TypeDefined
from ...scheduling.depth import Reason
from ...settings import Concurrency, PerSecond, Settings
from ...wire.fields import (
    INDEXED_PATTERN,
    MODEL_NAME_PATTERN,
    POOL_NAME_PATTERN,
    TYPE_NAME_PATTERN,
    DurationSeconds,
    ServerName,
)
from .dialects import DialectName
from .pools import PauseInfo, pause_info
from .shared import Page

TypeName = Annotated[str, Meta(min_length=1, max_length=64, pattern=TYPE_NAME_PATTERN)]
PoolName = Annotated[str, Meta(min_length=1, max_length=32, pattern=POOL_NAME_PATTERN)]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, pattern=MODEL_NAME_PATTERN)]
IndexedPath = Annotated[str, Meta(pattern=INDEXED_PATTERN)]


class SchemaFrom(Struct, kw_only=True, forbid_unknown_fields=True):
    """A server whose model says what its input is."""

    server: ServerName
    """A registered server of the dialect `cog`, `oip` or `bare`."""


class TypeBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Settings of a task type; absent ones come from the service's settings."""

    schema: dict[str, Any] | None = None
    """JSON Schema that every payload of the type must satisfy."""
    schema_from: SchemaFrom | None = None
    """Instead of `schema`: the schema is asked of a server now, and stored. Later changes there are not followed."""
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Largest number of attempts, the first included."""
    backoff_base: DurationSeconds | None = None
    """Seconds. Upper bound of the first backoff; it doubles with each failure."""
    backoff_cap: DurationSeconds | None = None
    """Seconds. Longest backoff."""
    timeout: DurationSeconds | None = None
    """Seconds an attempt may take. By default 300, and 3,600 on a server that reports by callback."""
    priority: Priority = "normal"
    """Priority of tasks submitted without one."""
    pool: PoolName | UnsetType = UNSET
    """Queue of its tasks. Left out, it stays as it is; a new type gets one of its own, called like the type."""
    description: Annotated[str, Meta(max_length=1000)] = ""
    concurrency: Concurrency | None = None
    """Running tasks of the type, of all owners; null: no limit."""
    per_second: PerSecond | None = None
    """Average starts per second; null: no limit."""
    burst: Concurrency | None = None
    """Largest burst of starts; null: `perSecond`, at least 1."""
    key_concurrency: Concurrency = 1
    """Running tasks of the type with the same concurrency key."""
    on_conflict: OnConflict = "wait"
    """What happens to a new task whose key is in use: it waits, replaces waiting tasks, or is refused (cancelled)."""
    busy_for: DurationSeconds | None = None
    """Seconds a task may wait for servers that are all busy (default 3,600); then it fails."""
    accepts: Accepts = "any"
    """`json`: an answer of a server that is not JSON (text, a file, nothing) is a failed attempt."""
    indexed: Annotated[list[IndexedPath], Meta(max_length=8)] = []
    """Fields of the payload that lists can be filtered by: `$.order.customer` by `payload.order.customer=acme`.
    Of tasks submitted from now on; values that are text of up to 200 characters, numbers, true or false."""
    session_affinity: bool = False
    """Tasks of one session go to the same server if it has a free slot. A session is named by `user` in the payload, or
    is a conversation whose `messages` begin alike."""
    dialect: DialectName | None = None
    """Wire format of its servers that are registered without one; null: `taskstream`."""
    model: ModelName | None = None
    """Name under which clients of other services' APIs find the type: `acme/flux` for Replicate's, any id for OpenAI's.
    No other type may have it. Null: the type's own name."""


class TypeUse(Struct, kw_only=True, rename="camel"):
    """The tasks of a type now."""

    running: int
    waiting: int
    held: int
    """Those of `waiting` that are in no queue."""
    starts_per_minute: float
    """Of attempts, on average over about the last minute."""
    counted: int | None
    """Tasks that count towards `concurrency`: they run or were granted their start. Null: no scheduler answers."""
    held_by_limit: int | None
    """Tasks that wait for the type's limits first. Null: no scheduler answers."""
    waiting_for: dict[Reason, int] | None
    """The waiting tasks by what each waits for first, as in a pool. Null: no scheduler answers."""


class TypeSummary(Struct, kw_only=True, rename="camel"):
    """A type's settings; where it has none, those of the service. Durations are in seconds."""

    name: str
    defined: bool
    """False for `default` until an admin sets it."""
    schema: Any
    """JSON Schema of its payloads; null: any payload."""
    schema_from: SchemaFrom | None
    """The server that its schema was taken from; null: an admin wrote it, or there is none."""
    attempts: int
    backoff_base: float
    backoff_cap: float
    timeout: float
    priority: Priority
    pool: str
    """Queue of its tasks."""
    description: str
    concurrency: int | None
    """Running tasks of the type; null: no limit."""
    per_second: float | None
    """Average starts per second; null: no limit."""
    burst: int | None
    """Largest burst of starts; null: no limit."""
    key_concurrency: int
    """Running tasks with the same concurrency key."""
    on_conflict: OnConflict
    """What happens to a new task whose key is in use."""
    busy_for: float
    """Seconds a task may wait for servers that are all busy."""
    accepts: Accepts
    """Accepted answers of its servers: JSON only, or also text, a file, or nothing."""
    indexed: list[str]
    """Fields of the payload that lists can be filtered by."""
    session_affinity: bool
    """True: tasks of one session go to the same server if it has a free slot."""
    dialect: str
    """Wire format of its servers that are registered without one."""
    model: str | None
    """Name under which clients of other services' APIs find it; null: its own name."""
    own: TypeBody | None
    """Settings as an admin set them, without the schema: what is missing comes from the service. Null: not defined."""
    pause: PauseInfo | None
    """Null: not paused."""
    use: TypeUse | UnsetType = UNSET
    """With `use=true`; else missing."""


class TypePage(Page, kw_only=True, rename="camel"):
    """Types, by name."""

    types: list[TypeSummary]


class TypeDone(Struct, kw_only=True):
    """Done."""

    name: str
    success: bool = True


def type_summary(name: str, state: TypeState, settings: Settings) -> TypeSummary:
    own = state.definition or TypeDefined(name=name, pool=DEFAULT_POOL)
    limits = own.limits or NO_LIMITS
    source = own.schema_source
    return TypeSummary(
        name=name,
        defined=state.definition is not None,
        schema=own.payload_schema,
        schema_from=SchemaFrom(server=source.server_id) if source else None,
        attempts=own.attempts or settings.attempts,
        backoff_base=own.backoff_base.total_seconds() if own.backoff_base else settings.retry_base,
        backoff_cap=own.backoff_cap.total_seconds() if own.backoff_cap else settings.retry_cap,
        timeout=own.timeout.total_seconds() if own.timeout else settings.attempt_timeout,
        priority=own.priority,
        pool=own.pool,
        description=own.description,
        own=_own(state.definition) if state.definition else None,
        pause=pause_info(state.pause),
        concurrency=limits.concurrency,
        per_second=limits.per_second,
        burst=limits.most_at_once,
        key_concurrency=own.key_concurrency,
        on_conflict=own.on_conflict,
        busy_for=(own.busy_for or BUSY_FOR).total_seconds(),
        accepts=own.accepts,
        indexed=list(own.indexed),
        session_affinity=own.session_affinity,
        dialect=own.dialect or "taskstream",
        model=own.model or None,
    )


def _own(definition: TypeDefined) -> TypeBody:
    """Return the body that would define a type so again, without its schema."""
    limits = definition.limits or NO_LIMITS
    return TypeBody(
        attempts=definition.attempts,
        backoff_base=_seconds(definition.backoff_base),
        backoff_cap=_seconds(definition.backoff_cap),
        timeout=_seconds(definition.timeout),
        priority=definition.priority,
        pool=definition.pool,
        description=definition.description,
        concurrency=limits.concurrency,
        per_second=limits.per_second,
        burst=limits.burst,
        key_concurrency=definition.key_concurrency,
        on_conflict=definition.on_conflict,
        busy_for=_seconds(definition.busy_for),
        accepts=definition.accepts,
        indexed=list(definition.indexed),
        session_affinity=definition.session_affinity,
        dialect=definition.dialect or None,
        model=definition.model or None,
    )


def _seconds(duration: timedelta | None) -> float | None:
    return duration.total_seconds() if duration is not None else None
