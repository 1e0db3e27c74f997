"""Latency of single tasks on an idle service, beside what the disk and bare nats-py take at the same pace."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats

from .report import Runs, percentiles, progress
from .service import Bench, running

PAUSE_SECONDS = 0.02
"""Between two tasks: long enough for one to have ended, short enough that no process is swapped out of the caches."""
QUIET_SECONDS = 2.0
WARM_UP_TASKS = 500
FLOOR_STREAM = "FLOOR"
PAYLOAD = b"x" * 600
"""About as long as an event of a task."""


async def measure(options: argparse.Namespace) -> Runs:
    async with running() as bench:
        await bench.submit_many(WARM_UP_TASKS, connections=8)
        runs = []
        for number in range(options.runs):
            await bench.projected()
            await asyncio.sleep(QUIET_SECONDS)
            run = percentiles("disk_sync", await _syncs(bench.folder, options.latency_tasks))
            run |= percentiles("synced_publish", await _publishes(bench.nats.url, options.latency_tasks))
            run |= percentiles("submit_to_backend", await _waits(bench, options.latency_tasks))
            results = [await bench.until_result_ms(number) for number in range(options.latency_tasks)]
            run |= percentiles("submit_to_result", results)
            runs.append(run)
            progress(f"run {number + 1}: {run['submit_to_backend_p50_ms']:.1f} ms to the backend")
        return runs


async def _paced(count: int, step: Callable[[], Awaitable[None]]) -> list[float]:
    """Take a step again and again, with pauses; return the milliseconds that each took."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await step()
        times.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(PAUSE_SECONDS)
    return times


async def _syncs(folder: Path, count: int) -> list[float]:
    """Return the times of appending an event's length to a file and having it on disk."""
    with (folder / "synced").open("ab", buffering=0) as file:

        async def step() -> None:
            file.write(PAYLOAD)
            os.fsync(file)

        return await _paced(count, step)


async def _publishes(url: str, count: int) -> list[float]:
    """Return the times of single publishes by bare nats-py, each acknowledged and so synced."""
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name=FLOOR_STREAM, subjects=["floor.>"])

    async def step() -> None:
        await stream.publish("floor.event", PAYLOAD)

    try:
        return await _paced(count, step)
    finally:
        await stream.delete_stream(FLOOR_STREAM)
        await client.close()


async def _waits(bench: Bench, count: int) -> list[float]:
    """Return, for single tasks, the time from the submission being sent to the backend being called."""
    before = len(await bench.waits_ms())
    for number in range(count):
        await bench.submit(number)
        await asyncio.sleep(PAUSE_SECONDS)
    while len(waits := await bench.waits_ms()) < before + count:
        await asyncio.sleep(PAUSE_SECONDS)
    return waits[before:]
