"""The service under measurement: nats-server, API, worker and backend as processes of one machine, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from taskstream.api.auth.authenticator import make_token
from taskstream.commands.task_type import DEFAULT_POOL
from testkit.nats import NatsServer
from testkit.processes import Process, environment, python
from testkit.usage import cpu_seconds, descendants, resident_mb
from testkit.waiting import free_port, until_ok

T = TypeVar("T")

OURS = ("api", "worker", "nats-server")
OWNER = "bench"
CONNECTIONS = 64
TASKS_IN_BATCH = 500
LOOK_SECONDS = 0.05


class Bench:
    """A running service; made by `running`. Requests that are not answered with 200 raise RuntimeError."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.secret = secrets.token_urlsafe(32)
        self.nats = NatsServer(folder)
        self.nats_profile_url = ""
        self.url = f"http://127.0.0.1:{free_port()}"
        worker = f"http://127.0.0.1:{free_port()}"
        self.worker_metrics = f"{worker}/metrics"
        self.worker_ready = f"{worker}/health/ready"
        self.backend_url = ""
        self.processes: dict[str, Process] = {"nats-server": self.nats}
        self._session = session
        self._users: dict[str, dict[str, str]] = {}
        self.admin = self.headers("root", "admin")

    # Processes

    def command(self, name: str, *arguments: str, **settings: str) -> Process:
        """Return a command of this package for this service, not started."""
        own = {
            "JWT_SECRET": self.secret,
            "ALLOW_PRIVATE_BACKENDS": "true",
            "PUBLIC_URL": self.url,
            "LOG_LEVEL": "warning",
            "USER_STREAMS": "0",
            "NATS_URL": self.nats.url,
            "INDEX_DIR": str(self.folder / "index"),
        }
        return Process(name, python("taskstream", *arguments), environment(own | settings), self.folder / f"{name}.log")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name; a process that does not run has none."""
        return {name: process.pid for name, process in self.processes.items() if process.pid is not None}

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time of each process so far; of `taskstream up` with its children."""
        found = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        if "up" in found:
            found["up"] += sum(map(cpu_seconds, descendants(self.pids["up"])))
        return found

    def cpu_since(self, before: dict[str, float]) -> dict[str, float]:
        """Return the CPU seconds of each process of the service since an earlier `cpu_seconds()`."""
        now = self.cpu_seconds()
        return {name: now[name] - before[name] for name in (*OURS, "up") if name in now}

    def resident_mb(self) -> dict[str, float]:
        """Return the memory of each process."""
        return {name: resident_mb(pid) for name, pid in self.pids.items()}

    def growth(self, when: str, per: str, before: dict[str, float], count: int) -> dict[str, float]:
        """Return the memory of each process of the service, and the growth for each of `count` tasks."""
        now = self.resident_mb()
        found = {}
        for name in OURS:
            found[f"resident_mb_{when}_{name}"] = now[name]
            found[f"resident_bytes_per_{per}_{name}"] = (now[name] - before[name]) * 1e6 / count
        return found

    # Requests

    def headers(self, subject: str, role: str = "user") -> dict[str, str]:
        return {"Authorization": f"Bearer {make_token(self.secret, subject, [role], 7200, time.time())}"}

    def user(self, owner: str) -> dict[str, str]:
        """Return the headers of an owner; the token is made once."""
        if owner not in self._users:
            self._users[owner] = self.headers(owner)
        return self._users[owner]

    async def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        """Make a request of the API with a JSON body, or none, and return the answer."""
        data = b"" if body is None else msgspec.json.encode(body)
        async with self._session.request(method, f"{self.url}{path}", data=data, headers=headers) as response:
            answer = await response.read()
            if response.status not in (200, 201):
                raise RuntimeError(f"{method} {path}: {response.status}: {answer[:500].decode()}")
        if response.content_type == "text/event-stream":
            return {"stream": answer.decode()}
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found

    async def get(self, url: str, headers: dict[str, str] | None = None, **query: str) -> dict[str, Any]:
        """Return the JSON at a URL. Raises ClientResponseError."""
        async with self._session.get(url, headers=headers, params=query) as response:
            response.raise_for_status()
            found: dict[str, Any] = await response.json()
            return found

    async def register(self, server_id: str, url: str, slots: int, call_ms: int = 0, types: Sequence[str] = ()) -> None:
        """Register a backend, each of whose calls takes `call_ms`."""
        endpoints = {"predict": f"{url}/predict/{call_ms}", "health": f"{url}/health"}
        body = {"id": server_id, "name": "bench", "provider": "bench", "endpoints": endpoints, "maxConcurrent": slots}
        await self.send("POST", "/api/servers", body | ({"types": types} if types else {}), self.admin)

    async def submit(self, number: int, owner: str = OWNER, task_type: str = "") -> str:
        payload = {"prompt": f"task {number}", "sent": time.monotonic_ns()}
        body = {"type": task_type, "payload": payload} if task_type else payload
        return str((await self.send("POST", "/api/task", body, self.user(owner)))["taskId"])

    async def submit_batch(self, tasks: list[dict[str, Any]], owner: str = OWNER) -> None:
        """Submit tasks in one batch, in the full form; the time until they start is not measured."""
        await self.send("POST", "/api/tasks/batch", tasks, self.user(owner))

    async def submit_batches(self, tasks: list[dict[str, Any]], owner: str = OWNER, callers: int = 4) -> list[float]:
        """Submit tasks in batches of 500 over a few connections; return the seconds that each batch took."""
        took: list[float] = []

        async def submit(start: int) -> None:
            began = time.perf_counter()
            await self.submit_batch(tasks[start : start + TASKS_IN_BATCH], owner)
            took.append(time.perf_counter() - began)

        await many(range(0, len(tasks), TASKS_IN_BATCH), submit, callers)
        return took

    async def submit_many(self, count: int, connections: int, types: Sequence[str] = ("",)) -> float:
        """Submit `count` tasks of these types in turn, over so many connections; return the seconds it took."""
        started = time.perf_counter()
        await many(range(count), lambda number: self.submit(number, task_type=types[number % len(types)]), connections)
        return time.perf_counter() - started

    async def rate(self, count: int, connections: int = CONNECTIONS, types: Sequence[str] = ("",)) -> dict[str, float]:
        """Submit tasks of these types over many connections and wait until all have ended: see `rate_of`."""
        return await self.rate_of(count, lambda: self.submit_many(count, connections, types))

    async def rate_of(self, count: int, submit: Callable[[], Awaitable[float]]) -> dict[str, float]:
        """Submit tasks, so many, and wait until all have ended. `submit` returns the seconds that it took.

        The time is until then; the CPU counts until the projection reflects them all, too.
        """
        done_before = await self.succeeded()
        cpu_before = self.cpu_seconds()
        started = time.perf_counter()
        submit_seconds = await submit()
        await self.all_succeeded(done_before + count)
        seconds = time.perf_counter() - started
        await self.projected()
        cpu = self.cpu_since(cpu_before)
        return {
            "submitted_per_second": count / submit_seconds,
            "tasks_per_second": count / seconds,
            "cpu_ms_per_task": sum(cpu.values()) / count * 1000,
            **{f"cpu_ms_per_task_{name}": used / count * 1000 for name, used in cpu.items()},
        }

    async def until_result_ms(self, number: int) -> float:
        """Submit one task and ask for it until its result is there; return the milliseconds that took."""
        started = time.perf_counter()
        url = f"{self.url}/api/task/{await self.submit(number)}"
        while (await self.get(url, self.user(OWNER)))["taskDetails"]["status"] != "FINISHED":
            pass
        return (time.perf_counter() - started) * 1000

    async def pause(self) -> None:
        """Let all later tasks wait until `resume`."""
        await self.send("POST", f"/api/pools/{DEFAULT_POOL}/pause", None, self.admin)

    async def resume(self) -> None:
        await self.send("POST", f"/api/pools/{DEFAULT_POOL}/resume", None, self.admin)

    # Progress

    async def succeeded(self) -> int:
        """Return how many attempts the worker has recorded as succeeded."""
        async with self._session.get(self.worker_metrics) as response:
            text = await response.text()
        return sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in text.splitlines()
            if line.startswith("taskstream_attempts_total{") and 'outcome="succeeded"' in line
        )

    async def all_succeeded(self, count: int) -> None:
        while await self.succeeded() < count:
            await asyncio.sleep(LOOK_SECONDS)

    async def projected(self) -> None:
        """Wait until the projection reflects the whole log."""
        while (await self.get(f"{self.url}/health/ready"))["projection_lag_events"]:
            await asyncio.sleep(LOOK_SECONDS)

    async def ready(self) -> None:
        """Wait until API and worker are ready."""
        for url in (f"{self.url}/health/ready", self.worker_ready):
            await until_ok(url)

    async def waits_ms(self) -> list[float]:
        """Return, for each call of a task that was submitted alone, the milliseconds since its submission was sent."""
        waits: list[float] = (await self.get(f"{self.backend_url}/stats"))["waits_ms"]
        return waits

    async def calls(self) -> int:
        """Return how many calls the backend had."""
        return int((await self.get(f"{self.backend_url}/stats"))["calls"])


async def many(items: Iterable[T], work: Callable[[T], Awaitable[object]], at_a_time: int) -> None:
    """Work on each item, so many at a time."""
    iterator = iter(items)

    async def one_after_another() -> None:
        for item in iterator:
            await work(item)

    await asyncio.gather(*(one_after_another() for _ in range(at_a_time)))


def backends(folder: Path, count: int = 1) -> Process:
    """Start backends that answer at once; their ports are its first line."""
    command = python("testkit.instant_backend", str(count))
    return Process("backend", command, os.environ, folder / "backend.log").start()


@contextlib.asynccontextmanager
async def running(
    slots: int = 64,
    *,
    call_ms: int = 0,
    settings: dict[str, str] | None = None,
    profiled: bool = False,
    up: Sequence[str] | None = None,
) -> AsyncIterator[Bench]:
    """Start nats-server (synced), API, worker and backend, each its own process; stop them at the end.

    The backend is registered with so many slots, each of whose calls takes `call_ms`; with 0 slots it is not.
    `profiled`: nats-server hands out profiles of itself. `up`: options of `taskstream up`, in place of API and worker.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskstream-bench-")))
        connector = aiohttp.TCPConnector(limit=0)
        bench = Bench(folder, await stack.enter_async_context(aiohttp.ClientSession(connector=connector)))
        if profiled:
            profile_port = free_port()
            bench.nats.more = f"prof_port: {profile_port}"
            bench.nats_profile_url = f"http://127.0.0.1:{profile_port}"
        bench.nats.start()
        stack.callback(bench.nats.stop)
        port, worker_port = (url.split(":")[2].partition("/")[0] for url in (bench.url, bench.worker_ready))
        if up is not None:
            bench.worker_metrics, bench.worker_ready = f"{bench.url}/metrics", f"{bench.url}/health/ready"
            started = {"up": bench.command("up", "up", "--port", port, *up, **(settings or {})).start()}
        else:
            started = {
                "api": bench.command("api", "api", "--port", port, **(settings or {})).start(),
                "worker": bench.command("worker", "worker", "--metrics-port", worker_port, **(settings or {})).start(),
            }
        started["backend"] = backends(bench.folder)
        bench.processes |= started
        for name in started:
            stack.push_async_callback(bench.processes[name].shut_down)
        bench.backend_url = f"http://127.0.0.1:{await bench.processes['backend'].first_line()}"
        await bench.ready()
        if slots:
            await bench.register("bench", bench.backend_url, slots, call_ms)
            while (await bench.get(f"{bench.url}/api/servers/bench", bench.admin))["status"] != "online":
                await asyncio.sleep(LOOK_SECONDS)
        yield bench
