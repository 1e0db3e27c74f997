"""Clients of a run: they submit tasks as fast as they are answered, or one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec

from taskstream.api.auth.authenticator import make_token
from taskstream.commands.task_type import DEFAULT_POOL

from .processes import Bench, running

OWNER = "bench"
SEEN_PAUSE_SECONDS = 0.05


@contextlib.asynccontextmanager
async def clients(
    slots: int = 64, *, call_ms: int = 0, settings: dict[str, str] | None = None, profiled: bool = False
) -> AsyncIterator[tuple[Bench, Clients]]:
    """Start a service with one backend of so many slots, each of whose calls takes so long; yield it, and clients."""
    async with (
        running(settings, profiled=profiled) as bench,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        found = Clients(bench, session)
        await found.register_backend(slots, call_ms)
        yield bench, found


class Clients:
    """Talks to a running service."""

    def __init__(self, bench: Bench, session: aiohttp.ClientSession) -> None:
        self._bench = bench
        self._session = session
        self._users: dict[str, dict[str, str]] = {}
        self.admin = self.headers("root", "admin")

    async def register_backend(self, slots: int, call_ms: int = 0) -> None:
        body = {
            "id": "bench",
            "name": "bench",
            "provider": "bench",
            "endpoints": {
                "predict": f"{self._bench.backend_url}/predict/{call_ms}",
                "health": f"{self._bench.backend_url}/health",
            },
            "maxConcurrent": slots,
        }
        await self.send("POST", "/api/servers", body, self.admin)
        while (await self.get(f"{self._bench.url}/api/servers/bench", self.admin))["status"] != "online":
            await asyncio.sleep(SEEN_PAUSE_SECONDS)

    async def submit(self, number: int, owner: str = OWNER, task_type: str = "") -> str:
        payload = {"prompt": f"task {number}", "sent": time.monotonic_ns()}
        body = {"type": task_type, "payload": payload} if task_type else payload
        return str((await self.send("POST", "/api/task", body, self.user(owner)))["taskId"])

    async def submit_batch(self, tasks: list[dict[str, Any]], owner: str = OWNER) -> None:
        """Submit tasks in one batch, in the full form; the time until they start is not measured."""
        await self.send("POST", "/api/tasks/batch", tasks, self.user(owner))

    async def submit_many(self, count: int, connections: int, types: Sequence[str] = ("",)) -> float:
        """Submit `count` tasks of these types, by turns, over so many connections; return the seconds it took."""
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                await self.submit(number, task_type=types[number % len(types)])

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
        while (await self.get(f"{self._bench.url}/health/ready", {}))["projection_lag_events"]:
            await asyncio.sleep(SEEN_PAUSE_SECONDS)

    async def pause(self) -> None:
        """Let everything wait that is submitted from now on, until `resume`."""
        await self.send("POST", f"/api/pools/{DEFAULT_POOL}/pause", None, self.admin)

    async def resume(self) -> None:
        await self.send("POST", f"/api/pools/{DEFAULT_POOL}/resume", None, self.admin)

    async def stats(self) -> dict[str, Any]:
        """Return what the backend has counted."""
        return await self.get(f"{self._bench.backend_url}/stats")

    async def waits_ms(self) -> list[float]:
        """Return, for each call of a task that was submitted alone, the milliseconds since its submission was sent."""
        waits: list[float] = (await self.stats())["waits_ms"]
        return waits

    async def calls(self) -> int:
        """Return how many calls the backend had."""
        return int((await self.stats())["calls"])

    async def until_result_ms(self, number: int) -> float:
        """Submit one task and ask for it until its result is there; return the milliseconds that took."""
        started = time.perf_counter()
        url = f"{self._bench.url}/api/task/{await self.submit(number)}"
        while (await self.get(url, self.user(OWNER)))["taskDetails"]["status"] != "FINISHED":
            pass
        return (time.perf_counter() - started) * 1000

    def user(self, owner: str) -> dict[str, str]:
        if owner not in self._users:
            self._users[owner] = self.headers(owner, "user")
        return self._users[owner]

    def headers(self, subject: str, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {make_token(self._bench.secret, subject, [role], 7200, time.time())}"}

    async def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        """Make a request of the API with a JSON body, or none, and return the answer. Raises RuntimeError."""
        data = b"" if body is None else msgspec.json.encode(body)
        async with self._session.request(method, f"{self._bench.url}{path}", data=data, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status}: {answer[:500].decode()}")
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found

    async def get(self, url: str, headers: dict[str, str] | None = None, **query: str) -> dict[str, Any]:
        """Return the JSON at a URL. Raises ClientResponseError."""
        async with self._session.get(url, headers=headers, params=query) as response:
            response.raise_for_status()
            found: dict[str, Any] = await response.json()
            return found
