"""`make bench`: rates, latency and CPU time per task, with everything on this machine and every append synced.

Each figure is the median over runs; the first run only warms up. The floor (what bare nats-py costs for the same three
appends) is measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from .floor import measure_floor
from .load import Clients
from .processes import Bench, running

OURS = ("api", "worker", "nats-server")
IDLE_PAUSE_SECONDS = 0.02


async def measure_rate(bench: Bench, clients: Clients, count: int, connections: int) -> dict[str, float]:
    """Submit tasks over many connections and wait until all have ended."""
    done_before = await clients.succeeded()
    cpu_before = bench.cpu_seconds()
    started = time.perf_counter()
    submit_seconds = await clients.submit_many(count, connections)
    await clients.all_succeeded(done_before + count)
    seconds = time.perf_counter() - started
    cpu = {name: used - cpu_before[name] for name, used in bench.cpu_seconds().items()}
    return {
        "submitted_per_second": count / submit_seconds,
        "tasks_per_second": count / seconds,
        "cpu_ms_per_task": sum(cpu[name] for name in OURS) / count * 1000,
        **{f"cpu_ms_per_task_{name}": cpu[name] / count * 1000 for name in OURS},
    }


async def measure_latency(clients: Clients, count: int) -> dict[str, float]:
    """Submit tasks one at a time to an idle service."""
    before = len(await clients.waits_ms())
    for number in range(count):
        await clients.submit(number)
        await asyncio.sleep(IDLE_PAUSE_SECONDS)
    while len(waits := await clients.waits_ms()) < before + count:
        await asyncio.sleep(IDLE_PAUSE_SECONDS)
    results = [await clients.until_result_ms(number) for number in range(count)]
    return {
        "submit_to_backend_p50_ms": statistics.median(waits[before:]),
        "submit_to_backend_p99_ms": statistics.quantiles(waits[before:], n=100)[98],
        "submit_to_result_p50_ms": statistics.median(results),
        "submit_to_result_p99_ms": statistics.quantiles(results, n=100)[98],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    async with running() as bench, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(bench, session)
        idle = {f"resident_mb_{name}": bench.resident_mb()[name] for name in OURS}
        await clients.register_backend(slots=64)
        await measure_rate(bench, clients, options.tasks // 4, options.connections)
        rates = [await measure_rate(bench, clients, options.tasks, options.connections) for _ in range(options.runs)]
        latency = await measure_latency(clients, options.latency_tasks)
        return {
            **{name: statistics.median(rate[name] for rate in rates) for name in rates[0]},
            **latency,
            **idle,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--tasks", type=int, default=4000, help="tasks in each run")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--latency-tasks", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    figures = uvloop.run(run(options)) | uvloop.run(measure_floor())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"taskstream {version('taskstream')} on {machine}; {options.tasks} tasks x {options.runs} runs, medians\n")
    for name, value in figures.items():
        print(f"  {name:<34} {value:10.2f}")
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine, **figures})))


if __name__ == "__main__":
    main()
