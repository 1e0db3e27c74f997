"""The events of a webhook. Its deliveries are in the `deliveries` bucket instead."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from .envelope import Event


class WebhookSettings(Struct, frozen=True, kw_only=True):
    """The events to send, and the URL."""

    url: str
    events: tuple[str, ...]
    """Kinds of task events to send, as in the table of kinds: `succeeded`, `failed`, …"""
    types: tuple[str, ...] = ()
    """Types of tasks whose events are sent; empty: all."""
    task_id: str = ""
    """The only task whose events are sent; empty: all tasks of the owner."""
    description: str = ""


class WebhookRegistered(Event, frozen=True, kw_only=True):
    """A webhook was registered, and is active."""

    webhook_id: str
    owner: str
    """Subject of the JWT, unchanged."""
    settings: WebhookSettings
    secret_id: str
    """Name of its secret, which is sealed in the `secrets` bucket and never here."""
    after: int
    """Sequence of the TASKS log. Later events are sent."""
    facade: str = ""
    """Name of the façade whose requests each name their URL, such as `replicate`; empty: that of the settings receives
    all."""


class WebhookChanged(Event, frozen=True, kw_only=True):
    """Its settings were replaced."""

    settings: WebhookSettings


class WebhookEnabled(Event, frozen=True, kw_only=True):
    after: int
    """Sequence of the TASKS log. Later events are sent; events from while it was disabled are not."""


class WebhookDisabled(Event, frozen=True, kw_only=True):
    """Nothing is sent until it is enabled again."""

    reason: str


class SecretRotated(Event, frozen=True, kw_only=True):
    """It got another secret. Until `previous_until` deliveries are signed with both."""

    secret_id: str
    previous_until: datetime
    """UTC. Until then deliveries are signed with the previous secret, too."""


class WebhookDeleted(Event, frozen=True, kw_only=True):
    """It was deleted, with its waiting deliveries."""


WebhookEvent: TypeAlias = (
    WebhookRegistered | WebhookChanged | WebhookEnabled | WebhookDisabled | SecretRotated | WebhookDeleted
)
