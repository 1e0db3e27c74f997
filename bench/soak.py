"""A long run at a steady rate, with failures, retries and callbacks: what grows, and what levels off.

`--only soak --soak-minutes 60`: each minute is one run, and all are in the JSON. The log is kept for a quarter of the
time, so that its size must level off as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import nats

from testkit.processes import Process, python
from testkit.usage import descriptors

from .report import Runs, percentiles, progress
from .service import OURS, Bench, running

TICK_SECONDS = 0.05
CALLBACKS_ONE_IN = 5
CALLBACK_TYPE = "by-callback"
OWNERS = 7
SHORTEST_RETENTION_SECONDS = 120
CLOSE = 30.0
"""Seconds that one submission may take."""


async def measure(options: argparse.Namespace) -> Runs:
    retention = max(SHORTEST_RETENTION_SECONDS, int(options.soak_minutes * 60 / 4))
    settings = {"TASK_RETENTION": str(retention), "OWNER_WAITING": "0"}
    async with running(0, settings=settings) as bench, _backend(bench) as url:
        for name, path, types, more in (
            ("direct", "predict", [], {}),
            ("calls-back", "accept", [CALLBACK_TYPE], {"callback": True}),
        ):
            endpoints = {"predict": f"{url}/{path}", "health": f"{url}/health"}
            body = {"id": name, "name": name, "provider": "bench", "endpoints": endpoints, "maxConcurrent": 64} | more
            await bench.send("POST", "/api/servers", body | ({"types": types} if types else {}), bench.admin)
        client = await nats.connect(bench.nats.url)
        soak = Soak(bench, url, client.jetstream(), options.soak_rate)
        try:
            return [await soak.minute(number) for number in range(1, options.soak_minutes + 1)]
        finally:
            await client.close()


class Soak:
    def __init__(self, bench: Bench, backend_url: str, stream: Any, rate: int) -> None:
        self._bench = bench
        self._backend_url = backend_url
        self._stream = stream
        self._rate = rate
        self._number = 0
        self._open: set[asyncio.Task[None]] = set()
        self._answers_ms: list[float] = []
        self._refused = 0

    async def minute(self, number: int) -> dict[str, float]:
        """Submit for a minute at the rate; return what the processes and streams have then."""
        cpu = self._bench.cpu_seconds()
        began = asyncio.get_running_loop().time()
        self._answers_ms, self._refused, first = [], 0, self._number
        while (spent := asyncio.get_running_loop().time() - began) < 60:
            while self._number - first < spent * self._rate:
                submission = asyncio.create_task(self._submit(self._number))
                self._open.add(submission)
                submission.add_done_callback(self._open.discard)
                self._number += 1
            await asyncio.sleep(TICK_SECONDS)
        submitted = self._number - first
        found: dict[str, float] = {"minute": number, "submitted": submitted, "refused": self._refused}
        found |= percentiles("answer", self._answers_ms)
        found |= percentiles("submit_to_backend", await self._bench.get(f"{self._backend_url}/stats"))  # type: ignore[arg-type]
        used = self._bench.cpu_since(cpu)
        found |= {f"cpu_ms_per_task_{name}": 1000 * used[name] / submitted for name in OURS}
        found |= {f"resident_mb_{name}": value for name, value in self._bench.resident_mb().items() if name in OURS}
        found |= {f"descriptors_{name}": float(descriptors(self._bench.pids[name])) for name in OURS}
        found |= await self._streams()
        memory = ", ".join(f"{name} {found['resident_mb_' + name]:.0f} MB" for name in OURS)
        progress(
            f"minute {number}: {memory}, "
            f"store {found['store_mb']:.0f} MB, p99 to the backend {found['submit_to_backend_p99_ms']:.0f} ms"
        )
        return found

    async def _submit(self, number: int) -> None:
        task_type = CALLBACK_TYPE if number % CALLBACKS_ONE_IN == 0 else ""
        payload = {"number": number, "prompt": "x" * 200, "sent": time.monotonic_ns()}
        body = {"type": task_type, "payload": payload} if task_type else payload
        started = time.perf_counter()
        try:
            async with asyncio.timeout(CLOSE):
                await self._bench.send("POST", "/api/task", body, self._bench.user(f"owner-{number % OWNERS}"))
        except (RuntimeError, TimeoutError, OSError):
            self._refused += 1
        else:
            self._answers_ms.append((time.perf_counter() - started) * 1000)

    async def _streams(self) -> dict[str, float]:
        """Return the messages of each stream, the consumers and the bytes of all."""
        found: dict[str, float] = {}
        size = consumers = 0
        for info in await self._stream.streams_info():
            found[f"messages_{info.config.name}"] = info.state.messages
            size += info.state.bytes
            consumers += info.state.consumer_count
        return found | {"store_mb": size / 1e6, "consumers": consumers}


@contextlib.asynccontextmanager
async def _backend(bench: Bench) -> AsyncIterator[str]:
    process = Process("backend", python("bench.soak_backend"), os.environ, bench.folder / "soak-backend.log").start()
    try:
        yield f"http://127.0.0.1:{await process.first_line()}"
    finally:
        await process.shut_down()
