"""What a single task waits while another owner has very many waiting, and what those take in memory.

The backend takes a fixed time for each call and has few slots, so that the queue stays as it is while it is looked at.
The same single tasks are submitted before, to an empty queue. Each is the only one of its owner.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from .report import Runs, percentiles, progress
from .service import Bench, running

SLOTS = 8
CALL_MS = 20
SETTLE_SECONDS = 3.0
"""Until the pool's pace is known, and with it how much of an owner's may be in the queue."""
LONGEST_PAUSE_SECONDS = 0.2
"""Between two single tasks; at random, so that they do not keep step with what the scheduler releases."""
WARM_UP_TASKS = 200
SEED = 1
CROWD = "crowd"
SINGLE = "single"


async def measure(options: argparse.Namespace) -> Runs:
    tasks, probes = options.waiting_tasks, options.probes
    async with running(SLOTS, call_ms=CALL_MS, settings={"OWNER_WAITING": "0"}) as bench:
        await bench.submit_many(WARM_UP_TASKS, connections=SLOTS)
        await bench.all_succeeded(WARM_UP_TASKS)
        found = _waits("empty", await _probe(bench, probes))
        progress(f"{found['wait_empty_p50_ms']:.1f} ms until a single task starts")
        await bench.projected()
        before, calls = bench.resident_mb(), await bench.calls()

        started = time.perf_counter()
        await bench.submit_batches([{"payload": {"prompt": f"task {number}"}} for number in range(tasks)], CROWD)
        found["waiting_tasks_per_second_submitted"] = tasks / (time.perf_counter() - started)
        progress(f"{tasks:,} tasks of another owner submitted")
        await bench.projected()
        await asyncio.sleep(SETTLE_SECONDS)
        found |= bench.growth("with_many_waiting", "waiting_task", before, tasks)
        started, calls_before = time.perf_counter(), await bench.calls()
        found |= _waits("behind_many", await _probe(bench, probes))
        found |= _turns(found, await bench.calls() - calls_before, time.perf_counter() - started)
        found["waiting_tasks_left"] = tasks + probes - (await bench.calls() - calls)
        progress(f"{found['wait_behind_many_p50_ms']:.1f} ms while {found['waiting_tasks_left']:,.0f} wait")
        return [found]


async def _probe(bench: Bench, probes: int) -> list[float]:
    """Submit one task after another, each once the one before has started; return the milliseconds until each did."""
    pauses = random.Random(SEED)
    before = len(await bench.waits_ms())
    for number in range(probes):
        await bench.submit(number, SINGLE)
        while len(waits := await bench.waits_ms()) < before + number + 1:
            await asyncio.sleep(CALL_MS / 1000)
        await asyncio.sleep(pauses.uniform(0, LONGEST_PAUSE_SECONDS))
    return waits[before:]


def _waits(name: str, times_ms: list[float]) -> dict[str, float]:
    """Return the percentiles of waits, in milliseconds and in the time that a slot has a call."""
    found = percentiles(f"wait_{name}", times_ms)
    return found | {figure.replace("_ms", "_in_calls"): value / CALL_MS for figure, value in found.items()}


def _turns(found: dict[str, float], calls: int, seconds: float) -> dict[str, float]:
    """Return for how long a task has a slot, all that is stored for it included, and the waits in such turns."""
    turn_ms = SLOTS * seconds / calls * 1000
    waits = {name: found[f"wait_behind_many_{name}_ms"] / turn_ms for name in ("p50", "p99")}
    return {
        "calls_per_second_behind_many": calls / seconds,
        "turn_behind_many_ms": turn_ms,
        **{f"wait_behind_many_{name}_in_turns": turns for name, turns in waits.items()},
    }
