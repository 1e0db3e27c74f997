"""A large fleet: what its health checks cost, how long a choice among its servers takes, and what happens when many
change at once.

Half of the servers share one pool, the others are in pools of ten. Each listens on a port of its own, so that, as with
servers on machines of their own, connections are shared by nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from taskstream.clock import jitter, utc_now
from taskstream.events.codec import server_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.ids import TaskRef
from taskstream.events.server import ServerEvent, ServerRegistered, ServerWentOnline
from taskstream.events.subjects import event_subject, server_root
from taskstream.projections.fleet import Fleet
from taskstream.settings import Settings
from taskstream.streams.buckets import Bucket
from taskstream.streams.client.connection import open_connection
from taskstream.streams.jetstream.messages import Position
from taskstream.workers.fleet.assignment import preferred
from taskstream.workers.fleet.capacity import policy
from taskstream.workers.fleet.slots import Slots
from testkit.processes import Process
from testkit.waiting import until_ok, wait_until

from .report import Runs, percentiles
from .service import CONNECTIONS, LOOK_SECONDS, OURS, Bench, backends, many, running

SHARED = "shared"
SERVERS_IN_A_SMALL_POOL = 10
REGISTRATIONS_AT_A_TIME = 16
TASKS = 4_000
CHOICES = 20_000
SLOTS = 10
LONGEST_WAIT_SECONDS = 300.0


async def measure(options: argparse.Namespace) -> Runs:
    """Measure a fleet with the default settings of health checks.

    Its cost when quiet is measured twice: while the servers are new, and over `--fleet-seconds` (to the next whole
    minute, at least one) when they are stable. The rest takes some four minutes more.
    """
    servers, seconds = options.servers, options.fleet_seconds
    figures = measure_choice(servers)
    async with _standing(1) as alone:
        figures["tasks_per_second_1_server"] = await alone.tasks_per_second()
    async with _standing(servers) as fleet:
        figures |= {
            "registered_seconds": fleet.registered_seconds,
            "online_seconds": fleet.online_seconds,
            **await fleet.quiet("new", 2 * Settings().health_interval),
        }
        await fleet.is_stable()
        rounds = max(1, round(seconds / Settings().stable_interval))  # whole ones: checks may come all at a time
        figures |= await fleet.quiet("stable", rounds * Settings().stable_interval)
        figures |= {f"resident_mb_{name}": fleet.bench.resident_mb()[name] for name in OURS}
        figures[f"tasks_per_second_{servers}_servers"] = await fleet.tasks_per_second()
        figures |= await fleet.change_hands()
        figures |= await fleet.die()
    return [figures]


def measure_choice(servers: int) -> dict[str, float]:
    """Return the microseconds a choice takes in a worker that speaks for all servers, and keeping count of it."""
    fleet = Fleet()
    slots = Slots(fleet, policy("least-loaded", jitter), utc_now, lambda: True)
    for number in range(servers):
        registered = _registered(number)
        _happens(fleet, registered, ServerWentOnline(server_id=registered.server_id, reason=""))
        slots.add(registered.server_id, [])
    choices, counts = [], []
    running: list[tuple[str, TaskRef]] = []
    for number in range(CHOICES):
        ref = TaskRef("bench", str(number))
        started = time.perf_counter()
        server_id = slots.choose(SHARED)
        chosen = time.perf_counter()
        assert server_id is not None
        slots.begin(server_id, ref)
        running.append((server_id, ref))
        if len(running) > servers * SLOTS // 4:
            slots.end(*running.pop(number % len(running)))
        choices.append((chosen - started) * 1e6)
        counts.append((time.perf_counter() - chosen) * 1e6)
    both = [choice + count for choice, count in zip(choices, counts, strict=True)]
    return percentiles("choice", choices, "us") | percentiles("choice_and_count", both, "us")


def _type_of(number: int) -> str:
    return SHARED if number % 2 == 0 else f"special-{number // (2 * SERVERS_IN_A_SMALL_POOL)}"


def _registered(number: int) -> ServerRegistered:
    return ServerRegistered(
        server_id=f"server-{number}",
        name="bench",
        provider="bench",
        predict_url="http://127.0.0.1/predict",
        types=(_type_of(number),),
        max_concurrent=SLOTS,
    )


def _happens(fleet: Fleet, *events: ServerEvent) -> None:
    fleet.apply(
        Position(
            fleet.sequence + place,
            event_subject(server_root(event.server_id), event),
            server_codec.encode(Recorded(id=str(place), at=utc_now(), by=Actor("worker", "bench"), event=event)),
        )
        for place, event in enumerate(events, 1)
    )


class _Standing:
    """A running service with a fleet, each of whose servers is online."""

    def __init__(self, bench: Bench, backends: Process, leases: Bucket) -> None:
        self.bench = bench
        self.registered_seconds = 0.0
        self.online_seconds = 0.0
        self._backends = backends
        self._leases = leases
        self._ports: list[str] = []

    async def register(self) -> None:
        """Register a server for every backend and wait until all are online."""
        self._ports = (await self._backends.first_line()).split()
        for task_type in {_type_of(number) for number in range(len(self._ports))}:
            await self.bench.send("PUT", f"/api/types/{task_type}", {}, self.bench.admin)
        started = time.perf_counter()
        await many(enumerate(self._ports), self._register_one, REGISTRATIONS_AT_A_TIME)
        self.registered_seconds = time.perf_counter() - started
        await _until(self._all("online"), "all servers to be online")
        self.online_seconds = time.perf_counter() - started

    async def _register_one(self, server: tuple[int, str]) -> None:
        number, port = server
        slots = SLOTS if len(self._ports) > 1 else CONNECTIONS
        await self.bench.register(f"server-{number}", f"http://127.0.0.1:{port}", slots, types=[_type_of(number)])

    def _all(self, state: str) -> Callable[[], Awaitable[bool]]:
        async def are() -> bool:
            counts = (await self.bench.get(f"{self.bench.url}/health/ready"))["servers"]
            return bool(counts[state] == len(self._ports))

        return are

    async def is_stable(self) -> None:
        """Wait until every server has had as many good checks as make it stable."""
        checks = Settings().health_stable_checks * len(self._ports)

        async def are_made() -> bool:
            return (await self._counts())["checks"] >= checks

        await _until(are_made, "the checks that make a server stable")

    async def quiet(self, stage: str, seconds: float) -> dict[str, float]:
        """Return what the service costs while there is nothing to do but look after the fleet."""
        checks = (await self._counts())["checks"]
        before, started = self.bench.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - started
        used = self.bench.cpu_since(before)
        return {
            f"{stage}_checks_per_second": ((await self._counts())["checks"] - checks) / took,
            f"{stage}_core_percent": sum(used.values()) / took * 100,
            **{f"{stage}_core_percent_{name}": cpu / took * 100 for name, cpu in used.items()},
        }

    async def tasks_per_second(self) -> float:
        """Return how fast tasks of the shared type get to servers, submitted over many connections."""
        await self._run_tasks(TASKS // 4)
        started = time.perf_counter()
        await self._run_tasks(TASKS)
        return TASKS / (time.perf_counter() - started)

    async def _run_tasks(self, count: int) -> None:
        wanted = (await self._counts())["calls"] + count

        async def are_called() -> bool:
            return (await self._counts())["calls"] >= wanted

        await self.bench.submit_many(count, CONNECTIONS, [SHARED])
        await _until(are_called, "the tasks to get to servers")

    async def change_hands(self) -> dict[str, float]:
        """Return how long a second worker takes to have its half of the servers, and all after a kill of the first."""
        second = self.bench.command("second-worker", "worker")
        [first] = set((await self._holders()).values())
        started = time.perf_counter()
        second.start()
        try:
            await _until(self._are_shared, "the second worker to have its share")
            shared_seconds = time.perf_counter() - started
            self.bench.processes["worker"].kill()
            started = time.perf_counter()
            await _until(self._has_none_of(first), "the second worker to have all")
            taken_seconds = time.perf_counter() - started
            self.bench.processes["worker"].start()
            await until_ok(self.bench.worker_ready)
            await _until(self._are_shared, "the first worker to be back")
        finally:
            await second.shut_down()
        return {"shared_with_second_worker_seconds": shared_seconds, "taken_over_after_kill_seconds": taken_seconds}

    async def _holders(self) -> dict[str, str]:
        """Return which worker has the lease of each server."""
        leases = await self._leases.scan("lease.server.*")
        return {entry.key.removeprefix("lease.server."): entry.value.decode() for entry in leases}

    async def _are_shared(self) -> bool:
        holders = await self._holders()
        workers = set(holders.values())
        return len(workers) == 2 and all(preferred(server, workers) == worker for server, worker in holders.items())

    async def die(self) -> dict[str, float]:
        """Return how the service takes it when all backends refuse connections from one moment on."""
        self._backends.kill()
        before, started = self.bench.cpu_seconds(), time.perf_counter()
        answer_ms: list[float] = []
        ready, gone = f"{self.bench.url}/health/ready", self._all("offline")
        while True:
            asked = time.perf_counter()
            await self.bench.get(ready)
            await self.bench.get(self.bench.worker_ready)
            answer_ms.append((time.perf_counter() - asked) * 1000)
            if await gone():
                break
            await asyncio.sleep(LOOK_SECONDS)
        took = time.perf_counter() - started
        used = self.bench.cpu_since(before)
        return {
            "all_offline_seconds": took,
            "dying_core_percent": sum(used.values()) / took * 100,
            "dying_answer_p99_ms": statistics.quantiles(answer_ms, n=100)[98],
        }

    async def _counts(self) -> dict[str, int]:
        return await self.bench.get(f"http://127.0.0.1:{self._ports[0]}/stats")

    def _has_none_of(self, worker: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            holders = await self._holders()
            return worker not in holders.values() and len(holders) == len(self._ports)

        return look


@asynccontextmanager
async def _standing(servers: int) -> AsyncIterator[_Standing]:
    async with running(slots=0) as bench:
        connection = await open_connection(bench.nats.url, "bench")
        fleet = backends(bench.folder, servers)
        try:
            standing = _Standing(bench, fleet, Bucket(connection, "leases"))
            await standing.register()
            yield standing
        finally:
            await fleet.shut_down()
            await connection.close()


async def _until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    await wait_until(is_so, what, LONGEST_WAIT_SECONDS)
