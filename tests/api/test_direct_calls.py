"""A route's function is called directly: the same answers as through all of Litestar, in fewer calls.

Counted, not timed: Python functions called for one submission, its waits, and writes to the socket.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import msgspec
import pytest
from litestar.routes import HTTPRoute
from uvicorn.server import ServerState

from taskstream.api import middleware
from taskstream.api.app import create_app
from taskstream.api.auth.authenticator import Authenticator
from taskstream.api.connections import ConnectionLimits, Connections, HttpConnection
from taskstream.api.direct_calls import DirectCall, called_directly
from taskstream.api.exchange import COPIED_BYTES, EXTENSIONS
from taskstream.running import server_config
from taskstream.streams.committer import Committer
from testkit.service import Service, token

MOST_CALLS = 217
"""Of Python functions for one submission, from the head of the request to its answer. Two of them count the task, and
look whether its submission is a span."""
TASK = "01M8NQ8K6MMM5B6D25WX9PD8XT~alice"
VARYING = re.compile(rb"x-request-id: .*|date: .*", re.IGNORECASE)

REQUESTS = {
    "a task that does not exist": f"GET /api/task/{TASK} HTTP/1.1",
    "a head": f"HEAD /api/task/{TASK} HTTP/1.1",
    "a slash at the end": "GET /api/pools/ HTTP/1.1",
    "two slashes": "GET /api//pools HTTP/1.1",
    "an empty parameter": "GET /api/task//events HTTP/1.1",
    "an unknown path": "GET /api/nothing HTTP/1.1",
    "a path that goes on": "GET /api/pools/a/b/c HTTP/1.1",
    "another method": "DELETE /api/task HTTP/1.1",
    "the methods of a path": "OPTIONS /api/task HTTP/1.1",
    "an encoded name": "GET /api/owners/auth0%7Cx HTTP/1.1",
    "an encoded slash": "GET /api/pools/a%2Fb HTTP/1.1",
    "a query": "GET /api/tasks?limit=1&status=FAILED HTTP/1.1",
    "a wrong query": "GET /api/tasks?limit=x HTTP/1.1",
    "an unknown query": f"GET /api/task/{TASK}?wiat=1 HTTP/1.1",
    "a default given": f"GET /api/task/{TASK}?wait=0 HTTP/1.1",
    "no role": "GET /api/pools HTTP/1.1\r\nAuthorization: Bearer {service}",
    "no token": "GET /api/pools HTTP/1.1\r\nAuthorization: none",
    "two tokens": "GET /api/pools HTTP/1.1\r\nAuthorization: Bearer x\r\nAuthorization: Bearer {alice}",
    "a body that is not JSON": "POST /api/task HTTP/1.1\r\nContent-Length: 1\r\n\r\n{",
    "a body that is too large": "POST /api/task HTTP/1.1\r\nContent-Length: 999999999",
    "a compressed body": "POST /api/task HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    "a malformed key": "POST /api/task HTTP/1.1\r\nIdempotency-Key: \xe9\x85\r\nContent-Length: 2\r\n\r\n{}",
    "a malformed host": "GET /api/pools HTTP/1.1\r\nHost: a b",
    "a port that is none": "GET /api/pools/x HTTP/1.1\r\nHost: x:99999",
    "a port that is none and no token": "DELETE /api/none HTTP/1.1\r\nAuthorization: none\r\nHost: x:99999",
    "two hosts": "GET /api/pools HTTP/1.1\r\nHost: x\r\nHost: y",
    "an absolute URL": "GET http://other/api/pools/x HTTP/1.1",
    "an encoded letter": "GET /%61pi/pools HTTP/1.1",
    "a semicolon": "GET /api/pools;x=1 HTTP/1.1",
    "dots": "GET /api/./pools HTTP/1.1",
    "a NUL": "GET /api/pools/%00 HTTP/1.1",
    "small letters": "get /api/pools HTTP/1.1",
    "a method nobody has": "TRACE /api/pools HTTP/1.1",
    "chunks": "POST /api/task HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
    "HTTP/1.0": "GET /api/pools HTTP/1.0",
}


async def ask(service: Service, request: str) -> bytes:
    """Return the answer to a request, without what differs each time."""
    head, _, body = request.replace("{service}", token("s", "service")).partition("\r\n\r\n")
    head = head.replace("{alice}", token("alice"))
    for name, value in (("Host", "x"), ("Authorization", f"Bearer {token('alice')}"), ("Connection", "close")):
        if f"\r\n{name}:" not in head:
            head += f"\r\n{name}: {value}"
    reader, writer = await asyncio.open_connection("127.0.0.1", service.container.settings.port)
    writer.write(f"{head}\r\n\r\n{body}".encode("latin-1"))
    answer = await reader.read()
    writer.close()
    return VARYING.sub(b"", answer)


async def test_every_request_is_answered_as_litestar_would(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = {name: await ask(api, request) for name, request in REQUESTS.items()}
    monkeypatch.setattr(DirectCall, "__call__", lambda self, *given: self._app(*given))
    by_litestar = {name: await ask(api, request) for name, request in REQUESTS.items()}
    assert direct == by_litestar
    statuses = {answer.split(b" ")[1] for answer in direct.values()}
    assert statuses == {b"200", b"204", b"400", b"401", b"403", b"404", b"405", b"413", b"415"}


async def test_the_routes_of_a_tasks_path_are_called_directly(api: Service) -> None:
    app: Any = create_app(api.container, Authenticator.from_settings(api.container.settings))
    direct = {
        f"{method} {route.path_format}"
        for route in app._app._app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if called_directly(handler, route.path_parameters).is_direct
    }
    assert direct >= {"POST /api/task", "GET /api/task/{task_id}", "PUT /api/task/{task_id}", "POST /api/tasks/batch"}


async def test_a_submission_takes_few_calls_and_waits_for_nothing_but_the_log(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(api.container, Authenticator.from_settings(api.container.settings))
    await api.alice.post("/api/task", {"first": "reads the quota"})
    stored = iter(range(1_000, 2_000))

    async def append(*_: object) -> int:
        return next(stored)

    async def handle(*_: object) -> None:
        raise AssertionError("the route was called through Litestar")

    monkeypatch.setattr(Committer, "append", append)
    monkeypatch.setattr(HTTPRoute, "handle", handle)
    monkeypatch.setattr(middleware, "log_request", lambda **_: None)  # here a line is for a terminal, with colours
    sent: list[Any] = []
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    for _ in range(3):  # what is made once is made
        coroutine = app(submission(), receive_body, partial(_keep, sent))
        calls = 0
        sys.setprofile(count)
        try:
            with pytest.raises(StopIteration):  # it never waits
                coroutine.send(None)
        finally:
            sys.setprofile(None)
    assert [message["status"] for message in sent] == [200, 200, 200]  # one message each
    assert msgspec.json.decode(sent[-1]["body"])["taskDetails"]["status"] == "WAITING"
    assert calls <= MOST_CALLS


def submission() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/api/task",
        "raw_path": b"/api/task",
        "query_string": b"",
        "root_path": "",
        "extensions": EXTENSIONS,
        "headers": [(b"host", b"x"), (b"authorization", f"Bearer {token('alice')}".encode())],
        "state": {},
    }


async def receive_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b'{"prompt": "p"}', "more_body": False}


async def _keep(sent: list[Any], message: Any) -> None:
    sent.append(message)


# The connection


class Transport(asyncio.Transport):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()

    def resume_reading(self) -> None:
        """Nothing is ever paused."""


Connected = Callable[[dict[str, Any]], tuple[HttpConnection, Transport]]


@pytest.fixture
async def connected() -> Connected:
    """Return a function that connects a client to an application which answers every request with one message."""

    def connect(start: dict[str, Any]) -> tuple[HttpConnection, Transport]:
        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", **start})

        connections = Connections(ConnectionLimits(idle_seconds=2))
        config = server_config(app, connections)  # type: ignore[arg-type]
        config.load()
        connection = HttpConnection(connections, config=config, server_state=ServerState(), app_state={})
        transport = Transport()
        connection.connection_made(transport)
        return connection, transport

    return connect


async def _answered(connection: HttpConnection, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> None:
    connection.data_received(request)
    await asyncio.gather(*connection.tasks)


def whole(body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers], "body": body}


async def test_a_whole_answer_is_one_write_and_sets_no_timer(connected: Connected) -> None:
    connection, transport = connected(whole(b"{}", (b"etag", b'"1"')))
    await _answered(connection)
    await _answered(connection)
    assert transport.writes == [b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\netag: "1"\r\n\r\n{}'] * 2
    assert connection.timeout_keep_alive_task is None
    connection.check(1)
    assert not transport.is_closing()
    connection.check(2)
    assert transport.is_closing()


@pytest.mark.parametrize(
    ("request_line", "start", "written"),
    [
        ("HEAD / HTTP/1.1", whole(b"{}"), b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        ("GET / HTTP/1.0", whole(b"{}"), b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"),
        ("GET / HTTP/1.1", {"status": 304, "headers": [], "body": b""}, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
    ids=["head", "http-1.0", "not-modified"],
)
async def test_a_whole_answer_follows_its_request(
    connected: Connected, request_line: str, start: dict[str, Any], written: bytes
) -> None:
    connection, transport = connected(start)
    await _answered(connection, f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert transport.writes == [written]
    assert transport.is_closing() == (b"connection: close" in written)


async def test_a_long_answer_is_not_copied(connected: Connected) -> None:
    connection, transport = connected(whole(b"x" * (COPIED_BYTES + 1)))
    await _answered(connection)
    assert [len(each) for each in transport.writes[1:]] == [COPIED_BYTES + 1]


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\0b"], ids=["crlf", "lf", "nul"])
async def test_a_header_with_a_line_break_is_never_sent(connected: Connected, value: bytes) -> None:
    connection, transport = connected(whole(b"{}", (b"x-request-id", value)))
    await _answered(connection)
    assert value not in b"".join(transport.writes)
    assert not b"".join(transport.writes).startswith(b"HTTP/1.1 200")
