"""Throughput, and CPU time per task of every process: many connections, one task a request."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from .load import Clients, clients
from .processes import Bench
from .report import Runs, progress

OURS = ("api", "worker", "nats-server")


async def measure(options: argparse.Namespace) -> Runs:
    async with clients() as (bench, submitters):
        await measure_rate(bench, submitters, options.tasks // 4, options.connections)
        runs = []
        for number in range(options.runs):
            runs.append(await measure_rate(bench, submitters, options.tasks, options.connections))
            progress(
                f"run {number + 1}: {runs[-1]['tasks_per_second']:.0f} tasks/s at {runs[-1]['cpu_ms_per_task']:.2f} ms"
            )
        return runs


async def measure_rate(
    bench: Bench, submitters: Clients, count: int, connections: int, types: Sequence[str] = ("",)
) -> dict[str, float]:
    """Submit tasks of these types over many connections and wait until all have ended.

    The time is until then; the CPU counts until the projection reflects them all, too.
    """
    done_before = await submitters.succeeded()
    cpu_before = bench.cpu_seconds()
    started = time.perf_counter()
    submit_seconds = await submitters.submit_many(count, connections, types)
    await submitters.all_succeeded(done_before + count)
    seconds = time.perf_counter() - started
    await submitters.projected()
    cpu = {name: used - cpu_before[name] for name, used in bench.cpu_seconds().items()}
    return {
        "submitted_per_second": count / submit_seconds,
        "tasks_per_second": count / seconds,
        "cpu_ms_per_task": sum(cpu[name] for name in OURS) / count * 1000,
        **{f"cpu_ms_per_task_{name}": cpu[name] / count * 1000 for name in OURS},
    }
