"""Polling: answers that wait for the end of a task, and a 304 for one that has not changed."""

from __future__ import annotations

import asyncio

import pytest

from taskstream.api.routes.tasks import preferred_wait
from testkit.backend import BackendServer, hold
from testkit.queue_surface import MODEL
from testkit.service import Service, running_service
from testkit.waiting import wait_until


async def test_a_submit_may_wait_for_the_result(nats_url: str) -> None:
    async with BackendServer() as backend, running_service(nats_url) as service:
        await service.admin.register(backend, "one")

        answer = await service.alice.post("/api/task", {"payload": 1}, headers={"Prefer": "wait=30"})

    assert answer["taskDetails"]["status"] == "FINISHED"
    assert answer["taskDetails"]["result"]["data"] == {"echo": 1}


async def test_a_read_may_wait_for_the_end_and_answers_as_soon_as_it_comes(nats_url: str) -> None:
    async with BackendServer(hold) as backend, running_service(nats_url) as service:
        await service.admin.register(backend, "one")
        task_id = await service.alice.submit({"payload": 1})
        reading = asyncio.create_task(service.alice.get(f"/api/task/{task_id}?wait=60"))
        await wait_until(lambda: backend.running and service.container.feeds.hub.listeners, "the read to wait")
        backend.let_go.set()

        answer = await reading

    assert answer["taskDetails"]["status"] == "FINISHED"


async def test_a_read_whose_wait_is_over_shows_the_task_as_it_is(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})

    answer = await api.alice.get(f"/api/task/{task_id}?wait=1")

    assert (answer.status, answer["taskDetails"]["status"]) == (200, "WAITING")
    assert (await api.alice.get(f"/api/task/{task_id}?wait=61")).status == 400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("wait=5", 5),
        ('respond-async, wait="7"', 7),
        ("WAIT = 100000", 60),
        ("wait=x", 0),
        ("await=5", 0),
        ("wait=-1", 0),
    ],
)
def test_a_preference_is_read_as_the_rfc_says(header: str | None, seconds: int) -> None:
    assert preferred_wait(header) == seconds


@pytest.mark.parametrize("path", ["/api/task/{}", "/api/tasks", "/api/queue/tasks", "/api/active-tasks"])
async def test_an_unchanged_answer_is_a_304(api: Service, path: str) -> None:
    task_id = (await api.alice.post("/api/projects/novel/queue-chapters", headers=MODEL))["taskId"]
    path = path.format(task_id)
    first = await api.alice.get(path)
    known = {"If-None-Match": f'"other", W/{first.headers["ETag"]}'}

    again = await api.alice.get(path, headers=known)
    await api.alice.post(f"/api/task/{task_id}/cancel")
    changed = await api.alice.get(path, headers=known)

    assert (again.status, again.body, again.headers["ETag"]) == (304, "", first.headers["ETag"])
    assert changed.status == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_refusals_have_no_tag(api: Service) -> None:
    assert "ETag" not in (await api.alice.get("/api/task/x")).headers
