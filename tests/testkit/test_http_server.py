"""The HTTP server of the tests leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from testkit.http_server import HttpServer


class Echo(HttpServer):
    async def handle(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.path)


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_just_before_the_end_is_closed(turns: int) -> None:
    """Also one that the event loop has accepted and not yet handed over: see the turns."""
    server = Echo()
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)

        await server.stop()

        try:
            received = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 10)
        except ConnectionResetError:
            received = b""
        assert received == b""
