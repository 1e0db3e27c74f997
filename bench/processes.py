"""The processes of a run, and what each has used of the machine (Linux: /proc)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from taskstream.streams.embedded import EmbeddedNats

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 30.0
STOP_SECONDS = 20.0


def cpu_seconds(pid: int) -> float:
    """Return user and system time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


class Bench:
    """A service of separate processes on one machine, and a backend that answers at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = secrets.token_urlsafe(32)
        self.pids: dict[str, int] = {}
        self.url = ""
        self.worker_metrics = ""
        self.backend_url = ""

    def cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def resident_mb(self) -> dict[str, float]:
        return {name: resident_mb(pid) for name, pid in self.pids.items()}


@contextlib.asynccontextmanager
async def running(settings: dict[str, str] | None = None) -> AsyncIterator[Bench]:
    """Start nats-server (synced), API, worker and backend, each its own process; stop them at the end."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskstream-bench-")))
        bench = Bench(folder)
        nats = await stack.enter_async_context(EmbeddedNats(folder))
        assert nats.pid is not None
        bench.pids["nats-server"] = nats.pid
        port, worker_port = _free_port(), _free_port()
        environment = {
            "TASKSTREAM_JWT_SECRET": bench.secret,
            "TASKSTREAM_ALLOW_PRIVATE_BACKENDS": "true",
            "TASKSTREAM_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "TASKSTREAM_LOG_LEVEL": "warning",
            "TASKSTREAM_NATS_URL": nats.url,
            **(settings or {}),
        }
        for name, arguments in {
            "api": ["taskstream", "api", "--port", str(port)],
            "worker": ["taskstream", "worker", "--metrics-port", str(worker_port)],
            "backend": ["bench.backend"],
        }.items():
            process = await stack.enter_async_context(_process(name, arguments, environment, folder))
            bench.pids[name] = process.pid
        assert process.stdout is not None
        bench.backend_url = f"http://127.0.0.1:{(await process.stdout.readline()).decode().strip()}"
        bench.url = f"http://127.0.0.1:{port}"
        bench.worker_metrics = f"http://127.0.0.1:{worker_port}/metrics"
        for url in (f"{bench.url}/health/ready", bench.worker_metrics):
            await _answers(url)
        yield bench


@contextlib.asynccontextmanager
async def _process(
    name: str, arguments: list[str], environment: dict[str, str], folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def _answers(url: str) -> None:
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
