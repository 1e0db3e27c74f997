"""Tasks over HTTP: submissions, answers and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from testkit.backend import BackendServer
from testkit.service import Answer, Service


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


OLD_CLIENTS_BODY = {
    "mimeType": "video/mp4",
    "model": "m1",
    "video_quality": "high",
    "video_url": "https://example.org/v",
    "enable_upscale": True,
}


async def test_a_body_without_our_options_is_the_payload_as_a_whole(api: Service) -> None:
    answer = await api.alice.post("/api/task", OLD_CLIENTS_BODY)

    assert answer.status == 200
    assert answer["taskDetails"]["request"] == OLD_CLIENTS_BODY
    assert answer["taskDetails"]["type"] == "default"


async def test_a_body_with_a_payload_takes_options_beside_it(api: Service) -> None:
    body = {"type": "ü.>*", "payload": {"a": [1, None]}, "priority": "high", "timeout": 5, "attempts": 7}

    details = (await api.alice.post("/api/task", body))["taskDetails"]

    assert details["request"] == {"a": [1, None]}
    assert (details["type"], details["priority"], details["attempts"]) == ("ü.>*", "high", 7)


async def test_a_payload_may_be_any_json(api: Service) -> None:
    wide = [[]] * 10_000
    for payload in ({}, [], "text", 0, None, False, {"payload": 1}, nested(63), [nested(62)] * 2, wide, "[{" * 9_000):
        answer = await api.alice.post("/api/task", {"payload": payload})
        assert answer.status == 200, answer
        assert answer["taskDetails"]["request"] == payload


async def test_a_payload_comes_back_as_it_was_submitted(api: Service) -> None:
    body = b'{"big": 123456789012345678901234567890, "exact": 1.10, "text": "\\u00e9\xc3\xa9", "in": {"type": 1}}'

    task_id = await api.alice.submit(b" \n" + body + b"\n")

    async with api.alice.session.get(
        f"{api.url}/api/task/{task_id}", headers={"Authorization": f"Bearer {api.alice.bearer}"}
    ) as response:
        assert body in await response.read()


async def test_a_task_shows_the_fields_that_clients_know(api: Service) -> None:
    answer = await api.alice.post("/api/task", {"a": 1})
    task_id, details = answer["taskId"], answer["taskDetails"]

    assert answer.body.keys() == {"taskId", "taskDetails"}
    assert details["id"] == task_id
    assert details["status"] == "WAITING"
    assert (details["serverId"], details["result"], details["error"]) == (None, None, None)
    assert details["createdAt"] == details["updatedAt"]
    assert isinstance(details["createdAt"], int)
    assert details["callbackUrl"] == f"{api.url}/api/task/{task_id}"
    assert (await api.alice.get(f"/api/task/{task_id}")).body == answer.body


async def test_a_finished_task_shows_server_and_result(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")

    details = await service.alice.ended(await service.alice.submit({"a": 1}))

    assert (details["status"], details["serverId"], details["error"]) == ("FINISHED", "echo", None)
    assert details["result"]["data"] == {"echo": {"a": 1}}
    assert details["result"]["metadata"]["status"] == "FINISHED"
    assert details["createdAt"] <= details["startedAt"] <= details["endedAt"] == details["updatedAt"]
    events = [event["type"] for event in await service.alice.history(details["id"])]
    assert events == ["TaskSubmitted", "AttemptStarted", "TaskSucceeded"]


INPUT = "send the task's input as `payload`"
NAMED = "must be one of high, low, normal, or null; given: 'urgent'"
WRONG: list[tuple[Any, str | None, str]] = [
    *[({option: "high", "url": "x"}, "$.payload", repr(option)) for option in ("type", "priority", "timeout")],
    ({"attempts": 2}, "$.payload", INPUT),
    ({"payload": 1, "type": 3}, "$.type", ""),
    ({"payload": 1, "type": ""}, "$.type", ""),
    ({"payload": 1, "type": None}, "$.type", ""),
    ({"payload": 1, "type": "a\x00"}, "$.type", ""),
    ({"payload": 1, "type": "a\nb"}, "$.type", ""),
    ({"payload": 1, "type": "a" * 129}, "$.type", ""),
    ({"payload": 1, "priority": "urgent"}, "$.priority", NAMED),
    ({"payload": 1, "timeout": 0}, "$.timeout", ""),
    ({"payload": 1, "timeout": -1}, "$.timeout", ""),
    ({"payload": 1, "timeout": 604_801}, "$.timeout", ""),
    ({"payload": 1, "timeout": "5"}, "$.timeout", ""),
    ({"payload": 1, "attempts": 0}, "$.attempts", ""),
    ({"payload": 1, "attempts": 101}, "$.attempts", ""),
    ({"payload": 1, "attempts": 1.5}, "$.attempts", ""),
    ({"payload": 1, "attempts": True}, "$.attempts", ""),
    ({"payload": 1, "require": {"": "a"}}, "$.require", "has a name that must be "),
    ({"payload": 1, "deadline": "9999-12-31T23:59:59-12:00"}, "$.deadline", ""),
    ({"payload": 1, "prioritty": "high"}, "$.prioritty", "unknown field `prioritty`"),
    *[({"payload": 1, name: 5}, f"$.{name}", "unknown field") for name in ("a\nb", "`", "", ".", "\u2028", "x" * 50)],
    ({"payload": nested(64)}, None, "deeper than 64 levels"),
    (b"[" * 200_000, None, "deeper than 64 levels"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, None, "deeper than 64 levels"),
    (b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}", None, "deeper than 64 levels"),
    (b"", None, "the body is empty"),
    (b" \r\n", None, "the body is empty"),
    *[(body, "$", "the body must be a JSON object") for body in (b"null", b"[]", b"1", b'"x"', b"true", b'[{"a":1}]')],
    (b'{"a":1e999}', None, "the body has a number that is out of range"),
    *[
        (body, None, "the body is not valid JSON")
        for body in (
            b"{", b'{"a":1', b'{"a":}', b"{'a': 1}", b'{"a":NaN}', b'{"a":1}x', b'{"a":1}{"b":2}',
            b"\x00", b"\xff\xfe{\x00}\x00", b'{"a":"\xff"}', b'{"\xc3": 1}', b'{"payload":"\xed\xa0\x80"}',
            b'{"a":"\\ud800"}', b"a=1&b=2",
        )
    ],
]  # fmt: skip


async def test_a_wrong_submission_is_refused_by_its_path_with_the_reason(api: Service) -> None:
    for body, path, says in WRONG:
        answer = await api.alice.post("/api/task", body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.body.get("path"), says in answer["error"]) == (400, path, True), answer
    assert await api.alice.tasks() == []


async def test_json_is_taken_whatever_its_content_type_says(api: Service) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        answer = await api.alice.post("/api/task", b'{"a": 1}', headers={"Content-Type": content_type})
        assert answer.status == 200, content_type


async def test_json_is_taken_without_a_content_type(api: Service) -> None:
    async with api.alice.session.post(
        f"{api.url}/api/task",
        data=b'{"a": 1}',
        headers={"Authorization": f"Bearer {api.alice.bearer}"},
        skip_auto_headers=["Content-Type", "User-Agent", "Accept"],
    ) as response:
        assert response.status == 200


async def test_space_around_the_body_and_a_byte_order_mark_do_no_harm(api: Service) -> None:
    for body in (b' \r\n\t{"a": 1} \n', b'\xef\xbb\xbf{"a": 1}'):
        answer = await api.alice.post("/api/task", body)
        assert answer.status == 200, answer
        assert answer["taskDetails"]["request"] == {"a": 1}


async def test_a_body_in_chunks_is_taken(api: Service) -> None:
    answer = await _in_chunks(api, [b'{"a"', b": ", b"1}"])

    assert answer.status == 200
    assert answer["taskDetails"]["request"] == {"a": 1}


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_a_413(api: Service) -> None:
    limit = api.container.settings.max_body
    fits = b'{"a":"' + b"x" * (limit - 8) + b'"}'

    assert (await api.alice.post("/api/task", fits)).status == 200
    refused = await api.alice.post("/api/task", fits + b" ")
    assert refused.status == 413
    assert "larger than this service takes" in refused["error"]


async def test_a_body_in_chunks_is_a_413_once_it_is_too_large(api: Service) -> None:
    answer = await _in_chunks(api, [b"x" * 65_536] * 20)

    assert answer.status == 413


async def test_a_compressed_body_is_refused_and_the_answer_says_what_to_do(api: Service) -> None:
    answer = await api.alice.post("/api/task", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    assert answer.status == 415
    assert answer.headers["Accept-Encoding"] == "identity"
    assert "send it without Content-Encoding" in answer["error"]


async def test_a_payload_that_breaks_its_schema_is_refused_by_path_and_rule(api: Service) -> None:
    schema = {
        "type": "object",
        "required": ["size"],
        "properties": {"size": {"properties": {"width": {"$ref": "#/$defs/n"}}}, "tags": {"items": {"type": "string"}}},
        "$defs": {"n": {"type": "integer", "maximum": 100}},
    }
    await api.admin.put("/api/types/resize", {"schema": schema})

    for payload, path, rule in [
        ({"size": {"width": 101}}, "$.payload.size.width", "maximum"),
        ({"size": {"width": "3"}}, "$.payload.size.width", "type"),
        ({"size": {}, "tags": ["a", 2]}, "$.payload.tags[1]", "type"),
        ({}, "$.payload", "required"),
        ([], "$.payload", "type"),
        (None, "$.payload", "type"),
    ]:
        answer = await api.alice.post("/api/task", {"type": "resize", "payload": payload})
        assert (answer.status, answer["path"], f"(rule `{rule}`)" in answer["error"]) == (400, path, True), answer
    right = {"type": "resize", "payload": {"size": {"width": 3}, "tags": ["a"]}}
    await api.alice.submit(right)
    await api.admin.put("/api/types/resize", {"schema": {"not": {}}})
    assert await api.alice.refusal("POST", "/api/task", right) == (400, "$.payload")


async def test_a_schema_of_the_default_type_holds_for_bare_payloads_too(api: Service) -> None:
    await api.admin.put("/api/types/default", {"schema": {"properties": {"a": {"minimum": 3}}}})

    assert await api.alice.refusal("POST", "/api/task", {"a": 2}) == (400, "$.a")


async def test_a_refusal_repeats_only_the_beginning_of_what_was_sent(api: Service) -> None:
    await api.admin.put("/api/types/default", {"schema": {"properties": {"a": {"type": "integer"}}}})

    answer = await api.alice.post("/api/task", {"a": "x" * 100_000})

    assert answer.status == 400
    assert len(answer["error"]) < 600


async def test_a_task_of_another_user_looks_as_if_not_there(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    unknown = task_id.replace("alice", "bob")

    for path in ("", "/events"):
        others = await api.bob.get(f"/api/task/{task_id}{path}")
        nobodys = await api.bob.get(f"/api/task/{unknown}{path}")
        assert others.status == nobodys.status == 404
        assert others["error"].replace("alice", "bob") == nobodys["error"]
    for path in ("/cancel", "/retry"):
        assert (await api.bob.post(f"/api/task/{task_id}{path}")).status == 404


async def test_admin_and_auditor_read_everyones_tasks_and_only_the_admin_changes_them(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    for reader in (api.admin, api.auditor):
        assert (await reader.get(f"/api/task/{task_id}")).status == 200
        assert (await reader.get(f"/api/task/{task_id}/events")).status == 200
    assert (await api.auditor.post(f"/api/task/{task_id}/cancel")).status == 403
    assert (await api.auditor.put(f"/api/task/{task_id}", {"metadata": {"status": "FINISHED"}})).status == 403
    assert (await api.admin.post(f"/api/task/{task_id}/cancel")).status == 200


async def test_cancelling_twice_is_once_and_a_retry_brings_the_task_back(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    first = await api.alice.post(f"/api/task/{task_id}/cancel", {"reason": "by mistake"})
    second = await api.alice.post(f"/api/task/{task_id}/cancel")
    retried = await api.alice.post(f"/api/task/{task_id}/retry")

    assert (first.status, first["taskDetails"]["status"]) == (200, "CANCELLED")
    assert first["taskDetails"]["error"] == "by mistake"
    assert second.body == first.body
    assert (retried.status, retried["taskDetails"]["status"]) == (200, "WAITING")
    assert retried["taskDetails"]["error"] is None
    assert (await api.alice.post(f"/api/task/{task_id}/retry")).status == 409


async def test_cancel_and_retry_refuse_unknown_fields(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    assert await api.alice.refusal("POST", f"/api/task/{task_id}/cancel", {"raeson": "x"}) == (400, "$.raeson")


async def test_a_finished_task_is_neither_cancelled_nor_retried(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")
    task_id = await service.alice.submit({"a": 1})
    await service.alice.ended(task_id)

    for what in ("cancel", "retry"):
        answer = await service.alice.post(f"/api/task/{task_id}/{what}")
        assert answer.status == 409, answer


async def test_a_list_shows_a_users_own_tasks_newest_first(api: Service) -> None:
    mine = [await api.alice.submit({"n": n}) for n in range(3)]
    await api.bob.submit({"n": 9})

    answer = await api.alice.get("/api/tasks")

    assert [task["id"] for task in answer["tasks"]] == mine[::-1]
    assert answer["nextCursor"] is None
    assert "request" not in answer["tasks"][0]


async def test_a_list_pages_by_cursor_without_gaps_or_repeats(api: Service) -> None:
    mine = [await api.alice.submit({"n": n}) for n in range(7)]
    await asyncio.gather(*(api.bob.submit({"n": n}) for n in range(5)))

    pages = await api.alice.pages("/api/tasks", "tasks", "limit=3")

    assert all(len(page) <= 3 for page in pages)
    assert [task["id"] for page in pages for task in page] == mine[::-1]


async def test_a_list_filters_by_status_and_type(api: Service) -> None:
    plain, resized, cancelled = [
        await api.alice.submit({"payload": 1, "type": name}) for name in ("default", "resize", "resize")
    ]
    await api.alice.post(f"/api/task/{cancelled}/cancel")

    async def listed(query: str) -> list[str]:
        return [task["id"] for task in (await api.alice.get(f"/api/tasks?{query}"))["tasks"]]

    assert await listed("status=WAITING") == [resized, plain]
    assert await listed("type=resize") == [cancelled, resized]
    assert await listed("type=resize&status=CANCELLED") == [cancelled]
    assert await listed("status=WAITING,CANCELLED&type=default&type=resize") == [cancelled, resized, plain]
    assert await listed("status=WAITING&status=CANCELLED") == [cancelled, resized, plain]
    assert await listed("type=nothing") == []


async def test_only_admins_and_auditors_list_other_users_tasks(api: Service) -> None:
    of_alice = await api.alice.submit({"n": 1})
    of_bob = await api.bob.submit({"n": 2})

    async def listed(query: str, client: Any) -> list[str]:
        return [task["id"] for task in (await client.get(f"/api/tasks{query}"))["tasks"]]

    for reader in (api.admin, api.auditor):
        assert await listed("", reader) == [of_bob, of_alice]
        assert await listed("?owner=alice", reader) == [of_alice]
    assert await listed("?owner=alice", api.alice) == [of_alice]
    refused = await api.alice.get("/api/tasks?owner=bob")
    assert refused.status == 403
    assert "leave out `owner`" in refused["error"]


WRONG_QUERIES = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=x", "limit"),
    ("status=DONE", "status"),
    ("cursor=x", "cursor"),
    ("cursor=-1", "cursor"),
    ("cursor=" + "9" * 30, "cursor"),
]


async def test_a_wrong_query_value_is_refused_by_its_name(api: Service) -> None:
    for query, path in WRONG_QUERIES:
        assert await api.alice.refusal("GET", f"/api/tasks?{query}") == (400, path)


async def test_the_history_says_what_happened_when_and_by_whom(api: Service) -> None:
    answer = await api.alice.post("/api/task", {"a": 1}, headers={"X-Request-Id": "req-1"})
    task_id = answer["taskId"]
    await api.admin.post(f"/api/task/{task_id}/cancel")

    history = await api.alice.get(f"/api/task/{task_id}/events")

    submitted, cancelled = history["events"]
    assert history["taskId"] == task_id
    assert (submitted["event"]["type"], cancelled["event"]["type"]) == ("TaskSubmitted", "TaskCancelled")
    assert submitted["event"]["payload"] == {"a": 1}
    assert submitted["by"] == {"kind": "user", "id": "alice"}
    assert cancelled["by"] == {"kind": "user", "id": "root"}
    assert submitted["cause"] == "req-1"
    assert submitted["sequence"] < cancelled["sequence"]
    assert submitted["at"].endswith("Z")


async def test_a_history_pages_by_sequence(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    await api.alice.post(f"/api/task/{task_id}/cancel")

    first = await api.alice.get(f"/api/task/{task_id}/events?limit=1")
    second = await api.alice.get(f"/api/task/{task_id}/events?limit=1&after={first['nextAfter']}")

    assert [page["events"][0]["event"]["type"] for page in (first, second)] == ["TaskSubmitted", "TaskCancelled"]
    assert second["nextAfter"] is None


async def _in_chunks(api: Service, chunks: list[bytes]) -> Answer:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    headers = {"Authorization": f"Bearer {api.alice.bearer}"}
    async with api.alice.session.post(f"{api.url}/api/task", data=body(), headers=headers) as response:
        return Answer(response.status, response.headers, json.loads(await response.read()))
