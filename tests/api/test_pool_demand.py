"""The demand of a pool over HTTP: what an autoscaler reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskstream.api import pool_demand
from testkit.backend import BackendServer, hold
from testkit.service import Service
from testkit.waiting import wait_until

GPU = "/api/pools/gpu/demand"
NONE = {"eligible": 0, "running": 0, "slots": 0, "oldestSeconds": 0, "desired": 0}


async def until(service: Service, wanted: dict[str, int], path: str = GPU) -> dict[str, Any]:
    wanted = {"desired": wanted.get("eligible", 0) + wanted.get("running", 0), **wanted}
    found: dict[str, Any] = await service.auditor.until(path, lambda it: it.items() >= wanted.items(), f"{wanted}")
    return found


async def test_tasks_of_a_pool_without_servers_ask_for_some(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/gpu", {})
    assert (await service.admin.done("GET", GPU)).items() >= NONE.items()

    await service.alice.submit({"type": "gpu", "payload": 1})
    await service.bob.submit({"type": "gpu", "payload": 1})
    found = await until(service, {"eligible": 2, "running": 0, "slots": 0})

    assert datetime.fromisoformat(found["countedAt"]).tzinfo is not None
    await service.admin.until(GPU, lambda it: it["oldestSeconds"] > 0, "the oldest to have waited")


async def test_many_tasks_held_for_want_of_servers_ask_for_as_many_slots(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/gpu", {})
    await service.admin.done("PUT", "/api/owners/alice/limits", {"concurrency": 500})

    for _ in range(3):
        await service.alice.done("POST", "/api/tasks/batch", [{"type": "gpu", "payload": 1}] * 20)

    await until(service, {"eligible": 60})
    assert (await service.admin.done("GET", "/api/pools/gpu"))["waitingFor"] == {"no-server": 60}


async def test_running_tasks_count_towards_what_is_desired(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.done("PUT", "/api/types/gpu", {})
    await service.admin.register(backend, "one", maxConcurrent=2, types=["gpu"])
    for _ in range(5):
        await service.alice.submit({"type": "gpu", "payload": 1})

    await until(service, {"eligible": 3, "running": 2, "slots": 2})

    await service.admin.done("POST", "/api/servers/one/drain")
    await until(service, {"eligible": 3, "running": 2, "slots": 0})
    backend.let_go.set()
    await until(service, {"eligible": 3, "running": 0})


async def test_a_paused_pool_asks_for_no_more_than_what_runs(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/gpu", {})
    await service.alice.submit({"type": "gpu", "payload": 1})
    await until(service, {"eligible": 1})

    await service.admin.done("POST", "/api/pools/gpu/pause")

    await until(service, {"eligible": 0})
    await service.admin.done("POST", "/api/pools/gpu/resume")
    await until(service, {"eligible": 1})


async def test_a_task_that_could_not_start_on_any_server_asks_for_none(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/gpu", {"concurrency": 1})
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    parent = await service.alice.submit({"type": "other", "payload": 1})
    await service.alice.submit({"type": "gpu", "payload": 1, "runAt": later})
    await service.alice.submit({"type": "gpu", "payload": 1, "dependsOn": [parent]})

    await service.admin.until("/api/pools/gpu", lambda it: sum(it["waitingFor"].values()) == 2, "both to be counted")

    assert (await service.admin.done("GET", GPU)).items() >= NONE.items()


async def test_a_pool_that_no_type_has_any_more_has_a_demand_while_it_has_tasks(service: Service) -> None:
    await service.admin.done("PUT", "/api/types/gpu", {})
    task_id = await service.alice.submit({"type": "gpu", "payload": 1})
    await until(service, {"eligible": 1})
    await service.admin.done("DELETE", "/api/types/gpu")
    service.container.fleet.pools().discard("gpu")  # as in a process that never heard of the type

    await until(service, {"eligible": 1})
    await service.alice.done("POST", f"/api/task/{task_id}/cancel")

    async def gone() -> bool:
        return (await service.admin.get(GPU)).status == 404

    await wait_until(gone, "the pool to be unknown")


async def test_without_a_report_of_a_scheduler_the_queue_says_what_waits(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answer = hold
    await service.admin.done("PUT", "/api/types/gpu", {})
    await service.admin.register(backend, "one", maxConcurrent=1, types=["gpu"])
    for _ in range(3):
        await service.alice.submit({"type": "gpu", "payload": 1})
    await until(service, {"eligible": 2, "running": 1})

    monkeypatch.setattr(pool_demand, "LONGEST_BELIEVED", timedelta(seconds=-60))

    found = await until(service, {"eligible": 2, "running": 1, "slots": 1})
    assert found["countedAt"] is None
    await service.admin.done("POST", "/api/pools/gpu/pause")
    await until(service, {"eligible": 0, "running": 1})


async def test_a_demand_is_answered_without_a_request_to_nats(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an autoscaler asks for every few seconds costs as much with a million tasks as with none."""
    await service.admin.done("PUT", "/api/types/gpu", {})
    await service.alice.submit({"type": "gpu", "payload": 1})
    await until(service, {"eligible": 1})

    async def refuse(*_: object) -> None:
        raise AssertionError("NATS was asked")

    for name in ("backlogs", "waiting_since"):
        monkeypatch.setattr(pool_demand, name, refuse)
    monkeypatch.setattr(service.container.lists, "running", refuse)
    monkeypatch.setattr(service.container.fleet, "catch_up", refuse)

    await until(service, {"eligible": 1})


async def test_a_demand_is_read_by_admins_and_auditors(api: Service) -> None:
    for client in (api.admin, api.auditor, api.client("keda", "auditor")):
        assert (await client.get("/api/pools/default/demand")).status == 200
    for client in (api.alice, api.client("gpu-1", "service")):
        assert (await client.get("/api/pools/default/demand")).status == 403
    assert (await api.anonymous.get("/api/pools/default/demand")).status == 401
    assert (await api.admin.get("/api/pools/nowhere/demand")).status == 404
