"""Graphs of tasks and of batches, and children: current, of the caller's own tasks, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.service import Service, running_service


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, worker=False) as service:
        yield service


async def chain(service: Service) -> list[str]:
    """Return a grandparent, two parents, a task, a child of it, and a second child of a parent."""
    alice = service.alice
    top = await alice.submit({"payload": 0})
    left, right = [await alice.submit({"payload": 1, "dependsOn": [top]}) for _ in range(2)]
    task = await alice.submit({"payload": 2, "type": "default", "dependsOn": [left, right]})
    child = await alice.submit({"payload": 3, "dependsOn": [task]})
    return [top, left, right, task, child]


async def test_a_graph_has_ancestors_descendants_and_edges_as_soon_as_they_are_submitted(service: Service) -> None:
    top, left, right, task, child = await chain(service)

    graph = await service.alice.done("GET", f"/api/task/{task}/graph")

    levels = {node["id"]: node["level"] for node in graph["nodes"]}
    assert levels == {task: 0, left: -1, right: -1, top: -2, child: 1}
    edges = {(edge["parent"], edge["child"]) for edge in graph["edges"]}
    assert edges == {(top, left), (top, right), (left, task), (right, task), (task, child)}
    [first] = [node for node in graph["nodes"] if node["id"] == task]
    assert first == {"id": task, "level": 0, "status": "WAITING", "type": "default", "index": None, "held": True}
    [root] = [node for node in graph["nodes"] if node["id"] == top]
    assert root["held"] is False
    assert graph["truncated"] is None

    small = await service.alice.done("GET", f"/api/task/{task}/graph?depth=1&edges=1")
    assert len(small["nodes"]) == 4
    assert small["truncated"] == {"by": ["depth", "edges"], "nodes": 1, "edges": 2}
    for query, where in [("nodes=401", "nodes"), ("edges=801", "edges"), ("depth=81", "depth"), ("nodes=0", "nodes")]:
        assert await service.alice.refusal("GET", f"/api/task/{task}/graph?{query}") == (400, where)


async def test_graphs_and_children_are_for_those_who_may_read_the_task(service: Service) -> None:
    top, _, _, task, child = await chain(service)

    for path in (f"/api/task/{task}/graph", f"/api/task/{task}/children"):
        clients = [service.alice, service.admin, service.auditor, service.bob, service.anonymous]
        assert [(await client.get(path)).status for client in clients] == [200, 200, 200, 404, 401]
    assert (await service.bob.post("/api/task", {"payload": 1, "dependsOn": [top]})).status == 400

    await service.alice.done("POST", f"/api/task/{child}/cancel")
    await service.alice.done("POST", "/api/tasks/delete", {"ids": [child]})

    def ids(graph: Any) -> set[str]:
        return {node["id"] for node in graph["nodes"]}

    assert child not in ids(await service.alice.done("GET", f"/api/task/{task}/graph"))
    assert child in ids(await service.auditor.done("GET", f"/api/task/{task}/graph"))
    assert (await service.alice.get(f"/api/task/{child}/graph")).status == 404


async def test_children_are_listed_in_pages_in_the_order_of_their_submission(service: Service) -> None:
    parent = await service.alice.submit({"payload": 0})
    assert await service.alice.listed(f"/api/task/{parent}/children", "tasks") == []
    children = [await service.alice.submit({"payload": number, "dependsOn": [parent]}) for number in range(7)]

    pages = await service.alice.pages(f"/api/task/{parent}/children", "tasks", "limit=3")

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [task["id"] for page in pages for task in page] == children
    assert {task["status"] for page in pages for task in page} == {"WAITING"}


async def test_the_graph_of_a_batch_has_its_tasks_by_levels(service: Service) -> None:
    bodies = [{"payload": 0}, {"payload": 1, "dependsOn": [0]}, {"payload": 2, "dependsOn": [0, 1]}, {"payload": 3}]
    batch = await service.alice.done("POST", "/api/tasks/batch", bodies)
    first, second, third, alone = batch["taskIds"]
    path = f"/api/batches/{batch['batchId']}/graph"

    graph = await service.alice.done("GET", path)

    assert [(node["id"], node["index"], node["level"]) for node in graph["nodes"]] == [
        (first, 0, 0),
        (alone, 3, 0),
        (second, 1, 1),
        (third, 2, 2),
    ]
    edges = {(edge["parent"], edge["child"]) for edge in graph["edges"]}
    assert edges == {(first, second), (first, third), (second, third)}
    assert graph["truncated"] is None
    short = await service.alice.done("GET", f"{path}?nodes=3")
    assert (len(short["nodes"]), short["truncated"]) == (3, {"by": ["nodes"], "nodes": 1, "edges": 0})
    assert [(await client.get(path)).status for client in (service.bob, service.auditor)] == [404, 200]
    assert (await service.alice.get(path.replace(first.split("~")[0], "0" * 26))).status == 404


async def test_a_parent_of_very_many_children_makes_a_bounded_graph(service: Service) -> None:
    parent = await service.alice.submit({"payload": 0})
    await service.alice.done("POST", "/api/tasks/batch", [{"payload": 0, "dependsOn": [parent]}] * 600)

    graph = await service.alice.done("GET", f"/api/task/{parent}/graph")

    assert (len(graph["nodes"]), len(graph["edges"])) == (400, 399)
    assert graph["truncated"] == {"by": ["nodes"], "nodes": 201, "edges": 0}
