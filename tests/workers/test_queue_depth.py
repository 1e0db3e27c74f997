"""The depth of the queues in metrics and pools: every waiting task, by what `/why` says that it waits for."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

from taskstream.container import open_container
from taskstream.running import running_worker
from testkit.backend import BackendServer, hold, status
from testkit.service import Service, quick_settings, running_service
from testkit.waiting import wait_until

SAMPLE = re.compile(r'taskstream_queue_depth\{pool="(.*?)",priority="(.*?)",reason="(.*?)"\} (.*)')
IN_QUEUE = ("server-busy", "queued-behind")
"""Holds of tasks that are in their queue."""
POOLS = {"paused": "side", "stopped": "halted", "nobody": "empty", "fails": "bad"}
"""By type; of other types, a pool of that name."""
Depths = dict[tuple[str, str, str], int]


async def exported(service: Service) -> Depths:
    """Return the depths that are not 0, from the metrics."""
    page = (await service.anonymous.get("/metrics")).body
    found = {(pool, priority, reason): int(float(count)) for pool, priority, reason, count in SAMPLE.findall(page)}
    return {key: count for key, count in found.items() if count}


async def explained(service: Service) -> Depths:
    """Return the same from the list of tasks and `/why` of each that waits."""
    tasks = (await service.admin.done("GET", "/api/tasks?status=WAITING&limit=200"))["tasks"]
    whys = await asyncio.gather(*(service.admin.done("GET", f"/api/task/{task['id']}/why") for task in tasks))
    found: Counter[tuple[str, str, str]] = Counter()
    for task, why in zip(tasks, whys, strict=True):
        kind = why["holds"][0]["kind"] if why["holds"] else "queued"
        pool = POOLS.get(task["type"], task["type"])
        found[pool, task["priority"], "queued" if kind in IN_QUEUE else kind] += 1
    return dict(found)


async def agree(service: Service, reasons: set[str]) -> Depths:
    """Wait until metrics, pools, lists and `/why` say the same, and each of the reasons is there."""

    async def look() -> Depths | None:
        found = await exported(service)
        if not {reason for _, _, reason in found} >= reasons or found != await explained(service):
            return None
        for pool in (await service.admin.done("GET", "/api/pools"))["pools"]:
            own = {key: count for key, count in found.items() if key[0] == pool["name"]}
            waiting = {each: count for each, count in pool["waiting"].items() if count}
            if pool["waitingFor"] != dict(by(own, 2)) or waiting != dict(by(own, 1)):
                return None  # a task has started meanwhile
        return found

    found: Depths = await wait_until(look, f"metrics and pools to say what /why says, with {sorted(reasons)}")
    return found


def by(depths: Depths, place: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, count in depths.items():
        found[key[place]] += count
    return found


async def make_every_hold(service: Service, working: BackendServer, failing: BackendServer) -> set[str]:
    """Submit tasks that wait for each thing there is; return the reasons."""
    admin, alice, bob = service.admin, service.alice, service.bob
    for name, more in [("limited", {"concurrency": 1}), ("keyed", {}), *[(name, {}) for name in POOLS]]:
        await admin.done("PUT", f"/api/types/{name}", more | ({"pool": POOLS[name]} if name in POOLS else {}))
    working.answer, failing.answer = hold, status(500)
    await admin.register(working, "works", types=["default", "limited", "keyed", "paused", "stopped"], maxConcurrent=4)
    await admin.register(failing, "fails", types=["fails"])
    await admin.done("POST", "/api/types/paused/pause")
    await admin.done("POST", "/api/pools/halted/pause")
    await admin.done("PUT", "/api/owners/bob/limits", {"concurrency": 1})

    running = [
        await alice.submit({"type": "limited", "payload": 1}),
        await alice.submit({"type": "keyed", "payload": 1, "concurrencyKey": "k"}),
        await bob.submit({"payload": 1}),
        await alice.submit({"payload": 1}),
    ]
    for task_id, client in zip(running, (alice, alice, bob, alice), strict=True):
        await client.reaches(task_id, "PROCESSING")
    later = await alice.submit({"payload": 1, "delay": 900, "priority": "low"})
    for body in [
        {"payload": 1, "dependsOn": [later]},
        {"type": "limited", "payload": 1},
        {"type": "keyed", "payload": 1, "concurrencyKey": "k", "priority": "high"},
        {"type": "paused", "payload": 1},
        {"type": "stopped", "payload": 1},
        {"type": "nobody", "payload": 1},
        {"type": "fails", "payload": 1},
        *[{"payload": "x" * 5_000}] * 20,  # too large for the bulk queue: a window holds most of them
    ]:
        await alice.submit(body)
    await bob.submit({"payload": 1})
    return {
        "time", "parents", "type-limit", "concurrency-key", "type-paused", "pool-paused", "no-server", "retry",
        "window", "queued", "owner-limit",
    }  # fmt: skip


async def test_every_waiting_task_is_in_the_depth_by_what_why_says_also_after_a_restart(
    nats_url: str, backend: BackendServer
) -> None:
    async with BackendServer() as failing:
        async with running_service(nats_url, retry_base=600, retry_cap=600, shutdown_grace=0.1) as service:
            reasons = await make_every_hold(service, backend, failing)
            before = await agree(service, reasons)
            assert sum(before.values()) == 29
            # A second worker changes nothing: each process has the numbers of the one scheduler.
            settings = quick_settings(nats_url=nats_url)
            async with await open_container(settings, nats_url, "always") as other, running_worker(other):
                await agree(service, reasons)
        backend.answer = hold
        async with running_service(nats_url, retry_base=600, retry_cap=600) as service:
            after = await agree(service, reasons - {"queued"})
            assert sum(after.values()) >= 25
            backend.let_go.set()


async def test_without_a_scheduler_the_depth_is_unknown_and_not_zero(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as service:
        await service.alice.submit({"a": 1})
        page = (await service.anonymous.get("/metrics")).body

        assert "taskstream_queue_depth{" not in page
        assert "taskstream_queue_depth_age_seconds +Inf" in page


async def test_the_oldest_wait_and_pools_without_tasks_are_exported(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/nobody", {"pool": "empty"})
    await service.alice.submit({"payload": 1, "delay": 900})

    async def is_counted() -> str | None:
        page = str((await service.anonymous.get("/metrics")).body)
        return page if 'reason="time"} 1.0' in page and 'pool="empty"' in page else None

    page = await wait_until(is_counted, "the waiting task to be counted")
    assert 'taskstream_queue_depth{pool="empty",priority="high",reason="queued"} 0.0' in page
    assert 'taskstream_oldest_waiting_seconds{pool="default"} 0.0' in page  # it could not start
    assert "taskstream_tasks_held 1.0" in page


async def test_metrics_of_what_is_gone_are_dropped(service: Service, backend: BackendServer) -> None:
    await service.admin.done("PUT", "/api/types/brief", {"pool": "brief"})
    await service.admin.register(backend, "brief", types=["brief"])
    await service.alice.ended(await service.alice.submit({"type": "brief", "payload": 1}))
    page: Any = (await service.anonymous.get("/metrics")).body
    assert 'taskstream_attempts_total{dialect="taskstream",outcome="succeeded",server="brief"} 1.0' in page
    assert 'taskstream_tasks_submitted_total{pool="brief",priority="normal"} 1.0' in page

    await service.admin.done("DELETE", "/api/servers/brief")

    async def is_gone() -> bool:
        return 'server="brief"' not in (await service.anonymous.get("/metrics")).body

    await wait_until(is_gone, "the metrics of the removed server to be gone")
    await service.admin.register(backend, "brief", types=["brief"])
    await service.alice.ended(await service.alice.submit({"type": "brief", "payload": 1}))
    page = (await service.anonymous.get("/metrics")).body
    assert 'taskstream_attempts_total{dialect="taskstream",outcome="succeeded",server="brief"} 1.0' in page
