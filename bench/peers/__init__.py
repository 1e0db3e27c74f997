"""The same tasks through other queues: ours, taskiq on NATS with results in Redis, and BullMQ behind Fastify.

Each is an API, a worker and a broker as processes of one machine, before the same backend; all run at once, and each
round measures one after another, so what disturbs the machine disturbs all. `synced` queues answer once a task is on
disk: ours always; Redis with `appendfsync always`, and NATS with `sync_interval: always`. The programs are in folders
of their own and are installed into `build/peers`; Redis comes from the machine (`redis-server`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from msgspec import Struct

from testkit.nats import NatsServer
from testkit.processes import Process
from testkit.usage import cpu_seconds, descendants
from testkit.waiting import free_port, until_ok, wait_here_until

from ..report import Runs, percentiles, progress
from ..service import LOOK_SECONDS, Bench, backends, many, running

HERE = Path(__file__).parent
INSTALLED = Path("build/peers").absolute()
SLOTS = 64
PAUSE_SECONDS = 0.02
"""Between two single tasks."""
PAYLOAD = {"prompt": "x" * 260}
"""About 300 bytes with the instant of submission."""
UNSYNCED = "sync_interval: 2m"


class Queue(Struct, kw_only=True):
    """A queue under measurement."""

    url: str
    """Takes `POST /task` or, of ours, `POST /api/task`."""
    path: str
    headers: Mapping[str, str]
    processes: list[Process]
    ours: Bench | None = None

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes and their children so far."""
        pids = [process.pid for process in self.processes if process.pid is not None]
        return sum(cpu_seconds(each) for pid in pids for each in (pid, *descendants(pid)))

    async def submit(self, session: aiohttp.ClientSession) -> None:
        body = PAYLOAD | {"sent": time.monotonic_ns()}
        async with session.post(self.url + self.path, json=body, headers=self.headers) as response:
            answer = await response.text()
            if response.status != 200:
                raise RuntimeError(f"{self.url}: {response.status}: {answer[:300]}")

    async def done(self, session: aiohttp.ClientSession) -> int:
        """Return how many tasks have their result stored."""
        if self.ours is not None:
            return await self.ours.succeeded()
        async with session.get(f"{self.url}/done") as response:
            return int((await response.json())["done"])

    async def all_done(self, session: aiohttp.ClientSession, count: int) -> None:
        while await self.done(session) < count:
            await asyncio.sleep(LOOK_SECONDS)

    async def settle(self) -> None:
        """Wait for what follows the results: of ours, the views."""
        if self.ours is not None:
            await self.ours.projected()


async def measure(options: argparse.Namespace) -> Runs:
    """Measure all queues in turn, in each of the rounds."""
    _check_installed()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskstream-peers-")))
        backend = backends(folder)
        stack.push_async_callback(backend.shut_down)
        backend_url = f"http://127.0.0.1:{await backend.first_line()}"
        queues = {"taskstream": await _ours(stack, backend_url)}
        for synced in (False, True):
            suffix = "_synced" if synced else ""
            queues[f"taskiq{suffix}"] = await _taskiq(stack, folder / f"taskiq{suffix}", backend_url, synced=synced)
            queues[f"bullmq{suffix}"] = await _bullmq(stack, folder / f"bullmq{suffix}", backend_url, synced=synced)
        for queue in queues.values():
            await _rate(queue, session, options.tasks // 4, options.connections)
        runs = []
        for number in range(1, options.runs + 1):
            run: dict[str, float] = {}
            for name, queue in queues.items():
                found = await _rate(queue, session, options.tasks, options.connections)
                found |= await _latency(queue, session, backend_url, options.latency_tasks)
                run |= {f"{name}_{figure}": value for figure, value in found.items()}
                rate, cpu = found["tasks_per_second"], found["cpu_ms_per_task"]
                progress(f"round {number}: {name} {rate:.0f} tasks/s at {cpu:.2f} ms")
            run |= _ratios(run, queues)
            runs.append(run)
        return runs


def _ratios(run: Mapping[str, float], queues: Mapping[str, Queue]) -> dict[str, float]:
    """Return ours over each other queue: rates (more is better) and CPU (less is better)."""
    return {
        f"ratio_{figure}_to_{name}": run[f"taskstream_{figure}"] / run[f"{name}_{figure}"]
        for figure in ("tasks_per_second", "cpu_ms_per_task", "submit_to_backend_p50_ms")
        for name in queues
        if name != "taskstream"
    }


async def _rate(queue: Queue, session: aiohttp.ClientSession, count: int, connections: int) -> dict[str, float]:
    """Submit tasks over many connections and wait until every result is stored."""
    before, cpu_before = await queue.done(session), queue.cpu_seconds()
    started = time.perf_counter()
    await many(range(count), lambda _: queue.submit(session), connections)
    await queue.all_done(session, before + count)
    seconds = time.perf_counter() - started
    await queue.settle()
    return {
        "tasks_per_second": count / seconds,
        "cpu_ms_per_task": (queue.cpu_seconds() - cpu_before) / count * 1000,
    }


async def _latency(queue: Queue, session: aiohttp.ClientSession, backend_url: str, count: int) -> dict[str, float]:
    """Submit single tasks; return the times from submission to call."""
    before, done = await _waits(session, backend_url), await queue.done(session)
    for _ in range(count):
        await queue.submit(session)
        await asyncio.sleep(PAUSE_SECONDS)
    await queue.all_done(session, done + count)
    return percentiles("submit_to_backend", (await _waits(session, backend_url))[len(before) :])


async def _waits(session: aiohttp.ClientSession, backend_url: str) -> list[float]:
    async with session.get(f"{backend_url}/stats") as response:
        waits: list[float] = (await response.json())["waits_ms"]
        return waits


async def _ours(stack: AsyncExitStack, backend_url: str) -> Queue:
    bench = await stack.enter_async_context(running(0))
    await bench.register("bench", backend_url, SLOTS)
    while (await bench.get(f"{bench.url}/api/servers/bench", bench.admin))["status"] != "online":
        await asyncio.sleep(LOOK_SECONDS)
    processes = [bench.processes[name] for name in ("api", "worker", "nats-server")]
    return Queue(url=bench.url, path="/api/task", headers=bench.user("bench"), processes=processes, ours=bench)


async def _taskiq(stack: AsyncExitStack, folder: Path, backend_url: str, *, synced: bool) -> Queue:
    redis, redis_port = _redis(stack, folder, synced=synced)
    nats = NatsServer(folder / "nats")
    if not synced:
        nats.config = nats.config.replace("sync_interval: always", UNSYNCED)
    nats.start()
    stack.callback(nats.stop)
    port = free_port()
    env = os.environ | {
        "NATS_URL": nats.url,
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
        "BACKEND_URL": backend_url,
        "SLOTS": str(SLOTS),
        "PYTHONPATH": str(HERE / "taskiq"),
    }
    binaries = INSTALLED / "taskiq" / "bin"
    served = [str(binaries / "uvicorn"), "tasks:api", "--port", str(port), "--log-level", "warning"]
    works = [str(binaries / "taskiq"), "worker", "tasks:broker", "--workers", "1", "--no-parse"]
    works += ["--max-async-tasks", str(SLOTS), "--max-prefetch", str(SLOTS), "--log-level", "WARNING"]
    api = Process("taskiq-api", served, env, folder / "api.log").start()
    stack.push_async_callback(_end, api)
    await until_ok(f"http://127.0.0.1:{port}/done")
    worker = Process("taskiq-worker", works, env, folder / "worker.log").start()
    stack.push_async_callback(_end, worker)
    return Queue(url=f"http://127.0.0.1:{port}", path="/task", headers={}, processes=[api, worker, nats, redis])


async def _bullmq(stack: AsyncExitStack, folder: Path, backend_url: str, *, synced: bool) -> Queue:
    redis, redis_port = _redis(stack, folder, synced=synced)
    port = free_port()
    env = os.environ | {
        "PORT": str(port),
        "REDIS_PORT": str(redis_port),
        "BACKEND_URL": backend_url,
        "SLOTS": str(SLOTS),
        "NODE_ENV": "production",
    }
    programs = INSTALLED / "bullmq"
    api = Process("bullmq-api", ["node", str(programs / "api.mjs")], env, folder / "api.log").start()
    worker = Process("bullmq-worker", ["node", str(programs / "worker.mjs")], env, folder / "worker.log").start()
    for process in (api, worker):
        stack.push_async_callback(_end, process)
    await until_ok(f"http://127.0.0.1:{port}/done")
    return Queue(url=f"http://127.0.0.1:{port}", path="/task", headers={}, processes=[api, worker, redis])


def _redis(stack: AsyncExitStack, folder: Path, *, synced: bool) -> tuple[Process, int]:
    """Start a Redis that appends to a file: synced at each write, or once a second as by default."""
    folder.mkdir(parents=True)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always" if synced else "everysec"]
    process = Process("redis", command, os.environ, folder / "redis.log").start()
    stack.push_async_callback(_end, process)
    wait_here_until(lambda: "Ready to accept connections" in process.output(), "Redis to be ready")
    return process, port


async def _end(process: Process) -> None:
    """End a process of another program and its children."""
    pids = [] if process.pid is None else descendants(process.pid)
    process.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _check_installed() -> None:
    """Raise RuntimeError that says how to install what is missing."""
    for program in ("redis-server", "node"):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is not installed: `peers` needs it (Debian: redis-server, nodejs)")
    if not (INSTALLED / ".ready").exists():
        raise RuntimeError("the other queues are not installed: run `make peers`")
