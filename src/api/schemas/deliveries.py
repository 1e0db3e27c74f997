"""Deliveries of webhooks as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from msgspec import Struct

from ...webhooks.deliveries import DeliveryStatus, WebhookDelivery
from ...wire.fields import milliseconds, optional_milliseconds
from .page import Page


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
