"""A task with many parents: a bounded request, with links to the results that do not fit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from nats.aio.msg import Msg

from taskstream.projections.active import is_projected
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.messages import last_sequence
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, finished
from testkit.service import Service, running_service
from testkit.waiting import wait_until

SIZE = 30_000
INLINE = 70_000


async def of_some_size(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    return web.json_response(finished(task, "x" * task["request"]["size"]))


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the answers of NATS to requests."""
    sizes: list[int] = []
    receive = Connection._receive

    def counted(connection: Connection, message: Msg) -> None:
        sizes.append(len(message.data))
        receive(connection, message)

    monkeypatch.setattr(Connection, "_receive", counted)
    return sizes


@pytest.mark.parametrize(("count", "most_in_log"), [(4, 20_000), (40, 100_000)])
async def test_parents_results_are_inline_as_far_as_they_fit_and_others_unread(
    nats_url: str, backend: BackendServer, answered: list[int], count: int, most_in_log: int
) -> None:
    """The ends of few parents are read, with results in the object store; of many, the views are."""
    backend.answer = of_some_size
    async with running_service(nats_url, parent_results=INLINE, inline_result=most_in_log) as service:
        await service.admin.register(backend, "one", maxConcurrent=10)
        batch = [{"payload": {"size": SIZE}} for _ in range(count)]
        ids = (await service.alice.done("POST", "/api/tasks/batch", batch))["taskIds"]
        await asyncio.gather(*map(service.alice.ended, ids))
        await projected_to_the_end(service)

        answered.clear()
        child = await service.alice.submit({"payload": {"size": 1}, "dependsOn": ids})
        assert (await service.alice.ended(child))["status"] == "FINISHED"
        read = sum(answered)

        (call,) = [call for call in backend.calls if call["task_id"] == child]
        assert [parent["task_id"] for parent in call["parents"]] == ids
        assert all(parent["status"] == "FINISHED" for parent in call["parents"])
        inline = [parent for parent in call["parents"] if "$ref" not in parent["result"]]
        linked = [parent for parent in call["parents"] if "$ref" in parent["result"]]
        assert call["parents"] == [*inline, *linked]
        assert len(inline) == 2
        assert len(json.dumps(call)) < INLINE + 1_000 * count
        assert read < 4 * INLINE + 10_000 * count < count * SIZE or count == 4
        for parent in (linked[0], linked[-1]):
            link = parent["result"]["$ref"].removeprefix(service.url)
            found = await service.anonymous.done("GET", link)
            assert (found["task_id"], len(found["data"])) == (parent["task_id"], SIZE)
            assert (await service.anonymous.get(link.partition("&")[0])).status == 401


async def projected_to_the_end(service: Service) -> None:
    container = service.container
    last = await last_sequence(container.reading, TASKS, ">")

    async def is_there() -> bool:
        return await is_projected(container.buckets.tasks, last)

    await wait_until(is_there, "the projection to have all ends")
