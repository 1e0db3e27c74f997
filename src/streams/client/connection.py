"""One connection to NATS, with one inbox for all answers.

nats-py manages the socket. This module adds requests that report an unknown outcome, requests with many answers, and a
watchdog that drops the connection to a server that no longer answers.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ...errors import OutcomeUnknown, StoreUnavailable
from .access import ANYBODY, Access, address, servers_of
from .client import NatsClient
from .connection_errors import AccessRefused, ConnectionErrors

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 30.0
"""Limit for the first connection. After it, reconnects are tried without a limit."""
HEADER_ALLOWANCE_BYTES = 8 * 1024
"""Reserved for headers below the server's payload limit, which includes them."""

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


class Connection:
    """A connection to NATS that reconnects on its own. Made by `open_connection`."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._receivers: dict[str, Receiver] = {}
        self._tokens = map(str, itertools.count(1))
        self._prefix = client.new_inbox()
        self._watchdog: asyncio.Task[None] | None = None
        self.denied: set[str] = set()
        """Subjects that NATS does not let us publish to, in lower case: nats-py changes the case."""

    async def start(self) -> None:
        await self._client.listen(f"{self._prefix}.*", self._receive)
        self._watchdog = asyncio.create_task(watch(self._client, self.answers), name="nats-watchdog")

    async def close(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._client.close()

    @property
    def client(self) -> NatsClient:
        """The nats-py client, for calls without a wrapper here."""
        return self._client

    @property
    def is_connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def server_version(self) -> str:
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def max_payload(self) -> int:
        """Largest body of one message, in bytes, with room for its headers."""
        return int(self._client.max_payload) - HEADER_ALLOWANCE_BYTES

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Headers | None = None
    ) -> None:
        """Send a message. Raises StoreUnavailable without a connection: then nothing is sent, now or later."""
        if len(payload) > self.max_payload:
            raise PayloadTooLarge(f"{len(payload)} bytes; NATS takes {self.max_payload} here (max_payload)")
        if not self._client.is_connected:
            raise StoreUnavailable("no connection to NATS")
        try:
            await self._client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
        # RuntimeError: uvloop raises it for a socket that has just been lost.
        except (nats.errors.Error, OSError, RuntimeError) as error:
            raise StoreUnavailable(f"NATS did not take the message: {error}") from error

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Headers | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Msg:
        """Send a request and return its answer.

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
            message = await future
        finally:
            timer.cancel()
            self.close_inbox(token)
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
        connection.lose_answers()
        if not client.is_closed:
            log.warning("nats.disconnected", role=role)

    async def on_reconnected() -> None:
        log.info("nats.reconnected", role=role)
        client.set_user_timeout()

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
    within so many seconds.
    """
    misses = 0
    while True:
        await asyncio.sleep(WATCHDOG_SECONDS)
        if not client.is_connected or await answers(WATCHDOG_SECONDS):
            misses = 0
            continue
        misses += 1
        if misses >= WATCHDOG_MISSES:
            log.warning("nats.silent", action="connection dropped")
            await client.drop()
            misses = 0
