"""Each dialect beside `taskstream`, on one service in turn: rate, and CPU time per task.

Every server is one of a process that answers at once. One that streams is compared with a `taskstream` server that
streams as much: the text of an answer is an event more.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from .report import Runs, progress
from .service import LOOK_SECONDS, Bench, running

SLOTS = 64
WRAPPED = {"request": {"body": {"inputs": "$payload"}}, "result": "$.output", "failWhen": '$.state == "failed"'}
WHOLE: dict[str, dict[str, Any]] = {
    "taskstream": {"predict": "/predict/0"},
    "bare": {"predict": "/bare", "dialect": "bare"},
    "bare_with_paths": {"predict": "/bare/wrapped", "dialect": "bare", "exchange": WRAPPED},
    "oip": {"predict": "/v2/models/m/infer", "dialect": "oip"},
    "openai_embeddings": {"predict": "/v1/embeddings", "dialect": "openai"},
    "cog": {"predict": "/whole", "dialect": "cog"},
}
STREAMED: dict[str, dict[str, Any]] = {
    "taskstream_streamed": {"predict": "/predict/stream"},
    "openai_chat": {"predict": "/v1/chat/completions", "dialect": "openai"},
    "cog_streamed": {"predict": "/streamed", "dialect": "cog"},
}
"""By name: the registration. The first of each table is what the others are compared with."""
FIGURES = ("tasks_per_second", "cpu_ms_per_task")


async def measure(options: argparse.Namespace) -> Runs:
    async with running(0) as bench:
        for name, registration in (WHOLE | STREAMED).items():
            await register(bench, name, **registration)
        runs: Runs = []
        for number in range(options.runs + 1):  # the first one warms up
            count = max(1, options.tasks // (8 if not number else 4))
            run: dict[str, float] = {}
            for servers in (WHOLE, STREAMED):
                run |= await _beside_first(bench, list(servers), count, options.connections)
            if number:
                runs.append(run)
                dearest = max((name for name in run if name.endswith("_to_taskstream_cpu")), key=run.__getitem__)
                progress(f"run {number}: {dearest} is {run[dearest]:.2f}")
        return runs


async def register(bench: Bench, name: str, predict: str, **options: Any) -> None:
    """Register a server for the type of its name, and wait until it is online."""
    health = f"{predict}/health-check" if options.get("dialect") == "cog" else "/health"
    endpoints = {"predict": f"{bench.backend_url}{predict}", "health": f"{bench.backend_url}{health}"}
    body = {"id": name, "name": name, "provider": "bench", "endpoints": endpoints, "maxConcurrent": SLOTS}
    await bench.send("POST", "/api/servers", {**body, "types": [name], **options}, bench.admin)
    while (await bench.get(f"{bench.url}/api/servers/{name}", bench.admin))["status"] != "online":
        await asyncio.sleep(LOOK_SECONDS)


async def _beside_first(bench: Bench, names: list[str], count: int, connections: int) -> dict[str, float]:
    """Return the figures of each server, and their ratios to those of the first."""
    found = {name: await bench.rate(count, connections, (name,)) for name in names}
    first = found[names[0]]
    run = {f"{figure}_{name}": found[name][figure] for name in names for figure in FIGURES}
    for name in names[1:]:
        run[f"{name}_to_taskstream_rate"] = found[name]["tasks_per_second"] / first["tasks_per_second"]
        run[f"{name}_to_taskstream_cpu"] = found[name]["cpu_ms_per_task"] / first["cpu_ms_per_task"]
    return run
