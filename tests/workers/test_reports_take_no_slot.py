"""A report takes a task, never a server: only an attempt that a worker started counts for anything shared."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.backend import BackendServer, accept
from testkit.service import Client, Service, running_service

from .behaviour import called, submit_all

SLOTS = 3
TASKS = 4


def report(server_id: str, status: str = "PROCESSING", **more: Any) -> dict[str, Any]:
    return {"metadata": {"status": status, "server_id": server_id, **more}}


async def drain(service: Service) -> dict[str, Any]:
    """Drain the server; return the answer, which counts what runs on it as of now."""
    answer: dict[str, Any] = await service.admin.done("POST", "/api/servers/echo-1/drain")
    return answer


async def take(client: Client, task_ids: list[str], server_id: str = "echo-1") -> None:
    """Take waiting tasks by reports that name a server."""
    for task_id in task_ids:
        taken = await client.done("PUT", f"/api/task/{task_id}", report(server_id, progress=5))
        assert taken["taskDetails"]["status"] == "PROCESSING"


@pytest.fixture
async def paused(service: Service, backend: BackendServer) -> Service:
    """A service with one server, which is drained, so that tasks wait."""
    await service.admin.register(backend, "echo-1", maxConcurrent=SLOTS)
    await drain(service)
    return service


@pytest.mark.parametrize("who", ["alice", "root", "backend"])
async def test_limits_are_kept_though_callers_name_a_server_in_their_reports(
    paused: Service, backend: BackendServer, who: str
) -> None:
    roles = {"alice": ["user"], "root": ["admin"], "backend": ["service"]}[who]
    tasks = await submit_all(paused.alice, [{"payload": number} for number in range(TASKS)])

    await take(paused.client(who, *roles), tasks)

    assert (await drain(paused))["running"] == 0
    details = await paused.alice.details(tasks[0])
    assert details["serverId"] == ("echo-1" if who == "backend" else None)
    assert details["progress"] == 5
    recorded = await paused.alice.recorded(tasks[0])
    kind = "server" if who == "backend" else "user"
    assert [entry["by"] for entry in recorded[1:]] == 2 * [{"kind": kind, "id": who}]
    assert recorded[1]["event"]["worker_id"] == ""
    assert (await paused.alice.get(f"/api/task/{tasks[0]}/why"))["summary"].startswith("A report took it")

    await paused.admin.done("POST", "/api/servers/echo-1/resume")
    for task_id in await submit_all(paused.bob, [{"payload": number} for number in range(TASKS)]):
        assert (await paused.bob.ended(task_id))["serverId"] == "echo-1"
    for task_id in tasks:
        assert (await paused.alice.details(task_id))["status"] == "PROCESSING"


async def test_after_a_restart_every_slot_is_free_for_tasks_of_others(nats_url: str, backend: BackendServer) -> None:
    backend.answer = accept
    async with running_service(nats_url) as service:
        registration = {"async": True, "callback": True, "maxConcurrent": SLOTS}
        await service.admin.register(backend, "echo-1", **registration)
        await drain(service)
        await take(service.alice, await submit_all(service.alice, [{"payload": 1} for _ in range(TASKS)]))
        await service.admin.done("POST", "/api/servers/echo-1/resume")

    async with running_service(nats_url) as service:
        await submit_all(service.bob, [{"payload": 2} for _ in range(TASKS)])
        await called(backend, SLOTS)
        assert (await drain(service))["running"] == SLOTS
        assert {call["request"] for call in backend.calls} == {2}


async def test_a_task_taken_by_a_report_counts_towards_no_limit_of_its_type(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.done("PUT", "/api/types/draw", {"concurrency": 2})
    await service.admin.register(backend, "echo-1", maxConcurrent=SLOTS, types=["draw"])
    await service.admin.done("POST", "/api/types/draw/pause")
    await take(service.alice, await submit_all(service.alice, [{"payload": 1, "type": "draw"} for _ in range(4)]))
    await service.admin.done("POST", "/api/types/draw/resume")

    for task_id in await submit_all(service.bob, [{"payload": 2, "type": "draw"} for _ in range(4)]):
        assert (await service.bob.ended(task_id))["status"] == "FINISHED"


async def test_a_task_taken_by_a_report_counts_towards_its_owners_quota(paused: Service) -> None:
    await paused.admin.done("PUT", "/api/owners/alice/limits", {"waiting": 2})
    await take(paused.alice, await submit_all(paused.alice, [{"payload": 1} for _ in range(2)]))

    assert (await paused.alice.post("/api/task", {"payload": 1})).status == 429


async def test_a_person_who_ends_a_waiting_task_names_no_server(paused: Service) -> None:
    task_id = await paused.alice.submit({"payload": 1})

    done = await paused.alice.done("PUT", f"/api/task/{task_id}", {"data": 7} | report("echo-1", "FINISHED"))

    assert done["taskDetails"]["serverId"] is None
    assert done["taskDetails"]["result"]["metadata"]["server_id"] == "echo-1"


async def test_a_server_ends_a_task_that_its_owner_took(paused: Service) -> None:
    task_id = await paused.alice.submit({"payload": 1})
    await take(paused.alice, [task_id])

    done = await paused.client("backend", "service").put(
        f"/api/task/{task_id}", {"data": 7} | report("echo-1", "FINISHED")
    )

    assert (done.status, done["taskDetails"]["status"]) == (200, "FINISHED")


async def test_a_task_taken_by_a_report_ends_its_attempt_at_the_deadline(
    paused: Service, backend: BackendServer
) -> None:
    """By the reconciler: no timer was set. Then it goes to a server like any other."""
    task_id = await paused.alice.submit({"payload": 1, "timeout": 0.5, "attempts": 2})
    await take(paused.alice, [task_id])
    await paused.admin.done("POST", "/api/servers/echo-1/resume")

    assert (await paused.alice.ended(task_id))["serverId"] == "echo-1"
    assert backend.calls[0]["attempt"] == 2
