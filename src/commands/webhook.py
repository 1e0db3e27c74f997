"""Deciders of a webhook."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import NotFound
from ..events import webhook as events
from ..events.envelope import Actor, Recorded
from ..events.webhook import WebhookEvent, WebhookRegistered, WebhookSettings

BOTH_SECRETS = timedelta(hours=24)
"""How long deliveries are signed with the previous secret, too: time for the receiver to adopt the new one."""


class Unregistered(Struct, frozen=True, tag="unregistered"):
    """Never registered."""


class DeletedWebhook(Struct, frozen=True, kw_only=True, tag="deleted"):
    webhook_id: str


class Registered(Struct, frozen=True, kw_only=True, tag="registered"):
    """Registered; active or disabled."""

    webhook_id: str
    owner: str
    settings: WebhookSettings
    created_at: datetime
    changed_at: datetime
    active: bool
    disabled_reason: str = ""
    disabled_by: Actor | None = None
    """Who disabled it; None: it is active."""
    after: int
    """Sequence of the TASKS log when it was last enabled. Later events are sent."""
    enablings: int = 0
    """How often it was enabled again. `after` does not tell: the log may not have moved on in between."""
    secret_id: str
    facade: str = ""
    """Of `WebhookRegistered`."""
    previous_secret_id: str = ""
    previous_until: datetime | None = None

    def secret_ids(self, now: datetime) -> tuple[str, ...]:
        """Return the secrets to sign with, the present one first."""
        if self.previous_until is not None and now < self.previous_until:
            return (self.secret_id, self.previous_secret_id)
        return (self.secret_id,)


WebhookState: TypeAlias = Unregistered | DeletedWebhook | Registered

UNREGISTERED = Unregistered()


class RegisterWebhook(Struct, frozen=True, kw_only=True):
    registration: WebhookRegistered
    active: bool = True


class ChangeWebhook(Struct, frozen=True, kw_only=True):
    """None: unchanged."""

    url: str | None = None
    events: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    description: str | None = None
    active: bool | None = None
    after: int
    """Present sequence of the TASKS log: if this enables the webhook, later events are sent."""
    reason: str = ""
    """Why it is disabled, if this disables it."""


class DisableWebhook(Struct, frozen=True, kw_only=True):
    reason: str


class RotateSecret(Struct, frozen=True, kw_only=True):
    secret_id: str


class DeleteWebhook(Struct, frozen=True):
    """Delete it."""


WebhookCommand: TypeAlias = RegisterWebhook | ChangeWebhook | DisableWebhook | RotateSecret | DeleteWebhook


def decide(command: WebhookCommand, state: WebhookState, now: datetime) -> Sequence[WebhookEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound for a webhook that is not registered.
    """
    if isinstance(command, RegisterWebhook):
        return register(command, state)
    if not isinstance(state, Registered):
        raise NotFound("webhook", state.webhook_id if isinstance(state, DeletedWebhook) else "")
    match command:
        case ChangeWebhook():
            return change(command, state)
        case DisableWebhook():
            return [events.WebhookDisabled(reason=command.reason)] if state.active else []
        case RotateSecret():
            if state.secret_id == command.secret_id:
                return []  # our own, stored although its answer was lost
            return [events.SecretRotated(secret_id=command.secret_id, previous_until=now + BOTH_SECRETS)]
        case DeleteWebhook():
            return [events.WebhookDeleted()]
        case _:
            assert_never(command)


def register(command: RegisterWebhook, state: WebhookState) -> Sequence[WebhookEvent]:
    if not isinstance(state, Unregistered):
        return []  # its id is new each time: our own, stored although its answer was lost
    disabled = [] if command.active else [events.WebhookDisabled(reason="registered as not active")]
    return [command.registration, *disabled]


def change(command: ChangeWebhook, state: Registered) -> Sequence[WebhookEvent]:
    given = {name: getattr(command, name) for name in ("url", "events", "types", "description")}
    settings = replace(state.settings, **{name: value for name, value in given.items() if value is not None})
    decided: list[WebhookEvent] = []
    if settings != state.settings:
        decided.append(events.WebhookChanged(settings=settings))
    if command.active is True and not state.active:
        decided.append(events.WebhookEnabled(after=command.after))
    if command.active is False and state.active:
        decided.append(events.WebhookDisabled(reason=command.reason))
    return decided


def evolve(state: WebhookState, recorded: Recorded[WebhookEvent]) -> WebhookState:
    """Return the state after one more event."""
    event = recorded.event
    if isinstance(event, WebhookRegistered):
        return Registered(
            webhook_id=event.webhook_id,
            owner=event.owner,
            settings=event.settings,
            created_at=recorded.at,
            changed_at=recorded.at,
            active=True,
            after=event.after,
            secret_id=event.secret_id,
            facade=event.facade,
        )
    if not isinstance(state, Registered):
        return state
    state = replace(state, changed_at=recorded.at)
    match event:
        case events.WebhookChanged():
            return replace(state, settings=event.settings)
        case events.WebhookEnabled():
            enablings = state.enablings + 1
            return replace(
                state, active=True, disabled_reason="", disabled_by=None, after=event.after, enablings=enablings
            )
        case events.WebhookDisabled():
            return replace(state, active=False, disabled_reason=event.reason, disabled_by=recorded.by)
        case events.SecretRotated():
            return replace(
                state,
                secret_id=event.secret_id,
                previous_secret_id=state.secret_id,
                previous_until=event.previous_until,
            )
        case events.WebhookDeleted():
            return DeletedWebhook(webhook_id=state.webhook_id)
        case _:
            assert_never(event)
