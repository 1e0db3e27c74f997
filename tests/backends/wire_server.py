"""A server on 127.0.0.1 with an answer set by the test; it keeps the requests it received."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from testkit.http_server import HttpServer

from .wire_fixtures import StreamWire, Wire

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Received(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: object
    """The same object for requests over one connection."""


class WireServer(HttpServer):
    """Answers each request with `answer`; use as an async context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Wire | StreamWire | Respond = Wire(500)
        self.received: list[Received] = []
        self.closed_early = asyncio.Event()
        """A client closed its connection before it had the whole answer."""

    @property
    def url(self) -> str:
        return self.base_url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers, body = dict(request.headers), await request.read()
        self.received.append(Received(request.method, request.path, headers, body, request.transport))
        try:
            if isinstance(self.answer, Wire):
                wire = self.answer
                return web.Response(
                    status=wire.status, body=wire.body, content_type=wire.content_type, headers=wire.headers
                )
            if isinstance(self.answer, StreamWire):
                return await write(request, self.answer)
            return await self.answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early.set()
            raise


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


def broken_off(wire: StreamWire) -> Respond:
    """Return a behaviour that writes an answer and aborts the connection."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = await write(request, wire)
        await asyncio.sleep(0.05)  # so that what was written is sent
        assert request.transport is not None
        request.transport.abort()
        return response

    return respond
