"""Webhooks: who is told what. Owners have their own, admins everybody's."""

from __future__ import annotations

from litestar import Router, delete, get, patch, post

from ...clock import random_bits, utc_now
from ...commands.webhook import ChangeWebhook, DeleteWebhook, Registered, RegisterWebhook, RotateSecret
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, RuleBroken
from ...events.ids import WebhookRef, new_webhook_ref, owner_token, parse_webhook_id
from ...events.subjects import TASK_SUBJECTS
from ...events.webhook import WebhookRegistered, WebhookSettings
from ...projections.webhooks import load_webhooks
from ...streams.jetstream.messages import last_sequence
from ...streams.topology.definitions import TASKS
from ...vault.secrets import new_signing_secret
from ...wire.fields import optional_milliseconds
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_ref, requires
from ..bodies import described, read_as, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import WEBHOOK_CHANGE_EXAMPLES, WEBHOOK_EXAMPLES
from ..parameters import Cursor, Limit, Owner, WebhookId, listed_owner, page_of, read_id_cursor
from ..problems import answers
from ..schemas.webhooks import (
    WebhookBody,
    WebhookChange,
    WebhookDone,
    WebhookPage,
    WebhookSecret,
    WebhookSummary,
    kinds_of,
    webhook_summary,
)

MOST_PER_OWNER = 100


class Webhooks:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def register(self, request: ApiRequest) -> WebhookSecret:
        container = self.container
        body = await read_as(request, WebhookBody, container.settings.max_json_depth)
        await container.egress.check_url(body.url)
        events = kinds_of(body.events)
        owner = owner_token(request.user.subject)
        if sum(1 for _ in (await load_webhooks(container.reading, owner)).registered()) >= MOST_PER_OWNER:
            raise RuleBroken(f"you have {MOST_PER_OWNER} webhooks, which is the most; delete one first")
        after = await self._after(request, body.task_id)
        ref = new_webhook_ref(owner, utc_now(), random_bits(80))
        secret = new_signing_secret()
        secret_id = await container.secrets.put(ref, secret)
        registration = WebhookRegistered(
            webhook_id=ref.id,
            owner=request.user.subject,
            settings=WebhookSettings(
                url=body.url,
                events=events,
                types=tuple(body.types),
                task_id=body.task_id or "",
                description=body.description,
            ),
            secret_id=secret_id,
            after=after,
        )
        handled = await container.commands.webhooks.handle(
            ref,
            RegisterWebhook(registration=registration, active=body.active),
            by=actor(request.user),
            cause=request_id(request.scope),
        )
        return _with_secret(_registered(handled.known.state, ref), secret)

    async def _after(self, request: ApiRequest, task_id: str | None) -> int:
        """Return the sequence after which events are sent: the last one now, or that before the task."""
        if task_id is None:
            return await last_sequence(self.container.reading, TASKS, TASK_SUBJECTS)
        try:
            history = await self.container.tasks.history(owned_ref(request.user, task_id))
        except (NotFound, Forbidden):
            raise InvalidInput("you have no such task", "$.taskId") from None
        return history[0].sequence - 1

    async def page(self, request: ApiRequest, owner: str | None, limit: int, cursor: str | None) -> WebhookPage:
        found = dict((await load_webhooks(self.container.reading, listed_owner(request, owner))).registered())
        shown, following = page_of((ref.id for ref in found), limit, read_id_cursor(cursor), newest_first=True)
        return WebhookPage(
            webhooks=[webhook_summary(found[parse_webhook_id(name)]) for name in shown], next_cursor=following
        )

    async def find(self, request: ApiRequest, webhook_id: str, *roles: str) -> tuple[WebhookRef, Registered]:
        """Return a webhook of the caller's, or one that is reached by role. Raises NotFound for any other."""
        ref = parse_webhook_id(webhook_id)
        identity = request.user
        if ref.owner != owner_token(identity.subject) and not identity.has(*roles):
            if identity.has(*READERS_OF_ALL):
                raise Forbidden(f"this webhook is another user's; that needs the role {' or '.join(roles)}")
            raise NotFound("webhook", webhook_id)
        return ref, _registered((await self.container.commands.webhooks.load(ref)).state, ref)

    async def change(self, request: ApiRequest, webhook_id: str) -> WebhookSummary:
        container = self.container
        ref, _ = await self.find(request, webhook_id, "admin")
        body = await read_as(request, WebhookChange, container.settings.max_json_depth)
        if isinstance(body.url, str):
            await container.egress.check_url(body.url)
        command = ChangeWebhook(
            url=body.url if isinstance(body.url, str) else None,
            events=kinds_of(body.events) if isinstance(body.events, list) else None,
            types=tuple(body.types) if isinstance(body.types, list) else None,
            description=body.description if isinstance(body.description, str) else None,
            active=body.active if isinstance(body.active, bool) else None,
            after=await last_sequence(container.reading, TASKS, TASK_SUBJECTS),
            reason=f"disabled by {request.user.subject}",
        )
        handled = await container.commands.webhooks.handle(
            ref, command, by=actor(request.user), cause=request_id(request.scope)
        )
        return webhook_summary(_registered(handled.known.state, ref))

    async def rotate(self, request: ApiRequest, webhook_id: str) -> WebhookSecret:
        ref, _ = await self.find(request, webhook_id, "admin")
        secret = new_signing_secret()
        secret_id = await self.container.secrets.put(ref, secret)
        handled = await self.container.commands.webhooks.handle(
            ref, RotateSecret(secret_id=secret_id), by=actor(request.user), cause=request_id(request.scope)
        )
        return _with_secret(_registered(handled.known.state, ref), secret)

    async def delete(self, request: ApiRequest, webhook_id: str) -> WebhookDone:
        ref, webhook = await self.find(request, webhook_id, "admin")
        await self.container.commands.webhooks.handle(
            ref, DeleteWebhook(), by=actor(request.user), cause=request_id(request.scope)
        )
        await self.container.secrets.destroy(ref, webhook.secret_id, webhook.previous_secret_id)
        return WebhookDone(id=webhook_id)


def _registered(state: object, ref: WebhookRef) -> Registered:
    if not isinstance(state, Registered):
        raise NotFound("webhook", ref.id)
    return state


def _with_secret(webhook: Registered, secret: str) -> WebhookSecret:
    return WebhookSecret(
        webhook=webhook_summary(webhook),
        secret=secret,
        previous_until=optional_milliseconds(webhook.previous_until),
    )


def webhook_router(container: Container) -> Router:
    """Return the routes."""
    webhooks = Webhooks(container)

    @post(
        "/",
        status_code=200,
        opt=requires(*SUBMITTERS),
        operation_class=described(schema_of(WebhookBody), WEBHOOK_EXAMPLES),
        responses=answers(400, 401, 403, 409, 413, 415, 503),
        response_description="The webhook, and its secret, which is not shown again",
        summary="Register a webhook",
    )
    async def register_webhook(request: ApiRequest) -> WebhookSecret:
        """Have events of your tasks sent to an address, signed (Standard Webhooks), from now on.

        What is not taken with a 2xx is sent again, for hours; a 410 disables the webhook.
        """
        return await webhooks.register(request)

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of webhooks, newest first",
        summary="List webhooks",
    )
    async def list_webhooks(
        request: ApiRequest,
        owner: Owner = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> WebhookPage:
        """List webhooks, newest first."""
        return await webhooks.page(request, owner, limit, cursor)

    @get(
        "/{webhook_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The webhook as it is now",
        summary="Read a webhook",
    )
    async def get_webhook(request: ApiRequest, webhook_id: WebhookId) -> WebhookSummary:
        """Return a webhook; `disabledReason` says why one is not active."""
        return webhook_summary((await webhooks.find(request, webhook_id, *READERS_OF_ALL))[1])

    @patch(
        "/{webhook_id:str}",
        operation_class=described(schema_of(WebhookChange), WEBHOOK_CHANGE_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description="The webhook as it is now",
        summary="Change a webhook",
    )
    async def change_webhook(request: ApiRequest, webhook_id: WebhookId) -> WebhookSummary:
        """Change what is named and leave the rest. What waits to be sent goes to the new address."""
        return await webhooks.change(request, webhook_id)

    @delete(
        "/{webhook_id:str}",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="The webhook is gone",
        summary="Delete a webhook",
    )
    async def delete_webhook(request: ApiRequest, webhook_id: WebhookId) -> WebhookDone:
        """Delete a webhook, its secret, and what it had still to send."""
        return await webhooks.delete(request, webhook_id)

    @post(
        "/{webhook_id:str}/secret",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="The new secret, which is not shown again",
        summary="Rotate a webhook's secret",
    )
    async def rotate_secret(request: ApiRequest, webhook_id: WebhookId) -> WebhookSecret:
        """Make another secret. For a day deliveries carry the signatures of both."""
        return await webhooks.rotate(request, webhook_id)

    return Router(
        path="/webhooks",
        route_handlers=[
            register_webhook,
            list_webhooks,
            get_webhook,
            change_webhook,
            delete_webhook,
            rotate_secret,
        ],
        tags=["Webhooks"],
    )
