"""The end of a connection: a process that stops must not fail because of who else waited for the socket."""

from __future__ import annotations

import asyncio

import pytest

from taskstream.streams.client.connection import open_connection


async def test_a_connection_closes_though_another_wait_for_its_socket_was_cancelled(nats_url: str) -> None:
    connection = await open_connection(nats_url, "test")
    transport = connection.client._transport
    assert transport is not None
    other = asyncio.create_task(transport.wait_closed())  # as a reconnect does
    await asyncio.sleep(0)
    other.cancel()

    await connection.close()

    assert connection.client.is_closed


async def test_a_close_that_is_cancelled_is_cancelled(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await open_connection(nats_url, "test")
    transport = connection.client._transport
    assert transport is not None
    waiting = asyncio.Event()

    async def wait_for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(transport, "wait_closed", wait_for_ever)
    closing = asyncio.create_task(connection.close())
    await waiting.wait()
    closing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await closing
