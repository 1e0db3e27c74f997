"""Bodies apart from tasks: sizes in their place, payloads and results alone, and ranges of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.msg import Msg

from testkit.backend import BackendServer, reporting
from testkit.service import Service, running_service

from .test_large_results import ended, raw

PAYLOAD = b'{"payload": {"b": 1.50, "a": [1e2, "\xc3\xa9"],   "n": 12345678901234567890}}'
AS_STORED = b'{"b": 1.50, "a": [1e2, "\xc3\xa9"],   "n": 12345678901234567890}'


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    """A service that stores every result of these tests as an object."""
    async with running_service(nats_url, inline_result=1_000) as service:
        yield service


async def test_a_payload_alone_is_the_text_as_stored_and_a_task_has_its_size(service: Service) -> None:
    task_id = await service.alice.submit(PAYLOAD)

    status, headers, body = await raw(service.alice, f"/api/task/{task_id}/payload")
    outline = (await service.alice.done("GET", f"/api/task/{task_id}?bodies=false"))["taskDetails"]
    details = await service.alice.details(task_id)

    assert (status, body) == (200, AS_STORED)
    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == ("application/json", "nosniff")
    assert (headers["Content-Length"], headers["Accept-Ranges"]) == (str(len(AS_STORED)), "bytes")
    assert "Content-Disposition" not in headers
    assert outline == {
        **{name: value for name, value in details.items() if name not in ("request", "result")},
        "requestBytes": len(AS_STORED),
        "resultBytes": None,
    }
    assert "requestBytes" not in details

    _, saved, _ = await raw(service.alice, f"/api/task/{task_id}/payload?download=true")
    assert saved["Content-Disposition"] == f'attachment; filename="{task_id.split("~")[0]}.payload.json"'
    again, _, nothing = await raw(service.alice, f"/api/task/{task_id}/payload", **{"If-None-Match": headers["ETag"]})
    assert (again, nothing) == (304, b"")


async def test_a_payload_is_for_those_who_may_read_the_task(service: Service) -> None:
    task_id = await service.alice.submit({"payload": 1})
    path = f"/api/task/{task_id}/payload"

    for_all = [service.alice, service.admin, service.auditor, service.client("older-backend", "service")]
    assert [(await client.get(path)).status for client in for_all] == [200] * 4
    assert [(await client.get(path)).status for client in (service.bob, service.anonymous)] == [404, 401]
    await service.alice.done("POST", f"/api/task/{task_id}/cancel")
    await service.alice.done("POST", "/api/tasks/delete", {"ids": [task_id]})
    assert [(await client.get(path)).status for client in (service.alice, service.auditor)] == [404, 200]


async def test_bodies_of_others_are_not_for_the_token_of_another_server(
    service: Service, backend: BackendServer
) -> None:
    """A `service` token that acts for one server reads the tasks of that server only."""
    task_id, _ = await ended(service, backend)
    async with BackendServer() as other:
        await service.admin.register(other, "two")
        paths = [f"/api/task/{task_id}{part}" for part in ("", "/payload", "/result")]

        assert [(await service.client("one", "service").get(path)).status for path in paths] == [200] * 3
        assert [(await service.client("two", "service").get(path)).status for path in paths] == [404] * 3


async def test_a_range_of_a_stored_result_is_read_without_the_rest(service: Service, backend: BackendServer) -> None:
    task_id, recorded = await ended(service, backend, {"megabytes": 4})
    path = f"/api/task/{task_id}/result"
    size = recorded["event"]["result"]["bytes"]
    _, headers, whole = await raw(service.alice, path)
    received = 0
    storing: Any = service.container.storing
    many = storing.request_many

    async def counted(*given: Any, **named: Any) -> list[Msg]:
        nonlocal received
        answers: list[Msg] = await many(*given, **named)
        received += sum(len(answer.data) for answer in answers)
        return answers

    storing.request_many = counted
    part = 128 * 1024
    for start, end in [(0, 1), (part - 1, part + 1), (3_000_000, 3_000_100), (size - 5, size), (part, 10 * part)]:
        received = 0
        wanted = {"Range": f"bytes={start}-{end - 1}"}
        status, of_range, body = await raw(service.alice, path, **wanted)
        assert (status, body) == (206, whole[start:end])
        assert of_range["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert (of_range["Content-Length"], of_range["ETag"]) == (str(end - start), headers["ETag"])
        assert received <= end - start + 4 * part

    status, refused, _ = await raw(service.alice, path, Range=f"bytes={size}-")
    assert (status, refused["Content-Range"]) == (416, f"bytes */{size}")
    assert refused["Content-Type"] == "application/problem+json"
    for tag, expected in ((headers["ETag"], 206), ('"another"', 200)):
        status, _, body = await raw(service.alice, path, Range="bytes=0-9", **{"If-Range": tag})
        assert (status, len(body)) == (expected, 10 if expected == 206 else size)


async def test_a_range_is_found_among_parts_of_other_objects(service: Service) -> None:
    """Objects that are stored at the same time have their parts in turn."""
    objects = service.container.objects
    contents = [bytes([number]) * 700_000 + b"end" for number in range(4)]
    await asyncio.gather(*(objects.put(f"o{number}", content) for number, content in enumerate(contents)))

    for number, content in enumerate(contents):
        for start in (0, 1, 131_072, 400_000, len(content) - 3):
            async with objects.opened(f"o{number}", "alice", start, start + 200_000) as parts:
                assert b"".join([part async for part in parts]) == content[start : start + 200_000]
    assert objects.turns.taken == 0


async def test_a_task_that_runs_has_the_size_of_its_last_data(service: Service) -> None:
    go_on = asyncio.Event()

    async def work(server: BackendServer, task: dict[str, Any]) -> None:
        await server.report(task, "PROCESSING", data={"rows": [1, 2]}, progress=5)
        await go_on.wait()
        await server.report(task, "FINISHED", data=1)

    async with BackendServer(reporting(work)) as backend:
        await service.admin.register(backend, "one", **{"async": True, "callback": True})
        task_id = await service.alice.submit({"payload": {}})
        outline = f"/api/task/{task_id}?bodies=false"
        seen = await service.alice.until(outline, lambda task: task["taskDetails"]["progress"] == 5, "a report")
        assert seen["taskDetails"]["resultBytes"] == len(b'{"rows": [1, 2]}')
        go_on.set()
        await service.alice.ended(task_id)
        done = (await service.alice.done("GET", outline))["taskDetails"]
        _, _, body = await raw(service.alice, f"/api/task/{task_id}/result")
        assert done["resultBytes"] == len(body)


async def test_events_without_bodies_have_their_sizes(service: Service) -> None:
    async def work(server: BackendServer, task: dict[str, Any]) -> None:
        custom = {"chapterIndex": 1, "text": "y" * 5_000}
        await server.report(task, "PROCESSING", data="x" * 100, progress=5, message="m", custom_data=custom)
        await server.report(task, "FINISHED", data="z" * 5_000)

    async with BackendServer(reporting(work)) as backend:
        await service.admin.register(backend, "one", **{"async": True, "callback": True})
        task_id = await service.alice.submit(PAYLOAD)
        await service.alice.ended(task_id)
    path = f"/api/task/{task_id}/events"
    whole = (await service.alice.done("GET", path))["events"]
    bare = (await service.alice.done("GET", f"{path}?bodies=false"))["events"]

    by_type = {entry["event"]["type"]: entry for entry in bare}
    assert [entry["event"]["type"] for entry in bare] == [entry["event"]["type"] for entry in whole]
    assert by_type["TaskSubmitted"]["sizes"] == {"payload": len(AS_STORED)}
    assert by_type["ProgressReported"]["sizes"].keys() == {"custom_data", "data"}
    assert by_type["ProgressReported"]["sizes"]["data"] == 102
    assert by_type["ProgressReported"]["event"]["message"] == "m"
    assert by_type["TaskSucceeded"]["sizes"]["result"] > 5_000
    assert by_type["AttemptAccepted"]["sizes"] == {}
    for short, long in zip(bare, whole, strict=True):
        assert long["sizes"] is None
        assert {**long["event"], **short["event"]} == long["event"]
        left_out = long["event"].keys() - short["event"].keys()
        assert left_out - {"fingerprint", "update_digest"} == short["sizes"].keys(), "digests of bodies go with them"
    assert len(json.dumps(bare)) < 5_000 < len(json.dumps(whole))


async def test_a_range_of_an_answer_with_more_than_a_body_is_ignored(service: Service, backend: BackendServer) -> None:
    task_id, _ = await ended(service, backend)

    status, headers, body = await raw(service.alice, f"/api/task/{task_id}", Range="bytes=0-5")

    assert (status, "Accept-Ranges" in headers) == (200, False)
    assert json.loads(body)["taskId"] == task_id
