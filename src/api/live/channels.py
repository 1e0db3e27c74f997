"""Channels: what is computed once per topic and sent to all who listen to it, and the bounded queues of the listeners.

A channel works while it has listeners. It sends at most four times a second. A listener that reads slowly holds the
last frames of each topic, MOST_FRAMES at most; of a picture (numbers, alarms) only the newest. Frames are bytes that
all listeners share.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec
import structlog

from ...errors import StoreError, StreamsExhausted, TooManyStreams
from ...runtime.places import Place, Places

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 0.25
"""Between two frames of a topic."""
MOST_FRAMES = 8
"""Frames of one topic that wait for one listener."""
MOST_CHANNELS = 500
"""Channels of a process."""
CHANNELS_OF_ONE_USER = 40
LINGER_SECONDS = 5.0
"""How long a channel works on without listeners: a page that is loaded again finds it."""
RETRY_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode


class LiveFrame(NamedTuple):
    """A message of a topic, with its place."""

    data: bytes
    """The fields of a JSON object, without the braces: each listener adds its topic."""
    place: str = ""
    """Where to resume after it; empty: the topic has no position, or it did not move."""
    rows: int = 0
    """Rows in it, which are counted if a listener misses the frame."""


def frame(type_: str, place: str = "", counted: int = 0, **fields: object) -> LiveFrame:
    """Return a frame of a type with JSON fields. `counted`: its `LiveFrame.rows`."""
    return LiveFrame(_encode({"type": type_, **fields})[1:-1], place, counted)


class Subscription:
    """A topic of one listener, and what waits for it."""

    def __init__(self, topic: str, wake: asyncio.Event, *, is_picture: bool) -> None:
        self.topic = topic
        """As the client wrote it."""
        self.place = ""
        """Where the client resumes, after what was sent."""
        self.missed = 0
        """Rows that were dropped since the last frame."""
        self.was_read = asyncio.Event()
        """Set when a frame is taken."""
        self._wake = wake
        self._is_picture = is_picture
        self._frames: deque[LiveFrame] = deque()
        self._head = b'{"topic":%b,' % _encode(topic)
        self.is_held = False
        """True while what the client missed is read: frames wait behind it."""

    @property
    def is_pending(self) -> bool:
        return not self.is_held and bool(self._frames)

    @property
    def waiting(self) -> int:
        """Return how many frames wait."""
        return len(self._frames)

    def offer(self, made: LiveFrame) -> None:
        """Add a frame; drop those before it if there are too many."""
        if self._is_picture:
            self._frames.clear()
        elif len(self._frames) >= MOST_FRAMES:
            self.missed += sum(each.rows for each in self._frames)
            self._frames.clear()
        self._frames.append(made)
        self._wake.set()

    def offer_first(self, made: LiveFrame) -> None:
        """Add a frame before those that wait."""
        self._frames.appendleft(made)
        self._wake.set()

    def release(self) -> None:
        """Let the frames go."""
        self.is_held = False
        self._wake.set()

    def take(self) -> bytes:
        """Return the next frame as a JSON object."""
        self.was_read.set()
        if self.missed:
            missed, self.missed = self.missed, 0
            return self._head + b'"type":"more","count":%d}' % missed
        made = self._frames.popleft()
        self.place = made.place or self.place
        return self._head + made.data + b"}"


class LiveListener:
    """One stream: its topics in turns."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.subscriptions: list[Subscription] = []
        self.has_ended = False
        self._turn = 0

    def end(self) -> None:
        self.has_ended = True
        self.wake.set()

    def subscribe(self, topic: str, *, is_picture: bool) -> Subscription:
        subscription = Subscription(topic, self.wake, is_picture=is_picture)
        self.subscriptions.append(subscription)
        return subscription

    async def next(self, timeout_seconds: float) -> bytes | None:
        """Return the next frame of any topic as JSON; None if none came in time, or at the end."""
        while not self.has_ended:
            for step in range(len(self.subscriptions)):
                place = (self._turn + step) % len(self.subscriptions)
                if self.subscriptions[place].is_pending:
                    self._turn = place + 1
                    return self.subscriptions[place].take()
            self.wake.clear()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self.wake.wait()
            except TimeoutError:
                return None
        return None


class Channel(ABC):
    """A topic that is computed once for all its listeners."""

    is_picture = False
    """True: each frame replaces the one before."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self._working: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.on_idle: Callable[[], None] = lambda: None

    def first(self) -> list[LiveFrame]:
        """Return what a new listener gets at once."""
        return []

    @property
    def position(self) -> str:
        """Return the place after what was published; empty: the topic has none."""
        return ""

    async def ready(self) -> None:  # noqa: B027 - at once, unless a topic says otherwise
        """Return once nothing that happens from now on is missed."""

    async def catch_up(self, place: str) -> list[LiveFrame]:  # noqa: ARG002 - of topics that have places
        """Return what came after a place and before the frames that wait: nothing, if a topic has no places.

        Raises StoreError.
        """
        return []

    @abstractmethod
    async def work(self) -> None:
        """Publish frames, without end. Raises StoreError."""

    def publish(self, made: LiveFrame) -> None:
        for subscription in self.subscriptions:
            subscription.offer(made)

    def join(self, subscription: Subscription) -> None:
        self.subscriptions.add(subscription)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._working is None:
            self._working = asyncio.create_task(self._run(), name="live-channel")

    def leave(self, subscription: Subscription) -> None:
        self.subscriptions.discard(subscription)
        if not self.subscriptions and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.on_idle)

    def stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            self._working = None
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _run(self) -> None:
        while True:
            try:
                await self.work()
            except StoreError as error:
                self.publish(frame("stale", error=str(error)))
            except Exception:
                log.exception("live.failed", channel=type(self).__name__)
            await asyncio.sleep(RETRY_SECONDS)


class ChannelPlaces(Places):
    """The topics of each user that are computed for them. Raises TooManyStreams, StreamsExhausted."""

    def refusal(self, limit: int, taken: int, *, is_of_holder: bool) -> Exception:
        return TooManyStreams(limit, taken) if is_of_holder else StreamsExhausted(limit)


class Channels:
    """The channels of a process, by what they compute."""

    def __init__(self) -> None:
        self._channels: dict[Hashable, Channel] = {}
        self._places = ChannelPlaces(CHANNELS_OF_ONE_USER, 0)
        self._held: dict[tuple[str, Hashable], tuple[Place, int]] = {}
        """By user and channel: the place, and for how many subscriptions it is held."""
        self._listeners: set[LiveListener] = set()

    def __len__(self) -> int:
        return len(self._channels)

    @contextlib.contextmanager
    def listening(self) -> Iterator[LiveListener]:
        """Register a listener, which `end` ends."""
        listener = LiveListener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    @contextlib.contextmanager
    def subscribed(
        self, listener: LiveListener, topic: str, key: Hashable, user: str, make: Callable[[], Channel]
    ) -> Iterator[tuple[Channel, Subscription]]:
        """Subscribe a listener to a channel, which `make` makes if there is none. Raises TooManyStreams."""
        with self._counted(user, key):
            channel = self._channels.get(key)
            if channel is None:
                if len(self._channels) >= MOST_CHANNELS:
                    raise StreamsExhausted(MOST_CHANNELS)
                channel = self._channels[key] = make()
                channel.on_idle = lambda: self._drop(key)
            subscription = listener.subscribe(topic, is_picture=channel.is_picture)
            channel.join(subscription)
            try:
                yield channel, subscription
            finally:
                channel.leave(subscription)

    @contextlib.contextmanager
    def _counted(self, user: str, key: Hashable) -> Iterator[None]:
        """Hold a place of a user for a channel, one for all their subscriptions to it."""
        place, count = self._held.get((user, key)) or (self._places.open(user), 0)
        self._held[user, key] = (place, count + 1)
        try:
            yield
        finally:
            place, count = self._held.pop((user, key))
            if count > 1:
                self._held[user, key] = (place, count - 1)
            else:
                place.close()

    def end(self) -> None:
        """End all listeners and channels: the process stops."""
        for listener in self._listeners:
            listener.end()
        for key in list(self._channels):
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        self._channels.pop(key).stop()


class Shown(NamedTuple):
    """The present content of a picture."""

    frame: LiveFrame
    what: object
    """Equal as long as nothing has changed that is worth a message."""


Reader: TypeAlias = Callable[[], Awaitable[Shown]]


class Picture(Channel):
    """A topic whose frames each show the whole: read again and again, and sent when it has changed."""

    is_picture = True

    def __init__(self, read: Reader, period: Callable[[], float]) -> None:
        """`period`: seconds between two reads."""
        super().__init__()
        self._read = read
        self._period = period
        self._last: Shown | None = None

    def first(self) -> list[LiveFrame]:
        return [self._last.frame] if self._last is not None else []

    async def work(self) -> None:
        while True:
            shown = await self._read()
            if self._last is None or shown.what != self._last.what:
                self.publish(shown.frame)
            self._last = shown
            await asyncio.sleep(self._period())
