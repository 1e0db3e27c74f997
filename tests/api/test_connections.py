"""Connections: what a client may send before it is known, how slowly, and how many connections it may have."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from taskstream.api.connections import (
    MOST_DISCARDED,
    MOST_HEAD,
    MOST_HEADERS,
    MOST_PATH,
    MOST_URL,
    STEP,
    ConnectionLimits,
    Connections,
    HttpConnection,
    limits_of,
)
from taskstream.running import server_config
from taskstream.runtime import metrics
from taskstream.settings import InvalidSettings, Settings
from testkit.service import Service
from testkit.waiting import wait_until

LIMITS = ConnectionLimits(connections=1_000, head_seconds=3, window_seconds=2, window_bytes=100)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
MEGABYTE = 1024 * 1024
BIG = 16 * MEGABYTE


class Served:
    """A small application behind the HTTP server, which echoes bodies, and what became of its requests."""

    def __init__(self, connections: Connections) -> None:
        self.port = 0
        self.connections = connections
        self.bodies: list[bytes] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.messages: list[str] = []
        self.gone = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._socket(receive, send)
            return
        self.headers.append(scope["headers"])
        if scope["path"] == "/refused":
            await self._answer(send, 401, b"no")
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        await self.may_answer.wait()
        await self._answer(send, 200, b"x" * BIG if scope["path"] == "/big" else b"%d" % len(body))

    async def _answer(self, send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _socket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages.append(message["text"])

    def pass_seconds(self, count: int) -> None:
        """Let the server believe that so many seconds have passed."""
        for _ in range(count):
            self.connections.sweep()


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve as the service does, without a clock: seconds pass when a test says so."""
    servers = []
    loop = asyncio.get_running_loop()

    async def start(limits: ConnectionLimits = LIMITS) -> Served:
        served = Served(Connections(limits))
        config = server_config(served, served.connections)  # type: ignore[arg-type]
        config.load()
        state = ServerState()
        make = functools.partial(config.http_protocol_class, config=config, server_state=state, app_state={})  # type: ignore[call-arg]
        server = await loop.create_server(make, "127.0.0.1", 0)
        served.port = server.sockets[0].getsockname()[1]
        servers.append((served, server))
        return served

    yield start
    for served, server in servers:
        server.close()
        for connection in [*served.connections._open, *served.connections._lingering]:
            connection.transport.abort()
        await wait_until(lambda of=served: not (of.connections._open or of.connections._lingering), "the ends")


class Caller:
    """The client's end of a connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> bool:
        """Send; return False if the connection was closed."""
        try:
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()
                await asyncio.sleep(0)  # `drain` gives the server no turn while the buffer has room
        except ConnectionError:
            return False
        return True

    async def status(self) -> int:
        """Return the status of the next answer, 0 if the connection ends without one."""
        try:
            line = await self.reader.readline()
        except ConnectionError:
            return 0
        return int(line.split()[1]) if line else 0

    async def ends(self) -> bool:
        """Wait for the end of the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(MEGABYTE):
                pass
        return True


@contextlib.asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


def memory() -> int:
    """Return the memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def arrived(served: Served) -> int:
    """Return the bytes of the bodies that have arrived."""
    return sum(each._in_body for each in served.connections._open if isinstance(each, HttpConnection))


def header(size: int) -> bytes:
    return b"X-A: " + b"a" * (size - 7) + b"\r\n"


# Heads


async def test_endless_header_lines_are_a_431_and_cost_no_memory(serve: Serve) -> None:
    served = await serve()
    before = memory()
    async with calling(served.port) as caller:
        sent = 0
        while sent < 64 * MEGABYTE and await caller.send(header(MEGABYTE // 16)):
            sent += MEGABYTE // 16
        assert await caller.status() in (431, 0)
    assert sent < 64 * MEGABYTE
    assert memory() - before < 20 * MEGABYTE
    async with calling(served.port) as caller:
        await caller.send(HEAD, *[header(1_000)] * 80)
        assert await caller.status() == 431
        assert await caller.ends()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param([HEAD, header(MOST_HEAD - 100), b"\r\n"], 200, id="a head below the limit"),
        pytest.param([HEAD, header(MOST_HEAD), b"\r\n"], 431, id="a head above it"),
        pytest.param([HEAD, header(MOST_HEAD + 2 * STEP)], 431, id="one header that does not end"),
        pytest.param([HEAD, b"a:b\r\n" * (MOST_HEADERS - 1), b"\r\n"], 200, id="as many lines as are allowed"),
        pytest.param([HEAD, b"a:b\r\n" * MOST_HEADERS, b"\r\n"], 431, id="one line more"),
        pytest.param([HEAD, b"a:b\r\n" * 3_000], 431, id="lines that do not end"),
        pytest.param([b"GET /?", b"a" * (MOST_URL - 2), b" HTTP/1.1\r\n\r\n"], 200, id="a URL at the limit"),
        pytest.param([b"GET /?", b"a" * (MOST_URL - 1), b" HTTP/1.1\r\n\r\n"], 414, id="a longer URL"),
        pytest.param([b"GET /", b"a" * (MOST_PATH - 1), b"?b HTTP/1.1\r\n\r\n"], 200, id="a path at the limit"),
        pytest.param([b"GET /", b"a" * MOST_PATH, b"?b HTTP/1.1\r\n\r\n"], 414, id="a longer path"),
        pytest.param([b"GET /", b"a" * (MOST_URL + STEP)], 414, id="a URL that does not end"),
        pytest.param([b"GET", b"T" * 100_000], 400, id="a method that does not end"),
        pytest.param([b"\r\n" * 40_000], 431, id="blank lines only"),
        pytest.param([b"nonsense\r\n\r\n"], 400, id="no HTTP"),
    ],
)
async def test_a_head_has_limits(serve: Serve, head: list[bytes], status: int) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(*head)
        assert await caller.status() == status
        if status != 200:
            answer = (await caller.reader.read()).decode()
            assert "connection: close" in answer
            assert f'"status":{status}' in answer


async def test_a_head_that_comes_in_single_bytes_is_read(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        for each in POST + b"Content-Length: 2\r\n\r\nab":
            await caller.send(bytes([each]))
        assert await caller.status() == 200
    assert served.bodies == [b"ab"]


@pytest.mark.parametrize("start", [HEAD, b"G", b"\r\n"], ids=["lines", "a letter", "a blank line"])
async def test_a_head_that_is_not_complete_in_time_is_a_408(serve: Serve, start: bytes) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(start)
        await wait_until(lambda: any(each._head for each in served.connections._open), "the start to arrive")
        served.pass_seconds(2)
        await caller.send(b"X")
        served.pass_seconds(1)
        assert await caller.status() == 408


async def test_a_later_head_has_its_own_time(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(HEAD + b"\r\n")
        assert await caller.status() == 200
        await caller.reader.readuntil(b"\r\n\r\n0")
        served.pass_seconds(5)  # idle between two requests
        await caller.send(HEAD)
        await wait_until(lambda: any(each._head for each in served.connections._open), "the head to begin")
        served.pass_seconds(2)
        await caller.send(b"\r\n")
        assert await caller.status() == 200
        await caller.reader.readuntil(b"\r\n\r\n0")
        await caller.send(HEAD)
        await wait_until(lambda: any(each._head for each in served.connections._open), "the head to begin")
        served.pass_seconds(3)
        assert await caller.status() == 408


async def test_a_connection_without_a_request_is_closed(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await wait_until(lambda: len(served.connections), "the connection")
        served.pass_seconds(3)
        assert await caller.status() == 0
    await wait_until(lambda: not len(served.connections), "the end")


# Bodies


async def test_a_body_that_comes_too_slowly_is_a_408_and_its_request_ends(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 1_000)
        await wait_until(lambda: served.headers, "the request")
        served.pass_seconds(2)
        await caller.send(b"x" * 99)
        await wait_until(lambda: any(each._in_window == 99 for each in served.connections._open), "the bytes")
        served.pass_seconds(2)
        assert await caller.status() == 408
        await wait_until(lambda: served.gone, "the request to end")


async def test_a_slow_body_that_goes_on_is_read(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(POST + b"Content-Length: 1000\r\n\r\n")
        await wait_until(lambda: served.headers, "the request")
        for number in range(10):
            await caller.send(b"x" * 100)
            await wait_until(lambda n=number: arrived(served) == 100 * n + 100 or served.bodies, "the bytes")
            served.pass_seconds(2 if number else 1)
        assert await caller.status() == 200


async def test_time_that_the_service_takes_is_not_the_clients(serve: Serve) -> None:
    served = await serve()
    served.may_answer.clear()
    async with calling(served.port) as caller:
        await caller.send(HEAD + b"\r\n")
        await wait_until(lambda: served.bodies, "the request")
        served.pass_seconds(50)
        served.may_answer.set()
        assert await caller.status() == 200


@pytest.mark.parametrize(
    ("start", "more"),
    [
        pytest.param(b"1\r\nx\r\n0\r\n", b"Trailer: of no use to anybody\r\n", id="trailers"),
        pytest.param(b"", b"1;" + b"e" * 2_000 + b"\r\nx\r\n", id="chunk extensions"),
        pytest.param(b"1;", b"e" * 1_000, id="one chunk extension"),
    ],
)
async def test_what_is_sent_between_chunks_without_end_is_a_431(serve: Serve, start: bytes, more: bytes) -> None:
    served = await serve()
    before = memory()
    async with calling(served.port) as caller:
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + start)
        sent = 0
        while sent < 8 * MEGABYTE and await caller.send(more * 8):
            sent += len(more) * 8
        assert sent < 8 * MEGABYTE
    assert memory() - before < 8 * MEGABYTE


async def test_chunks_of_one_byte_are_read_and_trailers_are_no_headers(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        chunks = b"1\r\nx\r\n" * 50_000 + b"0\r\nAuthorization: Bearer stolen\r\n\r\n"
        await caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert await caller.status() == 200
    assert served.bodies == [b"x" * 50_000]
    assert [name for name, _ in served.headers[0]] == [b"host", b"transfer-encoding"]


async def test_a_body_after_its_answer_ends(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(b"POST /refused HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100)
        assert await caller.status() == 401
        served.pass_seconds(3)
        assert await caller.ends()
    async with calling(served.port) as caller:
        await caller.send(b"POST /refused HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        while sent < 4 * MOST_DISCARDED and await caller.send(b"x" * MEGABYTE):
            sent += MEGABYTE
        assert sent < 4 * MOST_DISCARDED
    async with calling(served.port) as caller:  # one that is short leaves the connection as it was
        await caller.send(b"POST /refused HTTP/1.1\r\nContent-Length: 8\r\n\r\n1234")
        assert await caller.status() == 401
        await caller.send(b"5678" + HEAD + b"\r\n")
        await caller.reader.readuntil(b"no")
        assert await caller.status() == 200
        served.pass_seconds(LIMITS.idle_seconds - 1)
        assert len(served.connections) == 1
    await wait_until(lambda: not len(served.connections), "the end")


async def test_pipelined_requests_are_all_answered_and_wait_as_bytes(serve: Serve) -> None:
    served = await serve()
    served.may_answer.clear()
    async with calling(served.port) as caller:
        await caller.send((HEAD + b"\r\n") * 2_000)
        await wait_until(lambda: any(each._held for each in served.connections._open), "requests to be put aside")
        (connection,) = served.connections._open
        assert len(connection.pipeline) < 2 * STEP // len(HEAD)
        served.may_answer.set()
        for _ in range(2_000):
            assert await caller.status() == 200
            await caller.reader.readuntil(b"\r\n\r\n0")


# Answers


async def test_an_answer_that_nobody_reads_is_dropped(serve: Serve) -> None:
    served = await serve()
    reading = metrics.connections_refused.labels("slow-reader")
    before = reading._value.get()
    async with calling(served.port) as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(b"GET /big HTTP/1.1\r\n\r\n")
        await wait_until(lambda: served.connections._unread, "an answer to wait")
        served.pass_seconds(2)
        await wait_until(lambda: not len(served.connections), "the connection to end")
    assert reading._value.get() == before + 1


async def test_an_answer_that_is_read_slowly_arrives(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(b"GET /big HTTP/1.1\r\n\r\n")
        received, waiting = 0, BIG
        while received < BIG and not caller.reader.at_eof():
            received += len(await caller.reader.read(MEGABYTE // 4))
            for each in served.connections._unread:
                if (size := each.transport.get_write_buffer_size()) < waiting:
                    waiting = size
                    served.pass_seconds(1)
        assert received > BIG


async def test_answers_that_nobody_reads_are_bounded_in_total(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstream.api.connections.MOST_UNSENT", 3 * BIG)
    served = await serve()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(6):
            caller = await stack.enter_async_context(calling(served.port))
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await caller.send(b"GET /big HTTP/1.1\r\n\r\n")
            await wait_until(lambda n=number: len(served.bodies) == n + 1, "the request")
            served.pass_seconds(1)
            waiting = [each.transport.get_write_buffer_size() for each in served.connections._unread]
            assert sum(waiting) <= 3 * BIG


# WebSockets


async def test_a_web_socket_counts_as_a_connection(serve: Serve) -> None:
    served = await serve()
    async with connect(f"ws://127.0.0.1:{served.port}/") as one:
        assert len(served.connections) == 1
        await one.send("hello")
        await wait_until(lambda: served.messages == ["hello"], "the message")
        served.pass_seconds(100)
        await one.send("again")
        await wait_until(lambda: len(served.messages) == 2, "the message")
    await wait_until(lambda: not len(served.connections), "the end")


@contextlib.asynccontextmanager
async def upgraded(port: int) -> AsyncIterator[Caller]:
    """Open a WebSocket whose frames a test writes byte by byte."""
    async with calling(port) as caller:
        await caller.send(HANDSHAKE + b"\r\n")
        await caller.reader.readuntil(b"\r\n\r\n")
        yield caller


def frame(opcode: int, payload: bytes, *, is_last: bool = True) -> bytes:
    """Return a frame, masked with zeros."""
    return bytes([opcode | (0x80 if is_last else 0), 0x80 | len(payload), 0, 0, 0, 0]) + payload


HANDSHAKE = (
    HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"Content-Length: 5\r\n", id="a body"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", id="chunks"),
        pytest.param(b"X: " + b"a" * 9_000 + b"\r\n", id="a long line"),
    ],
)
async def test_a_handshake_that_cannot_be_read_is_a_400_and_holds_no_place(serve: Serve, more: bytes) -> None:
    """The WebSocket library says nothing of it, and would wait for ever: any stranger could take all connections."""
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(HANDSHAKE + more + b"\r\n")
        assert b"HTTP/1.1 400 " in await asyncio.wait_for(caller.reader.read(), 5)
    await wait_until(lambda: not len(served.connections), "the end")


async def test_many_small_messages_are_read_one_at_a_time(serve: Serve) -> None:
    served = await serve()
    async with upgraded(served.port) as caller:
        await caller.send(b"".join(frame(1, b"%d" % (number % 10)) for number in range(20_000)))
        (connection,) = served.connections._open
        waiting = 0
        while len(served.messages) < 20_000:
            waiting = max(waiting, connection.queue.qsize())
            await asyncio.sleep(0)
        assert waiting < STEP
    assert served.messages == [str(number % 10) for number in range(20_000)]


async def test_a_message_in_endless_fragments_is_refused(serve: Serve) -> None:
    served = await serve()
    async with upgraded(served.port) as caller:
        await caller.send(frame(1, b"", is_last=False), *[frame(0, b"", is_last=False)] * 3_000)
        assert await caller.ends()
    await wait_until(lambda: not len(served.connections), "the end")


async def test_pings_of_a_client_that_reads_nothing_end_the_connection(serve: Serve) -> None:
    served = await serve()
    async with upgraded(served.port) as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        many = frame(9, b"x" * 125) * 1_000
        sent = 0
        while sent < 64 * MEGABYTE and await caller.send(many):
            sent += len(many)
        assert sent < 64 * MEGABYTE
    await wait_until(lambda: not len(served.connections), "the end")


# Their number

OUTSIDE = (ip_network("192.0.2.1"),)
"""Proxies that are not here."""


async def opened(stack: contextlib.AsyncExitStack, served: Served, count: int, sent: bytes) -> list[Caller]:
    found = []
    for _ in range(count):
        caller = await stack.enter_async_context(calling(served.port))
        await caller.send(sent)
        found.append(caller)
    return found


@pytest.mark.parametrize(
    "limits",
    [
        ConnectionLimits(connections=20),
        ConnectionLimits(connections=1_000, per_address=20, proxies=OUTSIDE),
    ],
    ids=["in total", "per address"],
)
async def test_those_that_wait_longest_make_room(serve: Serve, limits: ConnectionLimits) -> None:
    served = await serve(limits)
    async with contextlib.AsyncExitStack() as stack:
        await opened(stack, served, 20, HEAD)
        await wait_until(lambda: len(served.connections) == 20, "the connections")
        served.pass_seconds(1)
        (new,) = await opened(stack, served, 1, HEAD + b"\r\n")
        assert await new.status() == 200
        assert len(served.connections) <= 20


@pytest.mark.parametrize(
    "limits",
    [
        ConnectionLimits(connections=20),
        ConnectionLimits(connections=1_000, per_address=20, proxies=OUTSIDE),
    ],
    ids=["in total", "per address"],
)
async def test_a_connection_beyond_the_limit_is_a_503(serve: Serve, limits: ConnectionLimits) -> None:
    served = await serve(limits)
    served.may_answer.clear()
    async with contextlib.AsyncExitStack() as stack:
        served_ones = await opened(stack, served, 20, HEAD + b"\r\n")
        await wait_until(lambda: len(served.bodies) == 20, "the requests")
        served.pass_seconds(1)
        (new,) = await opened(stack, served, 1, HEAD + b"\r\n")
        assert await new.status() == 503
        assert "retry-after: 1" in (await new.reader.read()).decode()
        served.may_answer.set()
        for caller in served_ones:
            assert await caller.status() == 200


async def test_a_proxy_has_no_limit_of_its_own(serve: Serve) -> None:
    served = await serve(ConnectionLimits(connections=1_000, per_address=5))
    async with contextlib.AsyncExitStack() as stack:
        callers = await opened(stack, served, 30, HEAD + b"\r\n")
        assert [await caller.status() for caller in callers] == [200] * 30


@pytest.mark.parametrize(
    ("settings", "connections", "per_address"),
    [
        ({}, 500, 125),
        ({"max_connections": 100}, 100, 25),
        ({"max_connections": 100, "address_connections": 0}, 100, 0),
        ({"address_connections": 7}, 500, 7),
    ],
    ids=["default", "of a setting", "no limit per address", "per address"],
)
def test_half_of_the_descriptors_stay_for_others(settings: Any, connections: int, per_address: int) -> None:
    limits = limits_of(Settings(**settings), 1_000)
    assert (limits.connections, limits.per_address) == (connections, per_address)


@pytest.mark.parametrize("settings", [{"max_connections": 501}, {"proxies": ("10.0.0.1/8",)}, {"proxies": ("lb",)}])
def test_limits_that_cannot_be_kept_are_refused(settings: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"TASKSTREAM_(MAX_CONNECTIONS|PROXIES)"):
        limits_of(Settings(**settings), 1_000)


async def test_a_refused_client_that_stays_does_not_delay_the_end_of_the_server(serve: Serve) -> None:
    served = await serve()
    async with calling(served.port) as caller:
        await caller.send(b"no HTTP\r\n\r\n")
        assert await caller.status() == 400
        (connection,) = served.connections._open
        assert not connection.transport.is_closing()
        connection.shutdown()
        await wait_until(lambda: not len(served.connections), "the end")


# Together, on the service


async def test_half_sent_heads_keep_nobody_from_the_service(api: Service) -> None:
    port = int(api.url.rpartition(":")[2])
    before = memory()
    async with contextlib.AsyncExitStack() as stack:
        halves = [await stack.enter_async_context(calling(port)) for _ in range(300)]
        for caller in halves:
            await caller.send(HEAD + header(5_000))
        await wait_until(lambda: len(api.connections) >= 300, "the heads")
        for number in range(5):
            task_id = await api.alice.submit({"n": number})
            assert (await api.alice.details(task_id))["status"] == "WAITING"
        assert memory() - before < 30 * MEGABYTE
        for _ in range(10):
            api.connections.sweep()
        for caller in halves:
            assert await caller.status() == 408
        assert await api.alice.submit({"n": 6})
    await wait_until(lambda: len(api.connections) < 10, "the ends")
