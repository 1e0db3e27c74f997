"""`/why`: each reason that a task waits, once, with its release condition."""

from __future__ import annotations

import time
from typing import Any

import pytest
from nats.aio.msg import Msg

from taskstream.events.subjects import SCHEDULER_EXPLAIN
from taskstream.explain.explanation import Explanation, encode
from testkit.backend import BackendServer, accept, hold, status
from testkit.nats import NatsServer
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

SOON = 3_600


async def why(client: Client, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.done("GET", f"/api/task/{task_id}/why")
    assert found["taskId"] == task_id
    return found


async def held_by(client: Client, task_id: str, kind: str, **data: Any) -> dict[str, Any]:
    """Wait until a hold of this kind, with this data, comes first among those of a task; return the answer."""

    def is_first(found: dict[str, Any]) -> bool:
        holds = found["holds"]
        return bool(holds) and holds[0]["kind"] == kind and data.items() <= holds[0]["data"].items()

    wanted = f"{task_id} to wait for {kind} with {data}"
    found: dict[str, Any] = await client.until(f"/api/task/{task_id}/why", is_first, wanted)
    assert found["status"] == "WAITING"
    assert first(found)["text"] in found["summary"]
    assert first(found)["release"] in found["summary"]
    return found


def first(found: dict[str, Any]) -> dict[str, Any]:
    of_holds: dict[str, Any] = found["holds"][0]
    return of_holds


# Held


async def test_until_its_time(service: Service) -> None:
    run_at = int(time.time() + SOON) * 1_000
    task_id = await service.alice.submit({"payload": 1, "runAt": run_at})

    found = await held_by(service.alice, task_id, "time", runAt=run_at)

    details = await service.alice.details(task_id)
    assert found["held"] is True
    assert found["since"] == first(found)["since"] == details["createdAt"]
    await service.alice.until(f"/api/task/{task_id}/why", lambda it: it["keeper"] == "answered", "a scheduler")


async def test_until_its_parents_have_ended(service: Service) -> None:
    parents = [await service.alice.submit({"payload": 1, "delay": SOON}) for _ in range(3)]
    child = await service.alice.submit({"payload": 1, "dependsOn": parents, "onParentFailure": "run"})
    await service.alice.post(f"/api/task/{parents[1]}/cancel")

    found = await held_by(service.alice, child, "parents", count=2)

    assert first(found)["data"]["of"] == 3
    assert first(found)["data"]["parents"] == [{"id": parents[n], "status": "WAITING"} for n in (0, 2)]
    assert "however they end" in first(found)["release"]


@pytest.mark.parametrize(
    ("kind", "path", "limits"),
    [
        ("owner-limit", "/api/owners/alice/limits", {"concurrency": 1}),
        ("type-limit", "/api/types/image", {"concurrency": 1}),
        ("concurrency-key", "/api/types/image", {"keyConcurrency": 1}),
    ],
)
async def test_until_a_limit_has_room(
    service: Service, backend: BackendServer, kind: str, path: str, limits: dict[str, int]
) -> None:
    backend.answer = hold
    assert (await service.admin.put(path, limits)).status == 200
    await service.admin.register(backend, "s")
    body = {"type": "image", "payload": 1, "concurrencyKey": "k"}
    running = await service.alice.submit(body)
    await service.alice.reaches(running, "PROCESSING")
    waiting = [await service.alice.submit(body) for _ in range(2)]

    found = await held_by(service.alice, waiting[1], kind, ahead=1)

    assert first(found)["data"].items() >= {"counted": 1, "concurrency": 1}.items()
    assert "1 task before it" in first(found)["release"]
    await held_by(service.alice, waiting[0], kind, ahead=0)


async def test_until_it_may_start_by_the_rate(service: Service, backend: BackendServer) -> None:
    await service.admin.put("/api/types/image", {"perSecond": 0.001, "burst": 1})
    await service.admin.register(backend, "s", types=["image"])
    tasks = [await service.alice.submit({"type": "image", "payload": n}) for n in range(3)]

    found = await held_by(service.alice, tasks[2], "type-limit", perSecond=0.001)

    assert first(found)["data"]["concurrency"] is None
    assert "0.001 a second" in first(found)["text"]


async def test_until_its_owner_has_fewer_in_the_queue(service: Service) -> None:
    async def is_held() -> str | None:
        task_id = await service.alice.submit({"payload": 1})
        return task_id if (await service.alice.details(task_id))["held"] else None

    task_id = await wait_until(is_held, "the window to be full")

    found = await held_by(service.alice, task_id, "window")

    assert first(found)["data"]["counted"] >= first(found)["data"]["concurrency"] == 4


# Queued


async def test_until_a_pool_and_a_type_are_resumed(service: Service) -> None:
    await service.admin.put("/api/types/image", {"pool": "gpu"})
    for path in ("pools/gpu", "types/image"):
        await service.admin.post(f"/api/{path}/pause", {"reason": "new driver"})
    task_id = await service.alice.submit({"type": "image", "payload": 1})

    found = await held_by(service.admin, task_id, "pool-paused", name="gpu", by="root", reason="new driver")
    to_owner = await held_by(service.alice, task_id, "pool-paused")

    assert [hold["kind"] for hold in found["holds"]] == ["pool-paused", "type-paused", "no-server"]
    assert first(to_owner)["data"] == {"name": "gpu"}
    assert not {"root", "new driver"} & set(to_owner["summary"].split())
    assert found["keeper"] == "not asked"


async def test_until_its_next_attempt_is_due(nats: NatsServer, backend: BackendServer) -> None:
    backend.answer = status(500)
    async with running_service(nats.url, retry_base=SOON, retry_cap=SOON) as service:
        await service.admin.register(backend, "s")
        task_id = await service.alice.submit({"payload": 1})

        found = await held_by(service.alice, task_id, "retry", attempt=1, attempts=3)

        due = (await service.alice.details(task_id))["nextAttemptAt"]
        assert first(found)["data"]["nextAttemptAt"] == due
        assert (found["attempt"], found["lastError"]) == (1, first(found)["text"].split("(")[1].split(")")[0])


async def test_until_there_is_a_server_for_it(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "other", types=["text"])
    await service.admin.register(backend, "small", types=["image"], labels={"gpu": "t4"})
    await service.admin.register(backend, "broken", types=["image"], labels={"gpu": "a100"})
    await service.admin.post("/api/servers/broken/maintenance", {"maintenance": True})
    task_id = await service.alice.submit({"type": "image", "payload": 1, "require": {"gpu": "a100"}})

    found = await held_by(service.admin, task_id, "no-server")

    assert [(server["serverId"], server["verdict"]) for server in found["servers"]] == [
        ("broken", "maintenance"), ("other", "other-types"), ("small", "label-missing"),
    ]  # fmt: skip
    assert found["servers"][2]["text"] == "lacks the label gpu=a100"
    assert "gpu=a100" in first(found)["release"]
    assert first(found)["text"] == (
        "no server can take it: 1 server is in maintenance, 1 lacks a label that it requires "
        "and 1 does not serve its type"
    )


async def test_until_a_server_whose_circuit_is_open_gets_its_next_trial(nats_url: str, backend: BackendServer) -> None:
    backend.answer = status(500)
    async with running_service(nats_url, circuit_failures=2, circuit_cooldown=300) as service:
        await service.admin.register(backend, "broken")
        tasks = [await service.alice.submit({"payload": n, "attempts": 100}) for n in range(2)]
        opened = await service.admin.until(
            "/api/servers/broken", lambda it: it["circuit"] == "open", "the circuit to open"
        )
        waiting = await service.alice.submit({"payload": 3})
        for task_id in tasks:
            await service.alice.post(f"/api/task/{task_id}/cancel")

        found = await held_by(service.admin, waiting, "no-server")

        trial = f"one whose circuit is open gets its next trial at {opened['circuitOpenUntil']} at the earliest"
        assert first(found)["release"].endswith(trial)


async def test_until_a_server_has_room_and_those_before_it_have_gone(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "only", maxConcurrent=1)
    running = await service.alice.submit({"payload": 1})
    await service.alice.reaches(running, "PROCESSING")
    for number in range(3):
        await service.bob.submit({"payload": number, "priority": "high"})
    tasks = [await service.alice.submit({"payload": n}) for n in range(3)]

    found = await held_by(service.admin, tasks[2], "server-busy")

    async def behind() -> dict[str, Any] | None:
        seen = await why(service.admin, tasks[2])
        last: dict[str, Any] = seen["holds"][-1]
        return last if last["kind"] == "queued-behind" and last["data"]["higherPriority"] > 0 else None

    last = await wait_until(behind, "some of a higher priority")
    assert last["data"]["ahead"] in (1, 2), "one of those before it may have been taken out in advance"
    assert last["data"]["higherPriority"] in (2, 3)
    assert found["servers"] == [
        {"serverId": "only", "verdict": "at-limit", "text": "runs 1 of at most 1 tasks", "until": None, "since": None}
    ]


# Access


async def test_an_owner_learns_no_server_s_name(service: Service) -> None:
    names = ("gpu-secret", "10.1.2.3")
    for n in range(2):
        body = {"id": f"gpu-secret-{n}", "name": "n", "provider": "p", "endpoints": {"predict": "http://10.1.2.3/p"}}
        assert (await service.admin.post("/api/servers", body)).status == 200
    task_id = await service.alice.submit({"payload": 1})

    for client, sees_servers in ((service.alice, False), (service.admin, True), (service.auditor, True)):
        answer = await client.get(f"/api/task/{task_id}/why")
        assert answer["verdicts"] == [{"verdict": "offline", "text": "are offline", "count": 2}]
        assert any(name in str(answer.body) for name in names) == sees_servers
        assert (answer["servers"] is not None) == sees_servers


async def test_a_reason_names_whose_it_is_where_servers_differ(service: Service, backend: BackendServer) -> None:
    backend.healthy = False
    await service.admin.register(backend, "gpu", online=False)
    await service.admin.register(backend, "other", online=False, types=["other"])
    await service.admin.until(
        "/api/servers/gpu", lambda server: server["statusReason"] != "not checked yet", "its first check"
    )

    answer = await why(service.alice, await service.alice.submit({"payload": 1}))

    said = "1 server is offline and 1 does not serve its type (offline: health check answered 500), until"
    assert said in answer["summary"]


async def test_the_reason_why_a_server_is_offline_is_repeated(service: Service, backend: BackendServer) -> None:
    backend.healthy = False
    await service.admin.register(backend, "gpu-secret", online=False)
    task_id = await service.alice.submit({"payload": 1})
    await service.admin.until(
        "/api/servers/gpu-secret", lambda server: server["statusReason"] != "not checked yet", "its first check"
    )

    for_alice, for_admin = [await why(client, task_id) for client in (service.alice, service.admin)]

    reason = "health check answered 500"
    assert f"no server can take it: 1 server is offline ({reason}), until" in for_alice["summary"]
    assert f"no server can take it: 1 server is offline (gpu-secret: {reason}), until" in for_admin["summary"]
    (verdict,) = for_admin["servers"]
    assert (verdict["text"], verdict["since"] is not None) == (f"is offline: {reason}", True)


# Without a scheduler


async def test_without_a_scheduler_the_answer_is_from_the_log(api: Service) -> None:
    await api.admin.put("/api/owners/alice/limits", {"concurrency": 1})
    delayed = await api.alice.submit({"payload": 1, "delay": SOON})
    child = await api.alice.submit({"payload": 1, "dependsOn": [delayed]})
    limited = await api.alice.submit({"payload": 1})

    found = [await why(api.alice, task_id) for task_id in (delayed, child, limited)]

    assert [answer["keeper"] for answer in found] == ["silent"] * 3
    assert [first(answer)["kind"] for answer in found] == ["time", "parents", "no-keeper"]
    assert first(found[1])["data"]["parents"] == [{"id": delayed, "status": "WAITING"}]


async def test_a_silent_scheduler_delays_no_answer(api: Service) -> None:
    async def ignore(_: Msg) -> None:
        pass

    await api.container.consuming.subscribe(SCHEDULER_EXPLAIN, ignore)
    await api.container.consuming.flush()
    delayed = await api.alice.submit({"payload": 1, "delay": SOON})

    found = await why(api.alice, delayed)

    assert (found["keeper"], first(found)["kind"]) == ("silent", "time")


async def test_a_scheduler_that_does_not_know_a_task_yet_changes_nothing(api: Service) -> None:
    async def knows_nothing(message: Msg) -> None:
        await api.container.consuming.publish(message.reply, encode(Explanation(as_of=0, known="not-active")))

    await api.container.consuming.subscribe(SCHEDULER_EXPLAIN, knows_nothing)
    await api.container.consuming.flush()
    await api.admin.put("/api/owners/alice/limits", {"concurrency": 1})
    delayed = await api.alice.submit({"payload": 1, "delay": SOON})
    limited = await api.alice.submit({"payload": 1})

    found = [await why(api.alice, task_id) for task_id in (delayed, limited)]

    assert [first(answer)["kind"] for answer in found] == ["time", "turn"]
    assert [answer["keeper"] for answer in found] == ["answered"] * 2


# Running and ended


async def test_a_task_that_runs_says_where_and_how_far(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    await service.admin.register(backend, "s", **{"async": True, "callback": True})
    task_id = await service.alice.submit({"payload": 1, "timeout": 60})
    await wait_until(lambda: backend.calls, "the call")
    call = backend.calls[0]
    assert (await backend.report(call, "PROCESSING", progress=40, message="frame 4"))[0] == 200

    path = f"/api/task/{task_id}/why"
    found = await service.alice.until(path, lambda it: it["running"]["progress"] == 40, "the progress")
    details = await service.alice.details(task_id)
    assert (found["status"], found["holds"], found["since"]) == ("PROCESSING", [], details["startedAt"])
    assert found["running"].items() >= {"serverId": "s", "attempt": 1, "message": "frame 4"}.items()
    assert found["running"]["deadline"] == call["deadline"]
    assert found["summary"] == "It runs on s: attempt 1 of 3, at 40 %."


async def test_a_task_that_has_ended_says_how_by_whom_and_why(service: Service, backend: BackendServer) -> None:
    await service.admin.put("/api/types/image", {"keyConcurrency": 1, "onConflict": "refuse"})
    parent = await service.alice.submit({"payload": 1, "delay": SOON})
    child = await service.alice.submit({"payload": 1, "dependsOn": [parent]})
    await service.alice.submit({"type": "image", "payload": 1, "concurrencyKey": "k", "delay": SOON})
    refused = await service.alice.post("/api/task", {"type": "image", "payload": 2, "concurrencyKey": "k"})
    assert refused.status == 409
    [newest, *_] = (await service.alice.get("/api/tasks?limit=1"))["tasks"]
    await service.alice.post(f"/api/task/{parent}/cancel", {"reason": "not needed"})
    await service.alice.ended(child)
    await service.admin.register(backend, "s")
    done = await service.alice.submit({"payload": 1})
    await service.alice.ended(done)
    backend.answer = status(400)
    rejected = await service.alice.submit({"payload": 1})
    await service.alice.ended(rejected)

    found = {name: await why(service.alice, task_id) for name, task_id in {
        "cancelled": parent, "child": child, "refused": newest["id"], "done": done, "rejected": rejected,
    }.items()}  # fmt: skip

    ended = {name: answer["ended"] for name, answer in found.items()}
    assert found["cancelled"]["summary"] == "It was cancelled by alice: not needed."
    assert ended["child"].items() >= {"failureKind": "parent_failed", "parentId": parent}.items()
    assert ended["child"]["by"] == ended["refused"]["by"] == {"kind": "system", "id": "scheduler"}
    assert "same concurrency key" in found["refused"]["summary"]
    assert (ended["done"]["reason"], found["done"]["summary"]) == (None, "It succeeded, on attempt 1 of 3.")
    assert (ended["rejected"]["failureKind"], ended["done"]["failureKind"]) == ("rejected", None)
    assert found["rejected"]["summary"].startswith("It failed for good, on attempt 1 of 3: ")
    assert found["rejected"]["lastError"] == ended["rejected"]["reason"]
    assert all(answer["holds"] == [] and answer["running"] is None for answer in found.values())
