"""A TCP proxy that can be cut, slowed down, corrupt what it carries, lose one answer, or go silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from typing import Literal, Self, TypeAlias

Mode: TypeAlias = Literal["pass", "delay", "cut", "half_open", "corrupt"]
DELAY_SECONDS = 0.15
CORRUPT_CHANCE = 0.3
"""For each piece of data, while a link corrupts."""
BEGINNING = re.compile(rb"(H?PUB|H?MSG|(UN)?SUB|P[IO]NG|INFO|CONNECT|GET|POST|PUT|HTTP/1\.1)\b|\+OK|-ERR")
"""How an operation of NATS, and a message of HTTP, begins."""
GARBAGE = b"\xff\x00\r\n"
"""Nothing in either protocol, nor in JSON, begins so."""
CHUNK_BYTES = 65_536


class _Pair:
    """One connection through a link, as its two ends."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.ends = (near, far)
        self.spoilt = False
        """Bytes went missing, or became others: the connection cannot go on."""

    def abort(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Link:
    """Listens on a port of its own and relays each connection to a target; use as an async context manager."""

    def __init__(self, target_port: int, *, host: str = "127.0.0.1") -> None:
        self.port = 0
        self.mode: Mode = "pass"
        self.lose_next: bytes | None = None
        """The next piece of an answer with these bytes in it does not arrive: the connection breaks instead."""
        self.lost = 0
        """How many answers were lost that way."""
        self._target = (host, target_port)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address for clients of NATS."""
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.sleep(0)  # what the handlers closed is gone only after a turn of the loop

    def set(self, mode: Mode) -> None:
        """Change what happens to data from now on. Resets connections: all for `cut`, the spoilt ones for `pass`."""
        self.mode = mode
        for pair in list(self._pairs):
            if mode == "cut" or (mode == "pass" and pair.spoilt):
                pair.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            await self._connect(reader, writer)
        finally:
            self._handlers.discard(handler)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        there = asyncio.create_task(self._relay(reader, far_writer, pair))
        back = asyncio.create_task(self._relay(far_reader, writer, pair, is_answer=True))
        try:
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for end in pair.ends:  # first: the wait below may be cancelled
                end.close()
            for relay in (there, back):
                relay.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if is_answer and self.lose_next is not None and self.lose_next in data:
                    self.lose_next = None
                    self.lost += 1
                    return
                if self.mode == "delay":
                    await asyncio.sleep(DELAY_SECONDS)
                if self.mode == "half_open":
                    pair.spoilt = True
                    continue
                if self.mode == "corrupt" and BEGINNING.match(data) and random.random() < CORRUPT_CHANCE:
                    pair.spoilt = True
                    data = (GARBAGE + os.urandom(len(data)))[: len(data)]
                writer.write(data)
                await writer.drain()
        # In a dead link not even the end of a connection arrives.
        while self.mode == "half_open":
            pair.spoilt = True
            await asyncio.sleep(0.05)
