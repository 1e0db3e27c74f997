"""The processes of a run, and what each has used of the machine (Linux: /proc)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import aiohttp

from taskstream.nats_server.config import CONFIG, HOST
from taskstream.nats_server.server import EmbeddedNats

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 30.0
STOP_SECONDS = 20.0


def cpu_seconds(pid: int) -> float:
    """Return user and system time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM, with what it shares with others."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


class Bench:
    """A service of separate processes on one machine, and a backend that answers at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = secrets.token_urlsafe(32)
        self.nats_url = ""
        self.nats_profile_url = ""
        self.url = ""
        self.worker_metrics = ""
        self.worker_ready = ""
        self.backend_url = ""
        self.processes: dict[str, Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.processes.items() if process.pid is not None}

    def cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def resident_mb(self) -> dict[str, float]:
        return {name: resident_mb(pid) for name, pid in self.pids.items()}


class Process(Protocol):
    """One of a run's processes. It may be killed, and started again as it was."""

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def kill(process: Process) -> None:
    """End a process the hard way, and free what it held."""
    if process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    await process.stop()


class PythonProcess:
    """`python -m …`, its standard error in a file."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.output: asyncio.StreamReader | None = None
        self._arguments = arguments
        self._environment = os.environ | environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.output = self._process.stdout

    async def stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def running(settings: dict[str, str] | None = None, *, profiled: bool = False) -> AsyncIterator[Bench]:
    """Start nats-server (synced), API, worker and backend, each its own process; stop them at the end.

    `profiled`: nats-server hands out profiles of itself.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskstream-bench-")))
        bench = Bench(folder)
        config = CONFIG
        if profiled:
            profile_port, config = free_port(), folder / "profiled.conf"
            config.write_text(f"{CONFIG.read_text()}\nprof_port: {profile_port}\n")
            bench.nats_profile_url = f"http://{HOST}:{profile_port}"
        nats = EmbeddedNats(folder, config=config)
        port, worker_port = free_port(), free_port()

        async def add(name: str, process: Process) -> None:
            await process.start()
            stack.push_async_callback(process.stop)
            bench.processes[name] = process

        await add("nats-server", nats)
        bench.nats_url = nats.url
        environment = {
            "TASKSTREAM_JWT_SECRET": bench.secret,
            "TASKSTREAM_ALLOW_PRIVATE_BACKENDS": "true",
            "TASKSTREAM_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "TASKSTREAM_LOG_LEVEL": "warning",
            "TASKSTREAM_NATS_URL": nats.url,
            **(settings or {}),
        }
        api = ["taskstream", "api", "--port", str(port)]
        worker = ["taskstream", "worker", "--metrics-port", str(worker_port)]
        backend = PythonProcess(["bench.backend"], environment, folder / "backend.log")
        await add("api", PythonProcess(api, environment, folder / "api.log"))
        await add("worker", PythonProcess(worker, environment, folder / "worker.log"))
        await add("backend", backend)
        assert backend.output is not None
        bench.backend_url = f"http://127.0.0.1:{(await backend.output.readline()).decode().strip()}"
        bench.url = f"http://127.0.0.1:{port}"
        bench.worker_metrics = f"http://127.0.0.1:{worker_port}/metrics"
        bench.worker_ready = f"http://127.0.0.1:{worker_port}/health/ready"
        for url in (f"{bench.url}/health/ready", bench.worker_ready):
            await answers(url)
        yield bench


def free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def answers(url: str) -> None:
    """Wait until there is a 200."""
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
