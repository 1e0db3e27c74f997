"""The processes of a run: nats-server, API, worker, and a backend that answers at once."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from testkit.nats import NatsServer
from testkit.processes import Process, environment, python
from testkit.usage import cpu_seconds, resident_mb
from testkit.waiting import free_port, until_ok


class Bench:
    """A service of separate processes on one machine, and a backend that answers at once."""

    def __init__(self, folder: Path) -> None:
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

    @property
    def nats_url(self) -> str:
        return self.nats.url

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name; a process that does not run has none."""
        return {name: process.pid for name, process in self.processes.items() if process.pid is not None}

    def cpu_seconds(self) -> dict[str, float]:
        """Return what each process has used of the CPU so far."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def resident_mb(self) -> dict[str, float]:
        """Return the memory of each process."""
        return {name: resident_mb(pid) for name, pid in self.pids.items()}

    def command(self, name: str, *arguments: str, **settings: str) -> Process:
        """Return a command of this package for this service, not started."""
        own = {
            "JWT_SECRET": self.secret,
            "ALLOW_PRIVATE_BACKENDS": "true",
            "PUBLIC_URL": self.url,
            "LOG_LEVEL": "warning",
            "NATS_URL": self.nats_url,
        }
        return Process(name, python("taskstream", *arguments), environment(own | settings), self.folder / f"{name}.log")


def backends(folder: Path, count: int = 1) -> Process:
    """Start backends that answer at once; their ports are its first line."""
    command = python("testkit.instant_backend", str(count))
    return Process("backend", command, os.environ, folder / "backend.log").start()


@contextlib.asynccontextmanager
async def running(settings: dict[str, str] | None = None, *, profiled: bool = False) -> AsyncIterator[Bench]:
    """Start nats-server (synced), API, worker and backend, each its own process; stop them at the end.

    `profiled`: nats-server hands out profiles of itself.
    """
    async with AsyncExitStack() as stack:
        bench = Bench(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskstream-bench-"))))
        if profiled:
            profile_port = free_port()
            bench.nats.more = f"prof_port: {profile_port}"
            bench.nats_profile_url = f"http://127.0.0.1:{profile_port}"
        bench.nats.start()
        stack.callback(bench.nats.stop)
        port, worker_port = (url.split(":")[2].partition("/")[0] for url in (bench.url, bench.worker_ready))
        bench.processes |= {
            "api": bench.command("api", "api", "--port", port, **(settings or {})).start(),
            "worker": bench.command("worker", "worker", "--metrics-port", worker_port, **(settings or {})).start(),
            "backend": backends(bench.folder),
        }
        for name in ("api", "worker", "backend"):
            stack.push_async_callback(bench.processes[name].shut_down)
        bench.backend_url = f"http://127.0.0.1:{await bench.processes['backend'].first_line()}"
        for url in (f"{bench.url}/health/ready", bench.worker_ready):
            await until_ok(url)
        yield bench
