"""A nats-server that is stopped, not ended: its sockets stay open, and nothing comes out of them.

On uvloop, as the service runs: there a lost socket is a RuntimeError, which nats-py does not take for a loss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from taskstream.errors import StoreUnavailable
from taskstream.streams.client import connection as connections
from taskstream.streams.client.connection import Connection, open_connection
from testkit.nats import NatsServer
from testkit.waiting import wait_until


def on_uvloop(nats: NatsServer, scenario: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with a connection of its own."""

    async def run() -> None:
        connection = await open_connection(nats.url, "test")
        try:
            await scenario(connection)
        finally:
            await connection.close()

    uvloop.run(run())


@pytest.mark.parametrize("pause_seconds", [0.5, 1.2])
def test_a_connection_works_again_once_the_server_goes_on(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, pause_seconds: float
) -> None:
    """A late answer to the watchdog (the shorter pause), and a connection that it has dropped (the longer)."""
    monkeypatch.setattr(connections, "WATCHDOG_SECONDS", 0.2)

    async def scenario(connection: Connection) -> None:
        nats.pause()
        await asyncio.sleep(pause_seconds)
        nats.resume()

        async def answered() -> bool:
            try:
                await connection.request("$JS.API.INFO", timeout_seconds=0.5)
            except StoreUnavailable:
                return False
            return True

        await wait_until(answered, "an answer")
        for _ in range(20):  # and it stays so
            assert await answered()
            await asyncio.sleep(0.02)

    on_uvloop(nats, scenario)


def test_a_flush_that_came_to_nothing_leaves_the_connection_alive(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SECONDS", 0.2)

    async def scenario(connection: Connection) -> None:
        nats.pause()
        with pytest.raises(StoreUnavailable):
            await connection.flush()
        nats.resume()

        await connection.flush()
        await connection.request("$JS.API.INFO")

    on_uvloop(nats, scenario)
