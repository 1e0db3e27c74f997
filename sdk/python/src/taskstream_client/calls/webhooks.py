"""Webhooks: events of tasks, sent to a URL of yours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..core import as_list, given, path_of
from ..flow import Flow
from ..models import Delivery, Webhook, WebhookSecret, convert
from .call import Async, Part, Sync, call, iterates


class WebhookCalls(Part):
    """Webhooks: events of tasks, sent to a URL of yours. `taskstream_client.verify` checks what it receives."""

    @call
    def create(
        self,
        url: str,
        *,
        events: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
        task_id: str | None = None,
        description: str | None = None,
        active: bool | None = None,
    ) -> Flow[WebhookSecret]:
        """Register a URL and return the webhook with its secret, which is shown only this once.

        If the answer is lost, this raises Unavailable and is not repeated: look with `list` whether it was created.
        """
        body = given(
            url=url,
            events=as_list(events),
            types=as_list(types),
            taskId=task_id,
            description=description,
            active=active,
        )
        answer = yield from self._core.ask("POST", "/api/webhooks", body=body, repeatable=False)
        return convert(answer, WebhookSecret)

    @call
    def get(self, webhook_id: str) -> Flow[Webhook]:
        """Return a webhook with its numbers of deliveries."""
        return convert((yield from self._core.ask("GET", path_of("webhooks", webhook_id))), Webhook)

    @iterates(Webhook)
    def list(self, *, owner: str | None = None, counts: bool | None = None, limit: int | None = None) -> Flow[None]:
        """Iterate over your webhooks."""
        query = {"owner": owner, "counts": counts}
        yield from self._core.items("/api/webhooks", "webhooks", Webhook, query, limit=limit)

    @call
    def update(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
        description: str | None = None,
        active: bool | None = None,
    ) -> Flow[Webhook]:
        """Change what is given, and return the webhook."""
        body = given(url=url, events=as_list(events), types=as_list(types), description=description, active=active)
        return convert((yield from self._core.ask("PATCH", path_of("webhooks", webhook_id), body=body)), Webhook)

    @call
    def delete(self, webhook_id: str) -> Flow[None]:
        """Delete a webhook, its secret, and its waiting deliveries."""
        yield from self._core.ask("DELETE", path_of("webhooks", webhook_id))

    @call
    def rotate_secret(self, webhook_id: str) -> Flow[WebhookSecret]:
        """Create a new secret and return it. For 24 hours deliveries are signed with both."""
        answer = yield from self._core.ask("POST", path_of("webhooks", webhook_id, "secret"), repeatable=False)
        return convert(answer, WebhookSecret)

    @call
    def test(self, webhook_id: str) -> Flow[Delivery]:
        """Send a message of type `webhook.test`, and return its delivery."""
        answer = yield from self._core.ask("POST", path_of("webhooks", webhook_id, "test"), repeatable=False)
        return convert(answer, Delivery)

    @iterates(Delivery)
    def deliveries(
        self,
        webhook_id: str,
        *,
        status: Literal["waiting", "delivered", "failed"] | None = None,
        since: str | None = None,
        limit: int | None = None,
    ) -> Flow[None]:
        """Iterate over the deliveries of a webhook, the last changed one first."""
        path = path_of("webhooks", webhook_id, "deliveries")
        query = {"status": status, "since": since}
        yield from self._core.items(path, "deliveries", Delivery, query, limit=limit)

    @call
    def retry_delivery(self, webhook_id: str, delivery_id: str) -> Flow[Delivery]:
        """Send a delivery again, now."""
        path = path_of("webhooks", webhook_id, "deliveries", delivery_id, "retry")
        return convert((yield from self._core.ask("POST", path)), Delivery)


class Webhooks(WebhookCalls, Sync):
    """Webhooks: events of tasks, sent to a URL of yours. `taskstream_client.verify` checks what it receives."""


class AsyncWebhooks(WebhookCalls, Async):
    """Webhooks: events of tasks, sent to a URL of yours. `taskstream_client.verify` checks what it receives."""
