"""Batches: how many tasks a second are accepted and on disk, in batches of 500, and what that costs.

No server serves the tasks' type, so that only accepting them is measured. The projection follows at its own pace: its
processor time until it has caught up is the worker's figure.
"""

from __future__ import annotations

import argparse
import time

from .report import Runs, progress
from .service import TASKS_IN_BATCH, Bench, running

WARM_UP_BATCHES = 8
TYPE = "not-served"


async def measure(options: argparse.Namespace) -> Runs:
    async with running(slots=0) as bench:
        await _measure_rate(bench, WARM_UP_BATCHES, 0)
        runs = []
        for number in range(1, options.runs + 1):
            runs.append(await _measure_rate(bench, options.batches, number))
            progress(f"run {number}: {runs[-1]['batch_tasks_per_second']:.0f} tasks/s accepted")
        return runs


async def _measure_rate(bench: Bench, batches: int, run: int) -> dict[str, float]:
    """Submit so many batches over a few connections; each run is a user of its own."""
    count = batches * TASKS_IN_BATCH
    tasks = [
        {"type": TYPE, "payload": {"prompt": f"task {number}", "width": 640, "height": 480}} for number in range(count)
    ]
    before = bench.cpu_seconds()
    started = time.perf_counter()
    took = await bench.submit_batches(tasks, f"batch-{run}")
    seconds = time.perf_counter() - started
    accepting = bench.cpu_since(before)
    await bench.projected()
    projected = time.perf_counter() - started
    return {
        "batch_tasks_per_second": count / seconds,
        "batch_ms": sorted(took)[len(took) // 2] * 1000,
        "batch_projected_tasks_per_second": count / projected,
        **{f"batch_cpu_us_per_task_{name}": accepting[name] / count * 1e6 for name in ("api", "nats-server")},
        "batch_cpu_us_per_task_worker_until_projected": bench.cpu_since(before)["worker"] / count * 1e6,
    }
