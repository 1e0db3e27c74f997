"""One connection to NATS, with one inbox for all answers.

nats-py manages the socket. This module adds requests that report an unknown outcome, requests with many answers, and a
watchdog that drops the connection to a server that no longer answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ...errors import OutcomeUnknown, StoreFull, StoreUnavailable
from .access import ANYBODY, Access, address, servers_of
from .client import NatsClient
from .connection_errors import AccessRefused, ConnectionErrors

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 30.0
"""Limit for the first connection. After it, reconnects are tried without a limit."""
HEADER_ALLOWANCE_BYTES = 8 * 1024
"""Reserved for headers below the server's payload limit, which includes them."""

LEADER_ADVISORIES = ("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*", "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.*.*")
"""NATS says here that a stream or a consumer of a cluster has a new leader, which answers for it from now on."""
SETTLE_SECONDS = 10.0
"""How long requests without an answer are repeated after a reconnect, or after a leader was elected."""
FIRST_REPEAT_SECONDS = 0.25
"""Each further repeat of a request comes after twice the time, LONGEST_REPEAT_SECONDS at most."""
LONGEST_REPEAT_SECONDS = 0.5
REPEAT_PERIOD_SECONDS = 0.1
ELECTION_SECONDS = 0.05
"""Delay between an election and the reaction to it: NATS announces it a moment before the leader answers."""
ELECTIONS_SECONDS = 0.25
"""Shortest time between two such reactions: elections come in bursts."""
LARGE_READS_AT_ONCE = 16
"""Reads of up to READ_BYTES each: 32 MiB. NATS cuts a connection for which more than 64 MB wait."""

WATCHDOG_SECONDS = 2.0
WATCHDOG_MISSES = 2
"""Unanswered pings in a row after which the socket is dropped."""

Headers = Mapping[str, str]
Receiver = Callable[[Msg | None], None]
"""Takes an answer. None: the connection was lost, and with it all answers on their way."""


class NoResponders(StoreUnavailable):
    """No process serves this subject now: the request was not received."""


class PayloadTooLarge(StoreUnavailable):
    """The message is larger than the server accepts; sending it would close the connection."""


class NotPermitted(StoreUnavailable):
    """NATS rejected the message: our user may not publish to this subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"NATS does not permit us to publish to {subject}: see docs/operations.md, NATS permissions")


def status_of(message: Msg) -> str | None:
    """Return the status code of a control message, None for a message with content."""
    return message.headers.get("Status") if message.headers else None


class _Asked:
    """A request that may be repeated, as long as it has no answer."""

    def __init__(self, subject: str, payload: bytes, now: float) -> None:
        self.subject = subject
        self.payload = payload
        self.pause_seconds = FIRST_REPEAT_SECONDS
        self.repeat_at = now + FIRST_REPEAT_SECONDS


class Appends:
    """What became of the last appends over a connection."""

    def __init__(self) -> None:
        self.is_full = False
        """True if NATS refused the last one because its storage is full."""
        self.unanswered = 0
        """How many in a row had no answer."""

    def succeeded(self) -> None:
        self.is_full, self.unanswered = False, 0

    def failed(self, error: Exception) -> None:
        if isinstance(error, StoreFull):
            self.is_full = True
        elif isinstance(error, OutcomeUnknown):
            self.unanswered += 1


class Connection:
    """A connection to NATS that reconnects on its own. Made by `open_connection`."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._receivers: dict[str, Receiver] = {}
        self._tokens = map(str, itertools.count(1))
        self._prefix = client.new_inbox()
        self._watchdog: asyncio.Task[None] | None = None
        self.is_connected = False
        """True if messages can be sent, and their answers come back."""
        self.max_payload = int(client.max_payload) - HEADER_ALLOWANCE_BYTES
        """Largest body of one message, in bytes, with room for its headers."""
        self._news = asyncio.Event()
        """Set, and replaced by another one, when NATS may answer again."""
        self._asked: dict[str, _Asked] = {}
        """By token of the inbox."""
        self._repeating: asyncio.Task[None] | None = None
        self._settled_at = 0.0
        self._reaction: asyncio.TimerHandle | None = None
        """The coming reaction to an election."""
        self._reacted_at = 0.0
        self._loss_listeners: list[Callable[[], None]] = []
        self._return_listeners: list[Callable[[], None]] = []
        self._election_listeners: list[Callable[[], None]] = []
        self._leader_listeners: list[Callable[[str, str], None]] = []
        client.on_loss(self.lose)
        self.large_reads = asyncio.Semaphore(LARGE_READS_AT_ONCE)
        """For reads of many messages: they wait for each other, so what is on its way here stays bounded."""
        self.appends = Appends()
        """Kept by whoever appends over this connection."""
        self.denied: set[str] = set()
        """Subjects that NATS does not let us publish to, in lower case: nats-py changes the case."""

    async def start(self) -> None:
        await self._client.listen(f"{self._prefix}.*", self._receive)
        if self._client.is_of_cluster:
            for advisories in LEADER_ADVISORIES:
                await self._client.listen(advisories, self._on_leader)
        if self._client.is_connected:
            self._up()
        self._watchdog = asyncio.create_task(watch(self._client, self.answers), name="nats-watchdog")

    async def close(self) -> None:
        for task in (self._watchdog, self._repeating):
            if task is not None:
                task.cancel()
        if self._reaction is not None:
            self._reaction.cancel()
        await self._client.close()

    @property
    def client(self) -> NatsClient:
        """The nats-py client, for calls without a wrapper here."""
        return self._client

    def on_loss(self, react: Callable[[], None]) -> None:
        """Call `react` each time the connection is lost. Whatever waited for NATS then waits in vain: ask again."""
        self._loss_listeners.append(react)

    def on_return(self, react: Callable[[], None]) -> None:
        """Call `react` each time a lost connection is back, with its subscriptions."""
        self._return_listeners.append(react)

    def on_election(self, react: Callable[[], None]) -> None:
        """Call `react` soon after leaders of a cluster were elected: what did not answer may answer now."""
        self._election_listeners.append(react)

    def on_leader(self, react: Callable[[str, str], None]) -> None:
        """Call `react` with stream and consumer when that consumer has a new leader, which knows no earlier pull."""
        self._leader_listeners.append(react)

    async def pause(self, seconds: float) -> None:
        """Wait before a retry, at most until NATS may answer again."""
        news = self._news
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # not `wait_for`: on Python 3.11 it may swallow a cancellation
                await news.wait()

    @property
    def server_version(self) -> str:
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Headers | None = None
    ) -> None:
        """Send a message. Raises StoreUnavailable without a connection: then nothing is sent, now or later."""
        if len(payload) > self.max_payload:
            raise PayloadTooLarge(f"{len(payload)} bytes; NATS takes {self.max_payload} here (max_payload)")
        if not self.is_connected:
            raise StoreUnavailable("no connection to NATS")
        try:
            self._client.send(subject, reply, payload, headers)
        # RuntimeError: uvloop raises it for a socket that has just been lost.
        except (nats.errors.Error, OSError, RuntimeError) as error:
            raise StoreUnavailable(f"NATS did not take the message: {error}") from error

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Headers | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        *,
        repeats: bool = False,
    ) -> Msg:
        """Send a request and return its answer.

        `repeats`: the request may be executed more than once. Then it is sent again while leaders are being elected:
        NATS drops what comes for a stream without a leader. Such a request has no headers.

        Raises NoResponders or StoreUnavailable if it was not received. Raises OutcomeUnknown if it was sent and no
        answer came in time, or before the connection was lost.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg | None] = loop.create_future()

        def receive(message: Msg | None) -> None:
            if not future.done():
                future.set_result(message)

        def expire() -> None:
            if not future.done():
                future.set_exception(self._no_answer(subject, timeout_seconds))

        token = self.open_inbox(receive)
        timer = loop.call_later(timeout_seconds, expire)
        try:
            await self.publish(subject, payload, self.inbox(token), headers)
            if repeats:
                self._asked[token] = _Asked(subject, payload, loop.time())
            message = await future
        finally:
            timer.cancel()
            self.close_inbox(token)
            self._asked.pop(token, None)
        if message is None:
            raise OutcomeUnknown(f"the connection was lost before NATS answered on {subject}")
        if not message.data and status_of(message) == "503":
            raise NoResponders(f"no responders on {subject}")
        return message

    async def request_many(
        self, subject: str, payload: bytes, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> list[Msg]:
        """Send a request with many answers, the last of which is empty and has a status; return all, in order.

        Raises as `request` does. The timeout is the longest pause between two answers.
        """
        answers: asyncio.Queue[Msg | None] = asyncio.Queue()
        token = self.open_inbox(answers.put_nowait)
        messages: list[Msg] = []
        now = asyncio.get_running_loop().time
        try:
            await self.publish(subject, payload, self.inbox(token))
            async with asyncio.timeout(None) as limit:
                while not messages or messages[-1].data or not status_of(messages[-1]):
                    if answers.empty():
                        limit.reschedule(now() + timeout_seconds)
                    message = await answers.get()
                    if message is None:
                        raise OutcomeUnknown(f"the connection was lost before NATS answered on {subject}")
                    messages.append(message)
        except TimeoutError:
            raise self._no_answer(subject, timeout_seconds) from None
        finally:
            self.close_inbox(token)
        if status_of(messages[-1]) == "503":
            raise NoResponders(f"no responders on {subject}")
        return messages

    async def subscribe(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Subscribe. `receive` is awaited for one message at a time, in order."""
        return await self._client.subscribe(subject, cb=receive)

    async def listen(self, subject: str, receive: Callable[[Msg], None]) -> Subscription:
        """Subscribe; `receive` is called with each message as soon as it is read, and must not take long."""
        return await self._client.listen(subject, receive)

    def new_inbox(self) -> str:
        """Return a new unique subject for answers."""
        return str(self._client.new_inbox())

    async def listen_at_inbox(self, receive: Callable[[Msg], None]) -> str:
        """Listen at a new inbox and return it. For messages that keep their own subject, such as pulled ones."""
        inbox = self.new_inbox()
        await self.listen(inbox, receive)
        return inbox

    async def flush(self) -> None:
        """Return once the server has received everything sent. Raises StoreUnavailable if it does not answer."""
        if not await self.answers(REQUEST_TIMEOUT_SECONDS):
            raise StoreUnavailable("NATS does not answer")

    def open_inbox(self, receive: Receiver) -> str:
        """Route messages at `inbox(token)` to `receive` until `close_inbox`; return the token."""
        token = next(self._tokens)
        self._receivers[token] = receive
        return token

    def close_inbox(self, token: str) -> None:
        self._receivers.pop(token, None)

    def inbox(self, token: str) -> str:
        return f"{self._prefix}.{token}"

    def lose_answers(self) -> None:
        """End every wait for an answer at once: the connection was lost."""
        for receive in list(self._receivers.values()):
            receive(None)

    def lose(self) -> None:
        """Record that the connection is lost or closed."""
        self.is_connected = False
        self.lose_answers()
        _call_all(self._loss_listeners)

    def regain(self) -> None:
        """Record that the connection is back."""
        self._up()
        self.appends.succeeded()  # of another server, or one that was started again: not known to be full
        _call_all(self._return_listeners)
        self._tell_news()

    def _up(self) -> None:
        self.max_payload = int(self._client.max_payload) - HEADER_ALLOWANCE_BYTES
        self.is_connected = True

    def _on_leader(self, message: Msg) -> None:
        stream, *consumer = message.subject.split(".")[5:]
        if consumer:
            for react in self._leader_listeners:
                react(stream, consumer[0])
        if self._reaction is None:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + ELECTION_SECONDS, self._reacted_at + ELECTIONS_SECONDS)
            self._reaction = loop.call_at(at, self._react_to_elections)

    def _react_to_elections(self) -> None:
        self._reaction = None
        self._reacted_at = asyncio.get_running_loop().time()
        _call_all(self._election_listeners)
        self._tell_news()

    def _tell_news(self) -> None:
        """End every pause, and repeat unanswered requests for a while."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        loop = asyncio.get_running_loop()
        self._settled_at = loop.time() + SETTLE_SECONDS
        if self._client.is_of_cluster and (self._repeating is None or self._repeating.done()):
            self._repeating = loop.create_task(self._repeat(), name="nats-repeat")

    async def _repeat(self) -> None:
        """Send unanswered requests again until leaders have had the time to be elected."""
        now = asyncio.get_running_loop().time
        while now() < self._settled_at:
            await asyncio.sleep(REPEAT_PERIOD_SECONDS)
            for token, asked in list(self._asked.items()):
                if now() >= asked.repeat_at:
                    asked.pause_seconds = min(2 * asked.pause_seconds, LONGEST_REPEAT_SECONDS)
                    asked.repeat_at = now() + asked.pause_seconds
                    with contextlib.suppress(StoreUnavailable):
                        await self.publish(asked.subject, asked.payload, self.inbox(token))

    def _no_answer(self, subject: str, timeout_seconds: float) -> StoreUnavailable:
        if subject.lower() in self.denied:
            return NotPermitted(subject)
        return OutcomeUnknown(f"no answer from NATS on {subject} in {timeout_seconds:g} s")

    def _receive(self, message: Msg) -> None:
        receive = self._receivers.get(message.subject[len(self._prefix) + 1 :])
        if receive is not None:
            receive(message)

    async def answers(self, timeout_seconds: float) -> bool:
        """Return True if a message to our own inbox comes back in time.

        The client's `rtt` and `flush` are no substitute: they cancel the future of a late ping, and the pong that then
        comes ends the client's read loop for good (nats-py 2.16).
        """
        heard = asyncio.Event()
        token = self.open_inbox(lambda message: heard.set() if message else None)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.publish(self.inbox(token))
                await heard.wait()
        except (TimeoutError, StoreUnavailable):
            return False
        finally:
            self.close_inbox(token)
        return True


def _call_all(listeners: Sequence[Callable[[], None]]) -> None:
    for react in listeners:
        try:
            react()
        except Exception:  # an error raised here would end nats-py's read loop
            log.exception("nats.listener-failed")


async def open_connection(url: str, role: str, access: Access = ANYBODY) -> Connection:
    """Connect and return the connection; `role` is part of its name in `nats server report connections`.

    `url` is one server or several, separated by commas; a user and password in it replace those of `access`. Raises
    InvalidSettings for a malformed URL, AccessRefused if NATS rejects us or its certificate is not trusted,
    StoreUnavailable if no server answers within CONNECT_TIMEOUT_SECONDS.
    """
    servers = servers_of(url)
    access = access.for_servers(servers)
    names = [address(server) for server in servers]
    errors = ConnectionErrors(role, access)

    async def on_error(error: Exception) -> None:
        if denied := errors.record(error):
            connection.denied.add(denied)
        if not connected and errors.refusal:
            raise AccessRefused(errors.refusal)

    async def on_disconnected() -> None:
        if not client.is_closed:
            log.warning("nats.disconnected", role=role)

    async def on_reconnected() -> None:
        log.info("nats.reconnected", role=role)
        client.set_user_timeout()
        connection.regain()

    client = NatsClient(access)
    connection = Connection(client)
    connected = False
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await client.connect(
                servers=names,
                name=f"taskstream-{role}-{os.getpid()}",
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.5,  # type: ignore[arg-type]  # seconds; nats-py says int and takes any number
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=0,  # a publish must fail while disconnected, not land later
                inbox_prefix=access.inbox_prefix,
                **client.credentials(),
            )
        connected = True
        client.set_user_timeout()
        await connection.start()
        await connection.flush()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        await client.close()
        last = errors.last or str(error) or type(error).__name__
        raise StoreUnavailable(f"no NATS server answers at {', '.join(names)}: {last}") from error
    except StoreUnavailable:
        await client.close()
        if errors.inbox_forbidden:
            raise AccessRefused(
                f"NATS does not let this user receive answers under {access.inbox_prefix}: "
                "set TASKSTREAM_NATS_INBOX_PREFIX to a subject that the user may subscribe and publish to"
            ) from None
        raise
    except BaseException:
        await client.close()
        raise
    return connection


async def watch(client: NatsClient, answers: Callable[[float], Awaitable[bool]]) -> None:
    """Drop the socket of a server that no longer answers, so nats-py connects to another one; until cancelled.

    nats-py alone waits without a limit for a server that was stopped. `answers` returns True if the server answers
    within so many seconds. A question that was lost with its connection says nothing about the next connection.
    """
    misses = 0
    while True:
        await asyncio.sleep(WATCHDOG_SECONDS)
        asked = client.connections
        if not client.is_connected or await answers(WATCHDOG_SECONDS) or client.connections != asked:
            misses = 0
            continue
        misses += 1
        if misses >= WATCHDOG_MISSES:
            log.warning("nats.silent", action="connection dropped")
            await client.drop()
            misses = 0
