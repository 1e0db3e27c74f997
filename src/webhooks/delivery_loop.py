"""The delivery loop of one webhook: makes deliveries of its events, and sends them a few at a time.

Webhooks share nothing here, so a receiver that hangs delays its own deliveries and no others. The backlog of a slow one
stays in the log of tasks: at most MOST_WAITING events wait as deliveries.

A receiver that answers 429, or 503 with `Retry-After`, pauses its webhook: no message is sent until the pause ends,
then one, and the others once a message is accepted. Such an answer is about the receiver, not the message, so it costs
the message no try; `webhook_pause_limit` bounds the wait. The pause is stored before the outcome of the call that began
it, so a worker that takes over sends nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog
from msgspec import Struct
from msgspec.structs import replace

from ..clock import jitter, utc_now
from ..commands.commands import Commands
from ..commands.webhook import DisableWebhook, Registered
from ..errors import Refused, StoreError, UnreadableEvent
from ..events.envelope import Actor
from ..events.ids import WebhookRef, delivery_id, parse_task_id
from ..events.subjects import TASK_SUBJECTS
from ..facades.predictions import PredictionReader
from ..instants import iso
from ..push.feed import FeedPosition, Feeds
from ..push.listeners import Scope
from ..push.live import LiveReport, Seen
from ..push.subscription_filter import TaskAttributeReader
from ..push.updates import LoggedEvent
from ..runtime import metrics
from ..runtime.metrics import labelled
from ..runtime.service import Service
from ..runtime.spans import Tracing
from ..settings import Settings
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_sequence_of_most
from ..streams.tail import Tail
from ..streams.topology.definitions import TASKS
from ..streams.topology.epochs import read_extent
from ..vault.result_links import ResultLinks
from ..vault.secrets import SecretStore
from .client import WebhookClient, WebhookOutcome
from .deliveries import DeliveryStore, StoredDelivery, WebhookDelivery, WebhookPause
from .messages import message_body, message_trace
from .prediction_events import PREDICTION, PredictionEvents

log = structlog.get_logger(__name__)

AT_ONCE = 4
"""Calls to one receiver at a time; one while it fails."""
FACADE_AT_ONCE = 8
"""Calls of a façade's webhook at a time, to all its receivers together, whether they fail or not."""
MOST_WAITING = 1_000
"""Deliveries of one webhook; while as many wait, its events wait in the log."""
DOWN_AFTER = 10
"""Failures in a row after which a success means that the receiver is back: waiting deliveries are sent at once."""
LONGEST_OWN_PAUSE = timedelta(minutes=10)
"""Longest pause if the receiver names none."""
SHORTEST_ASKED = timedelta(seconds=1)
"""A shorter `Retry-After` counts as none, so a receiver that always sends 0 is not called all the time."""
TRY_AGAIN = timedelta(seconds=1)
LOOK_AGAIN = timedelta(seconds=5)
SAVE_SECONDS = 1.0
"""How often the position is written; after a crash later events are read again, and create nothing twice."""
STOP_SECONDS = 2.0
BY = Actor("system", "webhooks")


class Unheard(Seen):
    """A position in a feed that takes every event from the log, whatever was pushed live."""

    def takes(self, live: LiveReport) -> bool:  # noqa: ARG002 - as every listener
        return False


class DeliveryTools(Struct, frozen=True, kw_only=True):
    """What the delivery loops share."""

    settings: Settings
    reading: Connection
    consuming: Connection
    tail: Tail
    """Of the log of tasks."""
    commands: Commands
    deliveries: DeliveryStore
    secrets: SecretStore
    task_attributes: TaskAttributeReader
    links: ResultLinks
    predictions: PredictionReader
    client: WebhookClient
    tracing: Tracing | None


class DeliveryLoop(Service):
    """Sends the deliveries of one webhook from its creation on; as a service, makes deliveries of its events.

    At an event that does not decode it halts: deliveries made before are still sent, other webhooks are not affected.
    """

    def __init__(
        self,
        ref: WebhookRef,
        webhook: Registered,
        tools: DeliveryTools,
        feeds: Feeds,
        may_send: Callable[[], bool],
        pause: WebhookPause | None = None,
    ) -> None:
        """`may_send` returns False once another worker may have taken over. `pause`: that of an earlier worker."""
        super().__init__(f"webhook:{ref.id}", period_seconds=TRY_AGAIN.total_seconds())
        self._ref = ref
        self._webhook = webhook
        self._tools = tools
        self._feeds = feeds
        self._may_send = may_send
        self._waiting: dict[str, float] = {}
        """When deliveries are to be tried, by the event loop's clock."""
        self._since: dict[str, datetime] = {}
        """When each delivery that waits or is being sent was created, or last repeated by hand."""
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._missed: set[str] = set()
        """Deliveries that were not found: a replica that lags may have answered. Each is read once more."""
        self._failures = 0
        """In a row."""
        self._predictions = PredictionEvents()
        self._last_pause: WebhookPause | None = None
        """The present or last pause; None once a message was accepted after it."""
        self._paused_until = 0.0
        """By the event loop's clock."""
        if pause is not None and pause.applies_to(webhook):
            self._keep_to(pause)
        self._news = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._running = asyncio.create_task(self._send_all(), name=f"webhook-{ref.id}-send")
        if webhook.active:
            self._follow()

    def change(self, webhook: Registered) -> None:
        """Apply changed settings."""
        before, self._webhook = self._webhook, webhook
        if webhook.active and (not before.active or webhook.after != before.after):
            self._follow()
        elif not webhook.active:
            self._stop_following()
        if self._last_pause is not None and not self._last_pause.applies_to(webhook):
            self._last_pause, self._paused_until = None, 0.0
        self._news.set()

    @property
    def is_paused(self) -> bool:
        """True while the receiver wants no message."""
        return self._webhook.active and self._pause_seconds() > 0

    @property
    def waiting(self) -> int:
        """How many deliveries wait, those being sent included."""
        return len(self._waiting) + len(self._sending)

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest delivery that waits; 0 if none does, or the webhook is not active."""
        if not self._webhook.active or not self.waiting:
            return 0.0
        now = utc_now()
        since = (self._since.get(name, now) for name in (*self._waiting, *self._sending))
        return max(0.0, (now - min(since)).total_seconds())

    def offer(self, name: str, at: datetime, since: datetime) -> None:
        """Schedule a delivery for an instant, at most the longest backoff from now (another clock may be wrong)."""
        longest = timedelta(seconds=self._tools.settings.webhook_retry_cap)
        self._since[name] = since
        self._wait(name, min(max(at - utc_now(), timedelta(0)), longest))
        self._news.set()

    def drop(self, name: str) -> None:
        """Unschedule a delivery."""
        self._waiting.pop(name, None)
        self._since.pop(name, None)
        self._missed.discard(name)

    async def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Begin no more calls, and let those in progress end for a while; the rest is sent again later."""
        self._running.cancel()
        self._stop_following()
        sending = list(self._sending.values())
        if sending:
            _, late = await asyncio.wait(sending, timeout=grace_seconds)
            for task in late:
                task.cancel()

    # From the log to deliveries

    def _follow(self) -> None:
        self._stop_following()
        self.halted = None
        self._following = asyncio.create_task(self.run(), name=f"webhook-{self._ref.id}-follow")

    def _stop_following(self) -> None:
        if self._following is not None:
            self._following.cancel()
            self._following = None

    async def _serve(self) -> None:
        """Create a delivery of each wanted event after the stored position, until cancelled."""
        tools, webhook = self._tools, self._webhook
        end = (await read_extent(tools.reading)).last
        saved = await tools.deliveries.start(self._ref, webhook.after, end)
        maybe_made = await last_sequence_of_most(tools.reading, TASKS, TASK_SUBJECTS)
        task_id = webhook.settings.task_id
        scope = Scope(ref=parse_task_id(task_id)) if task_id else Scope(owner=self._ref.owner)
        place = FeedPosition(saved, Unheard())
        loop = asyncio.get_running_loop()
        save_at = loop.time()
        async with contextlib.aclosing(self._feeds.feed(scope, place, SAVE_SECONDS)) as feed:
            async for item in feed:
                update = item.what if item is not None else None
                if isinstance(update, LoggedEvent) and (wanted := await self._wanted(update)) is not None:
                    await self._until_fewer_wait()
                    delivery = self._delivery_of(update, *wanted)
                    await tools.deliveries.make(self._ref, delivery, maybe_made=update.sequence <= maybe_made)
                if place.sequence > saved and loop.time() >= save_at:
                    saved, save_at = place.sequence, loop.time() + SAVE_SECONDS
                    await tools.deliveries.move(self._ref, saved)

    async def _wanted(self, update: LoggedEvent) -> tuple[str, str] | None:
        """Return the type of the message about an event, and its receiver if the webhook has none; None: no message."""
        settings, attributes = self._webhook.settings, self._tools.task_attributes
        if facade_name := self._webhook.facade:
            facade = (await attributes.of(update)).facade
            if facade is None or facade.name != facade_name or not facade.webhook:
                return None
            word = self._predictions.word_of(update, facade.webhook_events)
            return (f"{PREDICTION}{word}", facade.webhook) if word else None
        if update.kind not in settings.events:
            return None
        is_wanted = not settings.types or (await attributes.facts(update.ref)).task_type in settings.types
        return (f"task.{update.kind}", "") if is_wanted else None

    async def _until_fewer_wait(self) -> None:
        while self.waiting >= MOST_WAITING:  # noqa: ASYNC110 - seconds matter little here
            await asyncio.sleep(SAVE_SECONDS)

    def _delivery_of(self, update: LoggedEvent, message_type: str, url: str) -> WebhookDelivery:
        at = update.stored.recorded.at
        return WebhookDelivery(
            id=delivery_id(self._ref, update.sequence, at),
            type=message_type,
            task_id=update.ref.id,
            sequence=update.sequence,
            created_at=at,
            next_at=min(at, utc_now()),  # the clock of the process that wrote the event may be ahead
            url=url,
        )

    # From deliveries to the receiver

    async def _send_all(self) -> None:
        while True:
            self._news.clear()
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation, and this would go on.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._begin()):
                    await self._news.wait()

    def _begin(self) -> float | None:
        """Begin to send due deliveries, AT_ONCE at a time; return the seconds until the next is due, if known."""
        if not self._webhook.active:
            return None
        if (paused := self._pause_seconds()) > 0:
            return paused
        loop = asyncio.get_running_loop()
        while len(self._sending) < self._most_at_once:
            idle = [(at, name) for name, at in self._waiting.items() if name not in self._sending]
            if not idle:
                return None
            at, name = min(idle)
            seconds = at - loop.time()
            if seconds > 0:
                return seconds
            del self._waiting[name]
            self._sending[name] = asyncio.create_task(self._send(name), name=f"delivery-{name}")
        return None

    @property
    def _most_at_once(self) -> int:
        if self._webhook.facade:
            return FACADE_AT_ONCE
        return 1 if self._failures or self._last_pause is not None else AT_ONCE

    def _wait(self, name: str, wait: timedelta) -> None:
        self._waiting[name] = asyncio.get_running_loop().time() + wait.total_seconds()

    def _again(self, name: str, wait: timedelta) -> None:
        """Schedule a delivery again after a while, unless it is scheduled already."""
        if name not in self._waiting:
            self._wait(name, wait)

    async def _send(self, name: str) -> None:
        try:
            held = await self._tools.deliveries.waiting(self._ref, name)
            if held is not None:
                self._missed.discard(name)
                await self._deliver(held)
            elif name in self._missed:
                self._missed.discard(name)
            else:
                self._missed.add(name)
                self._again(name, LOOK_AGAIN)
        except UnreadableEvent as error:
            await self._halt(error)
        except StoreError as error:
            log.warning("delivery.retrying", delivery=name, reason=str(error))
            self._again(name, TRY_AGAIN)
        except Exception:
            log.exception("delivery.failed", delivery=name)
            self._again(name, 10 * TRY_AGAIN)
        finally:
            del self._sending[name]
            self._news.set()

    async def _deliver(self, held: StoredDelivery) -> None:
        tools, delivery, webhook = self._tools, held.delivery, self._webhook
        if delivery.url:
            webhook = replace(webhook, settings=replace(webhook.settings, url=delivery.url))
        body = await message_body(tools.reading, tools.links, tools.predictions, self._ref, delivery)
        if not self._may_send():
            self._again(delivery.id, TRY_AGAIN)
            return
        if body is None:
            await self._record(held, delivery.given_up(utc_now(), "the event is past its retention"))
            return
        if self._pause_seconds() > 0:  # since this began
            self._again(delivery.id, timedelta(0))
            return
        outcome = await self._call(webhook, delivery, body)
        if outcome.is_ours:
            log.warning("delivery.not-sent", delivery=delivery.id, reason=outcome.answer.error)
            self._again(delivery.id, TRY_AGAIN)
            return
        # What one of a façade's receivers asks for concerns none of its others.
        if outcome.asks_for_pause and (outcome.is_unreadable or not delivery.url):
            await self._pause_after(held, outcome, self._webhook if delivery.url else webhook)
            return
        if not delivery.url:
            await self._count(outcome)
            if outcome.is_gone:
                await self._disable()
        after = delivery.tried(outcome.answer, self._next_at(delivery, outcome))
        _measure(outcome, after)
        await self._record(held, after)

    async def _call(self, webhook: Registered, delivery: WebhookDelivery, body: bytes) -> WebhookOutcome:
        """Send a delivery once. Raises StoreUnavailable: it was not sent."""
        tools = self._tools
        trace = await message_trace(tools.task_attributes, delivery)
        if tools.tracing is None:
            return await tools.client.send(self._ref, webhook, delivery.message_id, body, trace)
        with tools.tracing.delivery(trace.context, delivery_id=delivery.id, event=delivery.type) as span:
            sent = replace(trace, context=span.context)
            outcome = await tools.client.send(self._ref, webhook, delivery.message_id, body, sent)
            span.set_outcome(str(outcome.answer.status or "unreachable"), failed=bool(outcome.answer.error))
            return outcome

    # Pauses

    def _pause_seconds(self) -> float:
        """Return how much longer nothing may be sent; 0 or less if it may."""
        return self._paused_until - asyncio.get_running_loop().time()

    def _keep_to(self, pause: WebhookPause) -> None:
        """Send nothing until a pause ends, at most the longest one from now (another clock may be wrong)."""
        longest = timedelta(seconds=self._tools.settings.webhook_retry_cap)
        left = min(pause.until - utc_now(), longest)
        self._last_pause, self._paused_until = pause, asyncio.get_running_loop().time() + left.total_seconds()

    async def _pause_after(self, held: StoredDelivery, outcome: WebhookOutcome, webhook: Registered) -> None:
        """Pause the webhook, and record the call, which costs no try."""
        now, settings = utc_now(), self._tools.settings
        pause = next_pause(self._last_pause, outcome.retry_after, webhook, now, settings, jitter())
        if pause.applies_to(self._webhook):  # else the answer is of an earlier receiver
            self._keep_to(pause)
            await self._store_pause()
        limit = timedelta(seconds=settings.webhook_pause_limit)
        since = held.delivery.paused_since or now
        is_over = now - since >= limit
        answer = replace(outcome.answer, error=_gave_up(since)) if is_over else outcome.answer
        # Due at once: what it waits for is the pause, which may end early. Messages due before it go first.
        after = held.delivery.paused(answer, None if is_over else now)
        labelled(metrics.webhook_tries, "failed" if is_over else "paused").inc()
        await self._record(held, after)
        if now - pause.since >= limit:
            await self._give_up_before(now - limit, pause.since, now)

    async def _store_pause(self) -> None:
        await self._stored(lambda: self._tools.deliveries.set_pause(self._ref, self._last_pause))

    async def _give_up_before(self, oldest: datetime, since: datetime, now: datetime) -> None:
        """Give up the waiting deliveries created before `oldest`; `since` then the receiver only asks for pauses."""
        old = [name for name in self._waiting if self._since.get(name, now) < oldest]
        for name in old:
            held = await self._tools.deliveries.waiting(self._ref, name)
            if held is not None:
                await self._record(held, held.delivery.given_up(now, _gave_up(since)))
        if old:
            log.warning("webhook.gave-up", webhook=self._ref.id, deliveries=len(old))

    def _next_at(self, delivery: WebhookDelivery, outcome: WebhookOutcome) -> datetime | None:
        settings = self._tools.settings
        if not outcome.answer.error or outcome.is_gone or delivery.tries + 1 >= settings.webhook_attempts:
            return None
        asked = min(outcome.retry_after or timedelta(0), timedelta(seconds=settings.webhook_retry_cap))
        return utc_now() + max(backoff(delivery.tries + 1, settings, jitter()), asked)

    async def _count(self, outcome: WebhookOutcome) -> None:
        if outcome.answer.error:
            self._failures += 1
            return
        if self._pause_seconds() > 0:  # it was called before the pause
            return
        if self._last_pause is not None:
            self._last_pause = None
            await self._store_pause()
        if self._failures >= DOWN_AFTER:
            self._waiting = dict.fromkeys(self._waiting, asyncio.get_running_loop().time())
        self._failures = 0

    async def _disable(self) -> None:
        with contextlib.suppress(Refused):  # deleted meanwhile
            command = DisableWebhook(reason="the receiver answered 410: it wants nothing more")
            if (await self._tools.commands.webhooks.handle(self._ref, command, by=BY)).appended:
                metrics.webhooks_disabled.inc()

    async def _record(self, held: StoredDelivery, after: WebhookDelivery) -> None:
        """Record a call, however long the store is away: an unrecorded delivery is sent again."""
        await self._stored(lambda: self._tools.deliveries.record(self._ref, held, after))

    async def _stored(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write until the store has it."""
        while True:
            try:
                await write()
            except StoreError as error:
                log.warning("delivery.retrying", webhook=self._ref.id, reason=str(error))
                await asyncio.sleep(TRY_AGAIN.total_seconds())
            else:
                return


def _gave_up(since: datetime) -> str:
    return f"the receiver has only asked for pauses since {iso(since)}"


def _measure(outcome: WebhookOutcome, after: WebhookDelivery) -> None:
    if outcome.is_gone:
        labelled(metrics.webhook_tries, "gone").inc()
    else:
        labelled(metrics.webhook_tries, "retried" if after.status == "waiting" else after.status).inc()
    if after.status == "delivered":
        lag = outcome.answer.at - after.created_at
        metrics.webhook_lag_seconds.observe(max(0.0, lag.total_seconds()))


def backoff(tries: int, settings: Settings, chance: float) -> timedelta:
    """Return the backoff after so many tries: between half and all of 1, 4, 16, … times the base, up to the cap.

    By default at most 5, 20, 80 s, 5, 21, 85 min, then 6 h. `chance`: in [0, 1).
    """
    bound = min(settings.webhook_retry_base * 4.0 ** min(tries - 1, 30), settings.webhook_retry_cap)
    return timedelta(seconds=bound * (0.5 + chance / 2))


def next_pause(
    last: WebhookPause | None,
    asked: timedelta | None,
    webhook: Registered,
    now: datetime,
    settings: Settings,
    chance: float,
) -> WebhookPause:
    """Return the pause after an answer that asks for one; `asked`: its `Retry-After`, None if it has no valid one.

    An answer during a pause is of a call made before it: it can extend the pause, and counts as the same one.
    """
    if last is not None and not last.applies_to(webhook):
        last = None
    is_running = last is not None and last.until > now
    count = last.count + (0 if is_running else 1) if last is not None else 1
    longest = timedelta(seconds=settings.webhook_retry_cap)
    length = asked if asked is not None and asked >= SHORTEST_ASKED else own_pause(count, settings, chance)
    until = now + min(length, longest)
    return WebhookPause(
        until=max(until, last.until) if is_running and last is not None else until,
        since=last.since if last is not None else now,
        count=count,
        url=webhook.settings.url,
        enablings=webhook.enablings,
    )


def own_pause(count: int, settings: Settings, chance: float) -> timedelta:
    """Return the pause if the receiver names none, the `count`-th in a row: 1, 2, 4, … times the base, 10 min at most.

    Between half and all of that: by default at most 5, 10, 20 s, … `chance`: in [0, 1).
    """
    bound = min(settings.webhook_retry_base * 2.0 ** min(count - 1, 60), LONGEST_OWN_PAUSE.total_seconds())
    return timedelta(seconds=bound * (0.5 + chance / 2))
