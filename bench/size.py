"""What a long past costs: rates, lists, restarts, memory, disk and `rebuild` with a million tasks that have ended.

An empty service is measured first, then the same one filled. `--only size --size-tasks 1000000` is the whole size.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp

from testkit.usage import cpu_seconds, peak_resident_mb
from testkit.waiting import until_ok

from .histories import BIG_OWNER, RARE_TYPE, fill
from .report import Runs, medians, percentiles, progress, table
from .service import Bench, running

IN_ORDER = ("nats-server", "api", "worker")
"""As they are started again."""
MOST_RUNS = 3
"""Of each rate: they are measured twice."""
STORED = ("TASKS", "KV_tasks", "DISPATCH")
RATE_TASKS = 3_000
LIST_CALLS = 300
SETTLE_SECONDS = 3.0
INDEX_SECONDS = 1_800.0
REPORT_SECONDS = 10.0
FAR_BEHIND = 1_000_000_000
LISTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "own": (BIG_OWNER, "user", {}),
    "own_finished": (BIG_OWNER, "user", {"status": "FINISHED"}),
    "own_failed": (BIG_OWNER, "user", {"status": "FAILED"}),
    "own_cancelled": (BIG_OWNER, "user", {"status": "CANCELLED"}),
    "own_active": (BIG_OWNER, "user", {"status": "WAITING,PROCESSING"}),
    "own_of_a_type": (BIG_OWNER, "user", {"type": "image"}),
    "own_of_a_rare_type": (BIG_OWNER, "user", {"type": RARE_TYPE}),
    "a_small_owners": ("user-7", "user", {}),
    "nobodys": ("newcomer", "user", {}),
    "everybodys": ("root", "admin", {}),
    "everybodys_failed": ("root", "admin", {"status": "FAILED"}),
    "everybodys_active": ("root", "admin", {"status": "WAITING,PROCESSING"}),
    "everybodys_of_a_server": ("root", "admin", {"server": "gpu-3"}),
    "everybodys_of_a_type": ("root", "admin", {"type": "image"}),
    "everybodys_of_a_type_by_duration": ("root", "admin", {"type": "image", "sort": "-duration"}),
    "everybodys_of_a_kind": ("root", "admin", {"kind": "rejected"}),
    "everybodys_by_error": ("root", "admin", {"error": "no such model"}),
    "everybodys_retried": ("root", "admin", {"attempts": "2"}),
    "everybodys_of_an_hour": ("root", "admin", {"createdSince": "2h", "createdBefore": "1h"}),
    "everybodys_by_end": ("root", "admin", {"sort": "-ended"}),
    "everybodys_by_duration": ("root", "admin", {"sort": "-duration"}),
    "own_failed_of_a_type_and_server": (BIG_OWNER, "user", {"status": "FAILED", "type": "image", "server": "gpu-3"}),
}
"""The user, the role and the query of each list."""
STATISTICS: dict[str, tuple[str, str, dict[str, str]]] = {
    "own": (BIG_OWNER, "user", {}),
    "everybodys": ("root", "admin", {}),
    "of_a_type": ("root", "admin", {"type": "image"}),
    "by_type": ("root", "admin", {"by": "type"}),
    "by_server": ("root", "admin", {"by": "server"}),
    "by_owner": ("root", "admin", {"by": "owner"}),
    "day": ("root", "admin", {"from": "24h"}),
    "day_by_server": ("root", "admin", {"from": "24h", "by": "server"}),
    "day_by_owner": ("root", "admin", {"from": "24h", "by": "owner"}),
}
"""Likewise of `/api/stats`."""
STATISTICS_CALLS = 100


async def measure(options: argparse.Namespace) -> Runs:
    """Measure an empty service, fill it with tasks that have ended, and measure it again.

    Rates are medians of up to three runs. Each figure is printed as it is found.
    """
    tasks, runs = options.size_tasks, min(options.runs, MOST_RUNS)
    figures: dict[str, float] = {}

    def add(found: dict[str, float], prefix: str = "") -> None:
        named = {prefix + name: value for name, value in found.items()}
        figures.update(named)
        print(table([named]), flush=True)

    # A kill -9 that comes before the queue has its floor would measure the refilling (ADR 9).
    async with running(settings={"RECONCILE_INTERVAL": "5"}) as bench:
        service = Service(bench)
        await bench.rate(RATE_TASKS // 3)
        add(await _rates(bench, runs), "empty_")
        await service.restart(*IN_ORDER)
        add({"empty_restart_all_ready_seconds": await service.ready()})
        add({"empty_restart_all_task_done_seconds": await service.task_done()})
        await bench.rate(RATE_TASKS)
        await asyncio.sleep(SETTLE_SECONDS)
        before, disk_before = bench.resident_mb(), service.disk_bytes()

        await bench.processes["worker"].shut_down()
        started = time.perf_counter()
        events = await fill(bench.nats.url, tasks)
        add({"filled_events": events, "filled_events_per_second": events / (time.perf_counter() - started)})
        bench.processes["worker"].start()
        await until_ok(bench.worker_ready)
        add(await service.catch_up(events))
        add({"index_current_after_filling_seconds": await service.index_current()})
        await asyncio.sleep(SETTLE_SECONDS)
        add({"index_bytes_per_task": service.index_bytes() / tasks})
        add(bench.growth("after_filling", "task_after_filling", before, tasks))
        for name, used in service.disk_bytes().items():
            add({f"disk_bytes_per_task_{name}": (used - disk_before[name]) / tasks})

        add(await _rates(bench, runs))
        for name, wanted in LISTS.items():
            add(await service.times(f"list_{name}", "tasks", LIST_CALLS, *wanted))
        for name, wanted in STATISTICS.items():
            add(await service.times(f"stats_{name}", "stats", STATISTICS_CALLS, *wanted))
        for names in [*((name,) for name in IN_ORDER), IN_ORDER]:
            await service.restart(*names)
            what = "all" if len(names) > 1 else names[0]
            add({f"restart_{what}_ready_seconds": await service.ready()})
            add({f"restart_{what}_task_done_seconds": await service.task_done()})
        await bench.rate(RATE_TASKS)
        await service.remove_index()
        add({"index_lost_ready_seconds": (seconds := await service.ready())})
        add({"index_lost_current_seconds": seconds + await service.index_current()})
        await asyncio.sleep(SETTLE_SECONDS)
        add(bench.growth("after_restart", "task_after_restart", before, tasks))
        add(await service.rebuild(events))
    return [figures]


async def _rates(bench: Bench, runs: int) -> dict[str, float]:
    return medians([await bench.rate(RATE_TASKS) for _ in range(runs)])


class Service:
    """The service under measurement."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._killed_at = 0.0

    async def catch_up(self, events: int) -> dict[str, float]:
        """Wait until the projection reflects the whole log."""
        started = reported = time.perf_counter()
        cpu_before = self._bench.cpu_seconds()["worker"]
        while lag := await self._projection_lag():
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                progress(f"{lag:,} events to project")
            await asyncio.sleep(0.2)
        return {
            "projected_events_per_second": events / (time.perf_counter() - started),
            "projected_events_per_cpu_second": events / (self._bench.cpu_seconds()["worker"] - cpu_before),
        }

    async def _projection_lag(self) -> int:
        """Return the number of events to project, FAR_BEHIND while the worker is not ready."""
        try:
            return int((await self._bench.get(self._bench.worker_ready))["projection_lag_events"])
        except aiohttp.ClientResponseError as error:
            progress(f"the worker is not ready: {error.status}")
            return FAR_BEHIND

    async def index_current(self) -> float:
        """Wait until the index of the API is current; return the seconds that took."""
        started = time.perf_counter()
        async with asyncio.timeout(INDEX_SECONDS):
            while (await self._bench.get(f"{self._bench.url}/health/ready"))["index"]["state"] != "current":
                await asyncio.sleep(0.1)
        return time.perf_counter() - started

    def index_bytes(self) -> float:
        """Return the size of the index files."""
        return float(sum(path.stat().st_size for path in self._bench.folder.glob("**/index-*.sqlite*")))

    async def remove_index(self) -> None:
        """Kill the API, remove its index, and start it again."""
        api = self._bench.processes["api"]
        api.kill()
        self._killed_at = time.perf_counter()
        for path in self._bench.folder.glob("**/index-*.sqlite*"):
            path.unlink()
        api.start()

    async def times(
        self, name: str, path: str, calls: int, user: str, role: str, query: dict[str, str]
    ) -> dict[str, float]:
        """Ask for the same thing many times, one call after another; of lists also count the entries."""
        headers = self._bench.headers(user, role)
        times = []
        for _ in range(calls):
            started = time.perf_counter()
            found = await self._bench.get(f"{self._bench.url}/api/{path}", headers, **query)
            times.append((time.perf_counter() - started) * 1000)
        entries = {f"{name}_entries": float(len(found["tasks"]))} if path == "tasks" else {}
        return entries | percentiles(name, times)

    async def restart(self, *names: str) -> None:
        """Kill processes, and start them again in their order."""
        for name in names:
            self._bench.processes[name].kill()
        self._killed_at = time.perf_counter()
        for name in names:
            self._bench.processes[name].start()

    async def ready(self) -> float:
        """Wait until API and worker are ready; return the seconds since the restart."""
        await self._bench.ready()
        return time.perf_counter() - self._killed_at

    async def task_done(self) -> float:
        """Submit a task and wait for its result; return the seconds since the restart."""
        await self._bench.until_result_ms(0)
        return time.perf_counter() - self._killed_at

    def disk_bytes(self) -> dict[str, float]:
        """Return what each stream occupies on disk."""
        return {name: _disk_bytes(next(self._bench.folder.glob(f"**/streams/{name}"))) for name in STORED}

    async def rebuild(self, events: int) -> dict[str, float]:
        """Run `taskstream rebuild` beside the running service, over a log it has nothing to say against."""
        process = self._bench.command("rebuild", "rebuild").start()
        started = time.perf_counter()
        peak = used = 0.0
        while (pid := process.pid) is not None:
            with contextlib.suppress(OSError, ValueError):  # it ended between two looks
                peak, used = peak_resident_mb(pid), cpu_seconds(pid)
            await asyncio.sleep(0.1)
        seconds = time.perf_counter() - started
        print(process.output(), end="", flush=True)
        return {
            "rebuild_seconds": seconds,
            "rebuild_events_per_second": events / seconds,
            "rebuild_events_per_cpu_second": events / used,
            "rebuild_peak_resident_mb": peak,
        }


def _disk_bytes(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
