"""A task that something holds is queued when nothing does any more: seen through HTTP, on a real log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from taskstream.container import open_container
from taskstream.events.ids import parse_task_id
from taskstream.projections.active import is_projected
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.projections.task_view import view_key
from taskstream.streams.jetstream.api import api
from testkit.backend import BackendServer, accept, at_first, finished, hold, overlapping, status
from testkit.load import work
from testkit.service import Service, quick_settings, running_service
from testkit.waiting import wait_until

from .behaviour import called, submit_all


async def fail_if_told(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Fail what says `fail`, and answer with what the parents came to."""
    if task["request"] == "fail":
        return web.json_response({"error": "as told"}, status=422)
    return web.json_response(finished(task, {"parents": task.get("parents")}))


# Time


async def test_a_delayed_task_starts_when_its_time_has_come(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "s")
    run_at = int(time.time() * 1000) + 400

    task_id = await service.alice.submit({"payload": 1, "runAt": run_at})
    assert (await service.alice.details(task_id))["status"] == "WAITING"
    details = await service.alice.ended(task_id)

    assert details["startedAt"] >= run_at


async def test_a_task_that_expires_while_it_waits_fails_and_never_starts(service: Service) -> None:
    task_id = await service.alice.submit({"payload": 1, "expiresAt": int(time.time() * 1000) + 300})

    details = await service.alice.ended(task_id)

    assert (details["status"], details["attempt"]) == ("FAILED", 0)
    assert "had not started by" in details["error"]


@pytest.mark.parametrize("by_callback", [False, True])
async def test_a_task_that_runs_past_its_deadline_fails_then_and_is_no_dead_letter(
    service: Service, backend: BackendServer, by_callback: bool
) -> None:
    backend.answer = accept if by_callback else hold
    await service.admin.register(backend, "s", callback=by_callback, **{"async": by_callback})

    task_id = await service.alice.submit({"payload": 1, "deadline": int(time.time() * 1000) + 1_000})
    await called(backend, 1)
    details = await service.alice.ended(task_id)

    assert (details["status"], details["failureKind"]) == ("FAILED", "deadline")
    assert "had not ended by" in details["error"]
    assert backend.calls[0]["deadline"] <= details["createdAt"] + 1_000
    assert len(backend.calls) == 1
    assert (await service.alice.get("/api/dead-letters"))["deadLetters"] == []


async def test_a_task_that_may_not_start_again_says_so_and_is_not_retried(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = status(500, headers={"Retry-After": "5"})
    await service.admin.register(backend, "s")

    task_id = await service.alice.submit({"payload": 1, "attempts": 5, "expiresAt": int(time.time() * 1000) + 3000})
    details = await service.alice.ended(task_id)

    async def is_over() -> bool:
        return (await service.alice.get(f"/api/task/{task_id}/why"))["ended"]["release"].startswith("submit it again")

    assert (details["status"], details["failureKind"]) == ("FAILED", "expired")
    assert "500" in (await service.alice.get(f"/api/task/{task_id}/why"))["lastError"]
    assert (await service.alice.get("/api/dead-letters"))["deadLetters"] == []
    await wait_until(is_over, "its time to be up")
    answer = await service.alice.post(f"/api/task/{task_id}/retry")
    assert (answer.status, "`expiresAt` of the task has passed" in answer["detail"]) == (409, True)


async def test_a_delayed_task_can_be_cancelled_and_is_then_never_queued(service: Service) -> None:
    task_id = await service.alice.submit({"payload": 1, "delay": 3600})

    answer = await service.alice.post(f"/api/task/{task_id}/cancel")

    assert answer["taskDetails"]["status"] == "CANCELLED"
    assert [event["type"] for event in await service.alice.history(task_id)] == ["TaskSubmitted", "TaskCancelled"]


# Parents


async def test_a_child_runs_after_its_parents_and_is_handed_their_results(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = fail_if_told
    await service.admin.register(backend, "s")
    mother = await service.alice.submit({"payload": "mother"})
    father = await service.alice.submit({"payload": "father", "delay": 0.3})

    child = await service.alice.submit({"payload": "child", "dependsOn": [mother, father]})
    details = await service.alice.ended(child)

    told = details["result"]["data"]["parents"]
    assert [(parent["task_id"], parent["status"]) for parent in told] == [(mother, "FINISHED"), (father, "FINISHED")]
    assert told[0]["result"]["data"] == {"parents": None}


async def test_what_becomes_of_a_child_whose_parent_failed_is_its_own_choice(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = fail_if_told
    await service.admin.register(backend, "s")
    parent = await service.alice.submit({"payload": "fail", "delay": 0.2})
    fails, skips, runs = await submit_all(
        service.alice,
        [{"payload": choice, "dependsOn": [parent], "onParentFailure": choice} for choice in ("fail", "skip", "run")],
    )

    ended = {name: await service.alice.ended(task) for name, task in (("fail", fails), ("skip", skips), ("run", runs))}

    assert {name: details["status"] for name, details in ended.items()} == {
        "fail": "FAILED",
        "skip": "CANCELLED",
        "run": "FINISHED",
    }
    assert parent in ended["fail"]["error"]
    assert ended["run"]["result"]["data"]["parents"][0]["status"] == "FAILED"


async def test_a_child_that_is_retried_by_hand_takes_what_its_parents_had_come_to(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = fail_if_told
    await service.admin.put("/api/types/one", {"concurrency": 1})
    await service.admin.register(backend, "s")
    parent = await service.alice.submit({"payload": "fail"})
    child = await service.alice.submit({"type": "one", "payload": "child", "dependsOn": [parent]})
    assert (await service.alice.ended(child))["failureKind"] == "parent_failed"

    await service.alice.post(f"/api/task/{child}/retry")

    assert (await service.alice.ended(child))["status"] == "FINISHED"


async def test_a_child_waits_for_a_parent_that_is_retried_while_it_waits_for_another(
    service: Service, backend: BackendServer
) -> None:
    tries: Counter[str] = Counter()

    async def fail_first(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        tries[task["request"]] += 1
        if task["request"] == "mother" and tries["mother"] == 1:
            return web.json_response({"error": "as told"}, status=422)
        if task["request"] == "mother":
            await server.let_go.wait()
        return web.json_response(finished(task, {"parents": task.get("parents")}))

    backend.answer = fail_first
    await service.admin.register(backend, "s", maxConcurrent=10)
    mother = await service.alice.submit({"payload": "mother"})
    father = await service.alice.submit({"payload": "father", "delay": 3600})
    child = await service.alice.submit({"payload": "child", "dependsOn": [mother, father], "onParentFailure": "run"})
    await service.alice.ended(mother)
    await service.alice.post(f"/api/task/{mother}/retry")
    await called(backend, 2)
    await service.alice.post(f"/api/task/{father}/cancel")

    async def waits_for_its_mother() -> bool:
        holds = (await service.alice.get(f"/api/task/{child}/why"))["holds"]
        return [hold["data"].get("parents") for hold in holds] == [[{"id": mother, "status": "PROCESSING"}]]

    await wait_until(waits_for_its_mother, "the child to wait for the one parent")
    backend.let_go.set()
    told = (await service.alice.ended(child))["result"]["data"]["parents"]
    assert [parent["status"] for parent in told] == ["FINISHED", "CANCELLED"]


async def test_a_child_of_a_task_that_has_ended_already_runs(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "s")
    parent = await service.alice.submit({"payload": 1})
    await service.alice.ended(parent)

    child = await service.alice.submit({"payload": 2, "dependsOn": [parent]})

    assert (await service.alice.ended(child))["status"] == "FINISHED"


async def test_nobody_depends_on_a_task_that_is_not_theirs_or_not_there(service: Service) -> None:
    bobs = await service.bob.submit({"payload": 1})
    gone = "0" * 26 + "~alice"

    for parent in (bobs, gone):
        answer = await service.alice.post("/api/task", {"payload": 1, "dependsOn": [parent]})
        assert answer.status == 400, answer
        assert "dependsOn[0]" in answer["detail"]


async def test_waiting_children_survive_a_restart(nats_url: str, backend: BackendServer) -> None:
    backend.answer = fail_if_told
    async with running_service(nats_url) as service:
        parent = await service.alice.submit({"payload": "parent", "delay": 2})
        chain = [parent]
        for number in range(5):
            chain.append(await service.alice.submit({"payload": number, "dependsOn": [chain[-1]]}))

    async with running_service(nats_url) as service:
        await service.admin.register(backend, "s")
        assert (await service.alice.ended(chain[-1]))["status"] == "FINISHED"
    assert [call["task_id"] for call in backend.calls] == chain


# Limits


async def test_no_more_of_a_type_run_at_once_than_its_limit_and_all_do(nats_url: str, backend: BackendServer) -> None:
    backend.answer = overlapping(3)
    async with running_service(nats_url) as first, running_service(nats_url) as second:
        await first.admin.put("/api/types/image", {"concurrency": 3})
        await first.admin.register(backend, "s", types=["image"], maxConcurrent=50)

        tasks = await submit_all(first.alice, [{"type": "image", "payload": n} for n in range(30)])
        tasks += await submit_all(second.bob, [{"type": "image", "payload": n} for n in range(30)])
        for task in tasks:
            await first.admin.ended(task)

    assert backend.most_at_once == 3
    assert Counter(call["task_id"] for call in backend.calls) == Counter(tasks)


async def test_a_limit_set_while_tasks_are_queued_holds_for_those_too(service: Service, backend: BackendServer) -> None:
    backend.answer = overlapping()
    tasks = await submit_all(service.alice, [{"type": "image", "payload": n} for n in range(10)])

    await service.admin.put("/api/owners/alice/limits", {"concurrency": 2})
    await service.admin.register(backend, "s", types=["image"], maxConcurrent=50)
    for task in tasks:
        await service.alice.ended(task)

    assert backend.most_at_once <= 2


async def test_tasks_with_the_same_key_run_one_after_the_other(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "s", maxConcurrent=10)
    await submit_all(service.alice, [{"payload": n, "concurrencyKey": "k"} for n in range(3)])
    other = await service.alice.submit({"payload": "other", "concurrencyKey": "l"})
    await called(backend, 2)

    assert backend.most_at_once == 2
    assert other in [call["task_id"] for call in backend.calls]
    backend.let_go.set()
    await called(backend, 4)
    assert backend.most_at_once == 2


async def test_a_newcomer_is_refused_or_replaces_those_that_wait_as_its_type_says(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.put("/api/types/refusing", {"onConflict": "refuse"})
    await service.admin.put("/api/types/replacing", {"onConflict": "replace"})
    await service.admin.register(backend, "s", types=["refusing", "replacing"], maxConcurrent=10)
    runs = await service.alice.submit({"type": "refusing", "payload": 1, "concurrencyKey": "k"})
    first = await service.alice.submit({"type": "replacing", "payload": 1, "concurrencyKey": "k"})
    await called(backend, 2)

    refused = await service.alice.post("/api/task", {"type": "refusing", "payload": 2, "concurrencyKey": "k"})
    second = await service.alice.submit({"type": "replacing", "payload": 2, "concurrencyKey": "k"})
    third = await service.alice.submit({"type": "replacing", "payload": 3, "concurrencyKey": "k"})
    replaced = await service.alice.ended(second)
    backend.let_go.set()

    assert refused.status == 409
    assert runs in refused["detail"]
    assert replaced["status"] == "CANCELLED"
    assert third in replaced["error"]
    for task in (runs, first, third):
        assert (await service.alice.ended(task))["status"] == "FINISHED"


async def test_what_has_started_is_not_replaced(service: Service, backend: BackendServer) -> None:
    backend.answer = overlapping()
    await service.admin.put("/api/types/replacing", {"onConflict": "replace"})
    await service.admin.register(backend, "s", types=["replacing"], maxConcurrent=10)

    for _ in range(10):
        body = {"type": "replacing", "payload": 1, "concurrencyKey": "k"}
        tasks = [asyncio.create_task(service.alice.submit(body)) for _ in range(4)]
        for task in tasks:
            await service.alice.ended(await task)
        called_for = {call["task_id"] for call in backend.calls}
        ended = {task.result(): (await service.alice.details(task.result()))["status"] for task in tasks}
        assert {task for task, status in ended.items() if status == "FINISHED"} == called_for & ended.keys()
    assert backend.most_at_once == 1


async def test_a_task_that_waits_for_its_retry_lets_another_use_its_room(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = at_first(status(500))
    await service.admin.put("/api/types/one", {"concurrency": 1})
    await service.admin.register(backend, "s", types=["one"], maxConcurrent=10)

    tasks = await submit_all(service.alice, [{"type": "one", "payload": n} for n in range(8)])
    for task in tasks:
        assert (await service.alice.ended(task))["status"] == "FINISHED"

    assert backend.most_at_once == 1


# Fairness


async def test_one_owners_crowd_does_not_keep_anothers_task_waiting(service: Service, backend: BackendServer) -> None:
    backend.answer = work(0.05)
    await submit_all(service.alice, [{"type": "image", "payload": {"number": n}} for n in range(500)])
    await service.admin.register(backend, "s", types=["image"], maxConcurrent=2)
    await called(backend, 20)

    bobs = await service.bob.submit({"type": "image", "payload": {"number": 0}})
    begun = len(backend.calls)
    await service.bob.ended(bobs)

    order = [call["task_id"] for call in backend.calls]
    assert order.index(bobs) - begun <= 25, "bob's came after many more of alice's than there are slots"


async def test_more_than_the_quota_is_refused_and_says_when_to_come_again(nats_url: str) -> None:
    async with running_service(nats_url, owner_waiting=20) as service:
        answers = [await service.alice.post("/api/task", {"payload": n}) for n in range(21)]

        assert [answer.status for answer in answers[:20]] == [200] * 20
        assert answers[-1].status == 429
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert (await service.bob.post("/api/task", {"payload": 1})).status == 200


async def test_the_scheduler_is_another_when_the_first_ends(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url) as stays:
        async with running_service(nats_url):
            await stays.admin.put("/api/types/one", {"concurrency": 1})
            await stays.admin.register(backend, "s", types=["one"])
            tasks = await submit_all(stays.alice, [{"type": "one", "payload": n} for n in range(5)])
        tasks += await submit_all(stays.alice, [{"type": "one", "payload": n} for n in range(5)])

        for task in tasks:
            assert (await stays.alice.ended(task))["status"] == "FINISHED"
    assert backend.most_at_once == 1
    await wait_until(lambda: backend.running == 0, "the backend to be idle")


async def test_a_task_that_a_killed_nats_has_forgotten_keeps_its_room(nats_url: str, backend: BackendServer) -> None:
    """Its view is gone, and the checkpoint is the one before its last event: so a crash left it once."""
    backend.answer = accept
    async with running_service(nats_url) as service:
        for name in ("one", "other"):
            await service.admin.put(f"/api/types/{name}", {"concurrency": 1})
        await service.admin.register(backend, "s", types=["one", "other"], callback=True, **{"async": True})
        runs = await service.alice.submit({"type": "one", "payload": 1, "timeout": 60})
        await called(backend, 1)
        waits = await service.alice.submit({"type": "one", "payload": 2, "timeout": 60})
        await backend.report(backend.calls[0], "PROCESSING", progress=50)
        reported = (await service.alice.get(f"/api/task/{runs}/events"))["events"][-1]["sequence"]
        tasks = service.container.buckets.tasks
        await wait_until(lambda: is_projected(tasks, reported), "the report to be in the view")
    async with await open_container(quick_settings(), nats_url) as container:
        tasks = container.buckets.tasks
        ref = parse_task_id(runs)
        for key in (f"active.*.{ref.owner}.{ref.unique}", view_key(ref)):
            await api(container.reading, f"STREAM.PURGE.{tasks.stream}", {"filter": f"$KV.{tasks.name}.{key}"})
        await tasks.put(CHECKPOINT, b"%d" % (reported - 1))

    async with running_service(nats_url) as service:
        other = await service.alice.submit({"type": "other", "payload": 3})
        await called(backend, 2)
        assert [call["task_id"] for call in backend.calls] == [runs, other]
        await service.alice.post(f"/api/task/{runs}/cancel")
        await called(backend, 3)
        assert backend.calls[2]["task_id"] == waits


# Servers


@pytest.mark.parametrize("limit", ["/api/types/one", "/api/owners/alice/limits"])
async def test_what_no_server_can_take_keeps_no_other_from_running(
    service: Service, backend: BackendServer, limit: str
) -> None:
    await service.admin.put(limit, {"concurrency": 1})
    await service.admin.register(backend, "s", types=["one"], labels={"gpu": "a"})
    waits = await service.alice.submit({"type": "one", "payload": 1, "require": {"gpu": "b"}})
    other = await service.alice.submit({"type": "one", "payload": 2})

    assert (await service.alice.ended(other))["status"] == "FINISHED"
    why = await service.alice.get(f"/api/task/{waits}/why")
    assert [hold["kind"] for hold in why["holds"]] == ["no-server"]
    await service.admin.register(backend, "s", types=["one"], labels={"gpu": "b"})
    assert (await service.alice.ended(waits))["status"] == "FINISHED"


async def test_a_paused_type_takes_no_room_from_its_owners_others(service: Service, backend: BackendServer) -> None:
    await service.admin.put("/api/owners/alice/limits", {"concurrency": 1})
    await service.admin.put("/api/types/paused", {})
    await service.admin.register(backend, "s", types=["paused", "other"])
    await service.admin.post("/api/types/paused/pause")
    low = await service.alice.submit({"type": "paused", "payload": 1, "priority": "low"})
    other = await service.alice.submit({"type": "other", "payload": 2})
    high = await service.alice.submit({"type": "paused", "payload": 3, "priority": "high"})

    await service.alice.ended(other)
    why = await service.alice.get(f"/api/task/{low}/why")
    assert [hold["kind"] for hold in why["holds"]] == ["type-paused"]
    await service.admin.post("/api/types/paused/resume")
    await service.alice.ended(low)
    assert [call["task_id"] for call in backend.calls] == [other, high, low]
