"""`make profile`: where the CPU goes under load. Writes flame graphs of API and worker, and a profile of nats-server.

py-spy's flame graphs, `build/profile-api.svg` and `build/profile-worker.svg`, open in a browser. nats-server's is Go's
own, `build/profile-nats-server.pb.gz`: `go tool pprof -top FILE`, or any viewer of pprof files.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

import aiohttp
import uvloop

from .service import Bench, running

PYTHON = ("api", "worker")
SAMPLES_PER_SECOND = 250
WARM_UP_TASKS = 1000
BURST_TASKS = 500


async def run(folder: Path, seconds: int, connections: int, profiler: str) -> None:
    async with running(profiled=True) as bench:
        await bench.submit_many(WARM_UP_TASKS, connections)
        load = asyncio.create_task(_load(bench, connections))
        try:
            await asyncio.gather(
                *(_record(profiler, bench.pids[name], seconds, folder / f"profile-{name}.svg") for name in PYTHON),
                _fetch(bench, seconds, folder / "profile-nats-server.pb.gz"),
            )
        finally:
            load.cancel()


async def _load(bench: Bench, connections: int) -> None:
    """Submit without end, never far ahead of the tasks that have ended."""
    while True:
        done = await bench.succeeded()
        await bench.submit_many(BURST_TASKS, connections)
        await bench.all_succeeded(done + BURST_TASKS // 2)


async def _record(profiler: str, pid: int, seconds: int, output: Path) -> None:
    options = ["--rate", str(SAMPLES_PER_SECOND), "--duration", str(seconds), "--output", str(output)]
    process = await asyncio.create_subprocess_exec(profiler, "record", "--pid", str(pid), *options)
    if await process.wait():
        raise RuntimeError(f"py-spy ended with {process.returncode}; it must be allowed to look at its own children")


async def _fetch(bench: Bench, seconds: int, output: Path) -> None:
    url = f"{bench.nats_profile_url}/debug/pprof/profile?seconds={seconds}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        response.raise_for_status()
        profile = await response.read()
    output.write_bytes(profile)  # noqa: ASYNC240 - a few kilobytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    profiler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if profiler is None:
        parser.error("py-spy is not installed: it is among the packages of `make setup`")
    options.folder.mkdir(parents=True, exist_ok=True)
    uvloop.run(run(options.folder, options.seconds, options.connections, profiler))
    print(f"written: {', '.join(sorted(str(path) for path in options.folder.glob('profile-*')))}")


if __name__ == "__main__":
    main()
