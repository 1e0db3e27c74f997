"""A store that fills up: it says so early, keeps its reserve for accepted tasks, and resumes once it has space."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.container import Container
from taskstream.runtime import metrics
from taskstream.streams import storage
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, accept, finished, hold
from testkit.service import Answer, Service, running_service
from testkit.waiting import wait_until

MEGABYTE = 1_000_000
LIMIT = 12 * MEGABYTE
RESERVE = 4 * MEGABYTE
PAYLOAD = {"text": "x" * 900_000}
MODEL = {"X-AI-Provider": "p", "X-AI-Model": "m", "X-AI-Key": "k"}
LARGE = {"payload": PAYLOAD, "delay": 3_600}


async def limit_log(container: Container, size_bytes: int) -> None:
    """Set `max_bytes` of the log of tasks, as an operator does."""
    config = (await api(container.reading, f"STREAM.INFO.{TASKS}"))["config"]
    await api(container.appending, f"STREAM.UPDATE.{TASKS}", config | {"max_bytes": size_bytes})


async def fill(service: Service) -> Answer:
    """Submit held tasks until one is refused; return the refusal."""
    for _ in range(20):
        answer = await service.alice.post("/api/task", LARGE)
        if answer.status != 200:
            return answer
    raise AssertionError("the store was never full")


async def ready(service: Service) -> Answer:
    return await service.anonymous.get("/health/ready")


async def test_a_full_store_refuses_new_work_ends_running_tasks_and_takes_work_again(
    nats_url: str, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STREAMS_SECONDS", 0.0)
    async with running_service(nats_url, storage_reserve=RESERVE) as service:
        backend.answer = accept
        await service.admin.register(backend, "one", **{"async": True, "callback": True})
        running = await service.alice.submit({"a": 1})
        await service.alice.reaches(running, "PROCESSING")
        failed, held = [await service.alice.submit({"payload": 1, "delay": 900}) for _ in range(2)]
        await service.alice.done("POST", f"/api/task/{failed}/cancel")
        schedule = {"name": "s", "cron": "0 0 1 1 *", "task": {"payload": {}}}
        created = await service.alice.done("POST", "/api/schedules", schedule)
        await limit_log(service.container, LIMIT)
        await ready(service)

        refused = await fill(service)

        assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
        assert refused["type"] == "urn:problem-type:taskstream:store-full"
        assert "a stream with `max_bytes`" in refused["detail"]
        assert "an administrator must raise `max_bytes`" in refused["detail"]
        answer = await ready(service)
        assert (answer.status, answer["storage"]["limitedBy"]) == (200, "stream")
        assert RESERVE - MEGABYTE < answer["storage"]["freeBytes"] < RESERVE + MEGABYTE

        await limit_log(service.container, LIMIT - MEGABYTE)  # not even a small task fits beside the reserve
        answer = await ready(service)
        assert (answer.status, answer["status"], answer["storage"]["accepting"]) == (200, "degraded", False)
        assert answer["storage"]["percent"] > 60
        assert "the task store is full" in answer["warnings"][0]
        assert "taskstream_store_accepting 0.0" in (await service.anonymous.get("/metrics")).body
        ways_in = [
            await service.bob.post("/api/task", {"a": 1}),
            await service.bob.post("/api/tasks/batch", [{"payload": 1}]),
            await service.bob.post("/api/projects/p/queue-chapters", {}, headers=MODEL),
            await service.alice.post(f"/api/schedules/{created['id']}/run"),
            await service.alice.post(f"/api/task/{failed}/retry"),
            await service.bob.post("/api/schedules", schedule),
            await service.alice.call("PATCH", f"/api/schedules/{created['id']}", {"name": "t"}),
            await service.bob.post("/api/webhooks", {"url": "http://127.0.0.1:1/"}),
        ]
        assert [answer.status for answer in ways_in] == [503] * len(ways_in)
        assert (await service.alice.done("GET", f"/api/task/{held}"))["taskId"] == held
        await service.alice.done("POST", f"/api/task/{held}/cancel")
        await service.alice.done("DELETE", f"/api/schedules/{created['id']}")
        large = finished({"task_id": running}, "z" * MEGABYTE, "one")
        await service.client("one", "service").done("PUT", f"/api/task/{running}", large)
        assert (await service.alice.details(running))["status"] == "FINISHED"

        await limit_log(service.container, 3 * LIMIT)

        async def takes_work() -> bool:
            return (await ready(service))["storage"]["accepting"] is True

        await wait_until(takes_work, "the store to have space")
        await service.bob.submit({"a": 2})
        assert (await ready(service))["status"] == "ok"


async def test_with_half_of_the_reserve_left_only_running_tasks_go_on(
    nats_url: str, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STREAMS_SECONDS", 0.0)
    async with running_service(nats_url, storage_reserve=RESERVE) as service:
        backend.answer = hold
        await service.admin.register(backend, "one", maxConcurrent=2)
        running, waiting = await service.alice.submit({"a": 1}), await service.alice.submit({"payload": 1, "delay": 1})
        await service.alice.reaches(running, "PROCESSING")
        await limit_log(service.container, RESERVE // 4)
        await ready(service)

        def is_held(why: dict[str, Any]) -> bool:
            return [each["kind"] for each in why["holds"]][:1] == ["store-full"]

        await service.alice.until(f"/api/task/{waiting}/why", is_held, "the task to wait for space")
        returned = metrics.queue_returns.labels("paused")._value.get()
        backend.let_go.set()
        assert (await service.alice.ended(running))["status"] == "FINISHED"
        assert len(backend.calls) == 1
        assert metrics.queue_returns.labels("paused")._value.get() - returned < 20  # it does not go round and round

        await limit_log(service.container, 9 * RESERVE)
        await ready(service)
        assert (await service.alice.ended(waiting))["status"] == "FINISHED"
