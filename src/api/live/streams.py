"""Live streams: several topics over one response, merged, resumable, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import structlog

from ...clock import utc_now
from ...container import Container
from ...errors import Forbidden, StoreError, StoreUnavailable
from ..alarm_desk import AlarmDesk
from ..auth.access import READERS_OF_ALL
from ..auth.authenticator import Identity
from ..auth.narrowing import refusal
from ..event_stream import EventStream, PushMessages
from ..log_query import LogPages, visible_to
from ..sse import HEARTBEAT, block
from . import pictures
from .channels import (
    FLUSH_SECONDS,
    MOST_FRAMES,
    Channel,
    Channels,
    LiveFrame,
    LiveListener,
    Picture,
    Subscription,
    frame,
)
from .log_lines import LinesChannel, LogTails
from .pictures import FleetChannel
from .task_rows import RowsChannel, TaskChanges
from .topics import LiveTopic, lines_wanted, read_places, tasks_wanted, write_places

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15.0
READY_SECONDS = 5.0
CHANNELS_PER_SECOND = 100
"""With more channels, pictures are read less often than once a second."""
EVENTS_OF_A_FRAME = 200
BYTES_OF_A_FRAME = 1024 * 1024
PAUSE_SECONDS = 10.0
"""How long the events of a task may be quiet before its feed says where it is."""


class LiveStreams:
    """The live streams of a process."""

    def __init__(self, container: Container, desk: AlarmDesk, pages: LogPages) -> None:
        self._container = container
        self._desk = desk
        self._pages = pages
        self.channels = Channels()
        self._changes = TaskChanges(container)
        self._tails = LogTails(container.consuming, container.tail)
        self._fleet_changed = asyncio.Event()
        self._events = EventStream(container, PAUSE_SECONDS)
        container.fleet.watch(lambda _: self._fleet_changed.set())
        container.fleet.watch_limits(self._fleet_changed.set)
        container.feeds.hub.watch_end(self.channels.end)

    async def open(
        self, identity: Identity, topics: Sequence[LiveTopic], event_id: str | None
    ) -> AsyncGenerator[bytes, None]:
        """Return the blocks of a stream. Raises what a topic is refused for, before anything is sent."""
        stack = contextlib.AsyncExitStack()
        try:
            listener = stack.enter_context(self.channels.listening())
            places = read_places(event_id)
            subscriptions: list[tuple[LiveTopic, Subscription]] = []
            async with asyncio.timeout(READY_SECONDS):
                for topic in topics:
                    place = places.get(topic.digest, "")
                    if topic.kind == "task":
                        subscription = await self._follow_task(stack, listener, identity, topic, place)
                    else:
                        subscription = await self._subscribe(stack, listener, identity, topic, place)
                    subscriptions.append((topic, subscription))
        except TimeoutError:
            await stack.aclose()
            raise StoreUnavailable("the log cannot be followed now") from None
        except BaseException:
            await stack.aclose()
            raise
        return self._blocks(stack, listener, subscriptions)

    async def _blocks(
        self,
        stack: contextlib.AsyncExitStack,
        listener: LiveListener,
        subscriptions: Sequence[tuple[LiveTopic, Subscription]],
    ) -> AsyncGenerator[bytes, None]:
        async with stack:
            last = ""

            def event_id() -> str:
                nonlocal last
                now = write_places((topic, each.place) for topic, each in subscriptions)
                changed, last = now if now != last else "", now
                return changed

            yield block(b'{"type":"open"}', event_id(), is_first=True)
            while not listener.has_ended:
                made = await listener.next(HEARTBEAT_SECONDS)
                if made is not None:
                    yield block(made, event_id())
                elif not listener.has_ended:
                    yield HEARTBEAT

    async def _subscribe(
        self,
        stack: contextlib.AsyncExitStack,
        listener: LiveListener,
        identity: Identity,
        topic: LiveTopic,
        place: str,
    ) -> Subscription:
        key, make = self._channel_of(identity, topic)
        channel, subscription = stack.enter_context(
            self.channels.subscribed(listener, topic.text, key, identity.subject, make)
        )
        for made in channel.first():
            subscription.offer(made)
        await channel.ready()
        subscription.place = channel.position
        if place:
            subscription.is_held = True
            subscription.place = place
            stack.push_async_callback(_cancelled, asyncio.create_task(_catch_up(channel, subscription, place)))
        return subscription

    def _channel_of(self, identity: Identity, topic: LiveTopic) -> tuple[Any, Any]:
        """Return what identifies the channel of a topic, for those who may see the same, and what makes it."""
        if identity.types is not None and topic.kind != "tasks":
            raise refusal(identity, f"the topic `{topic.kind}`")
        owner = visible_to(identity)
        match topic.kind:
            case "stats":
                return ("stats", owner), lambda: Picture(lambda: pictures.numbers(self._container, owner), self._period)
            case "alarms":
                return ("alarms", owner), lambda: Picture(lambda: pictures.alarms(self._desk, owner), self._period)
            case "fleet":
                if not identity.has(*READERS_OF_ALL):
                    raise Forbidden("the topic `fleet` needs a token with the role admin or auditor")
                return ("fleet",), lambda: FleetChannel(self._container, self._fleet_changed)
            case "tasks":
                wanted = tasks_wanted(identity, topic.rest)
                return ("tasks", wanted), lambda: RowsChannel(self._container, self._changes, wanted)
            case "log":
                lines = lines_wanted(identity, topic.rest, utc_now())
                return ("log", lines), lambda: LinesChannel(self._pages.reader, self._tails, lines)
            case "task":
                raise AssertionError("each listener follows a task alone")

    def _period(self) -> float:
        return max(1.0, len(self.channels) / CHANNELS_PER_SECOND)

    async def _follow_task(
        self,
        stack: contextlib.AsyncExitStack,
        listener: LiveListener,
        identity: Identity,
        topic: LiveTopic,
        place: str,
    ) -> Subscription:
        """Subscribe to a task's events, which come from the hub, as in the task's own stream."""
        subscription = listener.subscribe(topic.text, is_picture=False)
        subscription.place = place
        messages = await self._events.of_task(identity, topic.rest, place or None)
        if messages is None:
            subscription.offer(frame("ended"))
        else:
            stack.push_async_callback(_cancelled, asyncio.create_task(_pump(messages, subscription)))
        return subscription


async def _catch_up(channel: Channel, subscription: Subscription, place: str) -> None:
    """Offer a listener what it missed; then what waits behind it."""
    try:
        missed = await channel.catch_up(place)
    except StoreError as error:
        log.warning("live.not-caught-up", reason=str(error))
        missed = [frame("reset", channel.position)]
    for made in reversed(missed):
        subscription.offer_first(made)
    subscription.release()


async def _pump(messages: PushMessages, subscription: Subscription) -> None:
    """Offer the events of a task in frames, no faster than the listener reads them."""
    waiting: asyncio.Queue[Any] = asyncio.Queue(EVENTS_OF_A_FRAME)

    async def read() -> None:
        try:
            async for message in messages:
                if message is not None:
                    await waiting.put(message)
        except StoreError as error:
            log.warning("live.broken", reason=str(error))
            await waiting.put(frame("broken", error=str(error)))
        else:
            await waiting.put(frame("ended"))

    reading = asyncio.create_task(read())
    try:
        while True:
            last = await waiting.get()
            events: list[bytes] = []
            size, place = 0, ""
            while not isinstance(last, LiveFrame):
                events.append(last.data)
                size, place = size + len(last.data), last.event_id or place
                if waiting.empty() or size >= BYTES_OF_A_FRAME:
                    break
                last = waiting.get_nowait()
            if events:
                data = b'"type":"events","events":[%b]' % b",".join(events)
                subscription.offer(LiveFrame(data, place, len(events)))
            if isinstance(last, LiveFrame):
                subscription.offer(last)
                return
            await asyncio.sleep(FLUSH_SECONDS)
            while subscription.waiting >= MOST_FRAMES // 2:
                subscription.was_read.clear()
                await subscription.was_read.wait()
    finally:
        await _cancelled(reading)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
