"""Pulled tasks beside pushed ones, on one service in turn: rate, and CPU time per task."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from .report import Runs, progress
from .service import LOOK_SECONDS, Bench, many, running

SLOTS = 64
TAKEN_AT_ONCE = {"pulled": 1, "pulled_16": 16}
"""Attempts that one request takes at most, by the way to run."""
WAIT_SECONDS = 5


class _Pullers:
    """Pullers of one server, in this process: what they cost is not the service's."""

    def __init__(self, bench: Bench, name: str, at_once: int) -> None:
        self.done = 0
        self._bench = bench
        self._name = name
        self._at_once = at_once
        self._service = bench.headers(name, "service")

    async def pull(self) -> None:
        """Take and end tasks until cancelled."""
        body = {"server": self._name, "max": self._at_once, "wait": WAIT_SECONDS}
        while True:
            found = await self._bench.send("POST", "/api/attempts/take", body, self._service)
            await many(found["attempts"], self._end, self._at_once)

    async def _end(self, taken: dict[str, Any]) -> None:
        bearer = {"Authorization": f"Bearer {taken['token']}"}
        path = f"/api/attempts/{taken['attempt']}/done"
        await self._bench.send("POST", path, {"result": {"echo": taken["input"]}}, bearer)
        self.done += 1


@contextlib.asynccontextmanager
async def _pulling(bench: Bench, name: str, at_once: int) -> AsyncIterator[_Pullers]:
    """Register a pulled server for the type of its name, and run as many pullers as fill its slots."""
    body = {"id": name, "name": name, "provider": "bench", "mode": "pull", "maxConcurrent": SLOTS, "types": [name]}
    await bench.send("POST", "/api/servers", body, bench.admin)
    pullers = _Pullers(bench, name, at_once)
    running_ones = [asyncio.create_task(pullers.pull()) for _ in range(SLOTS // at_once)]
    try:
        yield pullers
    finally:
        for each in running_ones:
            each.cancel()
        await asyncio.gather(*running_ones, return_exceptions=True)


async def _rate(bench: Bench, name: str, pullers: _Pullers, count: int, connections: int) -> dict[str, float]:
    """Do as `Bench.rate` does, with tasks that pullers end."""
    done_before, cpu_before, started = pullers.done, bench.cpu_seconds(), time.perf_counter()
    await bench.submit_many(count, connections, (name,))
    while pullers.done < done_before + count:
        await asyncio.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - started
    await bench.projected()
    cpu = bench.cpu_since(cpu_before)
    return {
        "tasks_per_second": count / seconds,
        "cpu_ms_per_task": sum(cpu.values()) / count * 1000,
        **{f"cpu_ms_per_task_{process}": used / count * 1000 for process, used in cpu.items()},
    }


async def measure(options: argparse.Namespace) -> Runs:
    async with contextlib.AsyncExitStack() as stack:
        bench = await stack.enter_async_context(running(0))
        await bench.register("pushed", bench.backend_url, SLOTS, types=["pushed"])
        pullers = {
            name: await stack.enter_async_context(_pulling(bench, name, at_once))
            for name, at_once in TAKEN_AT_ONCE.items()
        }
        runs: Runs = []
        for number in range(options.runs + 1):  # the first one warms up
            count = options.tasks if number else max(1, options.tasks // 4)
            run = {}
            for name in ("pushed", *pullers):
                found = (
                    await bench.rate(count, options.connections, ("pushed",))
                    if name == "pushed"
                    else await _rate(bench, name, pullers[name], count, options.connections)
                )
                run |= {
                    f"{figure}_{name}": value for figure, value in found.items() if figure != "submitted_per_second"
                }
            for name in pullers:
                run[f"{name}_to_pushed_rate"] = run[f"tasks_per_second_{name}"] / run["tasks_per_second_pushed"]
                run[f"{name}_to_pushed_cpu"] = run[f"cpu_ms_per_task_{name}"] / run["cpu_ms_per_task_pushed"]
            if number:
                runs.append(run)
                progress(f"run {number}: a pulled task costs {run['pulled_to_pushed_cpu']:.2f} times a pushed one")
        return runs
