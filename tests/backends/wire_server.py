"""A server on 127.0.0.1 with an answer set by the test; it keeps the requests it received."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from testkit.http_server import HttpServer

from .wire_fixtures import Answering, Received, Respond, StreamWire, Wire


class WireServer(HttpServer):
    """Answers each request with `answer`, or as `aside` says; use as an async context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Answering = Wire(500)
        self.aside: Callable[[Received], Answering | None] = lambda _: None
        self.received: list[Received] = []
        """The requests that `answer` answers."""
        self.others: list[Received] = []
        """The requests that `aside` answers."""
        self.closed_early = asyncio.Event()
        """A client closed its connection before it had the whole answer."""

    @property
    def url(self) -> str:
        return self.base_url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers, body = dict(request.headers), await request.read()
        received = Received(request.method, request.path, headers, body, request.transport)
        answer = self.aside(received)
        (self.received if answer is None else self.others).append(received)
        try:
            return await answered(request, self.answer if answer is None else answer)
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early.set()
            raise


async def answered(request: web.Request, answer: Answering) -> web.StreamResponse:
    """Answer a request."""
    if isinstance(answer, Wire):
        return web.Response(
            status=answer.status, body=answer.body, content_type=answer.content_type, headers=answer.headers
        )
    return await write(request, answer) if isinstance(answer, StreamWire) else await answer(request)


async def write(request: web.Request, wire: StreamWire) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": wire.content_type})
    await response.prepare(request)
    for part in wire.parts:
        await response.write(part)
    return response


async def silence(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.Request) -> web.StreamResponse:
    """Answer JSON that does not end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b'["' + b"x" * 65_536)


async def reset(request: web.Request) -> web.StreamResponse:
    """Abort the connection before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def broken_off(wire: StreamWire) -> Respond:
    """Return a behaviour that writes an answer and aborts the connection."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = await write(request, wire)
        await asyncio.sleep(0.05)  # so that what was written is sent
        assert request.transport is not None
        request.transport.abort()
        return response

    return respond
