"""How limits are used, over HTTP: by owner, by type and by pool, and what other limits would do."""

from __future__ import annotations

from typing import Any

from testkit.backend import BackendServer, hold
from testkit.service import Service
from testkit.waiting import wait_until

LIMITS = "/api/owners/alice/limits"


async def holding(service: Service, backend: BackendServer, tasks: int = 6) -> None:
    """Have two tasks of alice run, and her limit hold the others."""
    backend.answer = hold
    await service.admin.done("PUT", "/api/types/gpu", {"concurrency": 50})
    await service.admin.done("PUT", LIMITS, {"concurrency": 2})
    await service.admin.register(backend, "one", maxConcurrent=10, types=["gpu"])
    for _ in range(tasks):
        await service.alice.submit({"type": "gpu", "payload": 1})


async def use_of(service: Service, owner: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Wait until an owner's use has these values; return all of it."""

    async def look() -> dict[str, Any] | None:
        page = await service.auditor.done("GET", "/api/owners?all=true&limit=200")
        found: dict[str, Any] = {each["owner"]: each["use"] for each in page["owners"]}.get(owner, {})
        return found if found.items() >= wanted.items() else None

    return await wait_until(look, f"the use of {owner} to have {wanted}")


async def test_everybody_is_listed_with_what_they_use_and_what_their_limits_hold(
    service: Service, backend: BackendServer
) -> None:
    await holding(service, backend)
    await service.bob.submit({"type": "other", "payload": 1})

    alice = await use_of(service, "alice", {"running": 2, "waiting": 4, "held": 4, "counted": 2, "heldByLimit": 4})
    bob = await use_of(service, "bob", {"running": 0, "waiting": 1, "held": 0, "counted": 0, "heldByLimit": 0})

    assert alice["startsPerSecond"] > 0
    assert bob["startsPerSecond"] == 0
    assert [quota["policy"] for quota in alice["quotas"]] == ["waiting", "stored", "streams"]
    page = await service.admin.done("GET", "/api/owners?all=true")
    assert [each["owner"] for each in page["owners"]] == ["alice", "bob"]
    assert [each["own"] for each in page["owners"]] == [{"concurrency": 2}, None]


async def test_owners_are_listed_by_name_in_pages_with_and_without_tasks(api: Service) -> None:
    for name in ("zoe|1", "anna", "Ümit"):
        await api.client(name).submit({"payload": 1})
    await api.admin.done("PUT", "/api/owners/mallory/limits", {"concurrency": 1})

    pages = await api.admin.pages("/api/owners", "owners", "all=true&limit=2")
    limited = await api.admin.done("GET", "/api/owners")

    assert [[each["owner"] for each in page] for page in pages] == [["anna", "mallory"], ["zoe|1", "Ümit"]]
    assert [each["owner"] for each in limited["owners"]] == ["mallory"]
    assert "use" not in limited["owners"][0]


async def test_without_a_scheduler_what_only_it_knows_is_null(api: Service) -> None:
    await api.alice.submit({"payload": 1})
    await api.admin.done("PUT", "/api/types/gpu", {})

    [owner] = (await api.admin.done("GET", "/api/owners?all=true"))["owners"]
    found = await api.admin.done("GET", "/api/types/gpu?use=true")
    preview = await api.admin.post(f"{LIMITS}/preview", {"concurrency": 1})

    assert (owner["use"]["waiting"], owner["use"]["counted"], owner["use"]["heldByLimit"]) == (1, None, None)
    assert (found["use"]["waiting"], found["use"]["counted"], found["use"]["waitingFor"]) == (0, None, None)
    assert preview.status == 503


async def test_a_preview_says_what_limits_would_hold_and_release_and_changes_nothing(
    service: Service, backend: BackendServer
) -> None:
    await holding(service, backend)
    await use_of(service, "alice", {"counted": 2, "heldByLimit": 4})

    async def preview(**limits: Any) -> tuple[int, int, int]:
        answer = await service.admin.done("POST", f"{LIMITS}/preview", limits)
        assert answer["owner"] == "alice"
        return answer["wouldHold"], answer["wouldRelease"], answer["over"]

    assert await preview(concurrency=2) == (0, 0, 0)
    assert await preview(concurrency=5) == (0, 3, 0)
    assert await preview(concurrency=0) == (0, 4, 0)
    assert await preview(concurrency=1) == (0, 0, 1)
    assert await preview(perSecond=1, burst=1, concurrency=0) == (0, 1, 0)
    assert (await service.admin.done("POST", f"{LIMITS}/preview", {"waiting": 4}))["refuses"] == ["waiting"]
    assert (await service.admin.done("POST", f"{LIMITS}/preview", {"waiting": 5}))["refuses"] == []
    assert (await service.admin.done("GET", LIMITS))["own"] == {"concurrency": 2}


async def test_a_preview_counts_queued_tasks_that_a_limit_would_hold(service: Service) -> None:
    for _ in range(3):
        await service.bob.submit({"type": "gpu", "payload": 1})
    await use_of(service, "bob", {"waiting": 3, "held": 0, "heldByLimit": 0})

    answer = await service.admin.done("POST", "/api/owners/bob/limits/preview", {"concurrency": 2})

    assert (answer["wouldHold"], answer["wouldRelease"]) == (1, 0)


async def test_a_preview_is_for_admins_and_checks_the_limits(api: Service) -> None:
    assert (await api.auditor.post(f"{LIMITS}/preview", {"concurrency": 1})).status == 403
    assert (await api.alice.post(f"{LIMITS}/preview", {"concurrency": 1})).status == 403
    assert (await api.alice.get("/api/owners?all=true")).status == 403
    assert (await api.admin.post(f"{LIMITS}/preview", {})).status == 400
    assert await api.admin.refusal("POST", f"{LIMITS}/preview", {"burst": 1}) == (400, "$.burst")


async def test_a_type_and_its_pool_show_what_runs_waits_and_starts(service: Service, backend: BackendServer) -> None:
    await holding(service, backend)
    wanted = {"running": 2, "waiting": 4, "held": 4, "counted": 2, "heldByLimit": 0, "waitingFor": {"owner-limit": 4}}

    found = await service.auditor.until(
        "/api/types/gpu?use=true", lambda it: it["use"].items() >= wanted.items(), f"its use to be {wanted}"
    )
    listed = await service.admin.done("GET", "/api/types?use=true")
    pool = await service.admin.done("GET", "/api/pools/gpu")

    assert found["use"]["startsPerMinute"] >= 1
    assert {each["name"]: each["use"]["running"] for each in listed["types"]} == {"default": 0, "gpu": 2}
    assert (pool["running"], pool["startsPerMinute"]) == (2, found["use"]["startsPerMinute"])
    assert (await service.alice.get("/api/types/gpu?use=true")).status == 403
    assert "use" not in (await service.alice.done("GET", "/api/types/gpu"))


async def test_a_types_own_limit_shows_what_it_holds(service: Service, backend: BackendServer) -> None:
    await holding(service, backend)
    await service.admin.done("PUT", "/api/types/gpu", {"concurrency": 3})
    await service.admin.done("PUT", LIMITS, {"concurrency": 40})

    wanted = {"running": 3, "counted": 3, "heldByLimit": 3, "waitingFor": {"type-limit": 3}}
    await service.admin.until(
        "/api/types/gpu?use=true", lambda it: it["use"].items() >= wanted.items(), f"its use to be {wanted}"
    )
