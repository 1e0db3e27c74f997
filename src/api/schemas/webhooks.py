"""Webhooks and their deliveries, as clients send and read them. Times are milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ...commands.webhook import Registered
from ...errors import InvalidInput
from ...events.kinds import ATTEMPT_WORDS, ENDING_WORDS, LIVE_WORDS, TASK_WORDS
from ...instants import milliseconds, optional_milliseconds
from ...webhooks.deliveries import DeliveryStatus, LastAnswer, WebhookDelivery
from ...webhooks.figures import WebhookFigures
from ...webhooks.messages import SIGNATURE, TIMESTAMP, unsigned_headers
from ...wire.addresses import MAX_URL
from ...wire.connections import OWN_HEADERS
from ...wire.fields import FilterInstant
from ...wire.trace import Trace
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


class WebhookCounts(Struct, kw_only=True, rename="camel"):
    """How many deliveries of a webhook are kept, by status: each for a week."""

    waiting: int
    """At most 1,000; further events wait in the log."""
    delivered: int
    failed: int
    """Given up: no more attempts."""
    capped: bool
    """True if there are too many records to count: then more may wait."""


class WebhookSummary(Struct, kw_only=True, rename="camel"):
    """A webhook. Its secret is returned only when it is made."""

    id: str
    owner: str
    """The `sub` of the user who registered it."""
    url: str
    """Empty: each message has a URL of its own, see `facade`."""
    facade: str | None
    """`replicate`: it sends predictions of Replicate's API to the URLs that they were created with. Null: `url`."""
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
    counts: WebhookCounts | None = None
    """Null in a list without `counts=true`, and in answers to changes."""
    lag_seconds: float | None = None
    """Age of the oldest message still to be sent; 0 if there is none. Null: not counted, not known, or not active."""


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


def webhook_summary(
    webhook: Registered, paused_until: datetime | None = None, figures: WebhookFigures | None = None
) -> WebhookSummary:
    """Return a webhook as clients see it. `paused_until`: when its present pause ends, None for none."""
    counts = figures.counts if figures is not None else None
    lag = figures.lag if figures is not None else None
    settings = webhook.settings
    return WebhookSummary(
        id=webhook.webhook_id,
        owner=webhook.owner,
        url=settings.url,
        facade=webhook.facade or None,
        events=[PREFIX + word for word in settings.events],
        types=list(settings.types),
        task_id=settings.task_id or None,
        description=settings.description,
        active=webhook.active,
        disabled_reason=None if webhook.active else webhook.disabled_reason,
        paused_until=optional_milliseconds(paused_until),
        created_at=milliseconds(webhook.created_at),
        updated_at=milliseconds(webhook.changed_at),
        counts=None
        if counts is None
        else WebhookCounts(
            waiting=counts.waiting, delivered=counts.delivered, failed=counts.failed, capped=counts.capped
        ),
        lag_seconds=None if lag is None else round(lag.total_seconds(), 3),
    )


# Deliveries


class LastTry(Struct, kw_only=True, rename="camel"):
    """One attempt of a delivery."""

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
    tries: list[LastTry]
    """The attempts, oldest first, the last one included: the first and the latest 19. A delivery that was given up
    without a call has that as its last one."""


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
        last_attempt=None if last is None else _try(last),
        tries=[_try(answer) for answer in delivery.kept_tries],
    )


def _try(answer: LastAnswer) -> LastTry:
    return LastTry(
        at=milliseconds(answer.at),
        status=answer.status,
        error=answer.error or None,
        body=answer.public_body,
        elapsed_ms=answer.elapsed_ms,
    )


class DeliveryMessage(Struct, kw_only=True, rename="camel"):
    """A message as it is sent."""

    method: str
    url: str
    """Where the webhook sends now."""
    headers: dict[str, str]
    """Those of the last try; without `webhook-timestamp` if there was none yet. The signature is not shown."""
    body: str
    """The JSON text, byte for byte the same in each try."""
    size_bytes: int


HIDDEN_SIGNATURE = "v1,(not shown)"


def delivery_message(webhook: Registered, delivery: WebhookDelivery, trace: Trace, body: bytes) -> DeliveryMessage:
    """Return the message of a delivery as clients see it."""
    at = delivery.last.at if delivery.last is not None else None
    headers = unsigned_headers(delivery.message_id, at or delivery.created_at)
    if at is None:
        del headers[TIMESTAMP]
    return DeliveryMessage(
        method="POST",
        url=delivery.url or webhook.settings.url,
        headers=OWN_HEADERS | trace.headers() | headers | {SIGNATURE: HIDDEN_SIGNATURE},
        body=body.decode(),
        size_bytes=len(body),
    )


class ResendBody(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Deliveries to send again."""

    status: Literal["failed", "delivered"] = "failed"
    since: FilterInstant | None = None
    """Only those created at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`."""
    before: FilterInstant | None = None
    """Only those created before this."""
    dry_run: bool = False
    """Send nothing, and return how many match."""
    cursor: str | None = None
    """`nextCursor` of the previous answer, to continue with the same filter."""


class ResendAnswer(Page, kw_only=True, rename="camel"):
    """What was sent again. With a `nextCursor` more deliveries may match."""

    dry_run: bool
    """True if nothing was sent: `matched` would be."""
    matched: int
