"""Pull requests to consumers, written by hand: nats-py's own fetch cannot express all of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from ...errors import StoreError, StoreUnavailable
from ...instants import nanoseconds
from ..client.connection import Connection, status_of
from .api import api
from .messages import Position

log = structlog.get_logger(__name__)

Follow: TypeAlias = Callable[[int, float], AsyncGenerator[list[Position], None]]
"""A function that follows a stream: takes a sequence and the seconds to linger, and yields as `follow` does."""

ANSWER_GRACE_SECONDS = 1.0
"""Time after its end at which a pull counts as lost: the server that had it was killed, and we were connected to
another one."""
FOLLOW_EXPIRES_SECONDS = 4.0
FOLLOW_BATCH = 1_000
"""Messages per request. The next request is sent before the last messages arrive: at most twice as many wait here."""
FOLLOW_BYTES = 2 * 1024 * 1024
"""Bytes per request, unless a larger message comes: two requests are open, and two more while the first are handled."""
BYTES_USED_UP = "Message Size Exceeds MaxBytes"
REQUEST_ENDS = frozenset({BYTES_USED_UP, "Batch Completed"})
"""NATS' descriptions (409) of the end of a request with a limit of bytes. After another one, `follow` starts again."""
RETRY_PAUSE_SECONDS = 0.5
REPLIES_REMEMBERED = 256
MOST_FILTERS = 1_000
"""Filters of one consumer. 300 cost NATS 25 ms, whatever the length of the stream."""


class DeliveryInfo(NamedTuple):
    """The content of a message's ack subject."""

    delivered: int
    """Number of deliveries, this one included."""
    stream_sequence: int
    consumer_sequence: int
    stored_nanoseconds: int
    """When it was stored: nanoseconds since the epoch, by NATS' clock."""
    pending: int
    """Undelivered messages of the consumer."""


def delivery_info(message: Msg) -> DeliveryInfo:
    """Return the content of a message's ack subject, which is asked for several times in a row."""
    return _read_again(message.reply)


def _read_reply(reply: str) -> DeliveryInfo:
    """Read `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>[.<token>]`."""
    tokens = reply.split(".")
    first = 4 if len(tokens) == 9 else 6
    return DeliveryInfo(*map(int, tokens[first : first + 5]))


_read_again = lru_cache(REPLIES_REMEMBERED)(_read_reply)


class _Silence:
    """A limit for each of many waits. It has one timer, which is set again when it has run out, not for each wait."""

    def __init__(self, seconds: float, react: Callable[[], None]) -> None:
        self._seconds = seconds
        self._react = react
        self._loop = asyncio.get_running_loop()
        self._ends_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Call `react` unless the wait that begins now ends in time."""
        self._ends_at = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._ends_at, self._look)

    def end(self) -> None:
        self._ends_at = None

    def close(self) -> None:
        self._ends_at = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._ends_at is None:
            return
        if self._loop.time() < self._ends_at:
            self._timer = self._loop.call_at(self._ends_at, self._look)
        else:
            self._react()


class _Arrivals:
    """The messages for one reader, who takes all of them at once. `asyncio.Queue` costs ten calls for each."""

    def __init__(self) -> None:
        self._messages: list[Msg | None] = []
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Msg | None) -> None:
        """Add a message; None: no more will come."""
        self._messages.append(message)
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something."""
        await self._news.wait()

    def take(self) -> list[Msg | None]:
        """Remove everything and return it, in order."""
        self._news.clear()
        messages, self._messages = self._messages, []
        return messages


class Consumer:
    """A durable consumer from which this process pulls.

    Delivered messages keep their own subjects, so each kind of pull has a separate inbox.
    """

    def __init__(self, connection: Connection, stream: str, name: str) -> None:
        self.is_gone = False
        """True if NATS has no such consumer, or no server for it now: ensure it again."""
        self._connection = connection
        self._stream = stream
        self._serve(name)
        self._fetched: asyncio.Queue[Msg | None] = asyncio.Queue()
        """What the fetch in progress has brought. None: the connection was lost."""
        self._fetches = False
        self._fetch_inbox = ""
        self._wait_inbox = ""
        self._late_listener: Callable[[], None] = _nothing
        self._receive: Callable[[Msg | None], None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def is_back(self, name: str) -> None:
        """Record that the consumer was recreated, perhaps with another name."""
        self._serve(name)
        self.is_gone = False

    def _serve(self, name: str) -> None:
        self.name = name
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"

    async def open(self) -> None:
        """Subscribe to the inboxes. Call it before the first pull."""

        def on_brought(message: Msg) -> None:
            self._check_gone(message)
            self._finish(None if _is_status(message) else message)

        self._fetch_inbox = await self._connection.listen_at_inbox(self._on_fetched)
        self._wait_inbox = await self._connection.listen_at_inbox(on_brought)
        self._connection.on_loss(self._on_loss)
        self._connection.on_leader(self._on_leader)

    def on_late(self, react: Callable[[], None]) -> None:
        """Call `react` when a message comes for which no call waits any more. The next fetch returns it."""
        self._late_listener = react

    def _on_fetched(self, message: Msg) -> None:
        self._fetched.put_nowait(message)
        if not self._fetches:
            self._check_gone(message)
            if not _is_status(message):
                self._late_listener()

    async def fetch(self, batch: int, timeout_seconds: float = 2.0) -> list[Msg]:
        """Return up to `batch` messages that wait now; empty if there are none, or no consumer.

        Messages that came too late for an earlier call are returned first, whatever their number. Raises
        StoreUnavailable without a connection, or if it is lost before the first message.
        """
        if messages := self._late():
            return messages
        request = msgspec.json.encode({"batch": batch, "no_wait": True})
        await self._connection.publish(self._subject, request, self._fetch_inbox)
        now = asyncio.get_running_loop().time
        self._fetches = True
        try:
            async with asyncio.timeout(None) as limit:
                while len(messages) < batch:
                    if self._fetched.empty():
                        limit.reschedule(now() + timeout_seconds)
                    message = await self._fetched.get()
                    if message is None:
                        if messages:
                            break
                        raise StoreUnavailable(f"the connection was lost before {self.name} brought anything")
                    if _is_status(message):
                        self._check_gone(message)
                        break
                    messages.append(message)
        except TimeoutError:
            log.warning("pull.no-answer", consumer=self.name)
        finally:
            self._fetches = False
        return messages

    def _late(self) -> list[Msg]:
        """Return the messages that no call has waited for. The end of an earlier fetch must not end the next one."""
        late = [self._fetched.get_nowait() for _ in range(self._fetched.qsize())]
        return [message for message in late if message is not None and not _is_status(message)]

    async def wait(self, receive: Callable[[Msg | None], None], expires_seconds: float) -> None:
        """Request the next message.

        `receive` is called once: with the message, or with None if none came in time or the connection was lost.
        Raises StoreUnavailable without a connection; then `receive` is not called.
        """
        self._receive = receive
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(expires_seconds + ANSWER_GRACE_SECONDS, self._finish, None)
        request = msgspec.json.encode({"batch": 1, "expires": nanoseconds(timedelta(seconds=expires_seconds))})
        try:
            await self._connection.publish(self._subject, request, self._wait_inbox)
        except StoreUnavailable:
            self._receive = None
            self._expiry.cancel()
            raise

    def _on_loss(self) -> None:
        """End the fetch and the request in progress: a restarted server has forgotten both."""
        if self._fetches:
            self._fetched.put_nowait(None)
        self._finish(None)

    def _on_leader(self, stream: str, name: str) -> None:
        """End the request in progress: a new leader of the consumer does not know it."""
        if (stream, name) == (self._stream, self.name):
            self._finish(None)

    def _check_gone(self, message: Msg) -> None:
        """Set `is_gone` if an answer says so. 409 has other reasons too; ensuring is cheap."""
        if _is_status(message) and status_of(message) in ("409", "503"):
            self.is_gone = True

    def _finish(self, message: Msg | None) -> None:
        receive, self._receive = self._receive, None
        if self._expiry is not None:
            self._expiry.cancel()
        if receive is not None:
            receive(message)
        elif message is not None:
            self._on_fetched(message)  # late: the next fetch returns it


def _nothing() -> None:
    """Do nothing."""


async def _create_reader(connection: Connection, stream: str, filters: Sequence[str], after: int) -> tuple[str, bool]:
    """Create a consumer in memory; return its name, and True if it has nothing to deliver yet."""
    name = f"follow-{secrets.token_hex(6)}"
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "ack_policy": "none",
        "filter_subjects": list(filters),
        "inactive_threshold": 60_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
    }
    created = await api(connection, f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
    return name, not created["num_pending"]


def _follow_request(max_bytes: int) -> bytes:
    expires = nanoseconds(timedelta(seconds=FOLLOW_EXPIRES_SECONDS))
    return msgspec.json.encode({"batch": FOLLOW_BATCH, "expires": expires, "max_bytes": max_bytes})


def _has_ended(message: Msg) -> bool:
    """Return True if a request has ended: its messages were delivered, or its time or its bytes were used up."""
    return status_of(message) == "408" or _description(message) in REQUEST_ENDS


def _description(message: Msg) -> str:
    return (message.headers or {}).get("Description", "")


def _undelivered(ended: Msg) -> int:
    """Return how many messages of a pull that has ended were not delivered."""
    return int((ended.headers or {}).get("Nats-Pending-Messages", FOLLOW_BATCH))


def _is_status(message: Msg) -> bool:
    return not message.data and status_of(message) is not None


async def follow(
    connection: Connection,
    stream: str,
    filters: Sequence[str],
    after: int,
    linger_seconds: float = 0.0,
    check: Callable[[], Awaitable[None]] | None = None,
) -> AsyncGenerator[list[Position], None]:
    """Yield the messages after a sequence as they arrive, in order, without gaps and without end.

    Messages that arrive within `linger_seconds` are yielded together, unless a full batch has arrived already. An empty
    list means that all messages up to now have been yielded. A lost connection or consumer causes no gap. `check` is
    awaited before each consumer; what it raises ends the messages, but for a StoreError, after which it is tried again.
    """
    while True:
        try:
            if check is not None:
                await check()
            once = _follow_once(connection, stream, filters, after, linger_seconds)
            async with contextlib.aclosing(once) as batches:
                async for positions in batches:
                    if positions:
                        after = positions[-1].sequence
                    yield positions
        except StoreError as error:
            log.warning("follow.again", stream=stream, after=after, reason=str(error))
        await connection.pause(RETRY_PAUSE_SECONDS)


async def read_before(
    connection: Connection, stream: str, filters: Sequence[str], after: int, before: int
) -> AsyncGenerator[list[Position], None]:
    """Yield the messages between two sequences, in order: those of up to MOST_FILTERS filters in one pass.

    The filters must match a message at `before` or later; it shows that a replica does not lag behind. Raises
    StoreUnavailable if there is none.
    """
    async with contextlib.aclosing(follow(connection, stream, filters, after)) as batches:
        async for positions in batches:
            if not positions:
                break
            found = [position for position in positions if position.sequence < before]
            if found:
                yield found
            if len(found) < len(positions):
                return
    raise StoreUnavailable(f"{stream} has ended before {before}")


async def _follow_once(
    connection: Connection,
    stream: str,
    filters: Sequence[str],
    after: int,
    linger_seconds: float,
) -> AsyncGenerator[list[Position], None]:
    name, is_at_end = await _create_reader(connection, stream, filters, after)
    arrived = _Arrivals()

    # The consumer is in memory. If the connection is lost, the consumer probably is too, without any message.
    loss = connection.open_inbox(arrived.put)
    subscription = await connection.listen(connection.new_inbox(), arrived.put)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
    silence = _Silence(FOLLOW_EXPIRES_SECONDS + ANSWER_GRACE_SECONDS, partial(arrived.put, None))
    wanted = expected = pending = 0
    max_bytes = FOLLOW_BYTES
    positions: list[Position] = []
    try:
        if is_at_end:
            yield []
        while True:
            while wanted <= FOLLOW_BATCH:  # also before each yield: the next messages are on their way meanwhile
                await connection.publish(subject, _follow_request(max_bytes), subscription.subject)
                wanted += FOLLOW_BATCH
            if positions:
                yield positions
                if pending == 0:
                    yield []
            silence.begin()
            await arrived.wait()
            silence.end()
            if linger_seconds and len(arrived) <= FOLLOW_BATCH:
                await asyncio.sleep(linger_seconds)
            positions = []
            for message in arrived.take():
                if message is None:
                    return
                if _is_status(message):
                    if not _has_ended(message):
                        return  # deleted, or its server is gone
                    wanted -= _undelivered(message)
                    if _description(message) == BYTES_USED_UP:
                        max_bytes *= 2  # the next message may be larger than all of them
                    continue
                max_bytes = FOLLOW_BYTES
                place = _read_reply(message.reply)
                expected += 1
                if place.consumer_sequence != expected:
                    return  # a message was lost
                wanted -= 1
                pending = place.pending
                positions.append(Position(place.stream_sequence, message.subject, message.data))
    finally:
        silence.close()
        connection.close_inbox(loss)
        with contextlib.suppress(nats.errors.Error):  # the connection was closed
            await subscription.unsubscribe()
        # The server would drop the consumer only after `inactive_threshold`.
        with contextlib.suppress(StoreUnavailable):
            await connection.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
