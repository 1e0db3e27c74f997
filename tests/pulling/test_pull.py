"""Pullers take the tasks of a pulled server, over HTTP, and report on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from taskstream.pulling.requests import Wanted
from taskstream.scheduling.asks import HandOver
from testkit.puller import Puller, register_pulled
from testkit.service import Service, running_service
from testkit.waiting import wait_until


def kinds(history: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in history]


async def test_a_puller_gets_a_task_and_ends_it(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"type": "resize", "payload": {"width": 640}})

    taken = await puller.one()

    assert taken["input"] == {"width": 640}
    assert (taken["task"], taken["type"], taken["number"]) == (task_id, "resize", 1)
    assert taken["leaseSeconds"] == 60
    assert await puller.told(taken, "renew") == "running"
    assert await puller.told(taken, "progress", {"progress": 40, "message": "4 of 10"}) == "running"
    assert await puller.told(taken, "done", {"result": {"url": "x"}}) == "recorded"
    ended = await service.alice.ended(task_id)
    assert ended["status"] == "FINISHED"
    assert ended["result"]["data"] == {"url": "x"}
    history = await service.alice.history(task_id)
    assert kinds(history)[:3] == ["TaskSubmitted", "AttemptStarted", "AttemptAccepted"]
    assert [event["progress"] for event in history if event["type"] == "ProgressReported"] == [40]
    assert "alice" not in taken["attempt"]


async def test_a_request_gets_a_task_that_comes_later(service: Service, puller: Puller) -> None:
    asking = asyncio.create_task(puller.one())
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request to be open")

    task_id = await service.alice.submit({"payload": 1})

    assert (await asking)["task"] == task_id


async def test_a_request_gets_as_many_tasks_as_it_asks_for(service: Service, puller: Puller) -> None:
    asked = {await service.alice.submit({"payload": number}) for number in range(7)}

    first = await puller.take(most=4)
    rest = await puller.take(most=4)

    assert {len(first), len(rest)} <= {1, 2, 3, 4}
    while len(first) + len(rest) < len(asked):
        rest += await puller.take(most=4)
    assert {taken["task"] for taken in first + rest} == asked


async def test_pullers_together_get_no_more_than_the_server_runs_at_once(service: Service) -> None:
    await register_pulled(service.admin, maxConcurrent=2)
    puller = Puller(service.client("fleet", "service"))
    for number in range(3):
        await service.alice.submit({"payload": number})
    first, second = await puller.one(), await puller.one()

    assert await puller.take(wait=1) == []

    third = asyncio.create_task(puller.one())
    assert await puller.told(first, "done", {"result": 1}) == "recorded"
    assert (await third)["task"] not in (first["task"], second["task"])


async def test_two_pullers_never_hold_the_same_task(service: Service) -> None:
    await register_pulled(service.admin, maxConcurrent=50)
    tasks = {await service.alice.submit({"payload": number}) for number in range(40)}
    held: list[str] = []

    async def pull() -> None:
        puller = Puller(service.client("fleet", "service"))
        while len(held) < len(tasks):
            for taken in await puller.take(most=3, wait=1):
                held.append(taken["task"])
                assert await puller.told(taken, "done", {"result": taken["input"]}) == "recorded"

    await asyncio.gather(*(pull() for _ in range(4)))

    assert sorted(held) == sorted(tasks)
    for task_id in tasks:
        history = await service.alice.history(task_id)
        # On a busy machine a request may be over before its attempt comes; then the attempt is returned.
        counts = Counter(kinds(history))
        assert counts["AttemptStarted"] - counts["AttemptReturned"] == 1, history


async def test_a_puller_gets_only_the_types_that_it_asks_for(service: Service) -> None:
    await register_pulled(service.admin, types=["clip", "resize"])
    puller = Puller(service.client("fleet", "service"))
    await service.alice.submit({"type": "clip", "payload": 1})
    resize = await service.alice.submit({"type": "resize", "payload": 2})

    assert (await puller.one(types=["resize"]))["task"] == resize
    assert await puller.take(types=["resize"], wait=0.5) == []
    assert (await puller.one())["type"] == "clip"


async def test_a_puller_gets_no_task_that_requires_a_label_it_lacks(service: Service) -> None:
    await register_pulled(service.admin, labels={"gpu": "a100", "site": "b"})
    puller = Puller(service.client("fleet", "service"))
    on_gpu = await service.alice.submit({"payload": 1, "require": {"gpu": "a100"}})
    anywhere = await service.alice.submit({"payload": 2})

    assert (await puller.one(labels={"site": "b"}))["task"] == anywhere
    assert await puller.take(labels={"site": "b"}, wait=0.5) == []
    assert (await puller.one())["task"] == on_gpu
    refused = {"server": "site-b", "labels": {"gpu": "t4"}}
    assert await puller.client.refusal("POST", "/api/attempts/take", refused) == (400, "$.labels")


async def test_tasks_of_a_higher_priority_come_first(service: Service, puller: Puller) -> None:
    for priority in ("low", "normal", "high"):
        await service.alice.submit({"payload": priority, "priority": priority})

    assert [(await puller.one())["input"] for _ in range(3)] == ["high", "normal", "low"]


async def test_a_server_in_maintenance_gets_nothing_and_its_puller_the_reason(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"payload": 1})
    running = await puller.one()
    await service.admin.done("POST", "/api/servers/site-b/maintenance", {"maintenance": True, "reason": "new disk"})
    await service.alice.submit({"payload": 2})

    answer = await puller.client.post("/api/attempts/take", {"server": "site-b", "wait": 0.5})

    assert answer.body == {"attempts": [], "reason": "the server is in maintenance: new disk"}
    assert await puller.told(running, "done", {"result": 1}) == "recorded"
    assert (await service.alice.ended(task_id))["status"] == "FINISHED"


async def test_a_released_attempt_does_not_count_and_its_task_is_taken_again(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"payload": 1, "attempts": 1})
    first = await puller.one()

    assert await puller.told(first, "release", {"reason": "the machine restarts"}) == "recorded"
    assert await puller.told(first, "release") == "recorded"

    second = await puller.one()
    assert (second["task"], second["number"]) == (task_id, 2)
    assert await puller.told(first, "done", {"result": "late"}) == "gone"
    assert await puller.told(second, "done", {"result": 1}) == "recorded"
    assert (await service.alice.ended(task_id))["result"]["data"] == 1


async def test_a_failed_attempt_is_tried_again_only_if_its_puller_says_so(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"payload": 1, "attempts": 3})
    first = await puller.one()

    assert await puller.told(first, "fail", {"error": "out of memory", "retry": True}) == "recorded"
    assert await puller.told(first, "fail", {"error": "out of memory", "retry": True}) == "recorded"
    second = await puller.one()
    assert second["number"] == 2
    assert await puller.told(second, "fail", {"error": "no such model"}) == "recorded"

    ended = await service.alice.ended(task_id)
    assert (ended["status"], ended["attempt"], ended["error"]) == ("FAILED", 2, "no such model")


async def test_the_same_result_again_is_recorded_and_another_is_gone(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"payload": 1})
    taken = await puller.one()

    assert [await puller.told(taken, "done", {"result": 7}) for _ in range(2)] == ["recorded", "recorded"]
    assert await puller.told(taken, "done", {"result": 8}) == "gone"
    assert await puller.told(taken, "renew") == "gone"
    assert await puller.told(taken, "progress", {"progress": 50}) == "gone"
    assert (await service.alice.ended(task_id))["result"]["data"] == 7


async def test_a_report_needs_the_token_of_its_attempt(service: Service, puller: Puller) -> None:
    await service.alice.submit({"payload": 1})
    await service.alice.submit({"payload": 2})
    first, second = await puller.one(), await puller.one()

    wrong = await puller.say({**first, "token": second["token"]}, "done", {"result": 1})
    unknown = await puller.say({**first, "attempt": "x" + first["attempt"]}, "renew")
    without = await puller.client.post(f"/api/attempts/{first['attempt']}/renew")

    assert [wrong.status, unknown.status, without.status] == [401, 401, 401]
    assert await puller.told(first, "renew") == "running"


async def test_a_token_takes_tasks_only_for_the_servers_that_it_acts_for(service: Service, puller: Puller) -> None:
    await register_pulled(service.admin, "site-c")

    of_another = Puller(service.client("site-c", "service"))

    answer = await of_another.client.post("/api/attempts/take", {"server": "site-b", "wait": 0})
    assert answer.status == 403
    assert (await service.alice.post("/api/attempts/take", {"server": "site-b", "wait": 0})).status == 403


async def test_a_puller_that_hangs_up_takes_no_task_with_it(service: Service, puller: Puller) -> None:
    asking = asyncio.create_task(puller.take())
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request to be open")
    asking.cancel()
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 0, "the request to be over")

    task_id = await service.alice.submit({"payload": 1})

    taken = await puller.one()
    assert (taken["task"], taken["number"]) == (task_id, 1)


async def test_a_pulled_task_gets_the_results_of_its_parents(service: Service, puller: Puller) -> None:
    parent_id = await service.alice.submit({"payload": 1})
    assert await puller.told(await puller.one(), "done", {"result": {"n": 1}}) == "recorded"
    await service.alice.submit({"payload": 2, "dependsOn": [parent_id]})

    (parent,) = (await puller.one())["parents"]

    assert (parent["task_id"], parent["status"]) == (parent_id, "FINISHED")
    assert parent["result"]["data"] == {"n": 1}


async def test_a_puller_gets_the_model_and_its_key_which_is_kept_out_of_the_log(
    service: Service, puller: Puller
) -> None:
    key = "sk-live-9f8e7d6c5b4a"
    headers = {"X-AI-Provider": "here", "X-AI-Model": "m1", "X-AI-Key": key}
    made = await service.alice.done("POST", "/api/projects/n/queue-chapters", {}, headers=headers)

    taken = await puller.one()

    assert taken["model"] == {"provider": "here", "model": "m1", "baseUrl": None, "key": key}
    assert await puller.told(taken, "done", {"result": f"used {key}"}) == "recorded"
    ended = await service.alice.ended(made["taskId"])
    assert ended["result"]["data"] == "used [key removed]"


async def test_an_input_too_large_for_a_message_comes_whole(service: Service, puller: Puller) -> None:
    connection = service.container.consuming
    connection.max_payload = 64 * 1024
    text = "x" * 100_000
    await service.alice.submit({"payload": {"text": text}})

    taken = await puller.one()

    assert taken["input"] == {"text": text}
    assert await service.container.objects.descriptions(0, 10) == []


async def test_a_process_that_stops_answers_open_requests(nats_url: str) -> None:
    async with running_service(nats_url) as service:
        await register_pulled(service.admin)
        puller = Puller(service.client("fleet", "service"))
        asking = asyncio.create_task(puller.client.post("/api/attempts/take", {"server": "site-b", "wait": 60}))
        await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request")
        service.container.pull_requests.end()

        answer = await asking

    assert answer.body == {"attempts": [], "reason": "this process is stopping; ask again"}


async def test_asks_and_attempts_cross_processes(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as near, running_service(nats_url) as far:
        await register_pulled(far.admin)
        puller = Puller(near.client("fleet", "service"))
        task_id = await near.alice.submit({"payload": 1})

        taken = await puller.one()

        assert taken["task"] == task_id
        puller.client = far.client("fleet", "service")
        assert await puller.told(taken, "done", {"result": 1}) == "recorded"


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"endpoints": {"predict": "http://127.0.0.1:9/"}}, "$.endpoints"),
        ({"callback": True}, "$.callback"),
        ({"apiKey": "0123456789"}, "$.apiKey"),
        ({"healthAuth": True}, "$.healthAuth"),
        ({"busyStatus": [429]}, "$.busyStatus"),
        ({"mode": "push"}, "$.endpoints"),
        ({"mode": "pulled"}, "$.mode"),
    ],
    ids=str,
)
async def test_a_registration_has_what_its_mode_needs_and_no_more(
    service: Service, more: dict[str, Any], path: str
) -> None:
    body = {"id": "site-b", "name": "b", "provider": "x", "mode": "pull", **more}

    assert await service.admin.refusal("POST", "/api/servers", body) == (400, path)


async def test_the_fleet_shows_a_pulled_server_like_any_other(service: Service, puller: Puller) -> None:
    await puller.take(wait=0)

    shown = await service.admin.done("GET", "/api/servers/site-b")
    (listed,) = (await service.admin.done("GET", "/api/servers"))["servers"]

    assert shown == listed | {"lastHeartbeat": shown["lastHeartbeat"], "openAsks": shown["openAsks"]}
    assert (shown["mode"], shown["endpoints"]) == ("pull", {"predict": None, "health": None})
    assert (shown["status"], shown["statusReason"], shown["openAsks"]) == ("online", "its pullers ask or renew", 0)


async def test_a_server_changes_its_mode(service: Service, puller: Puller) -> None:
    path = "/api/servers/site-b"

    pushed = await service.admin.done(
        "PATCH", path, {"mode": "push", "endpoints": {"predict": "http://127.0.0.1:9/predict"}}
    )
    assert await puller.client.refusal("POST", "/api/attempts/take", {"server": "site-b"}) == (400, "$.server")
    pulled = await service.admin.done("PATCH", path, {"mode": "pull"})

    assert (pushed["mode"], pulled["mode"], pulled["endpoints"]["predict"]) == ("push", "pull", None)
    assert await service.admin.refusal("PATCH", path, {"mode": "push"}) == (400, "$.endpoints.predict")


async def test_why_says_that_no_puller_asks(service: Service, puller: Puller) -> None:
    asking = asyncio.create_task(puller.take())
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request to be open")
    asking.cancel()
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 0, "the request to be over")
    task_id = await service.alice.submit({"payload": 1})

    async def asked() -> Any:
        why = await service.admin.done("GET", f"/api/task/{task_id}/why")
        return why if any(server["verdict"] == "unasked" for server in why["servers"] or ()) else None

    why = await wait_until(asked, "the verdict")

    assert "no puller has asked for" in why["summary"]
    assert why["holds"][0]["kind"] == "server-busy"
    assert "a puller asks for a task" in why["summary"]


async def test_a_server_is_offline_while_nobody_asks_and_back_with_the_next_request(nats_url: str) -> None:
    async with running_service(nats_url, heartbeat_ttl=1.0) as service:
        await register_pulled(service.admin)
        puller = Puller(service.client("fleet", "service"))
        await puller.take(wait=0)
        await service.admin.server_is("site-b", "online")
        await service.admin.server_is("site-b", "offline")
        shown = await service.admin.done("GET", "/api/servers/site-b")
        assert "no puller has asked or renewed for" in shown["statusReason"]
        await service.alice.submit({"payload": 1})

        await puller.one()

        await service.admin.server_is("site-b", "online")


async def test_a_result_with_nan_is_refused_and_not_changed(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"type": "resize", "payload": {}})
    taken = await puller.one()
    answer = await puller.say(taken, "done", b'{"result": [NaN]}')
    assert (answer.status, answer["path"]) == (400, "$.data")
    assert (await service.alice.details(task_id))["status"] == "PROCESSING"


async def test_a_server_that_was_removed_for_silence_returns_with_its_next_request(nats_url: str) -> None:
    async with running_service(nats_url, heartbeat_ttl=1.0, server_remove_after=0.5) as service:
        await register_pulled(service.admin, maxConcurrent=3)

        async def removed() -> bool:
            return bool((await service.admin.done("GET", "/api/servers?removed=true"))["servers"])

        await wait_until(removed, "the server to be removed")
        await service.alice.submit({"payload": 1})

        await Puller(service.client("fleet", "service")).one()

        assert (await service.admin.done("GET", "/api/servers/site-b"))["maxConcurrent"] == 3


async def test_an_attempt_taken_as_its_puller_hangs_up_is_returned(
    service: Service, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await puller.take(wait=0)
    task_id = await service.alice.submit({"payload": 1, "attempts": 1})
    gone = asyncio.get_running_loop().create_future()
    requests = service.container.pull_requests
    completed = requests._completed

    async def hang_up(given: HandOver) -> Any:
        gone.set_result(None)
        return await completed(given)

    async def alive() -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(requests, "_completed", hang_up)
        taken = await requests.take("site-b", Wanted(), 20, gone, alive)

    assert taken.attempts == []
    second = await puller.one()
    assert (second["task"], second["number"]) == (task_id, 2)
    (returned,) = [event for event in await service.alice.history(task_id) if event["type"] == "AttemptReturned"]
    assert returned["reason"] == "the puller hung up before it got the attempt"
