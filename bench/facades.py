"""APIs of other services beside `POST /api/task`, on one service in turn: rate, and CPU time per task.

Both sides of a comparison use the same servers and are measured in the same run. A prediction of Replicate is compared
with a task that is submitted alike, a completion of OpenAI with a task of the same server whose submission waits for
its end.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .report import Runs, progress
from .service import LOOK_SECONDS, OWNER, Bench, many, running

CHAT_TYPE = "chat"
PREDICTED_TYPE = "predicted"
PREDICTED_MODEL = "bench/predicted"
SLOTS = 64
FIGURES = ("tasks_per_second", "cpu_ms_per_task")
COMPARED = {
    "replicate": "task",
    "openai_chat": "task_waited",
    "openai_chat_streamed": "task_waited",
}
"""What each façade is compared with."""

Submit = Callable[[int], Awaitable[object]]


async def measure(options: argparse.Namespace) -> Runs:
    async with running(0) as bench:
        await register(bench)
        runs: Runs = []
        for number in range(options.runs + 1):  # the first one warms up
            count = max(4, options.tasks // (8 if not number else 2))
            found = {name: await submitted(bench, one, count, options.connections) for name, one in ways(bench).items()}
            if number:
                runs.append(run_of(found))
                progress(f"run {number}: {', '.join(f'{name} {runs[-1][_ratio(name)]:.2f}' for name in COMPARED)}")
        return runs


async def register(bench: Bench) -> None:
    """Register a server of each type, and wait until both are online."""
    await bench.send("PUT", f"/api/types/{PREDICTED_TYPE}", {"model": PREDICTED_MODEL}, bench.admin)
    await bench.send("PUT", f"/api/types/{CHAT_TYPE}", {"dialect": "openai"}, bench.admin)
    servers = {PREDICTED_TYPE: ("/predict/0", "taskstream"), CHAT_TYPE: ("/v1/chat/completions", "openai")}
    for name, (path, dialect) in servers.items():
        endpoints = {"predict": f"{bench.backend_url}{path}", "health": f"{bench.backend_url}/health"}
        body = {"id": name, "name": name, "provider": "bench", "endpoints": endpoints, "maxConcurrent": SLOTS}
        await bench.send("POST", "/api/servers", {**body, "types": [name], "dialect": dialect}, bench.admin)
        while (await bench.get(f"{bench.url}/api/servers/{name}", bench.admin))["status"] != "online":
            await asyncio.sleep(LOOK_SECONDS)


def ways(bench: Bench) -> dict[str, Submit]:
    """Return each way to submit one task; those of one comparison follow each other."""
    user = bench.user(OWNER)
    waited = {**user, "Prefer": "wait=60"}

    def chat(number: int, **more: Any) -> dict[str, Any]:
        return {"model": CHAT_TYPE, "messages": [{"role": "user", "content": f"task {number}"}], **more}

    async def task(number: int) -> object:
        return await bench.submit(number, task_type=PREDICTED_TYPE)

    async def replicate(number: int) -> object:
        body = {"version": PREDICTED_MODEL, "input": {"prompt": f"task {number}"}}
        return await bench.send("POST", "/replicate/v1/predictions", body, user)

    async def task_waited(number: int) -> object:
        return await bench.send("POST", "/api/task", {"type": CHAT_TYPE, "payload": chat(number)}, waited)

    async def openai_chat(number: int) -> object:
        return await bench.send("POST", "/openai/v1/chat/completions", chat(number), user)

    async def openai_chat_streamed(number: int) -> object:
        answer = await bench.send("POST", "/openai/v1/chat/completions", chat(number, stream=True), user)
        if "[DONE]" not in answer["stream"]:
            raise RuntimeError(f"the stream ended with {answer['stream'][-200:]}")
        return answer

    found: list[Submit] = [task, replicate, task_waited, openai_chat, openai_chat_streamed]
    return {each.__name__: each for each in found}


async def submitted(bench: Bench, submit: Submit, count: int, connections: int) -> dict[str, float]:
    """Return the figures of so many tasks."""

    async def submit_all() -> float:
        started = time.perf_counter()
        await many(range(count), submit, connections)
        return time.perf_counter() - started

    return await bench.rate_of(count, submit_all)


def _ratio(name: str) -> str:
    return f"{name}_to_{COMPARED[name]}_cpu"


def run_of(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the figures of a run, and the ratios of each façade to what it is compared with."""
    run = {f"{figure}_{name}": figures[figure] for name, figures in found.items() for figure in FIGURES}
    for name, other in COMPARED.items():
        run[_ratio(name)] = found[name]["cpu_ms_per_task"] / found[other]["cpu_ms_per_task"]
        run[f"{name}_to_{other}_rate"] = found[name]["tasks_per_second"] / found[other]["tasks_per_second"]
    return run
