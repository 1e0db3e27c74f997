"""Batches: how many tasks a second are accepted and on disk, in batches of 500, and what that costs.

The tasks are of a type that nobody serves, so that what is measured is accepting them. The projection follows at its
own pace: its processor time until it has caught up is the worker's figure.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp
import msgspec

from taskstream.api.auth.authenticator import make_token

from .load import Clients
from .processes import Bench, running
from .report import Runs, progress

TASKS_IN_BATCH = 500
CALLERS = 4
WARM_UP_BATCHES = 8
TYPE = "not-served"


async def measure(options: argparse.Namespace) -> Runs:
    async with (
        running() as bench,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        clients = Clients(bench, session)
        await _measure_rate(bench, session, clients, WARM_UP_BATCHES, 0)
        runs = []
        for number in range(1, options.runs + 1):
            runs.append(await _measure_rate(bench, session, clients, options.batches, number))
            progress(f"run {number}: {runs[-1]['batch_tasks_per_second']:.0f} tasks/s accepted")
        return runs


async def _measure_rate(
    bench: Bench, session: aiohttp.ClientSession, clients: Clients, batches: int, run: int
) -> dict[str, float]:
    """Submit so many batches over a few connections; each run is a user of its own."""
    headers = {"Authorization": f"Bearer {make_token(bench.secret, f'batch-{run}', ['user'], 7200, time.time())}"}
    bodies = iter([_body(number) for number in range(batches)])
    took: list[float] = []

    async def caller() -> None:
        for body in bodies:
            began = time.perf_counter()
            async with session.post(f"{bench.url}/api/tasks/batch", data=body, headers=headers) as response:
                answer = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{response.status}: {answer[:500].decode()}")
            took.append(time.perf_counter() - began)

    count = batches * TASKS_IN_BATCH
    before = bench.cpu_seconds()
    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    seconds = time.perf_counter() - started
    accepting = {name: used - before[name] for name, used in bench.cpu_seconds().items()}
    await clients.projected()
    projected = time.perf_counter() - started
    following = {name: used - before[name] for name, used in bench.cpu_seconds().items()}
    return {
        "batch_tasks_per_second": count / seconds,
        "batch_ms": sorted(took)[len(took) // 2] * 1000,
        "batch_projected_tasks_per_second": count / projected,
        **{f"batch_cpu_us_per_task_{name}": accepting[name] / count * 1e6 for name in ("api", "nats-server")},
        "batch_cpu_us_per_task_worker_until_projected": following["worker"] / count * 1e6,
    }


def _body(number: int) -> bytes:
    tasks = [
        {"type": TYPE, "payload": {"prompt": f"task {place} of batch {number}", "width": 640, "height": 480}}
        for place in range(TASKS_IN_BATCH)
    ]
    return msgspec.json.encode(tasks)
