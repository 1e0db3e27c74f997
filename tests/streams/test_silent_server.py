"""A nats-server that is stopped, not ended: its sockets stay open, and nothing comes out of them.

On uvloop, as the service runs: there a lost socket is a RuntimeError, which nats-py does not take for a loss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import nats.aio.client as nats_py
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


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), asyncio.CancelledError()], ids=repr)
def test_a_reconnect_that_died_is_begun_again(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """uvloop raises RuntimeError for a lost socket; a wait that is shared ends with the cancellation of another."""
    theirs = nats_py.Client._attempt_reconnect
    died = []

    async def die_once(client: nats_py.Client) -> None:
        if not died:
            died.append(client)
            raise error
        await theirs(client)

    async def scenario(connection: Connection) -> None:
        monkeypatch.setattr(nats_py.Client, "_attempt_reconnect", die_once)
        await connection.client.drop()
        await wait_until(lambda: connection.is_connected, "the connection to be back")
        assert died == [connection.client]
        await connection.request("$JS.API.INFO")

    on_uvloop(nats, scenario)


def test_a_loss_during_a_reconnect_leaves_one_reconnect(nats: NatsServer) -> None:
    """Two would read from the same socket, and end each other."""

    async def scenario(connection: Connection) -> None:
        client = connection.client
        for _ in range(3):
            before = client._reconnection_task
            client._status = client.CONNECTED  # as once it has connected, before it has subscribed again
            await client.drop()
            assert client._reconnection_task is not before
        running = [task for task in asyncio.all_tasks() if "_attempt_reconnect" in repr(task)]
        await wait_until(lambda: connection.is_connected, "the connection to be back")
        await wait_until(lambda: sum(not task.done() for task in running) == 0, "the reconnects to end")
        await connection.request("$JS.API.INFO")

    on_uvloop(nats, scenario)


async def test_a_question_that_was_lost_with_its_connection_does_not_end_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "WATCHDOG_SECONDS", 0.0)
    asked = asyncio.Event()

    class Client:
        is_connected = True
        connections = 1
        dropped = 0

        async def drop(self) -> None:
            self.dropped += 1

    client: Any = Client()

    async def answers(seconds: float) -> bool:
        if client.connections == 10:
            asked.set()
            return True
        client.connections += 1  # the connection was lost, and is back
        return False

    watching = asyncio.create_task(connections.watch(client, answers))
    await asked.wait()
    watching.cancel()
    assert client.dropped == 0
