"""The webhooks of predictions: one webhook of each owner, which sends each prediction to the URL in its request.

It is registered when the owner first needs it. So everything that webhooks have applies: deliveries made from the log,
retries, signatures, lists of deliveries, metrics.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

from ....commands.webhook import Registered, RegisterWebhook
from ....container import Container
from ....errors import NotFound
from ....events import task as events
from ....events.ids import WebhookRef, facade_webhook_ref, owner_token
from ....events.kinds import ENDING_WORDS, TASK_WORDS, word_of
from ....events.subjects import TASK_SUBJECTS
from ....events.webhook import WebhookRegistered, WebhookSettings
from ....projections.usage import OF_WEBHOOKS
from ....streams.jetstream.messages import last_sequence_of_most
from ....streams.topology.definitions import TASKS
from ....vault.secrets import new_signing_secret
from ...auth.access import SUBMITTERS, ApiRequest, origin, requires

FACADE = "replicate"
EVENTS = tuple(
    word
    for word in TASK_WORDS
    if word in {*ENDING_WORDS, word_of(events.AttemptStarted), word_of(events.ProgressReported)}
)
DESCRIPTION = "Predictions of Replicate's API, each to the URL that it was created with"
MOST_KNOWN = 10_000
SIZE_BYTES = 512
"""About what its registration takes."""


class PredictionWebhooks:
    """The owners' webhooks for predictions."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._known: set[WebhookRef] = set()
        """Webhooks that are registered. They are never deleted."""

    async def ensure(self, request: ApiRequest) -> None:
        """Have a webhook for the caller's predictions: events of what is submitted after this are sent."""
        ref = facade_webhook_ref(owner_token(request.user.subject), FACADE)
        if ref not in self._known:
            await self._registered(request, ref)

    async def secret(self, request: ApiRequest) -> str:
        """Return the secret that signs the caller's predictions. Raises SealingUnavailable, DoesNotOpen."""
        ref = facade_webhook_ref(owner_token(request.user.subject), FACADE)
        webhook = await self._registered(request, ref)
        return await self._container.secrets.get(ref, webhook.secret_id)

    async def _registered(self, request: ApiRequest, ref: WebhookRef) -> Registered:
        """Return the webhook; register it if there is none. Raises StoredTooMuch, SealingUnavailable, StoreError."""
        container = self._container
        state: Any = (await container.commands.webhooks.load(ref)).state
        if not isinstance(state, Registered):
            after = await last_sequence_of_most(container.reading, TASKS, TASK_SUBJECTS)
            registration = WebhookRegistered(
                webhook_id=ref.id,
                owner=request.user.subject,
                settings=WebhookSettings(url="", events=EVENTS, description=DESCRIPTION),
                secret_id=await container.secrets.put(ref, new_signing_secret()),
                after=after,
                facade=FACADE,
            )
            command = RegisterWebhook(registration=registration)

            async def handle() -> Any:
                return await container.commands.webhooks.handle(ref, command, **origin(request))

            handled = await container.submissions.store(OF_WEBHOOKS, ref.owner, SIZE_BYTES, handle)
            state = handled.known.state
        if not isinstance(state, Registered):
            raise NotFound("webhook", ref.id)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known.add(ref)
        return state


def webhook_secret_routes(webhooks: PredictionWebhooks) -> list[Any]:
    """Return the routes, without the prefix."""

    @get("/webhooks/default/secret", opt=requires(*SUBMITTERS))
    async def get_secret(request: ApiRequest) -> Response[bytes]:
        body = msgspec.json.encode({"key": await webhooks.secret(request)})
        return Response(body, media_type="application/json")

    return [get_secret]
