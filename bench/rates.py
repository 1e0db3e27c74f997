"""Throughput, and CPU time per task of every process: many connections, one task a request."""

from __future__ import annotations

import argparse

from .report import Runs, progress
from .service import running


async def measure(options: argparse.Namespace) -> Runs:
    async with running() as bench:
        await bench.rate(options.tasks // 4, options.connections)
        runs = []
        for number in range(1, options.runs + 1):
            runs.append(await bench.rate(options.tasks, options.connections))
            progress(
                f"run {number}: {runs[-1]['tasks_per_second']:.0f} tasks/s at {runs[-1]['cpu_ms_per_task']:.2f} ms"
            )
        return runs
