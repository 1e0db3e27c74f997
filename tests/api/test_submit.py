"""Submitting a task and seeing it through, over HTTP."""

from __future__ import annotations

from testkit.backend import BackendServer
from testkit.service import Service


async def test_a_submitted_task_is_run_and_its_result_read_back(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")

    task_id = await service.alice.submit({"type": "default", "payload": {"a": 1}})
    details = await service.alice.ended(task_id)

    assert details["status"] == "FINISHED"
    assert details["result"]["data"] == {"echo": {"a": 1}}
    assert [event["type"] for event in await service.alice.history(task_id)] == [
        "TaskSubmitted",
        "AttemptStarted",
        "TaskSucceeded",
    ]
