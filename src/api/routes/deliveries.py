"""The deliveries of webhooks: what became of each, and sending one again."""

from __future__ import annotations

from typing import Annotated

from litestar import Router, get, post
from litestar.params import QueryParameter

from ...clock import random_bits, utc_now
from ...commands.webhook import Registered
from ...container import Container
from ...errors import InvalidInput, NotFound, RuleBroken
from ...events.ids import delivery_id, is_delivery_id
from ...webhooks.deliveries import DeliveryStatus, WebhookDelivery
from ..auth.access import READERS_OF_ALL, ApiRequest
from ..parameters import Cursor, DeliveryId, Limit, WebhookId, next_cursor, read_cursor
from ..problems import answers
from ..schemas.deliveries import DeliveryPage, DeliverySummary, delivery_summary
from .webhooks import Webhooks

STATUSES: tuple[DeliveryStatus, ...] = ("waiting", "delivered", "failed")


class Deliveries:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._webhooks = Webhooks(container)

    async def test(self, request: ApiRequest, webhook_id: str) -> DeliverySummary:
        ref, webhook = await self._webhooks.find(request, webhook_id, "admin")
        _insist_on_active(webhook)
        now = utc_now()
        delivery = WebhookDelivery(
            id=delivery_id(ref, random_bits(64), now), type="webhook.test", created_at=now, next_at=now
        )
        await self.container.deliveries.make(ref, delivery, maybe_made=False)
        return delivery_summary(delivery)

    async def page(
        self, request: ApiRequest, webhook_id: str, status: str | None, limit: int, cursor: str | None
    ) -> DeliveryPage:
        ref, _ = await self._webhooks.find(request, webhook_id, *READERS_OF_ALL)
        page = await self.container.deliveries.page(ref, _checked_status(status), limit, read_cursor(cursor))
        return DeliveryPage(
            deliveries=[delivery_summary(delivery) for delivery in page.deliveries],
            next_cursor=next_cursor(page.cursor),
        )

    async def read(self, request: ApiRequest, webhook_id: str, name: str) -> DeliverySummary:
        ref, _ = await self._webhooks.find(request, webhook_id, *READERS_OF_ALL)
        return delivery_summary(await self.container.deliveries.get(ref, _checked_delivery_id(name)))

    async def retry(self, request: ApiRequest, webhook_id: str, name: str) -> DeliverySummary:
        ref, webhook = await self._webhooks.find(request, webhook_id, "admin")
        _insist_on_active(webhook)
        return delivery_summary(await self.container.deliveries.ask_again(ref, _checked_delivery_id(name), utc_now()))


def _insist_on_active(webhook: Registered) -> None:
    if not webhook.active:
        raise RuleBroken("this webhook is not active, so nothing is sent; set `active` to true first")


def _checked_status(status: str | None) -> DeliveryStatus | None:
    if not status:
        return None
    for known in STATUSES:
        if status == known:
            return known
    raise InvalidInput(f"{status[:64]!r} is no status; they are {', '.join(STATUSES)}", "status")


def _checked_delivery_id(text: str) -> str:
    if not is_delivery_id(text):
        raise NotFound("delivery", text)
    return text


def delivery_router(container: Container) -> Router:
    """Return the routes."""
    deliveries = Deliveries(container)

    @post(
        "/test",
        status_code=200,
        responses=answers(400, 401, 403, 404, 409, 503),
        response_description="The delivery, on its way",
        summary="Send a test",
    )
    async def send_test(request: ApiRequest, webhook_id: WebhookId) -> DeliverySummary:
        """Send a message of type `webhook.test`, which is a delivery like any other."""
        return await deliveries.test(request, webhook_id)

    @get(
        "/deliveries",
        responses=answers(400, 401, 403, 404, 503),
        response_description="A page of deliveries, the one that changed last first",
        summary="List deliveries",
    )
    async def list_deliveries(
        request: ApiRequest,
        webhook_id: WebhookId,
        status: Annotated[str | None, QueryParameter(description="waiting, delivered or failed")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> DeliveryPage:
        """List what a webhook has to send and has sent. A page may be shorter than asked and have a `nextCursor`."""
        return await deliveries.page(request, webhook_id, status, limit, cursor)

    @get(
        "/deliveries/{delivery_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The delivery as it is now",
        summary="Read a delivery",
    )
    async def get_delivery(request: ApiRequest, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliverySummary:
        """Return what became of a delivery so far."""
        return await deliveries.read(request, webhook_id, delivery_id)

    @post(
        "/deliveries/{delivery_id:str}/retry",
        status_code=200,
        responses=answers(400, 401, 403, 404, 409, 503),
        response_description="The delivery, on its way again",
        summary="Send a delivery again",
    )
    async def retry_delivery(request: ApiRequest, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliverySummary:
        """Send a delivery now, whatever became of it, with all its tries before it and its `webhook-id`."""
        return await deliveries.retry(request, webhook_id, delivery_id)

    return Router(
        path="/webhooks/{webhook_id:str}",
        route_handlers=[send_test, list_deliveries, get_delivery, retry_delivery],
        tags=["Webhooks"],
    )
