"""What can happen to a task type."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from msgspec import Raw

from .envelope import NULL, Event
from .limits import Limits
from .task import Priority

OnConflict: TypeAlias = Literal["wait", "replace", "refuse"]
"""What becomes of a newcomer whose concurrency key is taken: it waits, replaces those that wait, or is refused."""


class TypeDefined(Event, frozen=True, kw_only=True):
    """A type was given settings, replacing those it had. None: as the service's settings say."""

    name: str
    pool: str
    """Queue its tasks wait in; types of one pool are served by the same servers."""
    payload_schema: Raw = NULL
    """JSON Schema for the payload; null: any payload."""
    attempts: int | None = None
    backoff_base: timedelta | None = None
    backoff_cap: timedelta | None = None
    timeout: timedelta | None = None
    priority: Priority = "normal"
    description: str = ""
    limits: Limits | None = None
    """Of all its tasks together; None: none."""
    key_concurrency: int = 1
    """Tasks with the same concurrency key that run at once."""
    on_conflict: OnConflict = "wait"


class TypeDeleted(Event, frozen=True, kw_only=True):
    name: str


class TypePaused(Event, frozen=True, kw_only=True):
    """Its tasks wait, in whatever pool; what runs goes on."""

    name: str
    reason: str = ""


class TypeResumed(Event, frozen=True, kw_only=True):
    name: str
    reason: str = ""


TypeEvent: TypeAlias = TypeDefined | TypeDeleted | TypePaused | TypeResumed
