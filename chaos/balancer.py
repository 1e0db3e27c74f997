"""What a plain load balancer does, in front of the APIs of a run: it fails a request wherever such a balancer would.

New requests go in turn to the APIs whose `/health/ready` said 200 when it was last asked. Connections are kept and
used again. Where a connection is refused nothing was sent, and the next API is tried. What was sent is not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import aiohttp
from msgspec import Struct

PROBE_PERIOD_SECONDS = 0.25
PROBE_TIMEOUT_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""How long an unused connection is kept, as by nginx and most clouds."""
REQUEST_SECONDS = 15.0
"""Longest wait for an answer: commands wait 4 s for NATS, and one request to it takes 5 s at most."""
NO_API = "no API was ready"


class Passage(Struct, frozen=True, kw_only=True):
    """One request that went through, or did not."""

    method: str
    path: str
    began_at: float
    """Monotonic, in seconds."""
    ended_at: float
    status: int = 0
    """503 also where no API was ready; 0 where no answer came."""
    failure: str = ""
    """Why a client would call this a failed request; empty: it would not."""

    def __str__(self) -> str:
        seconds = self.ended_at - self.began_at
        return f"{self.method} {self.path[:60]}: {self.failure or self.status} after {seconds:.2f} s"


class Reply:
    """The part of an answer that clients look at, as aiohttp has it."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        self.status = status
        self.headers = headers
        self._text = text

    async def text(self) -> str:
        return self._text


class Balancer:
    """Use as an async context manager; `request` is called as that of an `aiohttp.ClientSession`."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.passages: list[Passage] = []
        self._ready = dict.fromkeys(urls, False)
        self._turn = 0
        self._session: aiohttp.ClientSession | None = None
        self._probes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        self._session._retry_connection = False  # noqa: SLF001 - it would send a GET again without telling
        self._probes = [asyncio.create_task(self._probe(url)) for url in self._ready]
        return self

    async def __aexit__(self, *_: object) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        assert self._session is not None
        await self._session.close()

    async def is_in_rotation(self, url: str) -> None:
        """Wait until an API is given requests."""
        while not self._ready[url]:
            await asyncio.sleep(PROBE_PERIOD_SECONDS)

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, *, json: Any, headers: dict[str, str]) -> AsyncIterator[Reply]:
        """Pass a request on. Raises what aiohttp raises, once it has been sent."""
        began_at = time.monotonic()

        def note(status: int, failure: str = "") -> None:
            ended_at = time.monotonic()
            self.passages.append(
                Passage(method=method, path=path, began_at=began_at, ended_at=ended_at, status=status, failure=failure)
            )

        try:
            reply, failure = await self._pass_on(method, path, json, headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            note(0, repr(error)[:200])
            raise
        note(reply.status, failure)
        yield reply

    async def _pass_on(self, method: str, path: str, json: Any, headers: dict[str, str]) -> tuple[Reply, str]:
        assert self._session is not None
        for url in self._in_turn():
            try:
                async with self._session.request(method, url + path, json=json, headers=headers) as response:
                    return Reply(response.status, response.headers, await response.text()), _failure(response)
            except aiohttp.ClientConnectorError:
                self._ready[url] = False
        return Reply(503, {"Retry-After": "1"}, NO_API), ""

    def _in_turn(self) -> list[str]:
        urls = list(self._ready)
        self._turn = (self._turn + 1) % len(urls)
        return [url for url in urls[self._turn :] + urls[: self._turn] if self._ready[url]]

    async def _probe(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(f"{url}/health/ready") as answer:
                        self._ready[url] = answer.status == 200
                except (aiohttp.ClientError, TimeoutError, OSError):
                    self._ready[url] = False
                await asyncio.sleep(PROBE_PERIOD_SECONDS)


def _failure(response: aiohttp.ClientResponse) -> str:
    if response.status == 503 and "Retry-After" in response.headers:
        return ""
    return f"{response.status} without Retry-After" if response.status >= 500 else ""
