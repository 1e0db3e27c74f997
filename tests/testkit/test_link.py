"""A link passes data on, until it is told otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from testkit.link import Link


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a server that sends back what it is sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link(server.sockets[0].getsockname()[1]) as link:
        yield link


class Caller:
    """A client of a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def says(self, seconds: float = 5.0, word: bytes = b"hello") -> bytes | None:
        """Send a word and return what comes back; None where the connection is lost. Raises TimeoutError."""
        try:
            self._writer.write(word)
            async with asyncio.timeout(seconds):
                return await self._reader.read(100) or None
        except ConnectionError:
            return None

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@pytest.fixture
async def caller(link: Link) -> AsyncIterator[Caller]:
    caller = Caller(*await asyncio.open_connection("127.0.0.1", link.port))
    yield caller
    await caller.close()


async def test_it_passes_data_on(link: Link, caller: Caller) -> None:
    assert await caller.says() == b"hello"
    link.set("delay")
    assert await caller.says() == b"hello"


async def test_a_cut_resets_what_is_open_and_refuses_what_is_new(link: Link, caller: Caller) -> None:
    assert await caller.says() == b"hello"

    link.set("cut")

    assert await caller.says() is None
    late = Caller(*await asyncio.open_connection("127.0.0.1", link.port))
    assert await late.says() is None
    await late.close()


async def test_half_open_says_nothing_and_resets_when_it_heals(link: Link, caller: Caller) -> None:
    assert await caller.says() == b"hello"

    link.set("half_open")
    with pytest.raises(TimeoutError):
        await caller.says(0.2)
    link.set("pass")

    assert await caller.says() is None


async def test_what_is_corrupted_begins_as_nothing_any_protocol_has_and_heals_with_a_reset(link: Link) -> None:
    caller = Caller(*await asyncio.open_connection("127.0.0.1", link.port))
    link.set("corrupt")

    seen = {await caller.says(word=b"PING\r\n") for _ in range(100)}  # each piece of data by chance
    link.set("pass")

    assert b"PING\r\n" in seen
    assert all(answer == b"PING\r\n" or (answer or b"").startswith(b"\xff\x00") for answer in seen)
    assert len(seen) > 1
    assert await caller.says() is None
    await caller.close()


async def test_what_is_in_the_middle_of_a_message_is_not_corrupted(link: Link, caller: Caller) -> None:
    link.set("corrupt")

    assert {await caller.says(word=b'{"mark": 1}') for _ in range(50)} == {b'{"mark": 1}'}
