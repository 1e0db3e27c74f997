"""Pauses, labels, overflow and ageing: which task goes where, and when."""

from __future__ import annotations

from typing import Any

from testkit.backend import BackendServer, hold, overlapping
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import called, queue_holds, request, submit_all

# Pauses


async def test_a_paused_pool_s_tasks_wait_and_what_runs_goes_on(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.put("/api/types/clip", {})
    await service.admin.register(backend, "one", types=["clip", "default"])
    running = await service.alice.submit({"type": "clip", "payload": "running"})
    await called(backend, 1)

    await service.admin.post("/api/pools/clip/pause")
    waiting = await submit_all(service.alice, [{"type": "clip", "payload": number} for number in range(3)])
    other = await service.alice.submit({"payload": "other"})
    await called(backend, 2)
    backend.let_go.set()
    for task_id in (running, other):
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    await queue_holds(service, 3)

    assert list(map(request, backend.calls)) == ["running", "other"]
    await service.admin.post("/api/pools/clip/resume")
    for task_id in waiting:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"


async def test_the_default_pool_is_paused_over_a_restart_of_the_service(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url) as service:
        await service.admin.put("/api/types/clip", {})
        await service.admin.register(backend, "one")
        await service.admin.post("/api/pools/default/pause")
    async with running_service(nats_url) as service:
        waiting = await service.alice.submit({"payload": "waiting"})
        other = await service.alice.submit({"type": "clip", "payload": "other"})
        assert (await service.alice.ended(other))["status"] == "FINISHED"

        assert list(map(request, backend.calls)) == ["other"]
        await service.admin.post("/api/pools/default/resume")
        assert (await service.alice.ended(waiting))["status"] == "FINISHED"


async def test_a_paused_type_does_not_hold_up_those_it_shares_its_pool_with(
    service: Service, backend: BackendServer
) -> None:
    for name in ("clip", "song"):
        await service.admin.put(f"/api/types/{name}", {"pool": "media"})
    await service.admin.register(backend, "one", maxConcurrent=2)
    await service.admin.post("/api/types/clip/pause")

    paused = await submit_all(service.alice, [{"type": "clip", "payload": "clip"} for _ in range(20)])
    others = await submit_all(service.alice, [{"type": "song", "payload": "song"} for _ in range(20)])
    for task_id in others:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"

    assert {request(call) for call in backend.calls} == {"song"}
    await service.admin.post("/api/types/clip/resume")
    for task_id in paused:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"


async def test_a_retry_of_a_paused_pool_waits(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.put("/api/types/clip", {})
    await service.admin.register(backend, "one", types=["clip"], maxConcurrent=1)
    first = await service.alice.submit({"type": "clip", "payload": 1})
    await called(backend, 1)
    await service.admin.post("/api/pools/clip/pause")
    assert (await service.alice.post(f"/api/task/{first}/cancel")).status == 200
    assert (await service.alice.post(f"/api/task/{first}/retry")).status == 200

    await queue_holds(service, 1)
    assert (await service.alice.details(first))["status"] == "WAITING"
    backend.let_go.set()
    await service.admin.post("/api/pools/clip/resume")
    assert (await service.alice.ended(first))["status"] == "FINISHED"


# Labels


async def test_a_required_label_restricts_a_task_to_the_servers_that_have_it(
    service: Service, backend: BackendServer
) -> None:
    async with BackendServer() as special:
        await service.admin.register(backend, "plain", maxConcurrent=20)
        await service.admin.register(special, "special", maxConcurrent=1, labels={"gpu": "a100", "zone": "b"})

        bodies: list[Any] = [{"payload": number, "require": {"gpu": "a100"}} for number in range(6)]
        tasks = await submit_all(service.alice, bodies)
        ended = [await service.alice.ended(task_id) for task_id in tasks]

    assert {details["serverId"] for details in ended} == {"special"}
    assert backend.calls == []


async def test_a_label_that_no_server_has_holds_up_nobody_and_waits_for_one(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "plain", maxConcurrent=1, labels={"gpu": "t4"})
    waiting = await submit_all(service.alice, [{"payload": "waiting", "require": {"gpu": "a100"}} for _ in range(5)])

    others = await submit_all(service.alice, [{"payload": "other"} for _ in range(5)])
    for task_id in others:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    assert {request(call) for call in backend.calls} == {"other"}

    async with BackendServer() as special:
        await service.admin.register(special, "special", maxConcurrent=20, labels={"gpu": "a100"})
        for task_id in waiting:
            assert (await service.alice.ended(task_id))["serverId"] == "special"


async def test_a_preferred_server_is_taken_if_it_has_room_and_any_other_if_not(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    async with BackendServer(hold) as near, BackendServer(hold) as best:
        await service.admin.register(backend, "far", maxConcurrent=1)
        await service.admin.register(near, "near", maxConcurrent=1, labels={"zone": "b"})
        await service.admin.register(best, "best", maxConcurrent=1, labels={"zone": "b", "gpu": "a100"})
        for server in (best, near, backend):
            await service.alice.submit({"payload": 1, "prefer": {"zone": "b", "gpu": "a100"}})
            await called(server, 1)


# Overflow


async def test_an_overflow_server_takes_work_when_much_waits_and_stands_by_again(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    async with BackendServer() as spare:
        await service.admin.register(backend, "regular", maxConcurrent=2)
        await service.admin.register(spare, "spare", maxConcurrent=1, overflow={"waiting": 6})

        tasks = await submit_all(service.alice, [{"payload": number} for number in range(16)])
        await wait_until(lambda: len(spare.calls) >= 9 and not spare.running, "it to take what is above half its bound")

        assert len(spare.calls) <= 12
        backend.answer = overlapping()
        backend.let_go.set()
        for task_id in tasks:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        assert len(backend.calls) >= 4


async def test_an_overflow_server_stands_by_as_long_as_little_waits(service: Service, backend: BackendServer) -> None:
    backend.answer = overlapping()
    async with BackendServer() as spare:
        await service.admin.register(backend, "regular", maxConcurrent=2)
        await service.admin.register(spare, "spare", overflow={"waiting": 1000, "oldest": 60})

        for task_id in await submit_all(service.alice, [{"payload": number} for number in range(200)]):
            await service.alice.ended(task_id)

        assert spare.calls == []


async def test_an_overflow_server_takes_what_has_waited_for_long_enough(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    async with BackendServer() as spare:
        await service.admin.register(backend, "regular", maxConcurrent=1)
        await service.admin.register(spare, "spare", overflow={"oldest": 0.5})
        await service.alice.submit({"payload": "long"})
        await called(backend, 1)

        patient = await service.alice.submit({"payload": "patient"})

        assert (await service.alice.ended(patient))["serverId"] == "spare"


async def test_an_overflow_server_without_a_bound_is_refused(service: Service, backend: BackendServer) -> None:
    answer = await service.admin.post("/api/servers", backend.registration("spare", overflow={}))

    assert (answer.status, answer["path"]) == (400, "$.overflow")


# Ageing


async def test_low_priority_waits_no_longer_than_the_setting_while_high_fills_every_slot(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = overlapping()
    async with running_service(nats_url, priority_ageing=1.0) as service:
        await service.admin.register(backend, "one", maxConcurrent=1)
        low = await submit_all(service.alice, [{"payload": "low", "priority": "low"} for _ in range(3)])
        high = await submit_all(service.alice, [{"payload": "high", "priority": "high"} for _ in range(500)])

        for task_id in low:
            await service.alice.ended(task_id)

        ended = [task_id for task_id in high if (await service.alice.details(task_id))["status"] == "FINISHED"]
        assert len(ended) < len(high), "nothing was left that they could have been passed over for"


async def test_without_ageing_low_priority_waits_until_nothing_higher_does(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = hold
    async with running_service(nats_url, priority_ageing=0) as service:
        await service.admin.register(backend, "one", maxConcurrent=1)
        first = await service.alice.submit({"payload": "first"})
        await called(backend, 1)
        low = await service.alice.submit({"payload": "low", "priority": "low"})
        high = await submit_all(service.alice, [{"payload": "high", "priority": "high"} for _ in range(50)])
        backend.answer = overlapping()
        backend.let_go.set()
        for task_id in (first, low, *high):
            await service.alice.ended(task_id)

    assert list(map(request, backend.calls)) == ["first", *["high"] * 50, "low"]


# Draining


async def test_a_server_is_drained_and_resumed(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=2)
    running = await service.alice.submit({"payload": "running"})
    await called(backend, 1)

    drained = await service.admin.post("/api/servers/one/drain", {"reason": "new disk"})
    waiting = await service.alice.submit({"payload": "waiting"})
    await queue_holds(service, 2)
    again = await service.admin.post("/api/servers/one/drain")
    shown = await service.admin.get("/api/servers/one")

    assert (drained["running"], drained["drained"]) == (1, False)
    assert again["since"] == drained["since"] == shown["maintenanceSince"]
    assert (shown["maintenance"], shown["maintenanceReason"]) == (True, "new disk")
    backend.let_go.set()
    await service.alice.ended(running)

    async def is_drained() -> bool:
        return bool((await service.admin.post("/api/servers/one/drain"))["drained"])

    await wait_until(is_drained, "the server to be drained")
    assert list(map(request, backend.calls)) == ["running"]
    resumed = await service.admin.post("/api/servers/one/resume")
    assert resumed.body == {"id": "one", "success": True, "maintenance": False}
    await service.alice.ended(waiting)


async def test_a_drain_of_a_server_that_is_not_there_is_a_404(service: Service) -> None:
    for action in ("drain", "resume"):
        assert (await service.admin.post(f"/api/servers/nobody/{action}")).status == 404
