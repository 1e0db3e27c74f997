"""The webhook sender: delivers events to webhooks, in one worker at a time and never in the way of dispatch.

Authoritative: the log of tasks for what to send, the log of webhooks for where to, the `deliveries` bucket for what was
sent. Safety: an event becomes a delivery before the position moves past it, and a delivery waits until its outcome is
written. Liveness: the worker that takes the lease resumes from these. Receivers must tolerate duplicates: a sender may
die between a call and the record of it. The `webhook-id` is the same each time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

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
from .deliveries import WAITING_FILTER, DeliveryChange, WebhookPause, delivery_change
from .delivery_loop import DeliveryLoop, DeliveryTools

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 3_600.0


class WebhookSender(Service):
    """Runs the delivery loops while its worker holds the lease."""

    def __init__(self, tools: DeliveryTools, lease: Lease) -> None:
        super().__init__("webhook-sender", lease=lease)
        self._tools = tools
        self._may_send = lambda: lease.held
        self._loops: DeliveryLoops | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def halted_parts(self) -> Mapping[str, str]:
        return self._loops.halted if self._loops is not None else {}

    async def stop(self) -> None:
        """Begin no more calls, let those in progress end for a while, then release the lease."""
        self._begin_stop()
        await self._is_idle.wait()
        await super().stop()

    async def _serve(self) -> None:
        """Send until the lease is lost."""
        self._loops = loops = DeliveryLoops(self._tools, self._may_send)
        self._is_idle.clear()
        log.info("webhook-sender.started")
        try:
            await self._serve_together(loops.follow_webhooks(), loops.follow_waiting(), loops.sweep())
        finally:
            await loops.close()
            self._loops = None
            self._is_idle.set()


class DeliveryLoops:
    """The delivery loops of all webhooks, for as long as this worker holds the lease."""

    def __init__(self, tools: DeliveryTools, may_send: Callable[[], bool]) -> None:
        self._tools = tools
        self._may_send = may_send
        self._hub = Hub(tools.consuming, tools.tail, tools.task_attributes)  # its own: the API's ends before this does
        self._feeds = Feeds(self._hub, tools.reading, tools.task_attributes)
        self._webhooks = WebhookRegistry()
        self._loops: dict[WebhookRef, DeliveryLoop] = {}
        self._pauses: dict[WebhookRef, WebhookPause] = {}
        """Pauses that began before this worker took the lease."""
        self._early: dict[WebhookRef, list[DeliveryChange]] = {}
        """Deliveries of webhooks whose registration was not read yet: the two streams are read at the same time."""
        self._caught_up = asyncio.Event()
        self._unneeded: set[tuple[WebhookRef, str]] = set()
        """Secrets that no webhook used at the last sweep."""
        metrics.webhook_waiting.set_function(lambda: sum(loop.waiting for loop in self._loops.values()))
        metrics.webhooks_paused.set_function(lambda: sum(loop.is_paused for loop in self._loops.values()))
        metrics.webhook_oldest_waiting.set_function(
            lambda: max((loop.oldest_seconds for loop in self._loops.values()), default=0.0)
        )

    @property
    def halted(self) -> dict[str, str]:
        """The webhooks that have met an unreadable event, as `webhook:<id>`, each with the reason."""
        return {loop.name: loop.halted for loop in self._loops.values() if loop.halted}

    async def follow_webhooks(self) -> None:
        """Run a delivery loop for each registered webhook, until cancelled. Raises UnreadableEvent."""
        async with contextlib.aclosing(follow(self._tools.reading, WEBHOOKS, [WEBHOOK_SUBJECTS], 0)) as batches:
            async for positions in batches:
                changed = self._webhooks.apply(positions)
                if not positions and not self._caught_up.is_set():
                    changed = {ref for ref, _ in self._webhooks.registered()}
                    self._pauses = await self._tools.deliveries.pauses()
                    self._caught_up.set()
                if self._caught_up.is_set():
                    for ref in changed:
                        await self._open_or_close(ref)

    async def follow_waiting(self) -> None:
        """Pass waiting deliveries to their loops as they come, until cancelled."""
        await self._caught_up.wait()
        async with contextlib.aclosing(
            follow(self._tools.reading, self._tools.deliveries.bucket.stream, [WAITING_FILTER], 0)
        ) as batches:
            async for positions in batches:
                for position in positions:
                    await self._pass_on(delivery_change(position))

    async def sweep(self) -> None:
        """Destroy every hour the secrets that no webhook uses: replaced, deleted, or never registered."""
        await self._caught_up.wait()
        while True:
            unneeded = {
                (ref, secret_id)
                for ref, secret_ids in (await self._tools.secrets.ids(WebhookRef)).items()
                for secret_id in secret_ids - self._used_by(ref)
            }
            for ref, secret_id in unneeded & self._unneeded:  # unused twice: its registration is not under way
                await self._tools.secrets.destroy(ref, secret_id)
            self._unneeded = unneeded
            await asyncio.sleep(SWEEP_SECONDS)

    async def close(self) -> None:
        """Begin no more calls, and let those in progress end for a while."""
        await asyncio.gather(*(loop.stop() for loop in self._loops.values()))
        self._hub.end()
        metrics.webhook_waiting.set_function(lambda: 0)
        metrics.webhooks_paused.set_function(lambda: 0)
        metrics.webhook_oldest_waiting.set_function(lambda: 0)

    def _used_by(self, ref: WebhookRef) -> set[str]:
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
            pause = self._pauses.pop(ref, None)
            self._loops[ref] = DeliveryLoop(ref, state, self._tools, self._feeds, self._may_send, pause)
            for change in self._early.pop(ref, ()):
                await self._pass_on(change)
        else:
            loop.change(state)

    async def _pass_on(self, change: DeliveryChange) -> None:
        loop = self._loops.get(change.ref)
        if loop is None and isinstance(self._webhooks.state(change.ref), DeletedWebhook):
            if change.next_at is not None:
                await self._tools.deliveries.forget(change.ref)
        elif loop is None:
            self._early.setdefault(change.ref, []).append(change)
        elif change.next_at is None or change.since is None:
            loop.drop(change.delivery_id)
        else:
            loop.offer(change.delivery_id, change.next_at, change.since)
