"""Task types as admins send and everybody sees them. Durations are seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from ...commands.task_type import TypeState
from ...events.limits import NO_LIMITS
from ...events.task import Priority
from ...events.task_type import OnConflict
from ...settings import Concurrency, PerSecond, Settings
from ...wire.fields import POOL_NAME_PATTERN, TYPE_NAME_PATTERN, DurationSeconds
from .page import Page
from .pools import PauseInfo, pause_info

TypeName = Annotated[str, Meta(min_length=1, max_length=64, pattern=TYPE_NAME_PATTERN)]
PoolName = Annotated[str, Meta(min_length=1, max_length=32, pattern=POOL_NAME_PATTERN)]


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
    concurrency: Concurrency | None = None
    """Tasks of the type that run at once, of whatever owner; null: any number."""
    per_second: PerSecond | None = None
    """Their starts in a second, in the long run; null: any number."""
    burst: Concurrency | None = None
    """Such starts at once after a quiet time; null: as many as `perSecond`, at least 1."""
    key_concurrency: Concurrency = 1
    """Tasks of the type with the same concurrency key that run at once."""
    on_conflict: OnConflict = "wait"
    """What becomes of a newcomer whose key is taken: it waits, replaces those that wait, or is refused (cancelled)."""


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
    concurrency: int | None
    """Tasks of the type that run at once; null: any number."""
    per_second: float | None
    """Their starts in a second; null: any number."""
    burst: int | None
    """Such starts at once after a quiet time; null: any number."""
    key_concurrency: int
    """Tasks with the same concurrency key that run at once."""
    on_conflict: OnConflict
    """What becomes of a newcomer whose key is taken."""
    pause: PauseInfo | None
    """Null: it is not paused."""


class TypePage(Page, kw_only=True, rename="camel"):
    """Types, by name."""

    types: list[TypeSummary]


class TypeDone(Struct, kw_only=True):
    """It is done."""

    name: str
    success: bool = True


def type_summary(name: str, state: TypeState, settings: Settings) -> TypeSummary:
    definition = state.definition
    limits = (definition.limits if definition else None) or NO_LIMITS

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
        pause=pause_info(state.pause),
        concurrency=limits.concurrency,
        per_second=limits.per_second,
        burst=limits.most_at_once,
        key_concurrency=definition.key_concurrency if definition else 1,
        on_conflict=definition.on_conflict if definition else "wait",
    )
