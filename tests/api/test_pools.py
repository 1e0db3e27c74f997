"""Pools over HTTP: waiting tasks, servers, and pauses."""

from __future__ import annotations

from datetime import datetime

from testkit.service import Service
from testkit.waiting import wait_until

UNREACHABLE = {"predict": "http://127.0.0.1:9/predict"}


async def register(api: Service, server_id: str, **more: object) -> None:
    body = {"id": server_id, "name": server_id, "provider": "test", "endpoints": UNREACHABLE, **more}
    answer = await api.admin.post("/api/servers", body)
    assert answer.status == 200, answer


async def test_a_pool_shows_its_types_servers_and_what_waits(service: Service) -> None:
    await service.admin.put("/api/types/resize", {"pool": "gpu"})
    await service.admin.put("/api/types/upscale", {"pool": "gpu"})
    await register(service, "only", types=["resize"], maxConcurrent=3)
    await register(service, "other", types=["default"])
    await register(service, "all", overflow={"waiting": 10})
    for priority in ("high", "low", "low"):
        await service.alice.submit({"type": "resize", "payload": 1, "priority": priority})

    waiting = {"high": 1, "normal": 0, "low": 2}
    pool = await service.admin.until("/api/pools/gpu", lambda it: it["waiting"] == waiting, "the tasks to be queued")

    assert (pool["name"], pool["pause"], pool["types"], pool["pausedTypes"]) == (
        "gpu", None, ["resize", "upscale"], [],
    )  # fmt: skip
    assert pool["servers"] == [
        {"id": "all", "available": False, "running": 0, "room": 0, "overflow": True},
        {"id": "only", "available": False, "running": 0, "room": 0, "overflow": False},
    ]
    assert pool["serverCount"] == 2
    assert datetime.fromisoformat(pool["oldestWaiting"]).tzinfo is not None


async def test_pools_are_listed_by_name_in_pages(api: Service) -> None:
    for name in ("b", "a.b", "c"):
        await api.admin.put(f"/api/types/{name}", {})

    pages = await api.admin.pages("/api/pools", "pools", "limit=3")

    assert [[pool["name"] for pool in page] for page in pages] == [["a.b", "b", "c"], ["default"]]
    assert pages[0][0]["oldestWaiting"] is None


async def test_a_pool_is_paused_and_resumed_and_says_by_whom_and_why(api: Service) -> None:
    await api.admin.put("/api/types/resize", {"pool": "gpu"})

    paused = await api.admin.post("/api/pools/gpu/pause", {"reason": "new driver"})
    again = await api.admin.post("/api/pools/gpu/pause", {"reason": "another"})
    shown = await api.admin.get("/api/pools/gpu")
    resumed = await api.admin.post("/api/pools/gpu/resume")
    resumed_again = await api.admin.post("/api/pools/gpu/resume")

    assert (paused.status, paused["name"], paused["success"]) == (200, "gpu", True)
    assert (paused["pause"]["by"], paused["pause"]["reason"]) == ("root", "new driver")
    assert again.body == paused.body
    assert shown["pause"] == paused["pause"]
    assert resumed.body == resumed_again.body == {"name": "gpu", "success": True, "pause": None}
    assert (await api.admin.get("/api/pools/gpu"))["pause"] is None
    assert len(await api.container.commands.pools.log.load("pool.gpu")) == 2


async def test_a_type_is_paused_and_resumed(api: Service) -> None:
    await api.admin.put("/api/types/resize", {"pool": "gpu"})

    paused = await api.admin.post("/api/types/resize/pause", {"reason": "new model"})

    assert (paused.status, paused["pause"]["reason"]) == (200, "new model")
    assert (await api.alice.get("/api/types/resize"))["pause"] == paused["pause"]
    assert (await api.admin.get("/api/pools/gpu"))["pausedTypes"] == ["resize"]
    assert (await api.admin.put("/api/types/resize", {"pool": "gpu", "attempts": 2}))["pause"] == paused["pause"]
    assert (await api.admin.post("/api/types/resize/resume")).body == {
        "name": "resize", "success": True, "pause": None,
    }  # fmt: skip
    assert (await api.admin.post("/api/types/default/pause")).status == 200


async def test_what_is_not_there_is_a_404_by_its_name(api: Service) -> None:
    for method, path in [
        ("GET", "/api/pools/nowhere"),
        ("POST", "/api/pools/nowhere/pause"),
        ("POST", "/api/pools/nowhere/resume"),
        ("POST", "/api/types/nowhere/pause"),
        ("POST", "/api/types/nowhere/resume"),
    ]:
        answer = await api.admin.call(method, path)
        assert (answer.status, "nowhere" in answer["error"]) == (404, True), path


async def test_a_wrong_body_is_refused_by_its_path(api: Service) -> None:
    for body, path in [({"reason": 5}, "$.reason"), ({"reason": "x" * 301}, "$.reason"), ({"why": "x"}, "$.why")]:
        assert await api.admin.refusal("POST", "/api/pools/default/pause", body) == (400, path)
    assert (await api.admin.get("/api/pools/default"))["pause"] is None


async def test_a_pause_is_kept_by_the_projection_and_by_a_rebuild(service: Service) -> None:
    await service.admin.done("POST", "/api/pools/default/pause")
    assert (await service.admin.get("/api/pools/default"))["pause"]["reason"] == ""

    async def projected() -> bool:
        return "pool.default" in [entry.key for entry in await service.container.buckets.registry.scan()]

    await wait_until(projected, "the registry to have the pool")
