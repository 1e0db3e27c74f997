"""Connections of clients, and the limits on what each may cost: uvicorn's protocols read any head, for any time.

A connection passes through these phases, again for each request:

    waiting   nothing of a request has come. The first one must come soon; between two, the keep-alive time applies
    head      its request line and headers: at most MOST_HEAD bytes and MOST_HEADERS lines, complete in `head_seconds`
    body      `window_bytes` of it in each `window_seconds`, or the client is too slow; no time counts while the service
              does not read. Chunk extensions and trailers are counted and dropped

An answer must be taken as quickly. Over the limit of connections, those that wait for a request longest are closed; if
none wait, the new one gets a 503. `Connections` counts the seconds itself, one per `sweep`: a process that was stopped
blames no client.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, cast
from urllib.parse import unquote

import httptools
import msgspec
import structlog
from msgspec import Struct
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from ..runtime import metrics
from ..runtime.metrics import labelled
from ..settings import InvalidSettings, Settings, variable
from ..wire.addresses import Network, within
from .exchange import EXTENSIONS, Exchange

log = structlog.get_logger(__name__)

MOST_HEAD = 64 * 1024
"""Bytes of a head, and of chunk extensions or trailers without a body between them."""
MOST_HEADERS = 128
"""Lines. The WebSocket library accepts as many."""
MOST_URL = 16 * 1024
"""Bytes. A token in a URL has 8 kB at most."""
MOST_PATH = 4 * 1024
"""Bytes of a URL before its query. Litestar remembers 1,024 paths; the longest that means something has some 3 KiB."""
STEP = 4 * 1024
"""Bytes parsed at once. A read may bring 256 kB: 14,000 requests, or 40,000 messages of a WebSocket."""
MOST_PIPELINED = 8
"""Requests that wait for the answer to an earlier one before the rest of a read is put aside."""
MOST_HELD = 1024 * 1024
"""Bytes put aside; more come only if an application reads on while it answers."""
FRAMING_PER_BYTE = 16
"""Bytes of chunk sizes and extensions per byte of a body. A chunk of one byte has 5."""
MOST_DISCARDED = 8 * 1024 * 1024
"""Bytes of a body that come after its answer."""
MOST_FRAGMENTS = 1_024
"""Frames of one WebSocket message."""
MOST_PONGS = 256 * 1024
"""Bytes that wait for a WebSocket client that sends pings and reads nothing."""
MOST_UNSENT = 256 * 1024 * 1024
"""Bytes of answers that wait for clients to read them, in a process."""
LINGER_SECONDS = 2
"""How long what a refused client still sends is dropped. A close would reset the connection, and lose the answer."""
MOST_LINGERED = 1024 * 1024
"""Bytes that are dropped then."""
MOST_LINGERING = 64
"""Refused connections that are kept for that."""
EVICTED_AT_ONCE = 32
DEFAULT_CONNECTIONS = 10_000
DESCRIPTORS_PER_CONNECTION = 2
"""Half of the file descriptors stay for calls to backends, NATS and files."""
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """Limits of one listening socket."""

    connections: int = DEFAULT_CONNECTIONS
    per_address: int = 0
    """0: no limit."""
    proxies: tuple[Network, ...] = LOOPBACK
    """Addresses without a limit of their own."""
    head_seconds: int = 10
    window_seconds: int = 20
    window_bytes: int = 4 * 1024
    """About 200 bytes per second, less than any line in use."""
    idle_seconds: int = 75
    """How long a connection stays open between two requests: longer than load balancers keep theirs (nginx, most
    clouds: 60 s), else a request may meet a connection that is just being closed."""


def limits_of(settings: Settings, descriptors: int) -> ConnectionLimits:
    """Return the limits of these settings in a process that may open so many descriptors.

    Raises InvalidSettings for a proxy that is no address or CIDR block, and for more connections than descriptors.
    """
    most = max(1, descriptors // DESCRIPTORS_PER_CONNECTION)
    connections = settings.max_connections or min(most, DEFAULT_CONNECTIONS)
    if connections > most:
        raise InvalidSettings(
            f"{variable('max_connections')}={connections}: this process may open {descriptors} file descriptors, and "
            f"half of them are for other uses; set it to {most} at most, or raise the hard limit (`ulimit -Hn`)"
        )
    per_address = connections // 4 if settings.address_connections is None else settings.address_connections
    return ConnectionLimits(connections=connections, per_address=per_address, proxies=proxy_networks(settings))


def proxy_networks(settings: Settings) -> tuple[Network, ...]:
    """Return the addresses of reverse proxies. Raises InvalidSettings for one that is no address or CIDR block."""
    return _networks(settings.proxies) or LOOPBACK


def _networks(entries: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(entry) for entry in entries)
    except ValueError as error:
        raise InvalidSettings(f"{variable('proxies')}: {error}; list addresses and CIDR blocks") from None


class Refusal:
    """An answer to what is no request that can be served; the connection is closed after it."""

    def __init__(self, reason: str, status: int, title: str, detail: str) -> None:
        self.reason = reason
        """Label of the metric."""
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "error": detail}
        body = msgspec.json.encode(problem)
        retry = "retry-after: 1\r\n" if status == 503 else ""
        self.answer = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            f"{retry}connection: close\r\n\r\n"
        ).encode() + body


NOT_HTTP = Refusal("not-http", 400, "Bad Request", "this is not a valid HTTP/1.1 request")
URL_TOO_LONG = Refusal(
    "url", 414, "URI Too Long", f"the URL must be at most {MOST_URL} bytes, and {MOST_PATH} without its query"
)
HEAD_TOO_LARGE = Refusal(
    "head",
    431,
    "Request Header Fields Too Large",
    f"request line and headers must be at most {MOST_HEAD} bytes and {MOST_HEADERS} lines",
)
TRAILERS_TOO_LARGE = Refusal(
    "trailers",
    431,
    "Request Header Fields Too Large",
    f"chunk extensions and trailers must be at most {MOST_HEAD} bytes",
)
HEAD_TOO_SLOW = Refusal("slow-head", 408, "Request Timeout", "the head of the request did not arrive in time")
BODY_TOO_SLOW = Refusal("slow-body", 408, "Request Timeout", "the body of the request arrived too slowly")
NOT_WEBSOCKET = Refusal(
    "not-websocket",
    400,
    "Bad Request",
    "this is not a WebSocket handshake that can be read: it must have no body, and no line of more than 8 KiB",
)
TOO_MANY = Refusal("total", 503, "Service Unavailable", "too many connections; retry later")
TOO_MANY_OF_ADDRESS = Refusal(
    "address", 503, "Service Unavailable", "too many connections from your address; close some, or retry later"
)


class Connections:
    """All connections of one listening socket."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.now = 0
        """Seconds, by the number of sweeps."""
        self._open: set[HttpConnection | WebSocketConnection] = set()
        self._of_address: dict[str, set[HttpConnection | WebSocketConnection]] = {}
        self._lingering: set[HttpConnection] = set()
        self._unread: dict[HttpConnection | WebSocketConnection, tuple[int, int]] = {}
        """Connections whose answer waits for the client: since when, and how many bytes waited then."""
        self._full_at = -1

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: HttpConnection) -> Refusal | None:
        """Count a new connection, or return why it is refused."""
        key = connection.address = self._key(connection.client)
        same = self._of_address.get(key, set()) if key else set()
        if key and 0 < self.limits.per_address <= len(same) and not self._evict(same):
            return TOO_MANY_OF_ADDRESS
        if len(self._open) >= self.limits.connections and not self._evict(self._open):
            return TOO_MANY
        self._add(connection)
        return None

    def replace(self, old: HttpConnection, new: WebSocketConnection) -> None:
        """Count a connection that has become a WebSocket as this."""
        self.leave(old)
        new.address = old.address
        self._add(new)

    def leave(self, connection: HttpConnection | WebSocketConnection) -> None:
        """Count a connection no more. Safe to repeat."""
        self._unread.pop(connection, None)
        if isinstance(connection, HttpConnection):
            self._lingering.discard(connection)
        if connection not in self._open:
            return
        self._open.discard(connection)
        metrics.connections.dec()
        if same := self._of_address.get(connection.address):
            same.discard(connection)
            if not same:
                del self._of_address[connection.address]

    def refused(self, connection: HttpConnection, refusal: Refusal) -> bool:
        """Note a refusal. Return True if the connection may stay for a moment, False if it must be closed."""
        self.note(refusal.reason, connection.client)
        if len(self._lingering) >= MOST_LINGERING:
            return False
        self._lingering.add(connection)
        return True

    def note(self, reason: str, client: tuple[str, int] | None) -> None:
        """Count and log a connection that is closed against its client's will."""
        labelled(metrics.connections_refused, reason).inc()
        log.warning("connection.refused", reason=reason, address=client[0] if client else None)

    async def run(self) -> None:
        """Sweep each second, until cancelled; also while the server ends, which waits for its connections."""
        while True:
            await asyncio.sleep(1)  # the clock of all limits here
            try:
                self.sweep()
            except Exception:
                log.exception("connections.sweep-failed")

    def sweep(self) -> None:
        """Close connections that are over their time; call it each second."""
        self.now += 1
        for connection in [*self._open, *self._lingering]:
            if isinstance(connection, HttpConnection):
                connection.check(self.now)
        self._sweep_unread()

    def wait_for_reader(self, connection: HttpConnection | WebSocketConnection) -> None:
        """Note that an answer waits for its client."""
        self._unread[connection] = (self.now, connection.transport.get_write_buffer_size())

    def read_again(self, connection: HttpConnection | WebSocketConnection) -> None:
        """Note that the client has taken nearly all."""
        self._unread.pop(connection, None)

    def _sweep_unread(self) -> None:
        waiting: dict[HttpConnection | WebSocketConnection, int] = {}
        for connection, (since, before) in list(self._unread.items()):
            size = connection.transport.get_write_buffer_size()
            if self.now - since < self.limits.window_seconds:
                waiting[connection] = size
            elif before - size < self.limits.window_bytes:
                self._drop(connection, "slow-reader")
            else:
                self._unread[connection] = (self.now, size)
                waiting[connection] = size
        total = sum(waiting.values())
        for connection in sorted(waiting, key=waiting.__getitem__, reverse=True):
            if total <= MOST_UNSENT:
                break
            self._drop(connection, "unread-answers")
            total -= waiting[connection]

    def _drop(self, connection: HttpConnection | WebSocketConnection, reason: str) -> None:
        self.note(reason, connection.client)
        self.leave(connection)
        connection.transport.abort()

    def _add(self, connection: HttpConnection | WebSocketConnection) -> None:
        self._open.add(connection)
        metrics.connections.inc()
        if connection.address:
            self._of_address.setdefault(connection.address, set()).add(connection)

    def _evict(self, group: Collection[HttpConnection | WebSocketConnection]) -> bool:
        """Close those that have waited for a request longest, EVICTED_AT_ONCE at most; return True if there are any."""
        if self._full_at == self.now:  # a search of all, once a second
            return False
        waiting = [each for each in group if isinstance(each, HttpConnection) and each.may_be_evicted(self.now)]
        for connection in heapq.nsmallest(EVICTED_AT_ONCE, waiting, key=lambda each: each.since):
            self._drop(connection, "evicted")
        if not waiting:
            self._full_at = self.now
        return bool(waiting)

    def _key(self, client: tuple[str, int] | None) -> str:
        """Return what counts as the address of a client, an IPv6 network of 64 bits; empty for a proxy."""
        if client is None:
            return ""
        address = ip_address(client[0].partition("%")[0])
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            elif not within(address, self.limits.proxies):
                return str(ip_network((int(address) >> 64 << 64, 64)))
        return "" if within(address, self.limits.proxies) else str(address)


class _HeadRefused(Exception):
    """Ends the parser's work; the connection has the reason."""


class HttpConnection(HttpToolsProtocol):
    """A connection of a client that speaks HTTP."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections = connections
        self.url = b""
        self.headers = []
        self.address = ""
        """Address or IPv6 network that its limit counts; empty: a proxy, which has none."""
        self.since = 0
        """Second since which it is in its phase, or its present window."""
        self._is_in_body = False
        self._complete = 0
        """Requests that have arrived completely."""
        self._head = 0
        """Bytes of the present head in earlier steps."""
        self._delivered = 0
        """Bytes of bodies since the last step that left one incomplete."""
        self._counted = -1
        """Which body the next numbers are of: most requests arrive in one step, and need none."""
        self._in_window = self._in_body = self._in_framing = self._in_trailers = self._discarded = 0
        self._lingered = 0
        self._held = b""
        """Bytes that wait until pipelined requests are answered."""
        self._refusal: Refusal | None = None
        self._is_refused = False
        self._is_upgraded = False

    def may_be_evicted(self, now: int) -> bool:
        """Return True if it has waited for a request, or the rest of a head, for a second."""
        return not self._is_refused and self.since < now and not self._is_answering()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    # The transport

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since = self._connections.now
        if (refusal := self._connections.admit(self)) is not None:
            self._refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        self._held = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.wait_for_reader(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.read_again(self)

    def data_received(self, data: bytes) -> None:
        if len(data) > STEP or self._is_refused or self._held:
            self._receive_much(data)
        else:
            self._feed(data)

    def _receive_much(self, data: bytes) -> None:
        if self._is_refused:
            self._discard(len(data))
            return
        if self._held:
            self._hold(self._held + data)
        else:
            self._feed_all(data)

    def _feed_all(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(data), STEP):
            if len(self.pipeline) >= MOST_PIPELINED:
                self._hold(data[start:])
                return
            self._feed(view[start : start + STEP])
            if self._is_refused or self._is_upgraded or self.transport.is_closing():
                return

    def _hold(self, data: bytes) -> None:
        self._held = data
        self.flow.pause_reading()
        if len(data) > MOST_HELD:
            self._connections.note("pipelined", self.client)
            self.transport.abort()

    def _feed_held(self) -> None:
        data, self._held = self._held, b""
        if data and not (self._is_refused or self.transport.is_closing()):
            self._feed_all(data)

    def _feed(self, data: bytes | memoryview) -> None:
        complete = self._complete
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._unsupported_upgrade_warning()
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or NOT_HTTP)
            return
        if self._is_in_body:
            self._count_body(len(data))
        elif self._complete == complete or self.scope is not self.cycle.scope:
            self._count_head(len(data))

    def _count_head(self, size: int) -> None:
        """Count a step that has left the head incomplete; blank lines before it belong to it."""
        if not self._head and self._complete:
            self.since = self._connections.now
        self._head += size
        if len(self.url) > MOST_URL:
            self._refuse(URL_TOO_LONG)
        elif self._head > MOST_HEAD + STEP or len(self.headers) > MOST_HEADERS:
            self._refuse(HEAD_TOO_LARGE)

    def _count_body(self, size: int) -> None:
        """Count a step that has left the body incomplete."""
        delivered, self._delivered = min(self._delivered, size), 0
        if self._counted != self._complete:
            self._counted = self._complete
            self._in_window = self._in_body = self._in_framing = self._in_trailers = self._discarded = 0
            self.since = self._connections.now
        self._in_body += delivered
        self._in_window += delivered
        self._in_framing += size - delivered
        self._in_trailers = 0 if delivered else self._in_trailers + size
        if self._in_trailers > MOST_HEAD + STEP or self._in_framing > MOST_HEAD + FRAMING_PER_BYTE * self._in_body:
            self._refuse(TRAILERS_TOO_LARGE)
        elif self.cycle.response_complete:
            self._discarded += size
            if self._discarded > MOST_DISCARDED:
                self._connections.note("body-after-answer", self.client)
                self.transport.close()

    # The parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer: nothing reads them
            return
        name = name.lower()  # as uvicorn does; a call of its method costs more than the rest
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if len(self.url) > MOST_PATH and (len(self.url) > MOST_URL or len(self.url.partition(b"?")[0]) > MOST_PATH):
            self._refusal = URL_TOO_LONG
        elif len(self.headers) > MOST_HEADERS or (self._head > MOST_HEAD - STEP and self._head_size() > MOST_HEAD):
            self._refusal = HEAD_TOO_LARGE
        if self._refusal is not None:
            raise _HeadRefused
        self._begin()
        self._is_in_body = True
        self._head = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = EXTENSIONS

    def _begin(self) -> None:
        """Begin a request whose head is complete, as uvicorn does; with an exchange of ours."""
        parser, scope = self.parser, self.scope
        is_free = not self._is_answering()
        scope["method"] = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        self.cycle = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if is_free:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        self._delivered += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._complete += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # As uvicorn does, without a timer for each answer: `check` closes a connection on which no request comes.
        self.since = self._connections.now
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._held and len(self.pipeline) < MOST_PIPELINED:
            self.loop.call_soon(self._feed_held)

    def handle_websocket_upgrade(self) -> None:
        self._is_upgraded = True
        super().handle_websocket_upgrade()
        socket = cast(WebSocketConnection, self.transport.get_protocol())
        self._connections.replace(self, socket)
        socket.check_handshake()

    # Ends

    def shutdown(self) -> None:
        if self._is_refused:
            self.transport.abort()
        else:
            super().shutdown()

    def check(self, now: int) -> None:
        """Close the connection if it is over its time."""
        elapsed = now - self.since
        limits = self._connections.limits
        if self._is_refused:
            if elapsed >= LINGER_SECONDS:
                self.transport.abort()
        elif self._is_answering():
            if self._is_in_body:
                self._check_window(now)
        elif self._is_in_body:  # what comes of it is dropped
            if elapsed >= limits.head_seconds:
                self.transport.close()
        elif self._head or not self._complete:
            if elapsed >= limits.head_seconds:
                self._end_head()
        elif elapsed >= limits.idle_seconds:
            self.transport.close()

    def _check_window(self, now: int) -> None:
        flow: FlowControl = self.flow
        if flow.read_paused:  # the service is busy with what has come
            self.since, self._in_window = now, 0
        elif now - self.since >= self._connections.limits.window_seconds:
            if self._in_window < self._connections.limits.window_bytes:
                self._refuse(BODY_TOO_SLOW)
            self.since, self._in_window = now, 0

    def _end_head(self) -> None:
        """End a connection whose request does not come; one on which nothing came needs no answer."""
        if self._head:
            self._refuse(HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error and close the connection, without an answer if another one is under way."""
        self._is_refused = True
        self.since = self._connections.now
        may_linger = self._connections.refused(self, refusal)
        if self.transport.is_closing():
            return
        if self._is_answering():
            cycle = self.cycle
            is_its_own = self._is_in_body and not self.pipeline
            may_linger = may_linger and is_its_own and not cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
            if not may_linger:
                self.transport.abort()
                return
        self.flow.resume_reading()
        self.transport.write(refusal.answer)
        if may_linger and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _discard(self, size: int) -> None:
        self._lingered += size
        if self._lingered > MOST_LINGERED:
            self.transport.abort()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A connection of a client that speaks WebSocket."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections = connections
        self.address = ""
        self._unparsed = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        self._unparsed = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.wait_for_reader(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.read_again(self)

    def data_received(self, data: bytes) -> None:
        self._unparsed = self._unparsed + data if self._unparsed else data
        self._parse()

    def check_handshake(self) -> None:
        """Refuse a head that the WebSocket library cannot read. The library reports no error and waits without end."""
        if not (self.handshake_initiated or self.transport.is_closing()):
            self._connections.note(NOT_WEBSOCKET.reason, self.client)
            self.transport.write(NOT_WEBSOCKET.answer)
            self.transport.close()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._unparsed and not self.read_paused:
            self._parse()
        return message

    def _parse(self) -> None:
        """Parse until a message is complete: the application takes one at a time."""
        while self._unparsed and not self.read_paused and not self.transport.is_closing():
            step, self._unparsed = self._unparsed[:STEP], self._unparsed[STEP:]
            super().data_received(step)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MOST_FRAGMENTS:
            self._connections.note("fragments", self.client)
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() > MOST_PONGS:
            self._connections.note("pings", self.client)
            self.transport.abort()
            return
        super().handle_ping()
