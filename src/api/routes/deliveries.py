"""Routes of the deliveries of a webhook."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated

from litestar.params import QueryParameter

from ...clock import random_bits, utc_now
from ...commands.webhook import Registered
from ...container import Container
from ...errors import NotFound, RuleBroken
from ...events.ids import WebhookRef, delivery_id, is_delivery_id, parse_webhook_id
from ...webhooks.deliveries import DeliveryStatus, WebhookDelivery
from ...webhooks.delivery_loop import MOST_WAITING
from ...webhooks.figures import WebhookFigures, webhook_figures
from ...webhooks.messages import message_body, message_trace
from ...wire.fields import filter_instant
from ..auth.access import READERS_OF_ALL, ApiRequest, check_bodies, check_owner
from ..bodies import read_as
from ..parameters import Cursor, DeliveryId, Limit, WebhookId, choice, next_cursor, read_cursor
from ..routing import Routes
from ..schemas.webhooks import (
    DeliveryMessage,
    DeliveryPage,
    DeliverySummary,
    ResendAnswer,
    ResendBody,
    delivery_message,
    delivery_summary,
)
from ..task_filter import instant_parameter

STATUSES: tuple[DeliveryStatus, ...] = ("waiting", "delivered", "failed")
MOST_RESENT = 1_000
"""Deliveries that one request sends again."""
LONGEST_SEARCH_SECONDS = 3.0
"""How long one request searches. Then the answer has a cursor."""
AT_ONCE = 16
"""Deliveries that one request changes at a time."""

CreatedSince = Annotated[
    int | str | None, instant_parameter("since", "Only deliveries created at or after this instant")
]


def check_has_url(webhook: Registered, advice: str) -> None:
    """Raise RuleBroken, with advice, for the webhook of a façade: each of its messages has a URL of its own."""
    if webhook.facade:
        raise RuleBroken(f"this webhook sends each prediction to the URL that it was created with: {advice}")


async def find_webhook(
    container: Container, request: ApiRequest, webhook_id: str, *roles: str
) -> tuple[WebhookRef, Registered]:
    """Return a webhook that the caller owns, or may reach by role. Raises NotFound and Forbidden."""
    ref = parse_webhook_id(webhook_id)
    check_owner(request.user, ref, "webhook", *roles)
    return ref, registered((await container.commands.webhooks.load(ref)).state, ref)


async def find_active(container: Container, request: ApiRequest, webhook_id: str) -> tuple[WebhookRef, Registered]:
    """Return a webhook that the caller may change and that sends events. Raises RuleBroken if it is not active."""
    ref, webhook = await find_webhook(container, request, webhook_id, "admin")
    if not webhook.active:
        raise RuleBroken("this webhook is not active and sends nothing; set `active` to true first")
    return ref, webhook


async def paused_until(container: Container, ref: WebhookRef, webhook: Registered) -> datetime | None:
    """Return when a webhook's present pause ends; None if it is not paused."""
    pause = await container.deliveries.pause(ref)
    return pause.until_now(webhook, utc_now()) if pause is not None else None


async def figures_of(container: Container, ref: WebhookRef, webhook: Registered) -> WebhookFigures:
    """Return how many deliveries of a webhook are kept, and how far it is behind."""
    return await webhook_figures(container.reading, container.deliveries, ref, webhook, utc_now())


def registered(state: object, ref: WebhookRef) -> Registered:
    """Return the state of a webhook that exists. Raises NotFound."""
    if not isinstance(state, Registered):
        raise NotFound("webhook", ref.id)
    return state


def _checked_delivery_id(text: str) -> str:
    if not is_delivery_id(text):
        raise NotFound("delivery", text)
    return text


def add_deliveries(routes: Routes, container: Container) -> None:
    """Declare the routes of deliveries among those of webhooks."""
    deliveries = container.deliveries
    depth = container.settings.max_json_depth

    @routes.post("/{webhook_id:str}/test", "Send a test", "The delivery, which is sent now", fails={409, 429})
    async def send_test(request: ApiRequest, webhook_id: WebhookId) -> DeliverySummary:
        """Send a message of type `webhook.test`, delivered like any other: during a pause, when it ends."""
        ref, webhook = await find_active(container, request, webhook_id)
        check_has_url(webhook, "there is no receiver to test")
        await container.submissions.check_bytes(ref.owner)
        now = utc_now()
        delivery = WebhookDelivery(
            id=delivery_id(ref, random_bits(64), now), type="webhook.test", created_at=now, next_at=now
        )
        await deliveries.make(ref, delivery, maybe_made=False)
        return delivery_summary(delivery, await paused_until(container, ref, webhook))

    @routes.get("/{webhook_id:str}/deliveries", "List deliveries", "A page of deliveries, the last changed first")
    async def list_deliveries(
        request: ApiRequest,
        webhook_id: WebhookId,
        status: Annotated[str | None, QueryParameter(description="waiting, delivered or failed")] = None,
        since: CreatedSince = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> DeliveryPage:
        """List the deliveries of a webhook, sent and not yet sent. A page with a `nextCursor` may be short."""
        ref, webhook = await find_webhook(container, request, webhook_id, *READERS_OF_ALL)
        created = filter_instant(since, utc_now(), "since")
        wanted = choice(status or None, STATUSES, "status")
        page = await deliveries.page(ref, wanted, limit, read_cursor(cursor), since=created)
        until = await paused_until(container, ref, webhook)
        return DeliveryPage(
            deliveries=[delivery_summary(delivery, until) for delivery in page.deliveries],
            next_cursor=next_cursor(page.cursor),
        )

    @routes.get("/{webhook_id:str}/deliveries/{delivery_id:str}", "Read a delivery", "The delivery's present state")
    async def get_delivery(request: ApiRequest, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliverySummary:
        """Return a delivery and what came of each try."""
        ref, webhook = await find_webhook(container, request, webhook_id, *READERS_OF_ALL)
        delivery = await deliveries.get(ref, _checked_delivery_id(delivery_id))
        return delivery_summary(delivery, await paused_until(container, ref, webhook))

    @routes.get(
        "/{webhook_id:str}/deliveries/{delivery_id:str}/body",
        "Read the message of a delivery",
        "The message as it is sent, with its headers",
        fails={409},
    )
    async def get_delivery_body(request: ApiRequest, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliveryMessage:
        """Return the message: the same bytes in each try, the headers of the last one. Its signature is not shown."""
        ref, webhook = await find_webhook(container, request, webhook_id, *READERS_OF_ALL)
        check_bodies(request.user, ref.owner)
        delivery = await deliveries.get(ref, _checked_delivery_id(delivery_id))
        body = await message_body(container.reading, container.links, container.predictions, ref, delivery)
        if body is None:
            raise RuleBroken("the event of this delivery is past its retention; its message cannot be shown any more")
        trace = await message_trace(container.task_attributes, delivery)
        return delivery_message(webhook, delivery, trace, body)

    @routes.post(
        "/{webhook_id:str}/deliveries/retry",
        "Send many deliveries again",
        "How many deliveries match and were sent again",
        body=ResendBody,
        fails={409},
    )
    async def retry_deliveries(request: ApiRequest, webhook_id: WebhookId) -> ResendAnswer:
        """Send the failed deliveries again, or those delivered, since an instant: up to 1,000 in one request.

        With `dryRun`, nothing is sent. If the answer has a `nextCursor`, more may match: send it as `cursor`.
        """
        ref, _ = await find_active(container, request, webhook_id)
        body = await read_as(request, ResendBody, depth)
        return await _resend(container, ref, body)

    @routes.post(
        "/{webhook_id:str}/deliveries/{delivery_id:str}/retry",
        "Send a delivery again",
        "The delivery, which is sent again now",
        fails={409},
    )
    async def retry_delivery(request: ApiRequest, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliverySummary:
        """Send a delivery now, whatever its status, with the same `webhook-id` and a fresh budget of attempts.

        During a pause of the webhook it is sent when the pause ends.
        """
        ref, webhook = await find_active(container, request, webhook_id)
        delivery = await deliveries.ask_again(ref, _checked_delivery_id(delivery_id), utc_now())
        return delivery_summary(delivery, await paused_until(container, ref, webhook))


async def _resend(container: Container, ref: WebhookRef, body: ResendBody) -> ResendAnswer:
    """Send matching deliveries again, the last changed first; each that is found is sent once.

    What is sent again counts as changed last, so it is not among the later pages. Raises RuleBroken if too many wait.
    """
    now = utc_now()
    since, before = filter_instant(body.since, now, "$.since"), filter_instant(body.before, now, "$.before")
    room = MOST_RESENT
    if not body.dry_run:
        room = min(room, MOST_WAITING - (await container.deliveries.counts(ref)).waiting)
        if room <= 0:
            raise RuleBroken(f"{MOST_WAITING} messages of this webhook wait already; send more once they are sent")
    cursor = read_cursor(body.cursor, "$.cursor")
    matched = 0
    give_up_at = time.monotonic() + LONGEST_SEARCH_SECONDS
    while True:
        page = await container.deliveries.page(ref, body.status, min(room - matched, 200), cursor, since=since)
        found = [one for one in page.deliveries if before is None or one.created_at < before]
        if not body.dry_run:
            await _ask_again(container, ref, found, now)
        matched += len(found)
        cursor = page.cursor
        if cursor is None or matched >= room or time.monotonic() > give_up_at:
            return ResendAnswer(dry_run=body.dry_run, matched=matched, next_cursor=next_cursor(cursor))


async def _ask_again(container: Container, ref: WebhookRef, found: list[WebhookDelivery], now: datetime) -> None:
    for start in range(0, len(found), AT_ONCE):
        part = found[start : start + AT_ONCE]
        asked = [container.deliveries.ask_again(ref, one.id, now) for one in part]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound):  # NotFound: it has expired
                raise outcome
