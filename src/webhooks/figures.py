"""The figures of a webhook: how many deliveries are kept, and how far it is behind."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import NamedTuple

from ..commands.webhook import Registered
from ..errors import UnreadableEvent
from ..events.codec import task_codec
from ..events.ids import WebhookRef, parse_task_id
from ..events.subjects import events_filter, tasks_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import first_position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .deliveries import DeliveryCounts, DeliveryStore

SAVED_WITHIN = timedelta(seconds=3)
"""How old the stored position of a webhook is at most while a worker sends: events since then may be deliveries."""


class WebhookFigures(NamedTuple):
    counts: DeliveryCounts
    lag: timedelta | None
    """Age of the oldest message that is still to be sent, in the log or waiting; None: not known, or not active."""


async def webhook_figures(
    reading: Connection, deliveries: DeliveryStore, ref: WebhookRef, webhook: Registered, now: datetime
) -> WebhookFigures:
    """Return the figures of a webhook, read from its records and the log: also right without any worker."""
    counts = await deliveries.counts(ref)
    if not webhook.active:
        return WebhookFigures(counts, None)
    try:
        unsent = await _first_unsent(reading, deliveries, ref, webhook)
    except UnreadableEvent:
        return WebhookFigures(counts, None)
    if unsent is not None and now - unsent < SAVED_WITHIN:
        unsent = None
    since = min((at for at in (counts.waiting_since, unsent) if at is not None), default=now)
    return WebhookFigures(counts, max(now - since, timedelta(0)))


async def _first_unsent(
    reading: Connection, deliveries: DeliveryStore, ref: WebhookRef, webhook: Registered
) -> datetime | None:
    """Return when the first event happened that is in the log only; None if each to be sent has its delivery."""
    settings = webhook.settings
    start = max(await deliveries.position(ref), webhook.after) + 1
    task = parse_task_id(settings.task_id) if settings.task_id else None
    filters = [events_filter(task, word) if task else tasks_filter(ref.owner, word) for word in settings.events]
    found = await asyncio.gather(*(first_position(reading, TASKS, one, start) for one in filters))
    first = min((position for position in found if position is not None), default=None)
    return decode(task_codec, first).recorded.at if first is not None else None
