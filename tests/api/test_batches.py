"""Batches: many tasks submitted, followed and commanded as one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from taskstream.api import task_actions
from taskstream.api.routes import batches as api_batches
from testkit.backend import BackendServer, hold, status
from testkit.service import Answer, Client, Service, running_service
from testkit.sse import Sent, opened, received
from testkit.waiting import wait_until

SUMMARY_OF_NONE = {"WAITING": 0, "PROCESSING": 0, "FINISHED": 0, "FAILED": 0, "CANCELLED": 0}


def counts(**more: int) -> dict[str, int]:
    return SUMMARY_OF_NONE | more


async def submitted(client: Client, *tasks: Any, **more: Any) -> tuple[str, list[str]]:
    """Submit a batch; return its id and those of its tasks."""
    answer = await client.done("POST", "/api/tasks/batch", list(tasks), **more)
    return answer["batchId"], answer["taskIds"]


async def listed(client: Client, batch_id: str, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.done("GET", f"/api/batches/{batch_id}/tasks{query}"))["tasks"]
    return found


def errors(answer: Answer) -> dict[int, tuple[str, str | None]]:
    assert answer.status == 400, answer
    return {found["index"]: (found["error"], found.get("path")) for found in answer["errors"]}


async def done(client: Client, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.until(
        f"/api/batches/{batch_id}", lambda it: it["done"], f"the end of {batch_id}"
    )
    return found


# Submitting


async def test_a_batch_becomes_tasks_in_its_order(api: Service) -> None:
    batch_id, ids = await submitted(
        api.alice, {"prompt": "a"}, {"payload": {"prompt": "b"}, "priority": "high"}, {"type": "image", "payload": 3}
    )

    details = [await api.alice.details(task_id) for task_id in ids]
    assert [each["request"] for each in details] == [{"prompt": "a"}, {"prompt": "b"}, 3]
    assert [each["priority"] for each in details] == ["normal", "high", "normal"]
    assert [each["type"] for each in details] == ["default", "default", "image"]
    history = [(await api.alice.history(task_id))[0] for task_id in ids]
    assert {(event["batch"], event["batch_size"]) for event in history} == {(batch_id, 3)}


@pytest.mark.parametrize("many", [1, 1000])
async def test_a_batch_may_have_a_thousand_tasks(api: Service, many: int) -> None:
    batch_id, ids = await submitted(api.alice, *({"n": number} for number in range(many)))

    assert len(set(ids)) == many
    answer = await api.alice.get(f"/api/batches/{batch_id}")
    assert (answer["size"], answer["counts"]) == (many, counts(WAITING=many))
    assert (await api.alice.details(ids[-1]))["request"] == {"n": many - 1}


async def test_a_batch_may_have_a_task_on_each_line(api: Service) -> None:
    body = b'{"a": 1}\n\n{"payload": "two", "priority": "low"}\r\n{"a": "\xc3\xa9"}'

    answer = await api.alice.post(
        "/api/tasks/batch", body, headers={"Content-Type": "application/x-ndjson; charset=utf-8"}
    )

    details = [await api.alice.details(task_id) for task_id in answer["taskIds"]]
    assert [each["request"] for each in details] == [{"a": 1}, "two", {"a": "é"}]


async def test_every_bad_task_is_named_and_none_is_stored(api: Service) -> None:
    await api.admin.put("/api/types/strict", {"schema": {"properties": {"width": {"type": "integer"}}}})

    answer = await api.alice.post(
        "/api/tasks/batch",
        [
            {"fine": True},
            {"payload": 1, "priority": "urgent"},
            7,
            {"type": "strict", "payload": {"width": "wide"}},
            {"priority": "high"},
            {"payload": {}, "colour": "red"},
            {"payload": 1, "dependsOn": [9]},
        ],
    )

    found = errors(answer)
    assert set(found) == {1, 2, 3, 4, 5, 6}
    assert found[1][1] == "$.priority"
    assert found[2] == ("a task must be a JSON object", "$")
    assert found[3][1] == "$.payload.width"
    assert "no `payload`" in found[4][0]
    assert found[5][1] == "$.colour"
    assert found[6] == ("there is no task 9 in this batch of 7; places are counted from 0", "$.dependsOn[0]")
    assert "6 of 7" in answer["error"]
    assert await api.alice.tasks() == []


async def test_a_bad_line_is_named_by_its_place(api: Service) -> None:
    headers = {"Content-Type": "application/x-ndjson"}

    answer = await api.alice.post("/api/tasks/batch", b'{"a": 1}\n\n{"a"\n{"b": "\xff"}\n[]', headers=headers)

    found = errors(answer)
    assert set(found) == {1, 2, 3}
    assert "not valid JSON" in found[1][0]
    assert await api.alice.tasks() == []


async def test_what_is_no_batch_is_refused(api: Service) -> None:
    bodies = [b"", b"{}", b"[", b"null", b'[{"a": 1}, {"b": ]', b'["\xff"]', b"[" * 5000, b'[{"a":"\\ud800"}]']
    for body in (*bodies, [], [{"n": 1}] * 1001):
        answer = await api.alice.post("/api/tasks/batch", body)
        assert answer.status == 400, body
        assert isinstance(body, bytes) or "1 to 1,000 tasks" in answer["error"]

    assert await api.alice.tasks() == []


async def test_a_task_nested_too_deep_or_too_large_is_named(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, max_body=1000, max_json_depth=10) as api:
        answer = await api.alice.post(
            "/api/tasks/batch", [{"a": 1}, {"a": json.loads("[" * 20 + "]" * 20)}, {"a": "x" * 1000}]
        )

        found = errors(answer)
        assert set(found) == {1, 2}
        assert "deeper than 10" in found[1][0]
        assert "1000 bytes at most" in found[2][0]


async def test_a_batch_larger_than_the_setting_is_a_413(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, max_batch_body=2_000) as api:
        assert (await api.alice.post("/api/tasks/batch", [{"a": "x" * 900}] * 3)).status == 413
        assert (await api.alice.post("/api/tasks/batch", [{"a": "x" * 900}] * 2)).status == 200


async def test_tasks_whose_concurrency_key_is_in_use_are_named_and_the_others_run(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.put("/api/types/image", {"keyConcurrency": 1, "onConflict": "refuse"})
    await service.admin.register(backend, "one", types=["image"])
    image = {"type": "image", "payload": 1}

    answer = await service.alice.post(
        "/api/tasks/batch", [image | {"concurrencyKey": key} for key in ("a", "b", "a", "a")] + [image]
    )

    assert answer.status == 200
    assert [found["index"] for found in answer["refused"]] == [2, 3]
    assert all("same concurrency key" in found["error"] for found in answer["refused"])
    assert (await done(service.alice, answer["batchId"]))["counts"] == counts(FINISHED=3, CANCELLED=2)


# Idempotency


async def test_the_same_key_and_body_give_the_same_batch(api: Service) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await api.alice.post("/api/tasks/batch", [{"a": 1}, {"b": 2}], headers=headers)

    again = await api.alice.post("/api/tasks/batch", [{"a": 1}, {"b": 2}], headers=headers)

    assert first["repeated"] is False
    assert again.body == first.body | {"repeated": True}
    assert len(await api.alice.tasks()) == 2


async def test_the_same_key_with_another_body_is_a_422(api: Service) -> None:
    headers = {"Idempotency-Key": "k1"}
    await submitted(api.alice, {"a": 1}, headers=headers)

    for other in ([{"a": 2}], [{"a": 1}, {"a": 1}], []):
        assert (await api.alice.post("/api/tasks/batch", other, headers=headers)).status == 422
    assert len(await api.alice.tasks()) == 1


async def test_a_key_is_apart_for_tasks_for_batches_and_for_each_caller(api: Service) -> None:
    headers = {"Idempotency-Key": "k1"}
    task_id = await api.alice.submit({"a": 1}, headers=headers)
    of_alice, ids = await submitted(api.alice, {"a": 1}, headers=headers)
    of_bob, _ = await submitted(api.bob, {"a": 1}, headers=headers)

    assert task_id not in ids
    assert of_alice != of_bob


async def test_first_submissions_at_once_make_one_batch(api: Service) -> None:
    bodies = [{"n": number} for number in range(30)]
    found = await asyncio.gather(*(submitted(api.alice, *bodies, headers={"Idempotency-Key": "k"}) for _ in range(10)))

    assert len({batch_id for batch_id, _ in found}) == 1
    assert len(await api.alice.tasks()) == 30


async def test_of_two_bodies_at_once_one_wins_whole_and_the_other_is_a_422(api: Service) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(api.alice.post("/api/tasks/batch", [{"n": n % 2}] * 20, headers=headers) for n in range(10))
    )

    assert sorted(answer.status for answer in answers) == [200] * 5 + [422] * 5
    batch_id = next(answer["batchId"] for answer in answers if answer.status == 200)
    requests = [(await api.alice.details(task["id"]))["request"]["n"] for task in await listed(api.alice, batch_id)]
    assert len(set(requests)) == 1


async def test_a_batch_of_which_only_a_part_was_stored_is_completed_by_the_same_key(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the store ran full meanwhile. It is listed once, where it began."""
    headers = {"Idempotency-Key": "k"}
    bodies = [{"n": number} for number in range(4)]
    together = api.container.commands.submit_together

    async def partly(submissions: Any, **more: Any) -> Any:
        return 2 * await together(submissions[:2], **more)

    monkeypatch.setattr(api.container.commands, "submit_together", partly)
    batch_id, _ = await submitted(api.alice, *bodies, headers=headers)
    monkeypatch.undo()
    between, _ = await submitted(api.alice, {"n": 1})

    assert (await submitted(api.alice, *bodies, headers=headers))[0] == batch_id

    assert (await api.alice.get(f"/api/batches/{batch_id}"))["counts"] == counts(WAITING=4)
    assert len(await api.alice.tasks()) == 5
    assert await listed_batches(api.alice) == [between, batch_id]


# Lists


async def listed_batches(client: Client, query: str = "") -> list[str]:
    """Return the ids of all batches there are, by pages."""
    return [batch["id"] for batch in await client.listed("/api/batches", "batches", query)]


async def test_batches_are_listed_newest_first_by_pages_whatever_is_submitted_between(api: Service) -> None:
    ids = []
    for size in (1, 300, 2, 1000, 3):
        ids.append((await submitted(api.alice, *({"n": number} for number in range(size))))[0])
        await api.alice.submit({"a": "single task"})
        await submitted(api.bob, {"n": 1}, {"n": 2})

    for limit in (1, 2, 5, 50):
        assert await listed_batches(api.alice, f"limit={limit}") == ids[::-1]
    page = await api.alice.get("/api/batches?limit=5")
    assert [(batch["size"], batch["owner"], batch["counts"]) for batch in page["batches"]] == [
        (size, "alice", None) for size in (3, 1000, 2, 300, 1)
    ]


async def test_a_list_of_batches_has_counts_where_they_are_asked_for(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_batches, "MOST_COUNTED", 4)
    ids = [(await submitted(api.alice, *([{"n": 1}] * 2)))[0] for _ in range(3)]
    await api.alice.post(f"/api/batches/{ids[2]}/cancel")

    page = await api.alice.get("/api/batches?counts=true")

    assert [(batch["id"], batch["counts"]) for batch in page["batches"]] == [
        (ids[2], counts(CANCELLED=2)),
        (ids[1], counts(WAITING=2)),
    ]
    assert await listed_batches(api.alice, "counts=true") == ids[::-1]


async def test_batches_of_others_are_listed_to_admins_and_auditors_alone(api: Service) -> None:
    mine, _ = await submitted(api.alice, {"n": 1})
    theirs, _ = await submitted(api.bob, {"n": 1})

    assert await listed_batches(api.alice) == [mine]
    assert (await api.alice.get("/api/batches?owner=bob")).status == 403
    for client in (api.admin, api.auditor):
        assert await listed_batches(client) == [theirs, mine]
        assert await listed_batches(client, "owner=alice") == [mine]


async def test_a_batch_whose_tasks_are_all_deleted_is_not_listed(api: Service) -> None:
    kept, ids = await submitted(api.alice, {"n": 1}, {"n": 2})
    gone, _ = await submitted(api.alice, {"n": 1}, {"n": 2})
    await api.alice.delete(f"/api/batches/{gone}")
    await api.alice.post("/api/tasks/delete", {"ids": ids[1:]})

    assert await listed_batches(api.alice) == [kept]
    assert await listed_batches(api.auditor) == [gone, kept]


# Following


async def test_a_batch_shows_counts_and_progress(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=2)
    batch_id, ids = await submitted(service.alice, *({"n": number} for number in range(4)))
    await asyncio.gather(*(service.alice.reaches(task_id, "PROCESSING") for task_id in ids[:2]))

    answer = await service.alice.get(f"/api/batches/{batch_id}")
    assert answer["counts"] == counts(WAITING=2, PROCESSING=2)
    assert (answer["done"], answer["endedAt"], answer["progress"]) == (False, None, 0)

    await service.alice.post(f"/api/task/{ids[3]}/cancel")
    assert (await service.alice.get(f"/api/batches/{batch_id}"))["progress"] == 25
    backend.let_go.set()
    end = await done(service.alice, batch_id)
    assert end["counts"] == counts(FINISHED=3, CANCELLED=1)
    assert end["progress"] == 100
    assert end["createdAt"] <= end["endedAt"] <= end["updatedAt"]


async def test_the_tasks_of_a_batch_are_listed_in_order_by_pages_and_by_status(api: Service) -> None:
    batch_id, ids = await submitted(api.alice, *({"n": number} for number in range(25)))
    await asyncio.gather(*(api.alice.post(f"/api/task/{task_id}/cancel") for task_id in ids[::5]))

    found = await api.alice.pages(f"/api/batches/{batch_id}/tasks", "tasks", "limit=10")
    assert [[task["id"] for task in page] for page in found] == [ids[:10], ids[10:20], ids[20:]]
    cancelled = await listed(api.alice, batch_id, "?status=CANCELLED&limit=200")
    assert [(task["index"], task["id"]) for task in cancelled] == [(place, ids[place]) for place in range(0, 25, 5)]
    assert (await api.alice.get(f"/api/batches/{batch_id}/tasks?status=LOST")).status == 400


async def test_results_are_listed_where_they_are_asked_for(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    batch_id, ids = await submitted(service.alice, *({"n": number} for number in range(3)))
    await done(service.alice, batch_id)

    assert [task["result"] for task in await listed(service.alice, batch_id)] == [None] * 3
    found = await listed(service.alice, batch_id, "?results=true")
    assert [task["result"]["data"] for task in found] == [{"echo": {"n": number}} for number in range(3)]
    assert [task["id"] for task in found] == ids


async def test_auditors_see_batches_and_admins_command_them(api: Service) -> None:
    batch_id, _ = await submitted(api.alice, {"a": 1})
    path = f"/api/batches/{batch_id}"

    assert (await api.auditor.get(path)).status == 200
    for method, command in (("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")):
        assert await api.auditor.refusal(method, path + command) == (403, None)
    assert (await api.admin.post(f"{path}/cancel"))["done"] == 1


async def test_what_is_no_batch_is_not_found(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    for batch_id in ("x", "*", "0" * 26 + "~alice", "0" * 25 + "1~alice", task_id[:24] + "00" + task_id[26:]):
        assert await api.alice.refusal("GET", f"/api/batches/{batch_id}") == (404, None), batch_id


# Streams


def places(events: list[Sent]) -> list[tuple[str, int]]:
    return [(sent.data["taskId"], sent.sequence) for sent in events if sent.type not in ("batch", "state")]


async def test_a_stream_has_the_batch_its_tasks_every_event_of_theirs_and_its_end(
    service: Service, backend: BackendServer
) -> None:
    batch_id, ids = await submitted(service.alice, {"n": 0}, {"n": 1})
    async with opened(service.alice, f"/api/batches/{batch_id}/stream") as stream:
        first = await received(stream, 3)
        await service.alice.submit({"another": "task"})
        await service.admin.register(backend, "one")
        rest = [sent async for sent in stream]

    assert [sent.type for sent in first] == ["batch", "state", "state"]
    assert [sent.data.get("taskId") or sent.data["batchId"] for sent in first] == [batch_id, *ids]
    assert first[0].data["batch"]["counts"] == counts(WAITING=2)
    assert sorted(sent.type for sent in rest[:-1]) == ["AttemptStarted"] * 2 + ["TaskSucceeded"] * 2
    assert {sent.data["taskId"] for sent in rest[:-1]} == set(ids)
    assert rest[-1].data["batch"]["counts"] == counts(FINISHED=2)
    assert rest[-1].data["batch"]["done"] is True


async def test_a_stream_goes_on_after_the_last_event_received(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    batch_id, ids = await submitted(service.alice, {"n": 0}, {"n": 1}, {"n": 2})
    await done(service.alice, batch_id)
    events = []
    for task_id in ids:
        answer = await service.alice.get(f"/api/task/{task_id}/events")
        events += [(task_id, entry["sequence"]) for entry in answer["events"]]
    events.sort(key=lambda event: event[1])

    for place in range(2, len(events) - 1):
        async with opened(service.alice, f"/api/batches/{batch_id}/stream", last=events[place][1]) as stream:
            rest = [sent async for sent in stream]
        assert places(rest) == events[place + 1 :]
        assert rest[-1].type == "batch"
    async with opened(service.alice, f"/api/batches/{batch_id}/stream", last=events[-1][1]) as stream:
        assert stream.response.status == 204


async def test_a_stream_broken_off_again_and_again_misses_nothing(service: Service, backend: BackendServer) -> None:
    batch_id, ids = await submitted(service.alice, *({"n": number} for number in range(20)))
    async with opened(service.alice, f"/api/batches/{batch_id}/stream") as stream:
        await received(stream, 1 + len(ids))
    last, status = stream.last_id, 200
    await service.admin.register(backend, "one", maxConcurrent=3)
    found: list[tuple[str, int]] = []
    while status == 200:
        async with opened(service.alice, f"/api/batches/{batch_id}/stream", last=last) as stream:
            status = stream.response.status
            found += places(await received(stream, 3)) if status == 200 else []
            last = stream.last_id or last

    assert found == sorted(set(found), key=lambda event: event[1])
    seen = {task_id: [sequence for each, sequence in found if each == task_id] for task_id in ids}
    for task_id, sequences in seen.items():
        events = (await service.alice.get(f"/api/task/{task_id}/events"))["events"]
        assert sequences == [entry["sequence"] for entry in events[1:]]


async def test_what_became_of_a_cancelled_task_does_not_make_it_run_again(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=2)
    batch_id, ids = await submitted(service.alice, {"n": 0}, {"n": 1})
    async with opened(service.alice, f"/api/batches/{batch_id}/stream") as stream:
        await wait_until(lambda: len(backend.calls) == 2, "both calls")
        await service.alice.post(f"/api/task/{ids[0]}/cancel")
        found = [await received(stream, 1)]
        while found[-1][0].type != "CancelReported":
            found.append(await received(stream, 1))
        backend.let_go.set()
        rest = [sent async for sent in stream]

    assert [sent.type for sent in rest] == ["TaskSucceeded", "batch"]
    assert rest[-1].data["batch"]["counts"] == counts(FINISHED=1, CANCELLED=1)


async def test_the_stream_of_a_batch_that_has_ended_is_its_state(api: Service) -> None:
    batch_id, _ = await submitted(api.alice, {"n": 0}, {"n": 1})
    await api.alice.post(f"/api/batches/{batch_id}/cancel")

    async with opened(api.alice, f"/api/batches/{batch_id}/stream") as stream:
        events = [sent async for sent in stream]

    assert [sent.type for sent in events] == ["batch", "state", "state"]


# Commands


async def test_a_batch_is_cancelled_retried_and_deleted_as_one(api: Service) -> None:
    batch_id, ids = await submitted(api.alice, *({"n": number} for number in range(10)))
    await api.alice.post(f"/api/task/{ids[0]}/cancel")

    answer = await api.alice.post(f"/api/batches/{batch_id}/cancel", {"reason": "enough"})
    assert (answer["matched"], answer["done"], answer["unchanged"], answer["refused"]) == (10, 9, 1, [])
    assert (await api.alice.details(ids[5]))["error"] == "enough"

    answer = await api.alice.post(f"/api/batches/{batch_id}/retry")
    assert answer["done"] == 10
    answer = await api.alice.post(f"/api/batches/{batch_id}/retry")
    assert answer["done"] == 0
    assert [(found["count"], set(found["ids"])) for found in answer["refused"]] == [(10, set(ids))]
    assert "waiting" in answer["refused"][0]["reason"]

    answer = await api.alice.delete(f"/api/batches/{batch_id}")
    assert answer["done"] == 10
    assert (await api.alice.get(f"/api/batches/{batch_id}")).status == 404
    assert await api.alice.tasks() == []
    assert (await api.auditor.get(f"/api/batches/{batch_id}"))["counts"] == counts(CANCELLED=10)


# Within the batch


async def test_places_in_the_batch_become_ids(api: Service) -> None:
    _, ids = await submitted(api.alice, {"n": 0}, {"payload": 1, "dependsOn": [0, 2]}, {"payload": 2, "dependsOn": [0]})

    (first, *_), (second, *_) = [await api.alice.history(task_id) for task_id in ids[1:]]
    assert first["plan"]["depends_on"] == [ids[0], ids[2]]
    assert second["plan"]["depends_on"] == [ids[0]]


async def test_tasks_that_would_wait_for_each_other_are_refused_and_named(api: Service) -> None:
    answer = await api.alice.post(
        "/api/tasks/batch",
        [
            {"payload": 0, "dependsOn": [2]},
            {"payload": 1, "dependsOn": [0]},
            {"payload": 2, "dependsOn": [1]},
            {"payload": 3, "dependsOn": [3]},
            {"payload": 4, "dependsOn": [0]},
        ],
    )

    found = errors(answer)
    assert set(found) == {0, 1, 2, 3}
    cycle = found[0][0].rpartition(": ")[2].split(" → ")
    assert sorted(cycle[1:]) == ["0", "1", "2"]
    assert found[3][0].endswith("3 → 3")
    assert await api.alice.tasks() == []


async def test_parents_outside_a_batch_must_exist_and_have_its_owner(api: Service) -> None:
    mine = await api.alice.submit({"a": 1})
    theirs = await api.bob.submit({"a": 1})
    none = f"{'0' * 26}~alice"

    answer = await api.alice.post(
        "/api/tasks/batch",
        [
            {"payload": 0, "dependsOn": [mine, 1]},
            {"payload": 1, "dependsOn": [mine, theirs]},
            {"payload": 2, "dependsOn": [none, theirs, 0]},
        ],
    )

    assert errors(answer) == {
        1: (f"you have no task {theirs}", "$.dependsOn[1]"),
        2: (f"you have no task {none}", "$.dependsOn[0]"),
    }
    await submitted(api.alice, {"payload": 0, "dependsOn": [mine, 1]}, {"payload": 1})


async def test_a_batch_runs_in_the_order_of_its_dependencies(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", maxConcurrent=8)
    batch_id, _ = await submitted(
        service.alice,
        {"payload": "end", "dependsOn": [1, 2]},
        {"payload": "left", "dependsOn": [3]},
        {"payload": "right", "dependsOn": [3]},
        {"payload": "begin"},
    )

    assert (await done(service.alice, batch_id))["counts"] == counts(FINISHED=4)
    order = [call["request"] for call in backend.calls]
    assert order[0] == "begin"
    assert order[3] == "end"


async def test_a_batch_that_is_retried_runs_in_that_order_again(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_actions, "AT_ONCE", 1)
    batch_id, ids = await submitted(
        service.alice,
        {"payload": "end", "dependsOn": list(range(1, 101))},
        *({"payload": "middle", "dependsOn": [101]} for _ in range(100)),
        {"payload": "begin"},
    )
    await service.alice.post(f"/api/batches/{batch_id}/cancel")
    await service.admin.register(backend, "one", maxConcurrent=8)

    assert (await service.alice.post(f"/api/batches/{batch_id}/retry"))["done"] == 102

    assert (await done(service.alice, batch_id))["counts"] == counts(FINISHED=102)
    order = [call["request"] for call in backend.calls]
    assert (order[0], order[101]) == ("begin", "end")
    parents = {parent["task_id"]: parent["status"] for call in backend.calls for parent in call.get("parents") or []}
    assert parents == dict.fromkeys(ids[1:], "FINISHED")


async def test_a_parent_that_fails_again_in_a_retried_batch_fails_its_children(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = status(400)
    await service.admin.register(backend, "one", maxConcurrent=8)
    batch_id, _ = await submitted(service.alice, {"payload": 0}, *({"payload": 1, "dependsOn": [0]} for _ in range(40)))
    await done(service.alice, batch_id)

    assert (await service.alice.post(f"/api/batches/{batch_id}/retry"))["done"] == 41

    assert (await done(service.alice, batch_id))["counts"] == counts(FAILED=41)
    assert [call["request"] for call in backend.calls] == [0, 0]
