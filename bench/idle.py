"""What `taskstream up` takes to start, and to do nothing: one start in an empty folder, one in the same again."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
import time
from pathlib import Path

from testkit.processes import Up
from testkit.usage import cpu_seconds, proportional_mb, resident_mb

from .report import Runs, progress

SETTLED_SECONDS = 10.0
WATCHED_SECONDS = 10.0


async def measure(options: argparse.Namespace) -> Runs:
    runs = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="taskstream-idle-") as folder:
            settings = {"JWT_SECRET": secrets.token_urlsafe(32), "ALLOW_PRIVATE_BACKENDS": "true", "LOG_FORMAT": "json"}
            up = Up("up", Path(folder), settings)
            run = {"empty_folder_to_ready_seconds": await _start(up)}
            await up.shut_down()
            run |= {"existing_folder_to_ready_seconds": await _start(up), **await _at_rest(up)}
            await up.shut_down()
        runs.append(run)
        progress(f"run {number + 1}: ready after {run['empty_folder_to_ready_seconds']:.2f} s")
    return runs


async def _start(up: Up) -> float:
    """Return the seconds from the start until it says that it is ready."""
    started = time.perf_counter()
    await up.serve()
    return time.perf_counter() - started


async def _at_rest(up: Up) -> dict[str, float]:
    """Leave it alone for a while; return its memory, and the part of one core it uses, by process and in all.

    Its processes share memory: the sum is that of the proportional sizes, in which each page counts once.
    """
    await asyncio.sleep(SETTLED_SECONDS)
    members = up.pids()
    proportional = {name: proportional_mb(pid) for name, pid in members.items()}
    resident = {name: resident_mb(pid) for name, pid in members.items()}
    before = {name: cpu_seconds(pid) for name, pid in members.items()}
    await asyncio.sleep(WATCHED_SECONDS)
    used = {name: (cpu_seconds(pid) - before[name]) / WATCHED_SECONDS * 100 for name, pid in members.items()}
    return {
        "memory_mb": sum(proportional.values()),
        **{f"memory_mb_{name}": value for name, value in proportional.items()},
        **{f"resident_mb_{name}": value for name, value in resident.items()},
        "cpu_percent": sum(used.values()),
        **{f"cpu_percent_{name}": value for name, value in used.items()},
    }
