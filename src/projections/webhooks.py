"""The webhooks of all owners or of one, folded from the log: they are few and rarely change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..commands import webhook
from ..commands.webhook import Registered, WebhookState
from ..events.codec import webhook_codec
from ..events.ids import WebhookRef
from ..events.subjects import webhook_ref, webhooks_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import Position, read, read_current
from ..streams.log import decode
from ..streams.topology.definitions import WEBHOOKS


class WebhookRegistry:
    """Webhooks as of the events applied."""

    def __init__(self) -> None:
        self._states: dict[WebhookRef, WebhookState] = {}

    def apply(self, positions: Sequence[Position]) -> set[WebhookRef]:
        """Fold events, in order; return the webhooks they concern. Raises UnreadableEvent."""
        changed = set()
        for position in positions:
            ref = webhook_ref(position.subject)
            state = self._states.get(ref, webhook.UNREGISTERED)
            self._states[ref] = webhook.evolve(state, decode(webhook_codec, position).recorded)
            changed.add(ref)
        return changed

    def state(self, ref: WebhookRef) -> WebhookState:
        return self._states.get(ref, webhook.UNREGISTERED)

    def registered(self) -> Iterable[tuple[WebhookRef, Registered]]:
        """Return the webhooks that are registered now."""
        return ((ref, state) for ref, state in self._states.items() if isinstance(state, Registered))


async def load_webhooks(reading: Connection, owner: str | None) -> WebhookRegistry:
    """Return the webhooks of an owner token (None: of everybody), complete up to now."""
    subject = webhooks_filter(owner)
    positions = await read_current(reading, WEBHOOKS, subject, lambda: read(reading, WEBHOOKS, subject))
    found = WebhookRegistry()
    found.apply(positions)
    return found
