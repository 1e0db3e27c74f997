"""Clients of a run: they submit tasks as fast as they are answered, or one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from taskstream.api.auth import make_token

from .processes import Bench, running

SEEN_PAUSE_SECONDS = 0.05


@contextlib.asynccontextmanager
async def clients(slots: int = 64, *, profiled: bool = False) -> AsyncIterator[tuple[Bench, Clients]]:
    """Start a service with one backend of so many slots; yield it, and clients of it."""
    async with (
        running(profiled=profiled) as bench,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        found = Clients(bench, session)
        await found.register_backend(slots)
        yield bench, found


class Clients:
    """Talks to a running service."""

    def __init__(self, bench: Bench, session: aiohttp.ClientSession) -> None:
        self._bench = bench
        self._session = session
        self._user = {"Authorization": f"Bearer {make_token(bench.secret, 'bench', ['user'], 7200, time.time())}"}
        self._admin = {"Authorization": f"Bearer {make_token(bench.secret, 'root', ['admin'], 7200, time.time())}"}

    async def register_backend(self, slots: int) -> None:
        body = {
            "id": "bench",
            "name": "bench",
            "provider": "bench",
            "endpoints": {
                "predict": f"{self._bench.backend_url}/predict",
                "health": f"{self._bench.backend_url}/health",
            },
            "maxConcurrent": slots,
        }
        async with self._session.post(f"{self._bench.url}/api/servers", json=body, headers=self._admin) as response:
            response.raise_for_status()
        while (await self._get(f"{self._bench.url}/api/servers/bench", self._admin))["status"] != "online":
            await asyncio.sleep(SEEN_PAUSE_SECONDS)

    async def submit(self, number: int) -> str:
        body = msgspec.json.encode({"prompt": f"task {number}", "sent": time.monotonic_ns()})
        async with self._session.post(f"{self._bench.url}/api/task", data=body, headers=self._user) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer.decode()}")
        return str(msgspec.json.decode(answer)["taskId"])

    async def submit_many(self, count: int, connections: int) -> float:
        """Submit `count` tasks over so many connections; return the seconds it took."""
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                await self.submit(number)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(connections)))
        return time.perf_counter() - started

    async def succeeded(self) -> int:
        """Return how many attempts the worker has recorded as succeeded."""
        async with self._session.get(self._bench.worker_metrics) as response:
            text = await response.text()
        for line in text.splitlines():
            if line.startswith("taskstream_attempts_total{") and 'outcome="succeeded"' in line:
                return int(float(line.rsplit(" ", 1)[1]))
        return 0

    async def all_succeeded(self, count: int) -> None:
        while await self.succeeded() < count:
            await asyncio.sleep(SEEN_PAUSE_SECONDS)

    async def projected(self) -> None:
        """Wait until the projection reflects the whole log."""
        while (await self._get(f"{self._bench.url}/health/ready", {}))["projection_lag_events"]:
            await asyncio.sleep(SEEN_PAUSE_SECONDS)

    async def waits_ms(self) -> list[float]:
        """Return, for each call the backend had, the milliseconds since its submission was sent."""
        waits: list[float] = (await self._get(f"{self._bench.backend_url}/stats", {}))["waits_ms"]
        return waits

    async def until_result_ms(self, number: int) -> float:
        """Submit one task and ask for it until its result is there; return the milliseconds that took."""
        started = time.perf_counter()
        url = f"{self._bench.url}/api/task/{await self.submit(number)}"
        while (await self._get(url, self._user))["taskDetails"]["status"] != "FINISHED":
            pass
        return (time.perf_counter() - started) * 1000

    async def _get(self, url: str, headers: dict[str, str]) -> dict[str, Any]:
        async with self._session.get(url, headers=headers) as response:
            response.raise_for_status()
            found: dict[str, Any] = await response.json()
            return found
