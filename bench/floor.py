"""The floor: what the steps of a task cost with bare libraries, before there is any logic of ours.

A task is one HTTP request taken (Litestar on uvicorn), three publishes (nats-py, each acknowledged and synced), one
message fetched and acknowledged, and one HTTP request made (aiohttp).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import nats
from nats.js import JetStreamContext

from testkit.nats import NatsServer
from testkit.processes import Process, python
from testkit.usage import cpu_seconds

from .report import Runs, progress

STEPS = 3000
CALLERS = 64
PAYLOAD = b"x" * 400
BODY = b'{"prompt": "task", "sent": 0}'
PUBLISHES_PER_TASK = 3

Cpu = Callable[[], float]
"""Returns the CPU seconds used so far by the processes that are counted."""


async def measure(options: argparse.Namespace) -> Runs:
    with tempfile.TemporaryDirectory(prefix="taskstream-floor-") as folder, contextlib.ExitStack() as stack:
        server = NatsServer(Path(folder)).start()
        stack.callback(server.stop)
        async with (
            _http("bench.bare", Path(folder)) as (litestar_url, litestar_cpu),
            _http("testkit.instant_backend", Path(folder)) as (backend_url, _),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            client = await nats.connect(server.url)
            steps = Steps(client.jetstream(), session, _cpu_of(server.pid))
            runs = []
            for number in range(options.runs):
                runs.append(await steps.run(number, litestar_url, litestar_cpu, f"{backend_url}/health"))
                progress(f"run {number + 1}: {runs[-1]['cpu_ms_per_task']:.2f} ms of CPU a task")
            await client.close()
            return runs


class Steps:
    def __init__(self, stream: JetStreamContext, session: aiohttp.ClientSession, nats_cpu: Cpu) -> None:
        self._stream = stream
        self._session = session
        self._nats_cpu = nats_cpu

    async def run(self, number: int, litestar_url: str, litestar_cpu: Cpu, backend_url: str) -> dict[str, float]:
        """Take every step many times; return the CPU of each, in milliseconds."""
        name = f"FLOOR{number}"
        await self._stream.add_stream(name=name, subjects=[f"{name}.>"])
        with_nats: Cpu = lambda: time.process_time() + self._nats_cpu()  # noqa: E731 - a name for two in one
        publishing, seconds = await _cost(with_nats, lambda step: self._publish(f"{name}.{step}"))
        fetching, _ = await self._fetch_and_ack(name, with_nats)
        await self._stream.delete_stream(name)
        taking, _ = await _cost(litestar_cpu, lambda _: self._post(litestar_url))
        making, _ = await _cost(time.process_time, lambda _: self._post(backend_url))
        return {
            "cpu_ms_litestar_request": taking,
            "cpu_ms_synced_publish": publishing,
            "cpu_ms_fetch_and_ack": fetching,
            "cpu_ms_aiohttp_request": making,
            "cpu_ms_per_task": taking + PUBLISHES_PER_TASK * publishing + fetching + making,
            "three_publishes_per_second": STEPS / PUBLISHES_PER_TASK / seconds,
        }

    async def _publish(self, subject: str) -> None:
        await self._stream.publish(subject, PAYLOAD)

    async def _post(self, url: str) -> None:
        async with self._session.post(url, data=BODY) as response:
            await response.read()

    async def _fetch_and_ack(self, stream: str, cpu: Cpu) -> tuple[float, float]:
        consumer = await self._stream.pull_subscribe(f"{stream}.>", durable="floor", stream=stream)
        started, before = time.perf_counter(), cpu()
        for _ in range(0, STEPS, CALLERS):
            for message in await consumer.fetch(CALLERS):
                await message.ack()
        return (cpu() - before) / STEPS * 1000, time.perf_counter() - started


async def _cost(cpu: Cpu, step: Callable[[int], Awaitable[None]]) -> tuple[float, float]:
    """Take a step many times, by many callers; return the CPU of one in milliseconds, and the seconds of all."""
    numbers: Iterator[int] = iter(range(STEPS))

    async def caller() -> None:
        for number in numbers:
            await step(number)

    started, before = time.perf_counter(), cpu()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (cpu() - before) / STEPS * 1000, time.perf_counter() - started


def _cpu_of(pid: int | None) -> Cpu:
    assert pid is not None
    return lambda: cpu_seconds(pid)


@contextlib.asynccontextmanager
async def _http(module: str, folder: Path) -> AsyncIterator[tuple[str, Cpu]]:
    """Run an HTTP server that prints its port; yield its address and its CPU time."""
    process = Process(module, python(module), os.environ, folder / f"{module}.log").start()
    try:
        yield f"http://127.0.0.1:{await process.first_line()}", _cpu_of(process.pid)
    finally:
        await process.shut_down()
