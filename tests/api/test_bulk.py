"""Commands to many tasks at once, by ids or by a filter, and dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from taskstream.api.routes import bulk
from taskstream.index import dead_letters
from testkit.backend import BackendServer, status
from testkit.queue_surface import MODEL
from testkit.service import Answer, Client, Service

NONE = f"{'0' * 26}~alice"


async def submitted(client: Client, many: int, **options: Any) -> list[str]:
    """Submit tasks; return their ids."""
    bodies = [{"payload": {"n": n}, **options} for n in range(many)]
    ids: list[str] = (await client.done("POST", "/api/tasks/batch", bodies))["taskIds"]
    return ids


async def statuses(client: Client, ids: Iterable[str]) -> list[str]:
    return [(await client.details(task_id))["status"] for task_id in ids]


def tally(answer: Answer) -> tuple[int, int, int, dict[str, int]]:
    """Return how many matched, were done, were so already, and were refused, by reason."""
    assert answer.status == 200, answer
    refused = {found["reason"]: found["count"] for found in answer["refused"]}
    assert answer["matched"] == answer["done"] + answer["unchanged"] + sum(refused.values())
    assert all(len(found["ids"]) == found["count"] for found in answer["refused"])
    return answer["matched"], answer["done"], answer["unchanged"], refused


# By ids


async def test_many_are_cancelled_and_each_of_the_others_has_its_reason(
    service: Service, backend: BackendServer
) -> None:
    waiting = await submitted(service.alice, 3, type="nobody-serves-it")
    await service.alice.post(f"/api/task/{waiting[0]}/cancel")
    await service.admin.register(backend, "one", types=["default"])
    finished = await service.alice.submit({"payload": 1})
    await service.alice.ended(finished)
    theirs = await service.bob.submit({"type": "nobody-serves-it", "payload": 1})

    answer = await service.alice.post(
        "/api/tasks/cancel", {"ids": [*waiting, waiting[1], finished, theirs, NONE], "reason": "enough"}
    )

    assert tally(answer) == (
        6,
        2,
        1,
        {"the task has already ended: succeeded": 1, "there is no such task": 2},
    )
    assert (await service.alice.details(waiting[2]))["error"] == "enough"
    assert await statuses(service.bob, [theirs]) == ["WAITING"]


async def test_many_are_retried_and_deleted(api: Service) -> None:
    ids = await submitted(api.alice, 5)
    await api.alice.post("/api/tasks/cancel", {"ids": ids[:3]})

    answer = await api.alice.post("/api/tasks/retry", {"ids": ids})
    assert tally(answer)[:3] == (5, 3, 0)
    assert await statuses(api.alice, ids) == ["WAITING"] * 5

    assert tally(await api.alice.post("/api/tasks/delete", {"ids": ids[:4]})) == (4, 4, 0, {})
    assert [task["id"] for task in (await api.alice.get("/api/tasks"))["tasks"]] == ids[4:]
    assert tally(await api.alice.post("/api/tasks/delete", {"ids": ids})) == (5, 1, 4, {})


async def test_tasks_past_their_expiry_are_not_retried(service: Service) -> None:
    soon = int(time.time() * 1000) + 300
    too_late = await submitted(service.alice, 2, expiresAt=soon, type="nobody-serves-it")
    [other] = await submitted(service.alice, 1, type="nobody-serves-it")
    await service.alice.post(f"/api/task/{other}/cancel")
    for task_id in too_late:
        await service.alice.reaches(task_id, "FAILED")

    for dry_run in (True, False):
        answer = await service.alice.post("/api/tasks/retry", {"ids": [*too_late, other], "dryRun": dry_run})
        assert (answer["done"], answer["unchanged"]) == (1, 0)
        [refused] = answer["refused"]
        assert (refused["count"], refused["ids"]) == (2, sorted(too_late))
        assert "submit it again" in refused["reason"]


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(api: Service) -> None:
    ids = await submitted(api.alice, 3)
    await api.alice.post(f"/api/task/{ids[0]}/cancel")

    for body in ({"ids": [*ids, NONE]}, {"filter": {"status": ["WAITING", "CANCELLED"]}}):
        answer = await api.alice.post("/api/tasks/cancel", body | {"dryRun": True})
        assert answer["dryRun"] is True
        assert (answer["done"], answer["unchanged"]) == (2, 1)
    assert await statuses(api.alice, ids) == ["CANCELLED", "WAITING", "WAITING"]


async def test_a_thousand_ids_fit_in_one_request(api: Service) -> None:
    ids = await submitted(api.alice, 1000)

    assert tally(await api.alice.post("/api/tasks/cancel", {"ids": ids})) == (1000, 1000, 0, {})
    assert (await api.alice.post("/api/tasks/cancel", {"ids": [*ids, NONE]})).status == 400


async def test_admins_command_all_tasks_and_auditors_none(api: Service) -> None:
    ids = await submitted(api.alice, 2)

    assert tally(await api.auditor.post("/api/tasks/cancel", {"ids": ids})) == (2, 0, 0, {"there is no such task": 2})
    assert tally(await api.admin.post("/api/tasks/cancel", {"ids": ids[:1]})) == (1, 1, 0, {})
    assert (await api.anonymous.post("/api/tasks/cancel", {"ids": ids})).status == 401


WRONG: list[tuple[Any, str | None]] = [
    ({}, None),
    ({"ids": []}, None),
    ({"ids": ["x"]}, None),
    ({"ids": [NONE], "filter": {"status": ["FAILED"]}}, None),
    ({"filter": {}}, None),
    ({"filter": {"owner": "alice"}}, None),
    ({"filter": {"status": ["LOST"]}}, None),
    ({"filter": {"colour": "red"}}, None),
    ({"filter": {"status": ["FAILED"]}, "cursor": "x"}, None),
    ({"filter": {"createdAfter": "yesterday"}}, None),
    ({"filter": {"batch": ""}}, "$.filter.batch"),
    ({"filter": {"batch": "x"}}, "$.filter.batch"),
    ({"filter": {"batch": NONE[:25] + "1~alice"}}, "$.filter.batch"),
]


async def test_a_body_that_does_not_name_its_tasks_is_refused(api: Service) -> None:
    await submitted(api.alice, 1)

    for body, path in WRONG:
        status, found = await api.alice.refusal("POST", "/api/tasks/delete", body)
        assert (status, found if path else None) == (400, path), body
    assert len(await api.alice.tasks()) == 1


# By a filter


async def test_a_filter_matches_the_callers_tasks_that_fulfil_all_its_conditions(api: Service) -> None:
    images = await submitted(api.alice, 3, type="image")
    await submitted(api.alice, 2)
    await submitted(api.bob, 2, type="image")
    await api.alice.post(f"/api/task/{images[0]}/cancel")

    answer = await api.alice.post("/api/tasks/cancel", {"filter": {"type": ["image"], "status": ["WAITING"]}})

    assert tally(answer) == (2, 2, 0, {})
    assert answer["nextCursor"] is None
    assert await statuses(api.alice, images) == ["CANCELLED"] * 3


async def test_a_filter_by_batch_project_and_time(api: Service) -> None:
    await submitted(api.alice, 1)
    middle = int(datetime.now(UTC).timestamp() * 1000) + 1
    await asyncio.sleep(0.01)
    batch = await api.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}])
    await api.alice.post("/api/projects/novel/queue-chapters", {}, headers=MODEL)

    async def matched(**asked: Any) -> int:
        answer = await api.alice.post("/api/tasks/delete", {"filter": asked, "dryRun": True})
        return tally(answer)[0]

    assert await matched(batch=batch["batchId"]) == 2
    assert await matched(project="novel") == 1
    assert await matched(createdAfter=middle) == 3
    assert await matched(createdBefore=middle) == 1
    assert await matched(createdAfter=middle, createdBefore="2999-01-01T00:00:00+01:00") == 3
    assert await matched(batch=batch["batchId"], createdBefore=middle) == 0
    assert (await api.alice.post("/api/tasks/delete", {"filter": {"batch": NONE}})).status == 404


async def test_a_filter_of_others_tasks_is_for_admins(api: Service) -> None:
    await submitted(api.alice, 2)
    batch = await api.bob.post("/api/tasks/batch", [{"n": 1}])

    def asked(**more: Any) -> dict[str, Any]:
        return {"filter": {"status": ["WAITING"], **more}, "dryRun": True}

    assert (await api.alice.post("/api/tasks/cancel", asked(owner="bob"))).status == 403
    assert (await api.auditor.post("/api/tasks/cancel", asked(owner="bob"))).status == 403
    assert (await api.alice.post("/api/tasks/cancel", asked(owner="*"))).status == 403
    assert (await api.alice.post("/api/tasks/cancel", asked(batch=batch["batchId"]))).status == 404
    refused = await api.admin.post("/api/tasks/cancel", asked())  # in a list it would be everybody
    assert (refused.status, refused["path"]) == (400, "$.filter.owner")
    assert tally(await api.admin.post("/api/tasks/cancel", asked(owner="bob")))[0] == 1
    assert tally(await api.admin.post("/api/tasks/cancel", asked(owner="*")))[0] == 3


@pytest.mark.parametrize("asked", [{"status": ["WAITING"]}, {"type": ["default"]}])
async def test_a_filter_with_more_matches_than_the_limit_takes_several_requests(
    api: Service, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr(bulk, "MOST_MATCHED", 10)
    ids = await submitted(api.alice, 25)

    done, requests, cursor = 0, 0, None
    while requests == 0 or cursor is not None:
        answer = await api.alice.post("/api/tasks/cancel", {"filter": asked, "cursor": cursor})
        cursor, done, requests = answer["nextCursor"], done + answer["done"], requests + 1
        assert answer["matched"] <= 10

    assert done == 25
    assert await statuses(api.alice, ids) == ["CANCELLED"] * 25


# Dead letters


async def letters(client: Client, query: str = "") -> list[tuple[str, str]]:
    answer = await client.done("GET", f"/api/dead-letters{query}")
    return [(letter["id"], letter["failureKind"]) for letter in answer["deadLetters"]]


async def failed(service: Service, backend: BackendServer, code: int, many: int = 1) -> list[str]:
    """Have tasks fail with a status, one after another; return their ids."""
    backend.answer = status(code)
    ids = []
    for _ in range(many):
        ids.append(await service.alice.submit({"payload": code, "attempts": 2}))
        await service.alice.reaches(ids[-1], "FAILED")
    return ids


async def test_a_task_that_failed_for_good_is_a_dead_letter_until_retried_or_discarded(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one", types=["default"])
    ids = await failed(service, backend, 400, 3)
    await service.alice.submit({"type": "nobody-serves-it", "payload": 1})
    assert await letters(service.alice) == [(task_id, "rejected") for task_id in ids]
    assert await letters(service.bob) == []
    assert await letters(service.auditor) == await letters(service.alice)

    backend.answer = BackendServer().answer
    answer = await service.alice.post("/api/dead-letters/retry", {"ids": [*ids[:1], NONE]})
    assert tally(answer)[:2] == (2, 1)
    await service.alice.reaches(ids[0], "FINISHED")
    assert tally(await service.alice.post("/api/dead-letters/discard", {"ids": [ids[1], ids[0]]}))[:2] == (2, 1)
    assert await letters(service.alice) == [(ids[2], "rejected")]
    assert await statuses(service.alice, ids[:1]) == ["FINISHED"]


async def test_a_task_without_attempts_left_is_one_dead_letter_however_often_it_failed(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one", types=["default"])
    [task_id] = await failed(service, backend, 500)
    assert await letters(service.alice) == [(task_id, "error")]

    await service.alice.post("/api/dead-letters/retry", {"filter": {}})
    await service.alice.reaches(task_id, "FAILED")

    assert await letters(service.alice) == [(task_id, "error")]


async def test_dead_letters_are_listed_by_kind_type_time_and_pages(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", types=["default"])
    rejected = await failed(service, backend, 400, 3)
    middle = (await service.alice.details(rejected[1]))["endedAt"] + 1
    [broken] = await failed(service, backend, 500)

    assert await letters(service.alice, "?kind=error") == [(broken, "error")]
    assert len(await letters(service.alice, "?kind=error,rejected")) == 4
    assert len(await letters(service.alice, f"?since={middle}")) == 2
    assert len(await letters(service.alice, f"?before={middle}")) == 2
    assert await letters(service.alice, "?type=image") == []
    assert (await service.alice.get("/api/dead-letters?kind=gone")).status == 400
    found = await service.alice.listed("/api/dead-letters", "deadLetters", "limit=3")
    assert [letter["id"] for letter in found] == [*rejected, broken]

    asked = {"filter": {"kind": ["rejected"], "since": middle}}
    assert tally(await service.alice.post("/api/dead-letters/discard", asked | {"dryRun": True})) == (1, 1, 0, {})
    assert tally(await service.alice.post("/api/dead-letters/discard", asked)) == (1, 1, 0, {})
    assert [letter for letter, _ in await letters(service.alice)] == [*rejected[:2], broken]


async def test_dead_letters_of_others_are_for_admins(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", types=["default"])
    ids = await failed(service, backend, 400, 2)

    assert (await service.bob.get("/api/dead-letters?owner=alice")).status == 403
    assert tally(await service.bob.post("/api/dead-letters/discard", {"ids": ids}))[1] == 0
    assert (await service.bob.post("/api/dead-letters/discard", {"filter": {"owner": "*"}})).status == 403
    assert (await service.admin.post("/api/dead-letters/discard", {"filter": {}})).status == 400
    assert tally(await service.admin.post("/api/dead-letters/discard", {"filter": {"owner": "*"}}))[1] == 2


async def grouped(client: Client, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = await client.done("GET", f"/api/dead-letters/groups{query}")
    return found


async def test_dead_letters_are_grouped_by_the_error_that_selects_them(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one", types=["default"])
    rejected = await failed(service, backend, 400, 3)
    [broken] = await failed(service, backend, 500)

    found = await grouped(service.alice)

    assert (found["count"], found["capped"], found["more"]) == (4, False, False)
    first, second = found["groups"]
    assert (first["kind"], first["count"], first["example"]["taskId"]) == ("rejected", 3, rejected[-1])
    assert (second["kind"], second["kinds"], second["example"]["taskId"]) == ("error", {"error": 1}, broken)
    assert (first["types"], first["servers"], sum(first["trend"])) == ({"default": 3}, {"one": 3}, 3)
    assert first["shape"].startswith("the server answered <n>")
    assert found["since"] <= first["first"] <= first["last"]
    assert await letters(service.alice, f"?shape={second['value']}") == [(broken, "error")]
    retried = {"filter": {"shape": first["value"]}, "dryRun": True}
    assert tally(await service.alice.post("/api/dead-letters/retry", retried))[:2] == (3, 3)


async def test_groups_of_dead_letters_take_the_filters_of_the_list(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", types=["default"])
    ids = await failed(service, backend, 400, 2)
    await failed(service, backend, 500)

    assert (await grouped(service.alice, "?kind=rejected"))["count"] == 2
    assert [each["value"] for each in (await grouped(service.alice, "?by=type"))["groups"]] == ["default"]
    [server] = (await grouped(service.alice, "?by=server"))["groups"]
    assert (server["value"], server["kind"], server["kinds"]) == ("one", None, {"rejected": 2, "error": 1})
    assert (await grouped(service.bob))["groups"] == []
    assert (await grouped(service.auditor))["count"] == 3
    assert await service.bob.refusal("GET", "/api/dead-letters/groups?owner=alice") == (403, None)
    assert await service.alice.refusal("GET", "/api/dead-letters/groups?by=owner") == (400, "by")
    await service.alice.post("/api/dead-letters/discard", {"ids": ids})
    assert (await grouped(service.alice))["count"] == 1


async def test_the_last_dead_letters_are_counted_if_there_are_too_many(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "COUNTED", 2)
    await service.admin.register(backend, "one", types=["default"])
    await failed(service, backend, 400)
    await failed(service, backend, 500, 2)

    found = await grouped(service.alice)

    assert (found["count"], found["capped"]) == (2, True)
    assert [each["kind"] for each in found["groups"]] == ["error"]


async def test_only_failed_tasks_are_dead_letters(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", types=["default"])
    [parent] = await failed(service, backend, 400)
    child = await service.alice.submit({"payload": 1, "dependsOn": [parent]})
    await service.alice.reaches(child, "FAILED")
    cancelled = await service.alice.submit({"type": "nobody-serves-it", "payload": 1})
    await service.alice.post(f"/api/task/{cancelled}/cancel")

    assert await letters(service.alice) == [(parent, "rejected")]
    assert (await service.alice.get("/api/dead-letters?kind=parent_failed")).status == 400
    answer = await service.alice.post("/api/dead-letters/discard", {"filter": {"kind": ["parent_failed"]}})
    assert answer.status == 400
    assert "worker_lost" in answer["error"]
