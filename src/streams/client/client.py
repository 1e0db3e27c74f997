"""A subclass of nats-py's client, which overrides private methods of nats-py 2.16.

* A listener gets each message in the moment in which its bytes arrive. nats-py wakes a task to read them, parses them
  with a regular expression, and puts each message into a queue, from which another task takes it.
* The messages that are sent in one round of the event loop are written together at its end: each write is a system
  call here and at the server. nats-py queues them and wakes a task that writes.
* A loss of the connection is reported in the moment in which messages can no longer be sent. nats-py reports it later.
* TLS that the settings require is enforced.
* An error with which the server closes the connection (expired credentials, a limit) leads to a reconnect. nats-py
  gives up for good, in spite of unlimited attempts.

`tests/conformance/test_nats_py.py` names every private member used here and checks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import nats.aio.client
import nats.errors
import nkeys  # type: ignore[import-untyped]
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ...settings import InvalidSettings
from .access import Access

log = structlog.get_logger(__name__)

TCP_USER_TIMEOUT_MS = 6_000
LINE_END = b"\r\n"
MESSAGES = (b"MSG", b"HMSG")
"""A message without headers, and one with headers."""
NOT_IN_SUBJECTS = re.compile(r"[ \t\r\n]")
PERMISSIONS = "permissions violation"
STALE = "stale connection"
WRITTEN_AT_ONCE = 64 * 1024
"""Bytes that wait for the end of the round; with more, they are written before."""
RECONNECT_PAUSE_SECONDS = 0.5
CANCEL_TRIES = 100
CANCEL_SECONDS = 0.05


class NoTls(nats.errors.Error):
    """The server offers no TLS. No secret was sent to it."""


class NatsMessage(Msg):
    """A message whose headers are parsed on first access: most are never read."""

    def __init__(self, client: NatsClient, sid: int, subject: str, reply: str, data: bytes, raw_headers: bytes) -> None:
        self._client = client
        self._sid = sid
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw_headers = raw_headers

    @property
    def headers(self) -> dict[str, str] | None:  # type: ignore[override]  # read-only here
        return self._parsed_headers

    @cached_property
    def _parsed_headers(self) -> dict[str, str] | None:
        return parse_headers(self._raw_headers) if self._raw_headers else None


class NatsClient(nats.aio.client.Client):
    """A client for one access."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._on_loss: Callable[[], None] = lambda: None
        self._listeners: dict[int, Callable[[Msg], None]] = {}
        """By subscription number."""
        self._unwritten: list[bytes] = []
        """Messages of this round of the event loop."""
        self._unwritten_bytes = 0
        self._replaced: asyncio.Task[None] | None = None
        """The reconnect before the present one, which has cancelled it."""
        self._reports: set[asyncio.Future[None]] = set()
        """Reports of errors, on their way."""
        self._inbox_prefix = bytearray(
            access.inbox_prefix.encode()
        )  # `connect` sets it too, but inboxes are made before

    def credentials(self) -> dict[str, Any]:
        """Return the arguments of `connect` that authenticate us."""
        access = self._access
        if not access.creds:
            return {"user": access.user, "password": access.password, "token": access.token}
        return {"user_jwt_cb": self._jwt, "signature_cb": self._sign}

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context of the next connection, from the files as they are now. Raises nats.errors.Error."""
        try:
            return self._access.ssl_context()
        except InvalidSettings as error:
            raise nats.errors.Error(str(error)) from None

    def on_loss(self, react: Callable[[], None]) -> None:
        """Call `react` whenever the connection is lost or closed, before anybody can see that it is."""
        self._on_loss = react

    @property
    def is_of_cluster(self) -> bool:
        """True if the server that we are connected to is part of a cluster."""
        return "cluster" in self._server_info

    @property
    def connections(self) -> int:
        """How often it has connected."""
        return int(self.stats["reconnects"]) + 1

    async def listen(self, subject: str, receive: Callable[[Msg], None]) -> Subscription:
        """Subscribe; `receive` is called with each message as it is read, and must not take long."""

        async def receive_later(message: Msg) -> None:
            receive(message)

        subscription = await self.subscribe(subject, cb=receive_later)
        self._listeners[subscription._id] = receive  # noqa: SLF001 - the subscription number
        return subscription

    def set_user_timeout(self) -> None:
        """Let the kernel drop a connection whose peer acknowledges nothing for TCP_USER_TIMEOUT_MS (Linux)."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is None:
            return
        try:
            connected = self._socket_transport().get_extra_info("socket")
            connected.setsockopt(socket.IPPROTO_TCP, option, TCP_USER_TIMEOUT_MS)
        except (AttributeError, OSError):
            log.warning("nats.no-user-timeout")

    async def close(self) -> None:
        """Close the connection and end a reconnect in progress.

        nats-py cancels a reconnect once. On Python 3.11 `wait_for` may swallow the cancellation; the reconnect then
        never ends, and neither does the process. nats-py also writes what waits to a socket that is lost. A cancelled
        wait for the socket's end cancels every other wait for it.
        """
        task = asyncio.current_task()
        try:
            with contextlib.suppress(OSError):
                await super().close()
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
        self._on_loss()
        for reconnect in (self._reconnection_task, self._replaced):
            await _end(reconnect)

    async def drop(self) -> None:
        """Abort the connection and reconnect, also if nats-py's read loop has ended unnoticed."""
        try:
            self._socket_transport().abort()
            await self._process_op_err(nats.errors.StaleConnectionError())
        except AttributeError:
            log.warning("nats.drop-failed")

    def _socket_transport(self) -> Any:
        return self._transport._io_writer.transport  # type: ignore[union-attr]  # noqa: SLF001 - nats-py has no other way

    def _jwt(self) -> bytearray:
        try:
            return bytearray(self._access.credentials().jwt.encode())
        except InvalidSettings as error:  # any other error would end nats-py's reconnecting
            raise nats.errors.Error(str(error)) from None

    def _sign(self, nonce: str) -> bytes:
        try:
            return self._access.credentials().sign(nonce)
        except (InvalidSettings, ValueError, nkeys.NkeysError) as error:
            raise nats.errors.Error(str(error)) from None

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._listeners.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        receive = self._listeners.get(sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._hear(receive, sid, subject, reply, data, headers)

    def send(self, subject: str, reply: str, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Write a message to the socket by the end of this round of the event loop, in the order of calls.

        If the connection is lost before, it is dropped. Raises BadSubjectError or BadHeaderError for one that NATS
        would misread. The caller has checked the connection and the size.
        """
        if not subject or NOT_IN_SUBJECTS.search(subject) or NOT_IN_SUBJECTS.search(reply):
            raise nats.errors.BadSubjectError
        message = _encoded(subject, reply, payload, headers)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write)
        self._unwritten.append(message)
        self._unwritten_bytes += len(message)
        if self._unwritten_bytes > WRITTEN_AT_ONCE:
            self._write()

    def _write(self) -> None:
        """Write what waits: first nats-py's own commands, which its task would write in a moment."""
        messages, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        if not messages or not self.is_connected or self._transport is None:
            return
        waiting, self._pending, self._pending_data_size = self._pending, [], 0
        with contextlib.suppress(OSError, RuntimeError):  # the socket is lost, which is reported in a moment
            self._transport.write(b"".join((*waiting, *messages)))

    def _receive_at_once(self) -> None:
        """Deliver messages for listeners as their bytes arrive; leave everything else to nats-py's read loop."""
        reader = self._transport._io_reader  # type: ignore[union-attr]  # noqa: SLF001 - nats-py has no other way
        feed = reader.feed_data

        def feed_data(data: bytes) -> None:
            # What nats-py has not parsed yet comes first.
            rest = data if reader._buffer or self._ps.buf else self._deliver(data)  # noqa: SLF001 - likewise
            if rest:
                feed(rest)

        reader.feed_data = feed_data

    def _deliver(self, data: bytes) -> bytes:
        """Deliver the complete messages for listeners that `data` begins with; return the rest.

        `MSG <subject> <sid> [<reply>] <size>`, or `HMSG <subject> <sid> [<reply>] <size of the headers> <size>`, and a
        line with headers and content.
        """
        start, size, line_end = 0, len(data), len(LINE_END)
        try:
            while (end := data.find(LINE_END, start)) >= 0:
                verb, *words = data[start:end].split(b" ")
                if verb not in MESSAGES or (receive := self._listeners.get(sid := int(words[1]))) is None:
                    break
                first = end + line_end
                last = first + int(words.pop())
                if last + line_end > size:
                    break
                content = first + int(words.pop()) if verb == MESSAGES[1] else first
                reply = words[2] if len(words) > 2 else b""
                self._hear(receive, sid, words[0], reply, data[content:last], data[first:content])
                start = last + line_end
        except (ValueError, IndexError):
            pass  # nats-py says what is wrong
        return data[start:] if start else data

    def _hear(
        self, receive: Callable[[Msg], None], sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            receive(NatsMessage(self, sid, subject.decode(), reply.decode(), data, headers))
        except Exception as error:  # an error raised here would end the connection
            report = asyncio.ensure_future(self._error_cb(error))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def _attempt_reconnect(self) -> None:
        """Reconnect, also after an error that nats-py does not foresee: it would end its reconnecting for good.

        One is the cancellation of another wait for the end of the same socket, which is not this task's. Only one
        reconnect runs: two would read from the same socket.
        """
        task = asyncio.current_task()
        await _end(self._replaced)
        while True:
            reason = "it was given up"
            try:
                await super()._attempt_reconnect()
                if not self.is_reconnecting:
                    return
            except (Exception, asyncio.CancelledError) as error:
                if self.is_closed or self.is_replaced or (task is not None and task.cancelling()):
                    raise
                reason = repr(error)
            if self.is_replaced or (task is not None and task.cancelling()):
                return
            log.warning("nats.reconnect-failed", reason=reason)
            self._discard_transport()
            self._status = self.RECONNECTING
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    @property
    def is_replaced(self) -> bool:
        """Return True in a reconnect that another one has replaced, and whose cancellation has not reached it yet."""
        return self._reconnection_task not in (None, asyncio.current_task())

    async def _process_op_err(self, e: Exception) -> None:
        was_connected = self.is_connected
        before = self._reconnection_task
        await super()._process_op_err(e)  # changes the status, and does not suspend if it will reconnect
        if was_connected and not self.is_connected:
            self._unwritten, self._unwritten_bytes = [], 0
            self._replaced = before
            self._on_loss()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._access.tls:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTls("the server offers no TLS")
            info["tls_required"] = True  # the only field nats-py checks
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            # A server that refuses our certificate closes the connection without an answer; nats-py reports no error.
            if self._status != self.CONNECTED:
                raise nats.errors.UnexpectedEOF
            self._receive_at_once()
        except BaseException:
            if not self.is_replaced:  # else the transport is the other reconnect's already
                self._discard_transport()
            raise

    def _discard_transport(self) -> None:
        """Drop a connection that failed during setup: nats-py would wait without a limit for one without TLS to end."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        if self._transport is not None:
            self._socket_transport().abort()
            self._transport = None

    async def _process_err(self, err_msg: str) -> None:
        said = err_msg.lower()
        if PERMISSIONS in said or STALE in said:
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)


async def _end(reconnect: asyncio.Task[None] | None) -> None:
    """Cancel a reconnect until it has ended: `wait_for` of Python 3.11 may swallow a cancellation."""
    if reconnect is None or reconnect is asyncio.current_task():
        return
    for _ in range(CANCEL_TRIES):
        if reconnect.done():
            return
        reconnect.cancel()
        await asyncio.wait([reconnect], timeout=CANCEL_SECONDS)


def _encoded(subject: str, reply: str, payload: bytes, headers: Mapping[str, str] | None) -> bytes:
    """Return a message as nats-py sends it. Raises nats.errors.BadHeaderError for a line break in a header.

    Headers are encoded twice as fast as by nats-py: each append has four.
    """
    if not headers:
        return b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, LINE_END))
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers):
        raise nats.errors.BadHeaderError(lines)
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    first = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n".encode()
    return b"".join((first, block, payload, LINE_END))


def parse_headers(raw: bytes) -> dict[str, str] | None:
    """Return headers as nats-py does, about five times as fast; None if there are none.

    `NATS/1.0[ <status>[ <description>]]` and lines of `<name>: <value>`, each ended by CR LF.
    """
    first, *lines = raw.decode(errors="replace").split("\r\n")
    found = {}
    _, _, said = first.partition(" ")
    status, _, description = said.partition(" ")
    if status.isdigit():
        found["Status"] = status
    if description:
        found["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        words = name.split()
        if colon and len(words) == 1 and name.isascii():
            found[words[0]] = value.strip()
    return found or None
