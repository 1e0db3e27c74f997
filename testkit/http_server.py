"""An HTTP server inside this process, on a port of 127.0.0.1 that stays the same over stops and starts."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Self

from aiohttp import web

BODY_BYTES = 64 * 1024 * 1024
STEPS_OF_ACCEPTANCE = 5
"""Turns of the event loop within which a connection is with aiohttp after the port was found readable."""


class HttpServer:
    """A base class; use as an async context manager. A subclass has its own `routes`, or handles every request."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        """0 before the first start: a free one is chosen."""
        self.tls: ssl.SSLContext | None = None
        """None: it speaks HTTP without TLS."""
        self._runner: web.AppRunner | None = None
        self._socket: socket.socket | None = None
        self._jobs: set[asyncio.Task[Any]] = set()

    def routes(self, app: web.Application) -> None:
        """Add routes to the application; by default every request goes to `handle`."""
        app.router.add_route("*", "/{path:.*}", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def start(self) -> None:
        """Listen; on the same port again after `stop`."""
        app = web.Application(client_max_size=BODY_BYTES)
        self.routes(app)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._socket, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and all connections."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        # asyncio hands a connection over in steps. One that its server's end overtakes is never closed (Python 3.11).
        for _ in range(STEPS_OF_ACCEPTANCE):
            await asyncio.sleep(0)
        await runner.cleanup()

    def later(self, job: Coroutine[Any, Any, Any]) -> None:
        """Run something beside the requests; it is cancelled at the end of the `async with`."""
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)


async def serve_until_killed(server: HttpServer) -> None:
    """Run a server as a process: print its port, and serve until the process is ended."""
    async with server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


def break_off(request: web.BaseRequest, data: bytes = b"") -> web.Response:
    """Send bytes as they are, if any, and close the connection: an answer that is no HTTP, or none."""
    if request.transport is not None:
        request.transport.write(data)
        request.transport.close()
    return web.Response(status=500)
