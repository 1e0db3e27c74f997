"""HTTP sessions whose connections belong to one exchange: what arrives outside it is never taken for an answer.

HTTP/1.1 ties an answer to its request by order alone. A server that answers twice, or late, on a connection that is
kept gives the second answer to whoever asks next. aiohttp puts a kept connection back into use without a check. So:

* What arrives while no request is under way closes the connection (`_Exchange`). Data that the event loop
  has not read yet is found in the socket, before a connection is chosen and again before the first byte is written.
* A connection is kept only if the caller knows that the answer was its own (`keep`). Any other is
  closed after its answer.
* An origin that sent what nobody asked for, or an answer in doubt, gets a connection per request for DISTRUST_SECONDS.
* A request with ALONE gets a connection of its own.
* A server may send MOST_INFORMATIONAL answers such as 102 before the final one; more close the connection. aiohttp
  takes any number, and nothing else in the process runs while they come fast.

`ask` makes a request without what aiohttp's session does for each: redirects, cookies, proxies, traces, timeouts, and a
task that writes the body. All that takes half of the CPU of a call.

What remains: an answer nobody asked for that crosses the first bytes of the next request on a kept connection. It
cannot be recognized here. Callers have the means: an id in the answer, or another request with ALONE.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import functools
import select
import struct
import termios
from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import _serialize_headers
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

log = structlog.get_logger(__name__)

USER_AGENT = f"taskstream/{version('taskstream')}"
OWN_HEADERS = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
ALONE = {"Connection": "close"}
"""Headers of a request that gets a new connection, which is closed after the answer."""
DISTRUST_SECONDS = 600.0
MOST_DISTRUSTED = 1_000
"""Origins remembered. With more, the oldest is forgotten: it is found out again."""
MOST_INFORMATIONAL = 1_000
"""Answers with a status below 200 in one exchange (RFC 9110, 15.2). Some servers send a 102 every few seconds."""

MOST_TARGETS = 1_000
"""Addresses whose headers are remembered."""
BODYLESS = frozenset({"GET", "HEAD", "DELETE"})
"""Methods of requests that have no `Content-Length` without a body (RFC 9110, 8.6)."""
LARGE_BODY = 64 * 1024
"""A body of more bytes is not copied to be written together with its headers."""
NO_TIMEOUT = aiohttp.ClientTimeout()


class UnaskedAnswer(aiohttp.ServerDisconnectedError):
    """The server sent something before the first byte of the request was written; nothing was sent."""

    def __init__(self) -> None:
        super().__init__("the server sent an answer before it was asked")


Origin: TypeAlias = tuple[str | None, int | None]
"""The host and port of an address."""


class _Phase(enum.Enum):
    IDLE = enum.auto()
    """New, kept, or closed."""
    PREPARED = enum.auto()
    """A request has the connection; nothing of it is written."""
    UNDER_WAY = enum.auto()
    """The first byte of the request is written, and the answer is not complete."""


class ExchangeConnector(aiohttp.TCPConnector):
    """The pool of connections of one session."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: Callable[..., ResponseHandler] = _Exchange
        self._factory = functools.partial(make, loop=self._loop, pool=self)
        self._distrusted: dict[Origin, float] = {}
        """Until when, by the event loop's clock; oldest first."""
        self._targets: dict[str, _Request] = {}

    def target(self, method: str, url: str) -> _Request:
        """Return a request without a body to an address, by which a connection is found. Raises InvalidURL."""
        name = f"{method} {url}"
        found = self._targets.get(name)
        if found is None:
            if len(self._targets) >= MOST_TARGETS:
                self._targets.clear()
            found = self._targets[name] = new_target(method, url, OWN_HEADERS, self._loop)
        return found

    def distrust(self, url: URL) -> None:
        """Use no connection to an origin twice for DISTRUST_SECONDS."""
        origin = (url.raw_host, url.port)
        if self._distrusted.pop(origin, None) is None:
            log.warning("connections.distrusted", host=url.raw_host, port=url.port)
            if len(self._distrusted) >= MOST_DISTRUSTED:
                del self._distrusted[next(iter(self._distrusted))]
        self._distrusted[origin] = self._loop.time() + DISTRUST_SECONDS

    def trusts(self, url: URL) -> bool:
        """Return False while connections to an origin are used once."""
        if not self._distrusted or (until := self._distrusted.get(origin := (url.raw_host, url.port))) is None:
            return True
        if self._loop.time() < until:
            return False
        del self._distrusted[origin]
        return True

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> Connection | None:
        """Return a kept connection on which nothing has arrived since; close the others that come before it."""
        while (connection := await super()._get(key, traces)) is not None:
            exchange = connection.protocol
            if isinstance(exchange, _Exchange) and exchange.may_begin_again():
                return connection
            connection.close()
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        assert isinstance(protocol, _Exchange)
        super()._release(key, protocol, should_close=protocol.end() or should_close)


class _Exchange(ResponseHandler):
    """The client's end of a connection. Outside an exchange, whatever arrives closes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: ExchangeConnector) -> None:
        super().__init__(loop)
        self._pool = pool
        self._phase = _Phase.IDLE
        self._begun = 0
        self._answers = 0
        self._is_kept = False
        self._is_alone = False
        self._url = URL()
        self._arrived = select.poll()
        self._is_encrypted = False
        self.peer = ""
        """The IP address of the other end."""

    @property
    def is_used(self) -> bool:
        """True if the exchange is not the first one of its connection."""
        return self._begun > 1

    def may_begin_again(self) -> bool:
        """Return True if the last answer was its request's, and neither data nor an end has come since."""
        return self._is_kept and self._pool.trusts(self._url) and not (self.should_close or self._arrived.poll(0))

    def prepare(self, url: URL, *, alone: bool) -> None:
        """Take a request. What arrives before its first byte is written makes it fail with UnaskedAnswer."""
        self._phase, self._is_kept, self._answers = _Phase.PREPARED, False, 0
        self._url, self._is_alone = url, alone

    def begin(self) -> bool:
        """Return True if the first byte may be written, which must follow at once; the request has failed if not."""
        # TLS has records of its own that arrive unasked (session tickets); `data_received` sees only data.
        if not self._is_encrypted and self._arrived.poll(0) and self._bytes_arrived():
            self._refuse()
        if self._exception is not None or self._phase is not _Phase.PREPARED:
            return False
        self._phase = _Phase.UNDER_WAY
        self._begun += 1
        return True

    def send(self, head: bytes, body: bytes) -> None:
        """Begin the exchange that was prepared: write the request, unless it has failed."""
        if not self.begin() or self.transport is None:
            return
        if len(body) > LARGE_BODY:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head + body)

    def end(self) -> bool:
        """End the exchange; return True if the connection must be closed."""
        self._phase = _Phase.IDLE
        # An answer that comes before all of the request is sent: the server may take the rest for the next request. The
        # rest is dropped: a server that does not read it would keep the connection and the memory.
        if self.transport is not None and self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
            return True
        return self._is_alone

    def keep(self) -> None:
        """Allow another exchange."""
        self._is_kept = True

    def discard(self) -> None:
        """Close the connection, at the end of the exchange if it is under way."""
        self.force_close()
        if self._phase is _Phase.IDLE:
            self.close()

    def doubt(self) -> None:
        """Stop reusing connections to this origin."""
        self._pool.distrust(self._url)

    # Called by aiohttp and the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._arrived.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._is_encrypted = transport.get_extra_info("ssl_object") is not None
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])

    def connection_lost(self, exc: BaseException | None) -> None:
        # A body without a length ends with the connection. aiohttp 3.14.5 takes a reset for such an end.
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError("the connection was reset"))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.UNDER_WAY or not data:
            super().data_received(data)
        else:
            self._refuse()
        if self._phase is _Phase.IDLE and self.should_close:  # the answer is complete, and more came with it
            self._refuse()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        # aiohttp hands over each answer here. Final ones count too: after the first, all are nobody's.
        self._answers += 1
        if self._answers <= MOST_INFORMATIONAL + (data[0].code >= 200):
            super().feed_data(data, size)
        elif self._exception is None:
            self.set_exception(HttpProcessingError(message=f"more than {MOST_INFORMATIONAL} informational answers"))
            if self.transport is not None:
                self.transport.abort()

    def start_timeout(self) -> None:
        # The request is written now; one without a body, immediately after this call.
        if self._phase is _Phase.UNDER_WAY or self.begin():
            super().start_timeout()

    def _bytes_arrived(self) -> int:
        """Return how many bytes are in the socket: 0 if only its end has come."""
        if not self.is_connected() or self.transport is None:
            return 0
        socket = self.transport.get_extra_info("socket")
        (count,) = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.FIONREAD, struct.pack("i", 0)))
        return int(count)

    def _refuse(self) -> None:
        if self.transport is None:
            return
        if self._begun:
            self._pool.distrust(self._url)
        self._buffer.clear()
        self.transport.abort()
        self.set_exception(UnaskedAnswer())


class _Request(ClientRequest):
    """A request that begins an exchange with its first byte."""

    is_alone = False

    @property
    def connection_key(self) -> ConnectionKey:
        """The key of connections in the pool; one that nothing else has if the request wants its own."""
        key = super().connection_key
        if self.headers.get("Connection") != ALONE["Connection"]:
            return key
        self.is_alone = True
        return key._replace(proxy_headers_hash=id(self))

    def send(self, conn: Connection) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
        """Send the request. This and `start` only return a coroutine: one of their own would cost every call."""
        exchange = conn.protocol
        assert isinstance(exchange, _Exchange)
        exchange.prepare(self.url, alone=self.is_alone)
        return super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        exchange = conn.protocol
        if isinstance(exchange, _Exchange) and exchange.begin():
            await super().write_bytes(writer, conn, content_length)


def new_target(method: str, url: str, headers: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> _Request:
    """Return a request without a body. Raises InvalidURL."""
    try:
        return _Request(method, URL(url), headers=headers, loop=loop)
    except ValueError as error:
        raise aiohttp.InvalidURL(url) from error


class _Response(aiohttp.ClientResponse):
    """An answer. Its connection is closed after it unless `keep` was called."""

    exchange: _Exchange | None = None
    is_kept = False

    def start(self, connection: Connection) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
        assert isinstance(connection.protocol, _Exchange)
        self.exchange = connection.protocol
        return super().start(connection)

    def release(self) -> Any:
        released = super().release()
        if not self.is_kept and self.exchange is not None:
            self.exchange.discard()
        return released


class Received:
    """An answer to `ask`, with the names of aiohttp.ClientResponse. Use it in an `async with`."""

    is_kept = False

    def __init__(
        self, connection: Connection, exchange: _Exchange, message: RawResponseMessage, content: StreamReader
    ) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self.exchange = exchange
        self._connection: Connection | None = connection
        content.on_eof(self._on_eof)

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters; empty if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)

    def close(self) -> None:
        """Close the connection; what is not read is lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def release(self) -> None:
        """Return the connection to its pool if `keep` was called and the answer was read to its end; else close it."""
        self._release()
        if not self.is_kept:
            self.exchange.discard()

    def _on_eof(self) -> None:
        if not self.exchange.upgraded:
            self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    async def __aenter__(self) -> Received:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


Response: TypeAlias = aiohttp.ClientResponse | Received


async def ask(
    session: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Received:
    """Send a request over a connection of a session of `open_session`; return the beginning of its answer.

    Redirects are not followed, and the session's timeout does not apply: set one. Raises what the session raises.
    """
    connector = session.connector
    if connector is None:
        raise RuntimeError("the session is closed")
    assert isinstance(connector, ExchangeConnector)
    target = connector.target(method, url)
    if headers.get("Connection") == ALONE["Connection"]:
        target = new_target(method, url, {**OWN_HEADERS, **ALONE}, asyncio.get_running_loop())
    sent = CIMultiDict(target.headers)
    sent.update(headers)
    if body or method not in BODYLESS:
        sent["Content-Length"] = str(len(body))
    head = _serialize_headers(f"{method} {target.url.raw_path_qs} HTTP/1.1", sent)
    connection = await connector.connect(target, [], NO_TIMEOUT)
    try:
        exchange = connection.protocol
        assert isinstance(exchange, _Exchange)
        exchange.prepare(target.url, alone=target.is_alone)
        exchange.set_response_params(read_until_eof=True, auto_decompress=False, skip_payload=method == "HEAD")
        exchange.send(head, body)
        while True:
            message, content = await exchange.read()
            if not 100 <= message.code < 200 or message.code == 101:
                return Received(connection, exchange, message, content)
    except HttpProcessingError as error:
        connection.close()
        raise aiohttp.ClientResponseError(
            target.request_info, (), status=error.code, message=error.message, headers=error.headers
        ) from error
    except BaseException:
        connection.close()
        raise


def keep(response: Response) -> None:
    """Let later requests use the connection. The answer was read to its end, and is known to be this request's."""
    assert isinstance(response, _Response | Received)
    response.is_kept = True
    _exchange_of(response).keep()


def doubt(response: Response) -> None:
    """Use no connection to this origin twice for a while: the answer may be another request's."""
    _exchange_of(response).doubt()


def is_certain(response: Response) -> bool:
    """Return True if the connection was new: the answer cannot be another request's."""
    return not _exchange_of(response).is_used


def peer_of(response: Response) -> str:
    """Return the IP address that an answer came from."""
    return _exchange_of(response).peer


def open_session(connector: ExchangeConnector | None = None, **options: Any) -> aiohttp.ClientSession:
    """Open a session without cookies, proxies and `.netrc`; call it in a running loop, and close it at the end.

    `options` are those of aiohttp.ClientSession. Use each answer in an `async with`. The session asks for no
    compression; read answers with `read_capped` or `chunks`, which decompress those that come compressed all the same.
    """
    return aiohttp.ClientSession(
        connector=connector or ExchangeConnector(),
        headers=OWN_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        request_class=_Request,
        response_class=_Response,
        **options,
    )


def _exchange_of(response: Response) -> _Exchange:
    assert isinstance(response, _Response | Received)
    assert response.exchange is not None
    return response.exchange
