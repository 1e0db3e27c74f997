"""An HTTP server that sends exactly the bytes a test says, when the test says: also those nobody asked for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple, Self, cast


class RawRequest(NamedTuple):
    head: str
    body: bytes
    connection: RawConnection
    nth: int
    """1 for the first request of the connection."""


class RawConnection(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.requests = 0
        self.is_open = False

    def send(self, data: bytes) -> None:
        """Send bytes, at once if the socket takes them; do nothing if the connection is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> None:
        """Say, at once, that no more is sent."""
        if self._transport is not None:
            self._transport.write_eof()

    def read(self) -> None:
        """Read what has come, and what comes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast(asyncio.Transport, transport), True  # uvloop's is of no such class
        self._server.connections.append(self)
        if not self._server.reads:
            self._transport.pause_reading()
        self.send(self._server.banner)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._next()) is not None:
            self.requests += 1
            self._server.requests.append(request)
            self.send(self._server.respond(request))

    def _next(self) -> RawRequest | None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length and not self._server.answers_early:
            return None
        self._received = rest[length:]
        return RawRequest(head.decode(), rest[:length], self, self.requests + 1)


class RawServer:
    """Listens on 127.0.0.1; use as an async context manager."""

    def __init__(self, respond: Callable[[RawRequest], bytes], *, context: ssl.SSLContext | None = None) -> None:
        self.respond = respond
        """Returns the bytes to send for a request."""
        self.banner = b""
        """Sent on each new connection."""
        self.answers_early = False
        """Respond to a request before its body has arrived. What comes of the body later is taken for a request."""
        self.reads = True
        """New connections are read from; if not, once `read` was called."""
        self.requests: list[RawRequest] = []
        self.connections: list[RawConnection] = []
        self._context = context
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: RawConnection(self), "127.0.0.1", 0, ssl=self._context)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.close()
        await self._server.wait_closed()


def answer(body: bytes, status: str = "200 OK", content_type: str = "application/json", more: str = "") -> bytes:
    """Return an answer that leaves the connection open. `more`: header lines, each with its line end."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode()
        + body
    )
