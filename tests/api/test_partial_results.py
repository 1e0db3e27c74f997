"""The result of a running task: the TaskResult of its last report, from which older clients draw their progress bar."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskstream.clock import utc_now
from taskstream.events.ids import parse_task_id
from taskstream.push import attempt_reports
from taskstream.workers.result_sweeper import ResultSweeper
from testkit.backend import BackendServer, accept
from testkit.service import Service
from testkit.sse import opened, received
from testkit.stored import stored_names
from testkit.waiting import wait_until

LARGE = "x" * 200_000


@pytest.fixture
async def task_id(service: Service, backend: BackendServer) -> str:
    """A task that its server has accepted."""
    backend.answer = accept
    await service.admin.register(backend, "one", callback=True, **{"async": True})
    submitted = await service.alice.submit({"payload": 1})
    await wait_until(lambda: backend.calls, "the call")
    return submitted


async def result(service: Service, task_id: str) -> Any:
    return (await service.alice.details(task_id))["result"]


async def test_the_result_of_a_running_task_is_that_of_its_last_report(
    service: Service, backend: BackendServer, task_id: str
) -> None:
    assert await result(service, task_id) is None, "before the first report"
    call = backend.calls[0]

    _, answer = await backend.report(call, "PROCESSING", progress=10, message="started", custom_data={"page": 1})
    expected = {
        "task_id": task_id,
        "data": None,
        "metadata": {
            "server_id": "one",
            "status": "PROCESSING",
            "progress": 10.0,
            "message": "started",
            "custom_data": {"page": 1},
        },
    }
    assert answer["taskDetails"]["result"] == expected == await result(service, task_id)

    await backend.report(call, "PROCESSING", data={"pages": [1]}, progress=20)
    await backend.report(call, "PROCESSING", progress=30, message="next")
    shown = await result(service, task_id)
    assert (shown["data"], shown["metadata"]["progress"]) == ({"pages": [1]}, 30.0), "data of a report is kept"
    async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
        [state] = await received(stream, 1)
    assert state.data["task"]["result"]["data"] == {"pages": [1]}

    await backend.report(call, "FINISHED", data={"pages": [1, 2]})
    ended = await result(service, task_id)
    assert (ended["data"], ended["metadata"]["status"]) == ({"pages": [1, 2]}, "FINISHED")


async def test_each_report_of_many_is_in_its_answer(service: Service, backend: BackendServer, task_id: str) -> None:
    for number in range(30):  # more than the log stores at once
        _, answer = await backend.report(backend.calls[0], "PROCESSING", data=number, progress=number)
        shown = answer["taskDetails"]["result"]
        assert (shown["data"], shown["metadata"]["progress"]) == (number, float(number))
        assert answer["taskDetails"]["progress"] == number


async def test_large_data_of_reports_is_in_the_object_store_and_shown_whole(
    service: Service, backend: BackendServer, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = backend.calls[0]
    await backend.report(call, "PROCESSING", progress=1)
    code, answer = await backend.report(call, "PROCESSING", data={"text": LARGE}, progress=50)

    assert (code, answer["taskDetails"]["result"]["data"]) == (200, {"text": LARGE})
    assert (await result(service, task_id))["data"] == {"text": LARGE}
    report = [event for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"][-1]
    assert report["data"]["bytes"] > len(LARGE)
    link = report["data"]["$ref"].removeprefix(service.url)
    assert (await service.alice.get(link)).body == {"text": LARGE}
    assert (await service.bob.get(link)).status == 404
    assert (await service.alice.get(f"/api/task/{task_id}/result")).status == 404, "there is no result yet"

    await backend.report(call, "FINISHED", data=1)
    monkeypatch.setattr("taskstream.workers.result_sweeper.SAFE_AGE", timedelta())
    await ResultSweeper(service.container).run_once(utc_now())
    assert (await service.alice.get(link)).body == {"text": LARGE}, "the history refers to it"


async def test_a_refused_report_leaves_no_object(service: Service, backend: BackendServer, task_id: str) -> None:
    await service.alice.post(f"/api/task/{task_id}/cancel")

    code, _ = await backend.report(backend.calls[0], "PROCESSING", data={"text": LARGE})

    assert code == 409
    assert await stored_names(service.container.objects) == set()


async def test_the_stored_data_of_a_tasks_reports_is_bounded(
    service: Service, backend: BackendServer, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_reports, "MOST_STORED", 500_000)
    for number in range(5):
        code, _ = await backend.report(backend.calls[0], "PROCESSING", data={"text": LARGE}, progress=number)
        assert code == 200

    assert len(await stored_names(service.container.objects)) == 2
    shown = await result(service, task_id)
    assert (shown["data"], shown["metadata"]["progress"]) == ({"text": LARGE}, 4.0)


async def test_a_new_attempt_begins_without_a_result(service: Service, backend: BackendServer, task_id: str) -> None:
    await backend.report(backend.calls[0], "PROCESSING", data=1, progress=50)
    ref = parse_task_id(task_id)
    await service.container.reports.flush(ref)

    await service.alice.post(f"/api/task/{task_id}/cancel")
    assert await result(service, task_id) is None
    await service.alice.post(f"/api/task/{task_id}/retry")
    await wait_until(lambda: len(backend.calls) == 2, "the second attempt")
    assert await result(service, task_id) is None
