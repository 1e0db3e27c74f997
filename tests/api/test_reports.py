"""`PUT /api/task/{id}`: what a backend, or the owner, says of a task (contract, section 1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testkit.backend import BackendServer, accept
from testkit.service import Client, Service
from testkit.waiting import wait_until


def update(status: str, data: Any = None, **metadata: Any) -> dict[str, Any]:
    return {"backend_task_id": "b1", "data": data, "metadata": {"server_id": "gpu", "status": status, **metadata}}


DONE = update("FINISHED", {"url": "x"}, processing_time=12, model_time=10, queue_time=2, progress=100, message=None)


@pytest.fixture
async def accepted(service: Service, backend: BackendServer) -> dict[str, Any]:
    """What a callback server was sent of a task of alice's that it has accepted."""
    backend.answer = accept
    await service.admin.register(backend, "gpu", **{"async": True, "callback": True})
    task_id = await service.alice.submit({"a": 1})

    async def is_accepted() -> bool:
        return "AttemptAccepted" in [event["type"] for event in await service.alice.history(task_id)]

    await wait_until(is_accepted, "the acceptance")
    return backend.calls[0]


def bearing(service: Service, token: str) -> Client:
    return Client(service.anonymous.session, service.url, token)


async def test_the_attempts_token_reports_progress_and_the_end(service: Service, accepted: dict[str, Any]) -> None:
    server = bearing(service, accepted["callback_token"])
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
    assert "custom_data" in (await service.alice.history(accepted["task_id"]))[3]


async def test_the_same_end_again_is_a_200_and_changes_nothing(service: Service, accepted: dict[str, Any]) -> None:
    server = bearing(service, accepted["callback_token"])
    path = f"/api/task/{accepted['task_id']}"
    first = await server.put(path, DONE)
    before = await service.alice.history(accepted["task_id"])

    again = await server.put(path, DONE)

    assert (again.status, again.body) == (200, first.body)
    assert await service.alice.history(accepted["task_id"]) == before


@pytest.mark.parametrize(
    "other", [update("FAILED", {"url": "x"}), update("FINISHED", {"url": "y"}), update("PROCESSING")]
)
async def test_an_update_that_contradicts_the_end_is_a_409(
    service: Service, accepted: dict[str, Any], other: dict[str, Any]
) -> None:
    server = bearing(service, accepted["callback_token"])
    path = f"/api/task/{accepted['task_id']}"
    await server.put(path, DONE)

    answer = await server.put(path, other)

    assert answer.status == 409
    assert (await service.alice.details(accepted["task_id"]))["result"]["data"] == {"url": "x"}


async def test_a_reported_failure_ends_the_task_with_its_message(service: Service, accepted: dict[str, Any]) -> None:
    answer = await bearing(service, accepted["callback_token"]).put(
        f"/api/task/{accepted['task_id']}", update("FAILED", message="out of memory")
    )

    assert answer["taskDetails"]["status"] == "FAILED"
    assert answer["taskDetails"]["error"] == "out of memory"
    assert answer["taskDetails"]["result"]["metadata"]["status"] == "FAILED"


async def test_a_service_token_reports_on_any_task(service: Service, accepted: dict[str, Any]) -> None:
    backend = service.client("backend", "service")

    assert (await backend.put(f"/api/task/{accepted['task_id']}", DONE)).status == 200
    events = (await service.alice.get(f"/api/task/{accepted['task_id']}/events"))["events"]
    assert events[-1]["by"] == {"kind": "server", "id": "gpu"}


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


async def test_another_user_finds_no_such_task(service: Service, accepted: dict[str, Any]) -> None:
    answer = await service.bob.put(f"/api/task/{accepted['task_id']}", DONE)

    assert answer.status == 404


async def test_a_token_of_no_attempt_is_a_401_whether_the_task_exists_or_not(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    made_up = bearing(api, "A" * 22)

    answers = [await made_up.put(f"/api/task/{name}", DONE) for name in (task_id, "0" * 26 + "~alice", "x")]

    assert [answer.status for answer in answers] == [401] * 3
    assert len({answer["error"] for answer in answers}) == 1


async def test_an_attempts_token_opens_nothing_but_its_task(service: Service, accepted: dict[str, Any]) -> None:
    server = bearing(service, accepted["callback_token"])
    other = await service.alice.submit({"a": 2})

    assert (await server.put(f"/api/task/{other}", DONE)).status == 401
    assert (await server.get(f"/api/task/{accepted['task_id']}")).status == 401
    assert (await server.post(f"/api/task/{accepted['task_id']}/cancel")).status == 401
    assert (await server.put("/api/types/x", {})).status == 401


async def test_who_may_not_report_is_told_so_before_the_body_is_looked_at(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    assert (await api.bob.put(f"/api/task/{task_id}", b"not json")).status == 404
    assert (await bearing(api, "A" * 22).put(f"/api/task/{task_id}", b"not json")).status == 401


WRONG_UPDATES = [
    ({}, "$.metadata"),
    ({"metadata": 5}, "$.metadata"),
    ({"metadata": {}}, "$.metadata.status"),
    ({"metadata": {"status": "DONE"}}, "$.metadata.status"),
    ({"metadata": {"status": "CANCELLED"}}, "$.metadata.status"),
    ({"metadata": {"status": "PROCESSING", "progress": 101}}, "$.metadata.progress"),
    ({"metadata": {"status": "PROCESSING", "progress": "40"}}, "$.metadata.progress"),
    ({"metadata": {"status": "PROCESSING", "message": 5}}, "$.metadata.message"),
    ({"metadata": {"status": "PROCESSING", "message": "x" * 2001}}, "$.metadata.message"),
    ({"metadata": {"status": "FINISHED", "processing_time": "12"}}, "$.metadata.processing_time"),
    ({"metadata": {"status": "FINISHED", "server_id": 7}}, "$.metadata.server_id"),
    ({"metadata": {"status": "FINISHED"}, "backend_task_id": 7}, "$.backend_task_id"),
    ({"metadata": {"status": "FINISHED"}, "task_id": "another"}, "$.task_id"),
]


async def test_a_wrong_update_is_refused_by_its_path_and_changes_nothing(api: Service) -> None:
    for body, path in WRONG_UPDATES:
        task_id = await api.alice.submit({"a": 1})
        answer = await api.alice.put(f"/api/task/{task_id}", body)
        assert (answer.status, answer["path"]) == (400, path)
        assert len(await api.alice.history(task_id)) == 1


async def test_a_result_of_many_megabytes_comes_back_whole(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    data = {"blob": "z" * 9_000_000}

    answer = await api.alice.put(f"/api/task/{task_id}", json.dumps(update("FINISHED", data)).encode())

    assert answer.status == 200
    assert (await api.alice.details(task_id))["result"]["data"] == data
    assert (await api.alice.put(f"/api/task/{task_id}", json.dumps(update("FINISHED", data)).encode())).status == 200


async def test_a_progress_report_is_no_place_for_megabytes(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})

    body = json.dumps(update("PROCESSING", custom_data="z" * 1_100_000)).encode()
    answer = await api.alice.put(f"/api/task/{task_id}", body)

    assert answer.status == 413
    assert "a progress report may have 1048576 bytes at most" in answer["error"]


async def test_an_update_above_the_limit_is_a_413(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    body = b" " * (api.container.settings.max_result + 1)

    assert (await api.alice.put(f"/api/task/{task_id}", body)).status == 413
