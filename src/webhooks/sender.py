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

import aiohttp
import structlog
from msgspec import Struct

from ..clock import utc_now
from ..commands.commands import Commands
from ..commands.webhook import DeletedWebhook, Registered
from ..errors import StoreError, UnreadableEvent
from ..events.ids import WebhookRef
from ..events.subjects import WEBHOOK_SUBJECTS
from ..projections.webhooks import WebhookRegistry
from ..push.feed import Feeds
from ..push.hub import Hub
from ..push.subscription_filter import TaskAttributeReader
from ..runtime import metrics
from ..settings import Settings
from ..streams.client.connection import Connection
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease, Membership
from ..streams.topology.definitions import WEBHOOKS
from ..vault.webhook_secrets import WebhookSecrets
from .client import WebhookClient
from .deliveries import WAITING_FILTER, DeliveryStore, Marked, marked
from .delivery_loop import DeliveryLoop, DeliveryTools

log = structlog.get_logger(__name__)

STANDBY_SECONDS = 1.0
"""How often a worker that does not send looks whether it should."""
SWEEP_SECONDS = 3_600.0


class WebhookStores(Struct, frozen=True, kw_only=True):
    """What the sender reads and writes."""

    settings: Settings
    commands: Commands
    reading: Connection
    consuming: Connection
    deliveries: DeliveryStore
    secrets: WebhookSecrets
    task_attributes: TaskAttributeReader


class WebhookSender:
    """The service of one worker."""

    def __init__(self, stores: WebhookStores, members: Membership, session: aiohttp.ClientSession) -> None:
        self._stores = stores
        self._members = members
        self._session = session
        self._lease = Lease(members, "webhooks")
        self._stop = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def run(self) -> None:
        """Send while the lease is held, stand by otherwise, until stopped."""
        while not self._stop.is_set():
            try:
                if await self._lease.acquire():
                    await self._serve()
            except UnreadableEvent as error:
                log.error("webhooks.halted", reason=str(error))
                await self._lease.release()
                return
            except StoreError as error:
                log.warning("webhooks.again", reason=str(error))
            await self._pause(STANDBY_SECONDS)

    async def stop(self) -> None:
        """Send nothing more, and give the lease up, so that another goes on at once."""
        self._stop.set()
        await self._is_idle.wait()
        await self._lease.release()

    async def _serve(self) -> None:
        self._is_idle.clear()
        log.info("webhooks.started", worker=self._members.id)
        loops = DeliveryLoops(self._stores, self._session, lambda: self._lease.held)
        parts = [loops.follow_webhooks, loops.follow_waiting, loops.sweep, self._hold]
        tasks = [asyncio.create_task(part(), name=f"webhooks-{part.__name__}") for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await loops.close()
            self._is_idle.set()

    async def _hold(self) -> None:
        """Return once the lease is lost, or this is to stop."""
        while not self._stop.is_set() and await self._lease.acquire():
            await self._pause(self._members.period_seconds)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


class DeliveryLoops:
    """The lanes of all webhooks, while this worker is the one that sends."""

    def __init__(self, stores: WebhookStores, session: aiohttp.ClientSession, may_send: Callable[[], bool]) -> None:
        self._stores = stores
        self._hub = Hub(stores.consuming)  # its own: the API's ends before this does
        self._tools = DeliveryTools(
            settings=stores.settings,
            reading=stores.reading,
            commands=stores.commands,
            deliveries=stores.deliveries,
            feeds=Feeds(self._hub, stores.reading),
            task_attributes=stores.task_attributes,
            client=WebhookClient(session, stores.secrets, stores.settings.webhook_timeout),
            may_send=may_send,
        )
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
        async with contextlib.aclosing(follow(self._stores.reading, WEBHOOKS, [WEBHOOK_SUBJECTS], 0)) as batches:
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
            follow(self._stores.reading, self._stores.deliveries.bucket.stream, [WAITING_FILTER], 0)
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
                for ref, secret_ids in (await self._stores.secrets.kept()).items()
                for secret_id in secret_ids - self._named(ref)
            }
            for ref, secret_id in unneeded & self._unneeded:  # seen twice: it is not on its way to be registered
                await self._stores.secrets.destroy(ref, [secret_id])
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
                await self._stores.deliveries.forget(ref)
        elif loop is None:
            self._loops[ref] = DeliveryLoop(ref, state, self._tools)
            for what in self._early.pop(ref, ()):
                await self._hand(what)
        else:
            loop.change(state)

    async def _hand(self, what: Marked) -> None:
        loop = self._loops.get(what.ref)
        if loop is None and isinstance(self._webhooks.state(what.ref), DeletedWebhook):
            if what.next_at is not None:
                await self._stores.deliveries.forget(what.ref)
        elif loop is None:
            self._early.setdefault(what.ref, []).append(what)
        elif what.next_at is None:
            loop.drop(what.delivery_id)
        else:
            loop.offer(what.delivery_id, what.next_at)
