"""What a long past costs: rates, lists, restarts, memory, disk and `rebuild` with a million tasks that have ended.

`python -m bench.size --tasks 1000000`. An empty service is measured first, then the same one filled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from pathlib import Path

import aiohttp
import uvloop

from testkit.usage import cpu_seconds, peak_resident_mb
from testkit.waiting import until_ok

from .fill import fill
from .histories import BIG_OWNER, RARE_TYPE
from .load import Clients
from .processes import Bench, running

OURS = ("nats-server", "api", "worker")
STORED = ("TASKS", "KV_tasks", "DISPATCH")
CONNECTIONS = 64
RATE_TASKS = 3_000
LIST_CALLS = 300
SETTLE_SECONDS = 3.0
REPORT_SECONDS = 10.0
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
}
"""Who asks, in which role, for what."""


async def measure(tasks: int, runs: int) -> dict[str, float]:
    """Measure an empty service, fill it with `tasks` that have ended, and measure it again.

    Rates are medians of `runs`. Each figure is printed as it is found.
    """
    figures = Figures()
    # A kill -9 that comes before the queue has its floor would measure the refilling (ADR 9).
    async with running({"RECONCILE_INTERVAL": "5"}) as bench, aiohttp.ClientSession() as session:
        service = Service(bench, session)
        await service.clients.register_backend(slots=64)
        await service.rates(RATE_TASKS // 3)
        figures.add(await service.median_rates(runs), "empty_")
        await service.restart(*OURS)
        figures.add({"empty_restart_all_ready_seconds": await service.ready()})
        figures.add({"empty_restart_all_task_done_seconds": await service.task_done()})
        await service.rates(RATE_TASKS)
        await asyncio.sleep(SETTLE_SECONDS)
        before, disk_before = bench.resident_mb(), service.disk_bytes()

        await bench.processes["worker"].shut_down()
        started = time.perf_counter()
        events = await fill(bench.nats_url, tasks)
        figures.add({"filled_events": events, "filled_events_per_second": events / (time.perf_counter() - started)})
        bench.processes["worker"].start()
        await until_ok(bench.worker_ready)
        figures.add(await service.catch_up(events))
        await asyncio.sleep(SETTLE_SECONDS)
        figures.add(service.growth("after_filling", before, tasks))
        for name, used in service.disk_bytes().items():
            figures.add({f"disk_bytes_per_task_{name}": (used - disk_before[name]) / tasks})

        figures.add(await service.median_rates(runs))
        for name, wanted in LISTS.items():
            figures.add(await service.list_times(name, *wanted))
        for names in [*((name,) for name in OURS), OURS]:
            await service.restart(*names)
            what = "all" if len(names) > 1 else names[0]
            figures.add({f"restart_{what}_ready_seconds": await service.ready()})
            figures.add({f"restart_{what}_task_done_seconds": await service.task_done()})
        await service.rates(RATE_TASKS)
        await asyncio.sleep(SETTLE_SECONDS)
        figures.add(service.growth("after_restart", before, tasks))
        figures.add(await service.rebuild(events))
    return figures.found


class Figures:
    """What was found, printed as it comes."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def add(self, found: dict[str, float], prefix: str = "") -> None:
        for name, value in found.items():
            self.found[prefix + name] = value
            print(f"{prefix + name:<44} {value:14,.2f}", flush=True)


class Service:
    """The service under measurement."""

    def __init__(self, bench: Bench, session: aiohttp.ClientSession) -> None:
        self.clients = Clients(bench, session)
        self._bench = bench
        self._killed_at = 0.0

    async def rates(self, count: int) -> dict[str, float]:
        """Submit tasks over many connections and wait until all have ended."""
        before, cpu_before = await self.clients.succeeded(), self._cpu_seconds()
        started = time.perf_counter()
        submitting = await self.clients.submit_many(count, CONNECTIONS)
        await self.clients.all_succeeded(before + count)
        seconds = time.perf_counter() - started
        return {
            "submitted_per_second": count / submitting,
            "tasks_per_second": count / seconds,
            "cpu_ms_per_task": (self._cpu_seconds() - cpu_before) / count * 1000,
        }

    def _cpu_seconds(self) -> float:
        used = self._bench.cpu_seconds()
        return sum(used[name] for name in OURS)

    async def median_rates(self, runs: int) -> dict[str, float]:
        found = [await self.rates(RATE_TASKS) for _ in range(runs)]
        return {name: statistics.median(rate[name] for rate in found) for name in found[0]}

    async def catch_up(self, events: int) -> dict[str, float]:
        """Wait until the projection reflects the whole log."""
        started = reported = time.perf_counter()
        cpu_before = self._bench.cpu_seconds()["worker"]
        while lag := (await self.clients.get(self._bench.worker_ready))["projection_lag_events"]:
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                print(f"  {lag:,} events to project", flush=True)
            await asyncio.sleep(0.2)
        return {
            "projected_events_per_second": events / (time.perf_counter() - started),
            "projected_events_per_cpu_second": events / (self._bench.cpu_seconds()["worker"] - cpu_before),
        }

    async def list_times(self, name: str, user: str, role: str, query: dict[str, str]) -> dict[str, float]:
        """Ask for the first page of a list many times, one after another."""
        headers = self.clients.headers(user, role)
        times = []
        for _ in range(LIST_CALLS):
            started = time.perf_counter()
            page = await self.clients.get(f"{self._bench.url}/api/tasks", headers, **query)
            times.append((time.perf_counter() - started) * 1000)
        return {
            f"list_{name}_entries": len(page["tasks"]),
            f"list_{name}_p50_ms": statistics.median(times),
            f"list_{name}_p99_ms": statistics.quantiles(times, n=100)[98],
        }

    async def restart(self, *names: str) -> None:
        """Kill processes, and start them again in their order."""
        for name in names:
            self._bench.processes[name].kill()
        self._killed_at = time.perf_counter()
        for name in names:
            self._bench.processes[name].start()

    async def ready(self) -> float:
        """Wait until the API and the worker answer that they are ready; return the seconds since the restart."""
        for url in (f"{self._bench.url}/health/ready", self._bench.worker_ready):
            await until_ok(url)
        return time.perf_counter() - self._killed_at

    async def task_done(self) -> float:
        """Submit a task and wait for its result; return the seconds since the restart."""
        await self.clients.until_result_ms(0)
        return time.perf_counter() - self._killed_at

    def growth(self, when: str, before: dict[str, float], tasks: int) -> dict[str, float]:
        """Return what each process has in memory, and how much of it a task added."""
        found = {}
        for name in OURS:
            now = self._bench.resident_mb()[name]
            found[f"resident_mb_{when}_{name}"] = now
            found[f"resident_bytes_per_task_{when}_{name}"] = (now - before[name]) * 1e6 / tasks
        return found

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks that have ended")
    parser.add_argument("--runs", type=int, default=3, help="runs of each rate, of which the median is taken")
    options = parser.parse_args()
    uvloop.run(measure(options.tasks, options.runs))


if __name__ == "__main__":
    main()
