"""Sends what webhooks are to be sent: one worker at a time, beside dispatch and never in its way.

Who is authoritative: the log of tasks says what there is to send, the log of webhooks to whom, the `deliveries` bucket
what has been sent. What gives safety: an event becomes a delivery before the position moves past it, and a delivery
waits until its outcome is written. What gives liveness: whoever takes the lease goes on from these. What receivers must
tolerate: a delivery comes twice where its sender died between the call and the note; its `webhook-id` is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from ..clock import utc_now
from ..commands.webhook import DeletedWebhook, Registered
from ..events.ids import WebhookRef
from ..events.subjects import WEBHOOK_SUBJECTS
from ..projections.webhooks import WebhookRegistry
from ..push.feed import Feeds
from ..push.hub import Hub
from ..runtime import metrics
from ..runtime.service import Service
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease
from ..streams.topology.definitions import WEBHOOKS
from .deliveries import WAITING_FILTER, Marked, marked
from .delivery_loop import DeliveryLoop, DeliveryTools

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 3_600.0


class WebhookSender(Service):
    """The service of one worker."""

    def __init__(self, tools: DeliveryTools, lease: Lease) -> None:
        super().__init__("webhook-sender", lease=lease)
        self._tools = tools
        self._may_send = lambda: lease.held
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def stop(self) -> None:
        """Send nothing more, and release the lease, so that another worker goes on at once."""
        self._stopping.set()
        await self._is_idle.wait()
        await super().stop()

    async def _serve(self) -> None:
        """Send until the lease is lost."""
        loops = DeliveryLoops(self._tools, self._may_send)
        self._is_idle.clear()
        log.info("webhook-sender.started")
        try:
            await self._serve_together(loops.follow_webhooks(), loops.follow_waiting(), loops.sweep())
        finally:
            await loops.close()
            self._is_idle.set()


class DeliveryLoops:
    """The lanes of all webhooks, while this worker is the one that sends."""

    def __init__(self, tools: DeliveryTools, may_send: Callable[[], bool]) -> None:
        self._tools = tools
        self._may_send = may_send
        self._hub = Hub(tools.consuming)  # its own: the API's ends before this does
        self._feeds = Feeds(self._hub, tools.reading)
        self._webhooks = WebhookRegistry()
        self._loops: dict[WebhookRef, DeliveryLoop] = {}
        self._early: dict[WebhookRef, list[Marked]] = {}
        """What waits for webhooks that this has not read of yet: the two streams are read side by side."""
        self._caught_up = asyncio.Event()
        self._unneeded: set[tuple[WebhookRef, str]] = set()
        """Secrets that nothing named when last looked at."""
        metrics.webhook_waiting.set_function(lambda: sum(loop.waiting for loop in self._loops.values()))

    async def follow_webhooks(self) -> None:
        """Keep a lane for each webhook that is registered, for ever. Raises UnreadableEvent."""
        async with contextlib.aclosing(follow(self._tools.reading, WEBHOOKS, [WEBHOOK_SUBJECTS], 0)) as batches:
            async for positions in batches:
                changed = self._webhooks.apply(positions)
                if not positions and not self._caught_up.is_set():
                    changed = {ref for ref, _ in self._webhooks.registered()}
                    self._caught_up.set()
                if self._caught_up.is_set():
                    for ref in changed:
                        await self._open_or_close(ref)

    async def follow_waiting(self) -> None:
        """Hand to each lane what waits, as it comes, for ever."""
        await self._caught_up.wait()
        async with contextlib.aclosing(
            follow(self._tools.reading, self._tools.deliveries.bucket.stream, [WAITING_FILTER], 0)
        ) as batches:
            async for positions in batches:
                for position in positions:
                    await self._hand(marked(position))

    async def sweep(self) -> None:
        """Destroy, every hour, the secrets that nothing names any more: replaced, deleted, or never registered."""
        await self._caught_up.wait()
        while True:
            unneeded = {
                (ref, secret_id)
                for ref, secret_ids in (await self._tools.secrets.ids(WebhookRef)).items()
                for secret_id in secret_ids - self._named(ref)
            }
            for ref, secret_id in unneeded & self._unneeded:  # seen twice: it is not on its way to be registered
                await self._tools.secrets.destroy(ref, secret_id)
            self._unneeded = unneeded
            await asyncio.sleep(SWEEP_SECONDS)

    async def close(self) -> None:
        """Begin nothing more, and let calls under way end for a while."""
        await asyncio.gather(*(loop.stop() for loop in self._loops.values()))
        self._hub.end()
        metrics.webhook_waiting.set_function(lambda: 0)

    def _named(self, ref: WebhookRef) -> set[str]:
        state = self._webhooks.state(ref)
        return set(state.secret_ids(utc_now())) if isinstance(state, Registered) else set()

    async def _open_or_close(self, ref: WebhookRef) -> None:
        state, loop = self._webhooks.state(ref), self._loops.get(ref)
        if not isinstance(state, Registered):
            if loop is not None:
                await self._loops.pop(ref).stop(grace_seconds=0)
            if isinstance(state, DeletedWebhook):
                await self._tools.deliveries.forget(ref)
        elif loop is None:
            self._loops[ref] = DeliveryLoop(ref, state, self._tools, self._feeds, self._may_send)
            for what in self._early.pop(ref, ()):
                await self._hand(what)
        else:
            loop.change(state)

    async def _hand(self, what: Marked) -> None:
        loop = self._loops.get(what.ref)
        if loop is None and isinstance(self._webhooks.state(what.ref), DeletedWebhook):
            if what.next_at is not None:
                await self._tools.deliveries.forget(what.ref)
        elif loop is None:
            self._early.setdefault(what.ref, []).append(what)
        elif what.next_at is None:
            loop.drop(what.delivery_id)
        else:
            loop.offer(what.delivery_id, what.next_at)
