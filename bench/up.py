"""Throughput of `taskstream up`, as one process and as several, in turn."""

from __future__ import annotations

import argparse

from .report import Runs, progress
from .service import running

MODES = {"one": ("--workers", "0"), "several": ("--workers", "1")}


async def measure(options: argparse.Namespace) -> Runs:
    async with running(up=MODES["one"]) as one, running(up=MODES["several"]) as several:
        services = {"one": one, "several": several}
        for bench in services.values():
            await bench.rate(options.tasks // 4, options.connections)
        runs = []
        for number in range(1, options.runs + 1):
            run = {}
            for mode, bench in services.items():
                found = await bench.rate(options.tasks, options.connections)
                run |= {f"{name}_{mode}": found[name] for name in ("tasks_per_second", "cpu_ms_per_task")}
            run["several_to_one"] = run["tasks_per_second_several"] / run["tasks_per_second_one"]
            runs.append(run)
            progress(f"run {number}: {run['several_to_one']:.2f} times the rate of one process")
        return runs
