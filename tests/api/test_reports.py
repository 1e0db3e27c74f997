"""`PUT /api/task/{id}`: an update of a task, from its backend or its owner."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.api.task_updates import attempt_of_token, parse_update
from taskstream.errors import InvalidInput
from testkit.backend import BackendServer, accept
from testkit.service import Service, token
from testkit.stored import stored_bytes
from testkit.waiting import wait_until

from ..deciders.support import attempt_failed, queued, started, stored, submitted


def update(status: str, data: Any = None, **metadata: Any) -> dict[str, Any]:
    return {"backend_task_id": "b1", "data": data, "metadata": {"server_id": "gpu", "status": status, **metadata}}


DONE = update("FINISHED", {"url": "x"}, processing_time=12, model_time=10, queue_time=2, progress=100, message=None)


@pytest.fixture
async def accepted(service: Service, backend: BackendServer) -> dict[str, Any]:
    """The call of a callback server that has accepted a task of alice's."""
    backend.answer = accept
    await service.admin.register(backend, "gpu", **{"async": True, "callback": True})
    task_id = await service.alice.submit({"a": 1})

    async def is_accepted() -> bool:
        return "AttemptAccepted" in [event["type"] for event in await service.alice.history(task_id)]

    await wait_until(is_accepted, "the acceptance")
    return backend.calls[0]


async def test_a_callback_never_stores_the_api_key_that_its_server_echoes(
    service: Service, accepted: dict[str, Any]
) -> None:
    key = "sk-very-secret-0123456789"
    await service.admin.done("POST", "/api/servers/gpu/drain")
    assert (await service.admin.call("PATCH", "/api/servers/gpu", {"apiKey": key})).status == 200

    await service.bearing(accepted["callback_token"]).put(
        f"/api/task/{accepted['task_id']}", update("FINISHED", {"said": f"my key is {key}"})
    )

    details = await service.alice.details(accepted["task_id"])
    assert details["result"]["data"] == {"said": "my key is [key removed]"}


async def test_the_attempts_token_reports_progress_and_the_end(service: Service, accepted: dict[str, Any]) -> None:
    server = service.bearing(accepted["callback_token"])
    path = f"/api/task/{accepted['task_id']}"

    progress = await server.put(path, update("PROCESSING", progress=40, message="frame 4", custom_data={"any": [1]}))
    assert progress.status == 200
    assert progress["taskDetails"]["status"] == "PROCESSING"
    assert (progress["taskDetails"]["progress"], progress["taskDetails"]["message"]) == (40, "frame 4")

    end = await server.put(path, DONE)
    assert end.status == 200
    assert end["taskId"] == accepted["task_id"]
    assert end["taskDetails"]["status"] == "FINISHED"
    assert end["taskDetails"]["result"] == {"task_id": accepted["task_id"], **DONE}
    page = str((await service.anonymous.get("/metrics")).body)
    assert 'taskstream_attempts_reported_total{dialect="taskstream",outcome="succeeded",server="gpu"} ' in page
    history = await service.alice.history(accepted["task_id"])
    assert history[3]["custom_data"] == {"any": [1]}


async def test_the_same_end_again_is_a_200_and_changes_nothing(service: Service, accepted: dict[str, Any]) -> None:
    """An end is the same if status and data are; any other is a 409."""
    server = service.bearing(accepted["callback_token"])
    path = f"/api/task/{accepted['task_id']}"
    first = await server.put(path, DONE)
    before = await service.alice.history(accepted["task_id"])

    for again in (DONE, update("FINISHED", {"url": "x"}, processing_time=13, message="again")):
        answer = await server.put(path, again)
        assert (answer.status, answer.body) == (200, first.body)
    for other in (
        update("FAILED", {"url": "x"}),
        update("FINISHED", {"url": "y"}),
        update("FINISHED"),
        update("FAILED"),
        update("PROCESSING"),
    ):
        assert await server.refusal("PUT", path, other) == (409, None), other
    assert await service.alice.history(accepted["task_id"]) == before


async def test_a_reported_failure_ends_the_task_with_its_message(service: Service, accepted: dict[str, Any]) -> None:
    path = f"/api/task/{accepted['task_id']}"

    answer = await service.bearing(accepted["callback_token"]).put(path, update("FAILED", message="out of memory"))

    assert answer["taskDetails"]["status"] == "FAILED"
    assert answer["taskDetails"]["error"] == "out of memory"
    assert answer["taskDetails"]["result"]["metadata"]["status"] == "FAILED"


async def test_a_service_token_reports_on_any_task(service: Service, accepted: dict[str, Any]) -> None:
    backend = service.client("backend", "service")

    assert (await backend.put(f"/api/task/{accepted['task_id']}", DONE)).status == 200
    events = (await service.alice.get(f"/api/task/{accepted['task_id']}/events"))["events"]
    assert events[-1]["by"] == {"kind": "server", "id": "backend"}
    assert events[-1]["event"]["server_id"] == "gpu"


async def test_a_server_does_not_report_on_what_another_server_has(service: Service, accepted: dict[str, Any]) -> None:
    async with BackendServer() as other:
        await service.admin.register(other, "other", types=["none"])
        body = {"data": 1, "metadata": {"server_id": "other", "status": "FINISHED"}}

        answer = await service.client("backend", "service").put(f"/api/task/{accepted['task_id']}", body)

    assert answer.status == 409


@pytest.mark.parametrize("who", ["alice", "admin"])
async def test_the_owner_and_an_admin_may_report(service: Service, accepted: dict[str, Any], who: str) -> None:
    answer = await getattr(service, who).put(f"/api/task/{accepted['task_id']}", DONE)

    assert (answer.status, answer["taskDetails"]["status"]) == (200, "FINISHED")


async def test_a_token_of_no_attempt_is_a_401_whether_the_task_exists_or_not(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    made_up = api.bearing("A" * 22)

    answers = [await made_up.put(f"/api/task/{name}", DONE) for name in (task_id, "0" * 26 + "~alice", "x")]

    assert [answer.status for answer in answers] == [401] * 3
    assert len({answer["error"] for answer in answers}) == 1


async def test_an_attempts_token_opens_nothing_but_its_task(service: Service, accepted: dict[str, Any]) -> None:
    server = service.bearing(accepted["callback_token"])
    other = await service.alice.submit({"a": 2})

    for method, path in [
        ("PUT", f"/api/task/{other}"),
        ("GET", f"/api/task/{accepted['task_id']}"),
        ("POST", f"/api/task/{accepted['task_id']}/cancel"),
        ("PUT", "/api/types/x"),
    ]:
        assert await server.refusal(method, path, DONE) == (401, None), path


def test_a_token_leads_to_the_attempt_it_was_made_for() -> None:
    def digest(token: str) -> str:
        return hashlib.sha256(token.encode()).hexdigest()

    history = stored(
        submitted(),
        started(1, "s1", token_digest=digest("first")),
        attempt_failed(1),
        started(2, "s2", token_digest=digest("second")),
        attempt_failed(2),
        queued(),
        started(3, "s3", worker_id="", token_digest=""),
    )
    found = [attempt_of_token(token, history) for token in ("first", "second")]

    assert [(each.attempt, each.server_id) for each in found if each] == [(1, "s1"), (2, "s2")]
    for other in ("", "third", "FIRST", "first ", digest("first"), "🜚"):
        assert attempt_of_token(other, history) is None, other
    assert attempt_of_token("first", history[:1]) is None


async def test_access_is_checked_before_the_body_is_read(api: Service) -> None:
    path = f"/api/task/{await api.alice.submit({'a': 1})}"

    assert await api.bob.refusal("PUT", path, b"not json") == (404, None)
    assert await api.bearing("A" * 22).refusal("PUT", path, b"not json") == (401, None)


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


def about(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"status": "PROCESSING", **metadata}}


WRONG_UPDATES: list[tuple[Any, str | None]] = [
    ({}, "$.metadata"),
    ({"metadata": 5}, "$.metadata"),
    ({"metadata": []}, "$.metadata"),
    ({"metadata": None}, "$.metadata"),
    ({"metadata": {}}, "$.metadata.status"),
    (about(status="DONE"), "$.metadata.status"),
    (about(status="CANCELLED"), "$.metadata.status"),
    (about(status=None), "$.metadata.status"),
    (about(status={"is": "FINISHED"}), "$.metadata.status"),
    (about(status="FINISHED") | {"task_id": "0" * 26 + "~somebody"}, "$.task_id"),
    (about() | {"data": nested(501)}, None),
    (b"null", "$"),
    (b"[]", "$"),
    (b"", None),
    (b"{", None),
    (b'{"data": "\xff"}', "$.metadata"),
    (b'{"data": "\\ud800", "metadata": {}}', "$.metadata.status"),
]


async def test_a_wrong_update_is_refused_by_its_path_and_changes_nothing(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    for body, path in WRONG_UPDATES:
        assert await api.alice.refusal("PUT", f"/api/task/{task_id}", body) == (400, path), body

    assert len(await api.alice.history(task_id)) == 1


COSMETIC: list[tuple[Any, str | None]] = [
    (about(status="FINISHED", progress=100.00000000000001), None),
    (about(status="FINISHED", progress=140), "progress: clamped to 100"),
    (about(status="finished", progress="40%"), 'progress: left out; must be a number, given: "40%"'),
    (about(status="FINISHED", message="x" * 2_001), "message: shortened from 2,001 to 2,000 characters"),
    (about(status="FINISHED", message=5), "message: left out; must be text, given: a number"),
    (about(status="FINISHED", server_id=7, processing_time="12"), None),
    (about(status="FINISHED", server_id="x" * 129), "server_id: left out; longer than 128 characters"),
    (about(status="FINISHED") | {"backend_task_id": 7}, None),
    (about(status="FINISHED") | {"backend_task_id": []}, "backend_task_id: left out; must be text, given: a list"),
    (about(status="FINISHED") | {"task_id": "job-17"}, None),
    (about(status="FINISHED") | {"data": nested(400)}, None),
    (b'\xef\xbb\xbf{"metadata": {"status": "FINISHED", "message": "half: \\ud83d, no UTF-8: \xff"}}', None),
]


@pytest.mark.parametrize(("body", "note"), COSMETIC, ids=lambda it: str(it)[:60])
async def test_a_callback_never_loses_the_end_over_a_cosmetic_field(api: Service, body: Any, note: str | None) -> None:
    task_id = await api.alice.submit({"a": 1})

    answer = await api.alice.put(f"/api/task/{task_id}", body)

    assert (answer.status, answer["taskDetails"]["status"]) == (200, "FINISHED")
    end = (await api.alice.history(task_id))[-1]
    assert end.get("notes", []) == ([note] if note else [])


async def test_progress_with_a_wrong_field_is_recorded_without_it(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    answer = await api.alice.put(f"/api/task/{task_id}", about(progress="40%", message="m" * 3_000))

    assert answer.status == 200
    assert answer["taskDetails"]["progress"] is None
    assert answer["taskDetails"]["message"] == "m" * 1_999 + "…"
    assert (await api.alice.history(task_id))[-1]["notes"] == [
        'progress: left out; must be a number, given: "40%"',
        "message: shortened from 3,000 to 2,000 characters",
    ]


@given(st.binary(max_size=100) | st.recursive(st.none() | st.text(), st.lists).map(lambda it: json.dumps(it).encode()))
def test_no_bytes_break_the_reading_of_an_update(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_update(body, "t1", 10)


def test_data_and_metadata_of_a_result_are_byte_for_byte_as_they_came() -> None:
    body = b'{"metadata": { "status":"FINISHED", "mood": [1.0] }, "data": { "a" : 1e2 }, "backend_task_id": "b7"}'

    assert parse_update(body, "t1", 10).result("t1") == (
        b'{"task_id":"t1","backend_task_id":"b7",'
        b'"data":{ "a" : 1e2 },"metadata":{ "status":"FINISHED", "mood": [1.0] }}'
    )


async def test_a_result_of_many_megabytes_comes_back_whole(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    data = {"blob": "z" * 9_000_000}

    backend = api.client("backend", "service")
    answer = await backend.put(f"/api/task/{task_id}", json.dumps(update("FINISHED", data)).encode())

    assert answer.status == 200
    assert (await api.alice.details(task_id))["result"]["data"] == data
    before = await stored_bytes(api.container.reading)
    assert (await backend.put(f"/api/task/{task_id}", json.dumps(update("FINISHED", data)).encode())).status == 200
    assert await stored_bytes(api.container.reading) == before


async def test_a_progress_report_over_a_megabyte_is_a_413(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    body = json.dumps(update("PROCESSING", custom_data="z" * 1_100_000)).encode()
    answer = await api.client("backend", "service").put(f"/api/task/{task_id}", body)

    assert answer.status == 413
    assert "a progress report may have 1048576 bytes at most" in answer["error"]


async def test_an_update_above_the_limit_is_a_413(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    body = b" " * (api.container.settings.max_result + 1)

    assert (await api.client("backend", "service").put(f"/api/task/{task_id}", body)).status == 413


@pytest.mark.parametrize("who", ["alice", "admin"])
async def test_only_servers_send_large_updates(api: Service, who: str) -> None:
    """A person's update may be as large as any other body: nothing of a larger one is stored."""
    path = f"/api/task/{await api.alice.submit({'a': 1})}"
    before = await stored_bytes(api.container.reading)

    answer = await getattr(api, who).put(path, json.dumps(update("FINISHED", "z" * 1_100_000)).encode())

    assert answer.status == 413
    assert answer["error"].startswith("an update of a person may have 1048576 bytes at most; a server may send more")
    assert await stored_bytes(api.container.reading) == before
    assert (await getattr(api, who).put(path, update("FINISHED", "z" * 600_000))).status == 200


async def test_updates_of_an_ended_task_store_nothing(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    await api.alice.done("POST", f"/api/task/{task_id}/cancel")
    before = await stored_bytes(api.container.reading)
    body = json.dumps(update("FINISHED", "z" * 31_000_000)).encode()

    for _ in range(6):
        assert await api.client("backend", "service").refusal("PUT", f"/api/task/{task_id}", body) == (409, None)
        assert (await api.bob.post("/api/task", {"b": 2})).status == 200

    assert await stored_bytes(api.container.reading) == before


async def head_alone(service: Service, bearer: str | None, method: str, path: str, size: int) -> int:
    """Send the head of a request, and of its body as much as the status of the answer needs; return the status."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {size}\r\n\r\n"
    writer.write(head.encode())
    status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    writer.close()
    return status


async def test_no_body_is_read_whose_refusal_is_known(api: Service) -> None:
    """The answer comes before the body: access, size and an ended task are decided without it."""
    ended, waiting = [await api.alice.submit({"a": number}) for number in range(2)]
    await api.alice.done("POST", f"/api/task/{ended}/cancel")
    alice, server = api.alice.bearer, token("backend", "service")
    megabytes = 31_000_000

    assert [
        await head_alone(api, None, "POST", "/api/task", megabytes),
        await head_alone(api, None, "PUT", f"/api/task/{waiting}", megabytes),
        await head_alone(api, "A" * 22, "PUT", f"/api/task/{waiting}", megabytes),
        await head_alone(api, api.bob.bearer, "PUT", f"/api/task/{waiting}", megabytes),
        await head_alone(api, alice, "PUT", f"/api/task/{waiting}", megabytes),
        await head_alone(api, server, "PUT", f"/api/task/{ended}", megabytes),
        await head_alone(api, alice, "POST", "/api/task", megabytes),
        await head_alone(api, alice, "POST", "/api/tasks/batch", megabytes),
        await head_alone(api, alice, "POST", "/api/servers", 10),
    ] == [401, 401, 401, 404, 413, 409, 413, 413, 403]
