"""Webhooks and their deliveries, as clients send and read them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ...commands.webhook import Registered
from ...errors import InvalidInput
from ...events.kinds import ATTEMPT_WORDS, ENDING_WORDS, LIVE_WORDS, TASK_WORDS
from ...webhooks.deliveries import DeliveryStatus, WebhookDelivery
from ...wire.addresses import MAX_URL
from ...wire.fields import milliseconds, optional_milliseconds
from .page import DoneTo, Page
from .types import TypeName

PREFIX = "task."
CATEGORIES = {
    "all": TASK_WORDS,
    "ended": tuple(word for word in TASK_WORDS if word in ENDING_WORDS),
    "attempts": ATTEMPT_WORDS,
    "progress": LIVE_WORDS,
}
"""Names for several events."""
NAMES = (*CATEGORIES, *(PREFIX + word for word in TASK_WORDS))

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
EventNames = Annotated[list[str], Meta(min_length=1, max_length=len(NAMES))]
TypeNames = Annotated[list[TypeName], Meta(max_length=100)]
Description = Annotated[str, Meta(max_length=1000)]


class WebhookBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A webhook to be registered."""

    url: Url
    """Where deliveries are sent, http or https."""
    events: EventNames = field(default_factory=lambda: ["ended"])
    """Names such as `task.succeeded`, and `all`, `ended` (the default), `attempts`, `progress` for several."""
    types: TypeNames = []
    """Types of the tasks whose events are sent; empty: all."""
    task_id: str | None = None
    """A task of yours: only its events are sent, those it has had so far, too."""
    description: Description = ""
    active: bool = True
    """False: nothing is sent, and what happens meanwhile never is."""


class WebhookChange(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is to change of a webhook; what is left out stays."""

    url: Url | UnsetType = UNSET
    events: EventNames | UnsetType = UNSET
    types: TypeNames | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    """True also enables one that was disabled because its receiver answered 410."""


class WebhookSummary(Struct, kw_only=True, rename="camel"):
    """A webhook. Its secret is shown once, when it is made, and never here."""

    id: str
    owner: str
    """The `sub` of whoever registered it."""
    url: str
    events: list[str]
    """Types of the events that are sent."""
    types: list[str]
    task_id: str | None
    description: str
    active: bool
    disabled_reason: str | None
    """Why it is not active; null while it is."""
    created_at: int
    updated_at: int


class WebhookSecret(Struct, kw_only=True, rename="camel"):
    """A webhook and its secret, which is never shown again."""

    webhook: WebhookSummary
    secret: str
    """`whsec_` and base64: the key deliveries are signed with."""
    previous_until: int | None
    """Until when they are signed with the secret before, too; null: there was none."""


class WebhookPage(Page, kw_only=True, rename="camel"):
    """Webhooks, the newest first."""

    webhooks: list[WebhookSummary]


class WebhookDone(DoneTo, kw_only=True):
    """It is done."""


def kinds_of(names: list[str]) -> tuple[str, ...]:
    """Return the events that names mean, in a fixed order. Raises InvalidInput for a name that there is not."""
    wanted: set[str] = set()
    for name in names:
        if name not in NAMES:
            raise InvalidInput(f"{name[:64]!r} is no event; they are {', '.join(NAMES)}", "$.events")
        wanted.update(CATEGORIES.get(name, (name.removeprefix(PREFIX),)))
    return tuple(word for word in TASK_WORDS if word in wanted)


def webhook_summary(webhook: Registered) -> WebhookSummary:
    settings = webhook.settings
    return WebhookSummary(
        id=webhook.webhook_id,
        owner=webhook.owner,
        url=settings.url,
        events=[PREFIX + word for word in settings.events],
        types=list(settings.types),
        task_id=settings.task_id or None,
        description=settings.description,
        active=webhook.active,
        disabled_reason=None if webhook.active else webhook.disabled_reason,
        created_at=milliseconds(webhook.created_at),
        updated_at=milliseconds(webhook.changed_at),
    )


# Deliveries


class LastTry(Struct, kw_only=True, rename="camel"):
    """What came of the last try."""

    at: int
    status: int | None
    """HTTP status; null: there was no answer."""
    error: str | None
    """Why it does not count as delivered; null: it does."""
    body: str
    """The beginning of what the receiver said."""
    elapsed_ms: int


class DeliverySummary(Struct, kw_only=True, rename="camel"):
    """One message of a webhook, and what became of it."""

    id: str
    message_id: str
    """The header `webhook-id`: the same with each try."""
    type: str
    task_id: str | None
    """Null: a test."""
    sequence: int | None
    """Place of the event in the log; null: a test."""
    status: DeliveryStatus
    """`failed`: given up."""
    attempts: int
    created_at: int
    next_attempt_at: int | None
    ended_at: int | None
    last_attempt: LastTry | None


class DeliveryPage(Page, kw_only=True, rename="camel"):
    """Deliveries, the one that changed last first."""

    deliveries: list[DeliverySummary]


def delivery_summary(delivery: WebhookDelivery) -> DeliverySummary:
    last = delivery.last
    return DeliverySummary(
        id=delivery.id,
        message_id=delivery.message_id,
        type=delivery.type,
        task_id=delivery.task_id or None,
        sequence=delivery.sequence or None,
        status=delivery.status,
        attempts=delivery.attempts,
        created_at=milliseconds(delivery.created_at),
        next_attempt_at=optional_milliseconds(delivery.next_at),
        ended_at=optional_milliseconds(delivery.ended_at),
        last_attempt=None
        if last is None
        else LastTry(
            at=milliseconds(last.at),
            status=last.status,
            error=last.error or None,
            body=last.body,
            elapsed_ms=last.elapsed_ms,
        ),
    )
