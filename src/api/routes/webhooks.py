"""Routes of webhooks and their deliveries. Owners reach their own webhooks, admins all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated

import msgspec
from litestar.params import QueryParameter
from msgspec import UNSET

from ...clock import random_bits, utc_now
from ...commands.webhook import ChangeWebhook, DeleteWebhook, Registered, RegisterWebhook, RotateSecret
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, RuleBroken
from ...events.ids import WebhookRef, new_webhook_ref, owner_token, parse_webhook_id
from ...events.subjects import TASK_SUBJECTS, webhook_registrations_filter
from ...events.webhook import WebhookRegistered, WebhookSettings
from ...instants import optional_milliseconds
from ...projections.usage import OF_WEBHOOKS
from ...projections.webhooks import load_webhooks
from ...streams.jetstream.messages import last_sequence, last_sequence_of_most
from ...streams.log import Guard
from ...streams.topology.definitions import TASKS, WEBHOOKS
from ...vault.secrets import new_signing_secret
from ...webhooks.figures import WebhookFigures
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, check_bodies, guarded, origin, owned_ref, tag
from ..bodies import read_as
from ..parameters import Cursor, IfMatch, Limit, Owner, WebhookId, page_of, read_id_cursor, selected_owner
from ..routing import RouteHandler, Routes
from ..schemas.shared import DoneAnswer
from ..schemas.webhooks import (
    WebhookBody,
    WebhookChange,
    WebhookPage,
    WebhookSecret,
    WebhookSummary,
    kinds_of,
    webhook_summary,
)
from ..server_registration import check_url
from .deliveries import add_deliveries, check_has_url, figures_of, find_webhook, paused_until, registered

MOST_PER_OWNER = 100
COUNTED_AT_ONCE = 8
"""Webhooks of a list whose figures are read at a time."""
Counts = Annotated[bool, QueryParameter(description="True: with `counts` and `lagSeconds` of each")]


async def room_of(container: Container, owner: str) -> Guard:
    """Return a guard that fails once the owner (a token) registers another webhook. Raises RuleBroken at the limit."""
    subjects = webhook_registrations_filter(owner)
    last = await last_sequence(container.reading, WEBHOOKS, subjects)  # before they are counted
    if sum(1 for _ in (await load_webhooks(container.reading, owner)).registered()) >= MOST_PER_OWNER:
        raise RuleBroken(f"you have {MOST_PER_OWNER} webhooks, the most allowed; delete one first")
    return Guard(subjects, last)


async def sequence_before(container: Container, request: ApiRequest, task_id: str | None) -> int:
    """Return the sequence after which events are sent: that before the task; without a task, the last one now."""
    if task_id is None:
        return await last_sequence_of_most(container.reading, TASKS, TASK_SUBJECTS)
    try:
        history = await container.tasks.history(owned_ref(request.user, task_id))
    except (NotFound, Forbidden):
        raise InvalidInput("must be the id of a task of yours", "$.taskId") from None
    return history[0].sequence - 1


async def _figures_of_each(
    container: Container, webhooks: Mapping[WebhookRef, Registered]
) -> dict[WebhookRef, WebhookFigures]:
    """Return the figures of webhooks, COUNTED_AT_ONCE read at a time."""
    found: dict[WebhookRef, WebhookFigures] = {}
    pending = iter(webhooks.items())

    async def count() -> None:
        for ref, webhook in pending:
            found[ref] = await figures_of(container, ref, webhook)

    await asyncio.gather(*(count() for _ in range(COUNTED_AT_ONCE)))
    return found


async def _page(container: Container, of: str | None, limit: int, cursor: str | None, *, counts: bool) -> WebhookPage:
    """Return a page of the webhooks of an owner (a token; None: of all), newest first."""
    found = dict((await load_webhooks(container.reading, of)).registered())
    pauses, now = await container.deliveries.pauses(of), utc_now()
    shown, following = page_of((ref.id for ref in found), limit, cursor, newest_first=True)
    refs = [parse_webhook_id(webhook_id) for webhook_id in shown]
    figures = await _figures_of_each(container, {ref: found[ref] for ref in refs}) if counts else {}
    return WebhookPage(
        webhooks=[
            webhook_summary(
                found[ref], pauses[ref].until_now(found[ref], now) if ref in pauses else None, figures.get(ref)
            )
            for ref in refs
        ],
        next_cursor=following,
    )


def _with_secret(webhook: Registered, secret: str) -> WebhookSecret:
    return WebhookSecret(
        webhook=webhook_summary(webhook),
        secret=secret,
        previous_until=optional_milliseconds(webhook.previous_until),
    )


async def _check_receiver(container: Container, webhook: Registered, body: WebhookChange) -> None:
    """Raise InvalidInput if a change would send to an address that webhooks may not call."""
    if isinstance(body.url, str) or (body.active is True and not webhook.facade):
        url = body.url if isinstance(body.url, str) else webhook.settings.url
        await check_url(container.webhook_egress, url, "$.url")


async def change(
    container: Container, request: ApiRequest, ref: WebhookRef, webhook: Registered, body: WebhookChange
) -> Registered:
    """Change a webhook within its owner's quota, and return it; to disable it is always possible. Raises Forbidden."""
    if (body.url, body.events, body.types) != (UNSET, UNSET, UNSET):
        check_has_url(webhook, "only `active` and `description` can be changed")
    if isinstance(body.url, str) and body.url != webhook.settings.url:
        check_bodies(request.user, ref.owner)
    command = ChangeWebhook(
        url=body.url if isinstance(body.url, str) else None,
        events=kinds_of(body.events) if isinstance(body.events, list) else None,
        types=tuple(body.types) if isinstance(body.types, list) else None,
        description=body.description if isinstance(body.description, str) else None,
        active=body.active if isinstance(body.active, bool) else None,
        after=await last_sequence_of_most(container.reading, TASKS, TASK_SUBJECTS),
        reason=f"disabled by {request.user.subject}",
    )
    handle = partial(container.commands.webhooks.handle, ref, command, **guarded(request))
    if body == WebhookChange(active=False):
        handled = await handle()
    else:
        size = len(msgspec.json.encode(body)) + len(webhook.settings.description)
        handled = await container.submissions.store(OF_WEBHOOKS, ref.owner, size, handle)
    return registered(handled.known.state, ref)


def webhook_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/webhooks", "Webhooks")
    commands, secrets = container.commands, container.secrets
    depth = container.settings.max_json_depth

    @routes.post(
        "/",
        "Register a webhook",
        "The webhook and its secret, which is not shown again",
        body=WebhookBody,
        roles=SUBMITTERS,
        fails={409, 429},
    )
    async def register_webhook(request: ApiRequest) -> WebhookSecret:
        """Send events of your tasks to a URL from now on, signed (Standard Webhooks).

        A delivery that is not answered with a 2xx is retried for hours; a 410 disables the webhook, a 429 pauses it.
        """
        body = await read_as(request, WebhookBody, depth)
        await check_url(container.webhook_egress, body.url, "$.url")
        events = kinds_of(body.events)
        owner = owner_token(request.user.subject)
        await room_of(container, owner)  # before its secret is stored
        after = await sequence_before(container, request, body.task_id)
        await container.submissions.check_bytes(owner)
        ref = new_webhook_ref(owner, utc_now(), random_bits(80))
        secret = new_signing_secret()
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
            secret_id=await secrets.put(ref, secret),
            after=after,
        )
        command = RegisterWebhook(registration=registration, active=body.active)
        room = partial(room_of, container, owner)
        handle = partial(commands.webhooks.handle, ref, command, room=room, **origin(request))
        handled = await container.submissions.store(OF_WEBHOOKS, owner, len(msgspec.json.encode(body)), handle)
        return _with_secret(registered(handled.known.state, ref), secret)

    @routes.get("/", "List webhooks", "A page of webhooks, newest first")
    async def list_webhooks(
        request: ApiRequest, owner: Owner = None, counts: Counts = False, limit: Limit = 50, cursor: Cursor = None
    ) -> WebhookPage:
        """List webhooks, newest first. With `counts=true` each has its `counts` and `lagSeconds`."""
        of = selected_owner(request.user, owner, "list")
        return await _page(container, of, limit, read_id_cursor(cursor), counts=counts)

    @routes.get("/{webhook_id:str}", "Read a webhook", "The webhook's present state")
    async def get_webhook(request: ApiRequest, webhook_id: WebhookId) -> WebhookSummary:
        """Return a webhook; `disabledReason` says why it is not active, `pausedUntil` how long nothing is sent."""
        ref, webhook = await find_webhook(container, request, webhook_id, *READERS_OF_ALL)
        figures = await figures_of(container, ref, webhook)
        tag(request, webhook)
        return webhook_summary(webhook, await paused_until(container, ref, webhook), figures)

    @routes.patch(
        "/{webhook_id:str}", "Change a webhook", "The webhook's present state", body=WebhookChange, fails={412, 429}
    )
    async def change_webhook(
        request: ApiRequest,
        webhook_id: WebhookId,
        if_match: IfMatch = None,  # noqa: ARG001 - read by `guarded`
    ) -> WebhookSummary:
        """Change the fields in the body and leave the others. Deliveries not yet sent go to the new URL.

        The URL of another user's webhook is changed by admins who may read the user's results: it receives them.
        """
        ref, webhook = await find_webhook(container, request, webhook_id, "admin")
        body = await read_as(request, WebhookChange, depth)
        await _check_receiver(container, webhook, body)
        webhook = await change(container, request, ref, webhook, body)
        tag(request, webhook)
        return webhook_summary(webhook, await paused_until(container, ref, webhook))

    @routes.delete("/{webhook_id:str}", "Delete a webhook", "The webhook is deleted")
    async def delete_webhook(request: ApiRequest, webhook_id: WebhookId) -> DoneAnswer:
        """Delete a webhook, its secret, and its deliveries that are not sent yet."""
        ref, webhook = await find_webhook(container, request, webhook_id, "admin")
        check_has_url(webhook, "to send nothing, set `active` to false")
        await commands.webhooks.handle(ref, DeleteWebhook(), **origin(request))
        await secrets.destroy(ref, webhook.secret_id, webhook.previous_secret_id)
        return DoneAnswer(id=webhook_id)

    @routes.post(
        "/{webhook_id:str}/secret", "Rotate a webhook's secret", "The new secret, which is not shown again", fails={429}
    )
    async def rotate_secret(request: ApiRequest, webhook_id: WebhookId) -> WebhookSecret:
        """Make a new secret. For a day deliveries carry the signatures of both secrets."""
        ref, _ = await find_webhook(container, request, webhook_id, "admin")
        await container.submissions.check_bytes(ref.owner)  # before the secret is stored
        secret = new_signing_secret()
        command = RotateSecret(secret_id=await secrets.put(ref, secret))
        handle = partial(commands.webhooks.handle, ref, command, **origin(request))
        handled = await container.submissions.store(OF_WEBHOOKS, ref.owner, 0, handle)
        return _with_secret(registered(handled.known.state, ref), secret)

    add_deliveries(routes, container)
    return routes.handlers
