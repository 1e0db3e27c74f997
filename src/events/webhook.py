"""What can happen to a webhook. What becomes of its deliveries is not here but in the `deliveries` bucket."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from .envelope import Event


class WebhookSettings(Struct, frozen=True, kw_only=True):
    """What is sent, and where to."""

    url: str
    events: tuple[str, ...]
    """Elements of the subjects of the task events that are sent: `succeeded`, `failed`, …"""
    types: tuple[str, ...] = ()
    """Types of the tasks whose events are sent; empty: all."""
    task_id: str = ""
    """The one task whose events are sent; empty: all of the owner."""
    description: str = ""


class WebhookRegistered(Event, frozen=True, kw_only=True):
    """A webhook was set up, and is active."""

    webhook_id: str
    owner: str
    """The JWT subject, as it was."""
    settings: WebhookSettings
    secret_id: str
    """Names its secret, which is sealed in the `secrets` bucket and never here."""
    after: int
    """Sequence of the log of tasks: events after it are sent."""


class WebhookChanged(Event, frozen=True, kw_only=True):
    """It was given other settings, in place of all it had."""

    settings: WebhookSettings


class WebhookEnabled(Event, frozen=True, kw_only=True):
    after: int
    """Sequence of the log of tasks: events after it are sent; those that came while it was disabled are not."""


class WebhookDisabled(Event, frozen=True, kw_only=True):
    """Nothing is sent until it is enabled again."""

    reason: str


class SecretRotated(Event, frozen=True, kw_only=True):
    """It was given another secret; for a while deliveries are signed with both."""

    secret_id: str
    previous_until: datetime
    """UTC. Until then deliveries are signed with the secret before, too."""


class WebhookDeleted(Event, frozen=True, kw_only=True):
    """It is gone, and what waited to be sent with it."""


WebhookEvent: TypeAlias = (
    WebhookRegistered | WebhookChanged | WebhookEnabled | WebhookDisabled | SecretRotated | WebhookDeleted
)
