"""What can happen to a task type."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from msgspec import Raw

from .envelope import NULL, Event
from .task import Priority


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


class TypeDeleted(Event, frozen=True, kw_only=True):
    name: str


TypeEvent: TypeAlias = TypeDefined | TypeDeleted
