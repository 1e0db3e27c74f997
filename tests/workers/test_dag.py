"""A random DAG, end to end: two workers, real calls, and the scheduler's worker gone in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

from aiohttp import web

from testkit.backend import BackendServer, finished
from testkit.dags import CHOICES, Node, predicted, will_run
from testkit.service import ENDED, Client, Service, running_service
from testkit.waiting import wait_until

SEED = 20261122
TASKS = 40
STATUSES = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "CANCELLED"}


async def as_told(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Take a moment, then succeed or fail as the payload says."""
    await asyncio.sleep(0.02)
    if task["request"]["succeeds"]:
        return web.json_response(finished(task, {"place": task["request"]["place"]}))
    return web.json_response({"error": "as told"}, status=422)


def random_dag() -> list[Node]:
    chance = random.Random(SEED)
    return [
        Node(
            tuple(sorted(chance.sample(range(place), min(place, chance.randint(0, 3))))),
            chance.choice(CHOICES),
            chance.random() < 0.8,
        )
        for place in range(TASKS)
    ]


async def is_kept(service: Service) -> bool:
    task_id = await service.bob.submit({"payload": 1, "delay": 3_600})
    return bool((await service.bob.get(f"/api/task/{task_id}/why"))["keeper"] == "answered")


async def ended(client: Client) -> dict[str, str]:
    tasks = (await client.get("/api/tasks?limit=200"))["tasks"]
    return {task["id"]: task["status"] for task in tasks if task["status"] in ENDED}


async def test_a_random_dag_ends_as_the_model_says_though_the_scheduler_changes(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = as_told
    nodes = random_dag()
    assert {*predicted(nodes)} == {*STATUSES}, "the seed gives each outcome"
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_service(nats_url))
        await wait_until(lambda: is_kept(first), "the first worker to hold the scheduler's lease")
        async with running_service(nats_url) as second:
            await second.admin.register(backend, "s", maxConcurrent=4)
            tasks: list[str] = []
            for place, node in enumerate(nodes):
                body = {
                    "payload": {"place": place, "succeeds": node.succeeds},
                    "dependsOn": [tasks[parent] for parent in node.parents],
                    "onParentFailure": node.choice,
                }
                tasks.append(await second.alice.submit(body))

            async def some_have_ended() -> bool:
                return len(await ended(second.alice)) >= TASKS // 4

            await wait_until(some_have_ended, "some to have ended")
            await stack.aclose()

            async def all_have_ended() -> dict[str, str] | None:
                found = await ended(second.alice)
                return found if len(found) == TASKS else None

            statuses = await wait_until(all_have_ended, "all to have ended")

    assert statuses is not None
    assert [statuses[task] for task in tasks] == [STATUSES[outcome] for outcome in predicted(nodes)]
    called = Counter(call["request"]["place"] for call in backend.calls)
    assert set(called) == will_run(nodes)
    began = {
        place: order for order, place in reversed(list(enumerate(call["request"]["place"] for call in backend.calls)))
    }
    assert all(began[place] > began[parent] for place in began for parent in nodes[place].parents if parent in began)
