"""What `taskstream up` takes to start, and to do nothing: one start in an empty folder, one in the same again."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import tempfile
import time
from pathlib import Path

import aiohttp

from .processes import PythonProcess, cpu_seconds, family, free_port, resident_mb
from .report import Runs, progress

SETTLED_SECONDS = 10.0
WATCHED_SECONDS = 10.0
POLL_SECONDS = 0.005
START_SECONDS = 30.0


async def measure(options: argparse.Namespace) -> Runs:
    runs = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="taskstream-idle-") as folder:
            first = Service(Path(folder))
            run = {"empty_folder_to_ready_seconds": await first.start()}
            await first.stop()
            again = Service(Path(folder))
            run |= {"existing_folder_to_ready_seconds": await again.start(), **await again.at_rest()}
            await again.stop()
        runs.append(run)
        progress(f"run {number + 1}: ready after {run['empty_folder_to_ready_seconds']:.2f} s")
    return runs


class Service:
    """One `taskstream up` with the settings of the README's tour."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        settings = {
            "TASKSTREAM_JWT_SECRET": secrets.token_urlsafe(32),
            "TASKSTREAM_ALLOW_PRIVATE_BACKENDS": "true",
            "TASKSTREAM_DATA_DIR": str(folder / "data"),
            "TASKSTREAM_PORT": str(port),
        }
        self._url = f"http://127.0.0.1:{port}/health/ready"
        self._process = PythonProcess(["taskstream", "up"], settings, folder / "up.log")

    async def start(self) -> float:
        """Return the seconds from its start until it says that it is ready."""
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
            started = time.perf_counter()
            await self._process.start()
            while not await self._is_ready(session):
                await asyncio.sleep(POLL_SECONDS)
            return time.perf_counter() - started

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(self._url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def at_rest(self) -> dict[str, float]:
        """Leave it alone for a while; return its memory, and the part of one core it uses, by process and in all."""
        await asyncio.sleep(SETTLED_SECONDS)
        assert self._process.pid is not None
        members = {_name(pid): pid for pid in family(self._process.pid)}
        resident = {name: resident_mb(pid) for name, pid in members.items()}
        before = {name: cpu_seconds(pid) for name, pid in members.items()}
        await asyncio.sleep(WATCHED_SECONDS)
        used = {name: (cpu_seconds(pid) - before[name]) / WATCHED_SECONDS * 100 for name, pid in members.items()}
        return {
            "resident_mb": sum(resident.values()),
            **{f"resident_mb_{name}": value for name, value in resident.items()},
            "cpu_percent": sum(used.values()),
            **{f"cpu_percent_{name}": value for name, value in used.items()},
        }

    async def stop(self) -> None:
        await self._process.stop()


def _name(pid: int) -> str:
    """Return what a process runs: `nats-server`, or `taskstream` for ours."""
    executable = os.path.basename(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH119, PTH115 - it may be gone already
    return "taskstream" if executable.startswith("python") else executable
