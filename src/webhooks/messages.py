"""The message of a delivery: its headers and its body, built from the log for each try."""

from __future__ import annotations

import base64
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from ..clock import utc_now
from ..errors import NotFound, UnreadableEvent
from ..events.ids import WebhookRef, parse_task_id
from ..facades.predictions import PredictionReader
from ..instants import iso, whole_seconds
from ..push.pushed_event import encoded
from ..push.subscription_filter import TaskAttributeReader
from ..push.updates import LoggedEvent
from ..streams.client.connection import Connection
from ..streams.jetstream.api import ApiError, api
from ..streams.jetstream.messages import NO_MESSAGE_FOUND, Position
from ..streams.topology.definitions import TASKS
from ..vault.result_links import ResultLinks
from ..wire.trace import Trace
from .deliveries import WebhookDelivery

SIGNATURE, TIMESTAMP = "webhook-signature", "webhook-timestamp"


class _Body(Struct):
    type: str
    timestamp: str
    data: Raw


def unsigned_headers(delivery_name: str, at: datetime) -> dict[str, str]:
    """Return the headers of a try, without the signature. `delivery_name`: the `webhook-id`."""
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery_name,
        TIMESTAMP: str(whole_seconds(at)),
    }


async def message_body(
    reading: Connection, links: ResultLinks, predictions: PredictionReader, ref: WebhookRef, delivery: WebhookDelivery
) -> bytes | None:
    """Return the body, the same for each try; None if the log no longer has the event. Raises StoreUnavailable.

    A prediction's body has new tokens in the URLs of its files each time.
    """
    if delivery.url:
        return await _prediction_body(predictions, links.base_url, delivery)
    if not delivery.sequence:
        data = msgspec.json.encode({"webhookId": ref.id, "deliveryId": delivery.id})
    else:
        try:
            answer = await api(reading, f"STREAM.MSG.GET.{TASKS}", {"seq": delivery.sequence})
        except ApiError as error:
            if error.code == NO_MESSAGE_FOUND:
                return None
            raise
        message = answer["message"]
        stored = Position(delivery.sequence, message["subject"], base64.b64decode(message["data"]))
        data = encoded(LoggedEvent(stored), links)
    return msgspec.json.encode(_Body(type=delivery.type, timestamp=iso(delivery.created_at), data=Raw(data)))


async def _prediction_body(predictions: PredictionReader, base: str, delivery: WebhookDelivery) -> bytes | None:
    """Return the prediction as it was after the event of a delivery."""
    try:
        snapshot = await predictions.snapshot(parse_task_id(delivery.task_id), delivery.sequence)
        shown = await predictions.prediction(snapshot, base, utc_now(), up_to=delivery.sequence)
    except NotFound:
        return None
    return msgspec.json.encode(shown)


async def message_trace(attributes: TaskAttributeReader, delivery: WebhookDelivery) -> Trace:
    """Return the request that submitted the task of a delivery. Raises StoreUnavailable."""
    if not delivery.task_id:
        return Trace()
    try:
        return (await attributes.facts(parse_task_id(delivery.task_id))).trace
    except UnreadableEvent:
        return Trace()  # its submission only: what is to be sent can be read
