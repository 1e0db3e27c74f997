"""What a single task waits while another owner has very many waiting, and what those take in memory.

The backend takes a fixed time for each call and has few slots, so that the queue stays as it is while it is looked at.
The same single tasks are submitted before, to an empty queue. Each is the only one of its owner.
"""

from __future__ import annotations

import asyncio
import random
import time

from .latency import percentiles
from .load import Clients, clients
from .processes import Bench
from .rates import OURS
from .report import progress

SLOTS = 8
CALL_MS = 20
TASKS_IN_BATCH = 500
CALLERS = 4
SETTLE_SECONDS = 3.0
"""Until the pool's pace is known, and with it how much of an owner's may be in the queue."""
LONGEST_PAUSE_SECONDS = 0.2
"""Between two single tasks; at random, so that they do not keep step with what the scheduler releases."""
WARM_UP_TASKS = 200
SEED = 1
CROWD = "crowd"
SINGLE = "single"


async def measure(tasks: int, probes: int) -> dict[str, float]:
    settings = {"OWNER_WAITING": "0"}
    async with clients(SLOTS, call_ms=CALL_MS, settings=settings) as (bench, submitters):
        await submitters.submit_many(WARM_UP_TASKS, connections=SLOTS)
        await submitters.all_succeeded(WARM_UP_TASKS)
        found = _waits("empty", await _probe(submitters, probes))
        progress(f"{found['wait_empty_p50_ms']:.1f} ms until a single task starts")
        await submitters.projected()
        before, calls = bench.resident_mb(), await submitters.calls()

        started = time.perf_counter()
        await _crowd(submitters, tasks)
        found["waiting_tasks_per_second_submitted"] = tasks / (time.perf_counter() - started)
        progress(f"{tasks:,} tasks of another owner submitted")
        await submitters.projected()
        await asyncio.sleep(SETTLE_SECONDS)
        found |= _memory(bench, before, tasks)
        started, calls_before = time.perf_counter(), await submitters.calls()
        found |= _waits("behind_many", await _probe(submitters, probes))
        found |= _turns(found, await submitters.calls() - calls_before, time.perf_counter() - started)
        found["waiting_tasks_left"] = tasks + probes - (await submitters.calls() - calls)
        progress(f"{found['wait_behind_many_p50_ms']:.1f} ms while {found['waiting_tasks_left']:,.0f} wait")
        return found


async def _crowd(submitters: Clients, tasks: int) -> None:
    """Submit the tasks of the one who has very many, in batches over a few connections."""
    starts = iter(range(0, tasks, TASKS_IN_BATCH))

    async def caller() -> None:
        for start in starts:
            numbers = range(start, min(start + TASKS_IN_BATCH, tasks))
            await submitters.submit_batch([{"payload": {"prompt": f"task {number}"}} for number in numbers], CROWD)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def _probe(submitters: Clients, probes: int) -> list[float]:
    """Submit one task after another, each once the one before has started; return the milliseconds until each did."""
    pauses = random.Random(SEED)
    before = len(await submitters.waits_ms())
    for number in range(probes):
        await submitters.submit(number, SINGLE)
        while len(waits := await submitters.waits_ms()) < before + number + 1:
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


def _memory(bench: Bench, before: dict[str, float], tasks: int) -> dict[str, float]:
    found = {}
    now = bench.resident_mb()
    for name in OURS:
        found[f"resident_mb_with_many_waiting_{name}"] = now[name]
        found[f"resident_bytes_per_waiting_task_{name}"] = (now[name] - before[name]) * 1e6 / tasks
    return found
