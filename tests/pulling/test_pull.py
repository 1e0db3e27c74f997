"""Pullers take the tasks of a pulled server, over HTTP."""

from __future__ import annotations

import pytest

from testkit.puller import Puller, register_pulled
from testkit.service import Service


@pytest.fixture
async def puller(service: Service) -> Puller:
    await register_pulled(service.admin)
    return Puller(service.client("fleet", "service"))


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
    kinds = [event["type"] for event in await service.alice.history(task_id)]
    assert kinds[:3] == ["TaskSubmitted", "AttemptStarted", "AttemptAccepted"]


async def test_a_result_with_nan_is_refused_and_not_changed(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"type": "resize", "payload": {}})
    taken = await puller.one()
    answer = await puller.say(taken, "done", b'{"result": [NaN]}')
    assert (answer.status, answer["path"]) == (400, "$.data")
    assert (await service.alice.details(task_id))["status"] == "PROCESSING"
