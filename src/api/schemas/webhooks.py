"""Webhooks and their deliveries, as clients send and read them. Times are milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ...commands.webhook import Registered
from ...errors import InvalidInput
from ...events.kinds import ATTEMPT_WORDS, ENDING_WORDS, LIVE_WORDS, TASK_WORDS
from ...instants import milliseconds, optional_milliseconds
from ...webhooks.deliveries import DeliveryStatus, WebhookDelivery
from ...wire.addresses import MAX_URL
from .shared import Page
from .types import TypeName

PREFIX = "task."
CATEGORIES = {
    "all": TASK_WORDS,
    "ended": tuple(word for word in TASK_WORDS if word in ENDING_WORDS),
    "attempts": ATTEMPT_WORDS,
    "progress": LIVE_WORDS,
}
"""Names that stand for several events."""
NAMES = (*CATEGORIES, *(PREFIX + word for word in TASK_WORDS))

Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL)]
EventNames = Annotated[list[str], Meta(min_length=1, max_length=len(NAMES))]
TypeNames = Annotated[list[TypeName], Meta(max_length=100)]
Description = Annotated[str, Meta(max_length=1000)]


class WebhookBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A webhook to register."""

    url: Url
    """http or https URL that receives deliveries."""
    events: EventNames = field(default_factory=lambda: ["ended"])
    """Names such as `task.succeeded`, and `all`, `ended` (the default), `attempts`, `progress` for several."""
    types: TypeNames = []
    """Only events of tasks of these types; empty: all types."""
    task_id: str | None = None
    """A task of yours: only its events are sent, past ones included."""
    description: Description = ""
    active: bool = True
    """False: nothing is sent; events of that time are never sent."""


class WebhookChange(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Changes to a webhook; absent fields stay."""

    url: Url | UnsetType = UNSET
    events: EventNames | UnsetType = UNSET
    types: TypeNames | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    """True also enables a webhook that was disabled by a 410."""


class WebhookSummary(Struct, kw_only=True, rename="camel"):
    """A webhook. Its secret is returned only when it is made."""

    id: str
    owner: str
    """The `sub` of the user who registered it."""
    url: str
    events: list[str]
    """Types of the events that are sent."""
    types: list[str]
    task_id: str | None
    description: str
    active: bool
    disabled_reason: str | None
    """Why it is not active; null: it is active."""
    paused_until: int | None
    """Nothing is sent until then: the receiver answered 429, or 503 with `Retry-After`. Null: not paused."""
    created_at: int
    updated_at: int


class WebhookSecret(Struct, kw_only=True, rename="camel"):
    """A webhook and its secret, which is not returned again."""

    webhook: WebhookSummary
    secret: str
    """`whsec_` and base64: the key that signs deliveries."""
    previous_until: int | None
    """Until when deliveries are also signed with the previous secret; null: there is none."""


class WebhookPage(Page, kw_only=True, rename="camel"):
    """Webhooks, newest first."""

    webhooks: list[WebhookSummary]


def kinds_of(names: list[str]) -> tuple[str, ...]:
    """Return the kinds of events for names, in a fixed order. Raises InvalidInput for an unknown name."""
    wanted: set[str] = set()
    for name in names:
        if name not in NAMES:
            raise InvalidInput(f"must be some of {', '.join(NAMES)}; given: {name[:64]!r}", "$.events")
        wanted.update(CATEGORIES.get(name, (name.removeprefix(PREFIX),)))
    return tuple(word for word in TASK_WORDS if word in wanted)


def webhook_summary(webhook: Registered, paused_until: datetime | None = None) -> WebhookSummary:
    """Return a webhook as clients see it. `paused_until`: when its present pause ends, None for none."""
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
        paused_until=optional_milliseconds(paused_until),
        created_at=milliseconds(webhook.created_at),
        updated_at=milliseconds(webhook.changed_at),
    )


# Deliveries


class LastTry(Struct, kw_only=True, rename="camel"):
    """The last attempt of a delivery."""

    at: int
    status: int | None
    """HTTP status; null: no answer."""
    error: str | None
    """Why it failed; null: delivered."""
    body: str
    """The beginning of the receiver's answer; empty unless it came from a public address."""
    elapsed_ms: int


class DeliverySummary(Struct, kw_only=True, rename="camel"):
    """One message of a webhook and its state."""

    id: str
    message_id: str
    """The header `webhook-id`, the same in each attempt."""
    type: str
    task_id: str | None
    """Null: a test."""
    sequence: int | None
    """Sequence of the event in the log; null: a test."""
    status: DeliveryStatus
    """`failed`: no more attempts."""
    attempts: int
    """Calls so far. A call that paused the webhook counts here, and uses up no try."""
    created_at: int
    next_attempt_at: int | None
    """Not before the webhook's pause ends."""
    paused_until: int | None
    """The end of the pause it waits for; null: it waits for none."""
    ended_at: int | None
    last_attempt: LastTry | None


class DeliveryPage(Page, kw_only=True, rename="camel"):
    """Deliveries, the last changed first."""

    deliveries: list[DeliverySummary]


def delivery_summary(delivery: WebhookDelivery, paused_until: datetime | None = None) -> DeliverySummary:
    """Return a delivery as clients see it. `paused_until`: when the webhook's present pause ends, None for none."""
    last, next_at = delivery.last, delivery.next_at
    if next_at is None:
        paused_until = None
    elif paused_until is not None:
        next_at = max(next_at, paused_until)
    return DeliverySummary(
        id=delivery.id,
        message_id=delivery.message_id,
        type=delivery.type,
        task_id=delivery.task_id or None,
        sequence=delivery.sequence or None,
        status=delivery.status,
        attempts=delivery.attempts,
        created_at=milliseconds(delivery.created_at),
        next_attempt_at=optional_milliseconds(next_at),
        paused_until=optional_milliseconds(paused_until),
        ended_at=optional_milliseconds(delivery.ended_at),
        last_attempt=None
        if last is None
        else LastTry(
            at=milliseconds(last.at),
            status=last.status,
            error=last.error or None,
            body=last.public_body,
            elapsed_ms=last.elapsed_ms,
        ),
    )
