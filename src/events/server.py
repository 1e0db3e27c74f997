"""What can happen to a backend server."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeAlias

from msgspec import Struct, field

from .envelope import Event


class Overflow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a server helps out: once either is so. At least one is given."""

    waiting: int | None = None
    """More tasks than this wait in its pools."""
    oldest: timedelta | None = None
    """A task has waited there for so long."""


class ServerRegistered(Event, frozen=True, kw_only=True):
    """A server was announced, or announced again with other settings."""

    server_id: str
    name: str
    provider: str
    predict_url: str
    health_url: str | None = None
    is_async: bool = False
    """It may answer 202 and report later."""
    callback: bool = False
    """It reports by PUT to the callback URL."""
    types: tuple[str, ...] = ()
    """Task types it serves; empty: all."""
    max_concurrent: int = 10
    weight: int = 1
    api_key_id: str = ""
    """Names its key, which is sealed in the `secrets` bucket and never here; empty: it has none."""
    labels: dict[str, str] = field(default_factory=dict)
    overflow: Overflow | None = None
    """None: it takes work whenever it has room."""


class ServerWentOnline(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class ServerWentOffline(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class MaintenanceStarted(Event, frozen=True, kw_only=True):
    """The server finishes what it has and takes nothing new."""

    server_id: str
    reason: str = ""


class MaintenanceEnded(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str = ""


class CircuitOpened(Event, frozen=True, kw_only=True):
    """Attempts kept failing: nothing is sent to the server until `until`."""

    server_id: str
    reason: str
    until: datetime
    """UTC."""
    failures: int
    """Openings in a row; the cool-down doubles with each."""


class CircuitHalfOpened(Event, frozen=True, kw_only=True):
    """One attempt is let through to see whether the server has recovered."""

    server_id: str


class CircuitClosed(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class ServerRemoved(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


ServerEvent: TypeAlias = (
    ServerRegistered
    | ServerWentOnline
    | ServerWentOffline
    | MaintenanceStarted
    | MaintenanceEnded
    | CircuitOpened
    | CircuitHalfOpened
    | CircuitClosed
    | ServerRemoved
)
