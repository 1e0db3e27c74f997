"""A task with many parents: a bounded request, with links to the results that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from taskstream.workers.attempts import parents
from testkit.backend import BackendServer, finished
from testkit.service import Client, running_service

SIZE = 2_000
INLINE = 20_000


async def of_some_size(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    return web.json_response(finished(task, "x" * task["request"]["size"]))


async def child_of(client: Client, sizes: list[int]) -> list[str]:
    """Submit tasks with results of these sizes, and a task that depends on all; return its id, then its parents'."""
    batch = [{"payload": {"size": size}} for size in sizes]
    ids: list[str] = (await client.done("POST", "/api/tasks/batch", batch))["taskIds"]
    child = await client.submit({"payload": {"size": 1}, "dependsOn": ids})
    assert (await client.ended(child))["status"] == "FINISHED"
    return [child, *ids]


def call_for(backend: BackendServer, task_id: str) -> dict[str, Any]:
    return next(call for call in backend.calls if call["task_id"] == task_id)


@pytest.mark.parametrize("count", [4, 60])
async def test_parents_results_are_inline_as_far_as_they_fit(
    nats_url: str, backend: BackendServer, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Few parents are read by their histories, many by their views."""
    monkeypatch.setattr(parents, "FEW", 8)
    backend.answer = of_some_size
    sizes = [SIZE if count > 8 else 8_000] * count
    async with running_service(nats_url, parent_results=INLINE, inline_result=5_000) as service:
        await service.admin.register(backend, "one", maxConcurrent=10)
        child, *ids = await child_of(service.alice, sizes)

        call = call_for(backend, child)
        assert [parent["task_id"] for parent in call["parents"]] == ids
        assert all(parent["status"] == "FINISHED" for parent in call["parents"])
        inline = [parent for parent in call["parents"] if "$ref" not in parent["result"]]
        linked = [parent for parent in call["parents"] if "$ref" in parent["result"]]
        assert 0 < len(inline) < count
        assert call["parents"][: len(inline)] == inline
        assert sum(len(json.dumps(parent["result"])) for parent in inline) < INLINE * 1.1
        assert len(json.dumps(call)) < INLINE + 1_000 * count
        for parent in linked[:: len(linked) - 1]:
            link = parent["result"]["$ref"].removeprefix(service.url)
            async with service.anonymous.session.get(service.url + link) as response:
                body = await response.read()
            assert len(body) == parent["result"]["bytes"]
            assert json.loads(body)["task_id"] == parent["task_id"]
            assert (await service.anonymous.get(link.partition("&")[0])).status == 401
