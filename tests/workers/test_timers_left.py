"""Timers that are no longer needed do not accumulate: counted in the streams after the tasks have ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from taskstream.clock import utc_now
from taskstream.events.ids import parse_task_id
from taskstream.events.subjects import timer_subject
from taskstream.streams import timers
from taskstream.streams.client.connection import open_connection
from taskstream.streams.jetstream.messages import list_subjects, stream_info
from taskstream.streams.topology.definitions import RETRIES, TIMERS
from testkit.backend import BackendServer, accept, at_first, echo, reporting, status
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import submit_all

TASKS_OF_A_KIND = 100
CALLBACK: dict[str, Any] = {"async": True, "callback": True, "maxConcurrent": 50}


@pytest.fixture
async def service(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(timers, "FIRED_TTL", "1s")
    async with running_service(nats_url, circuit_failures=10_000) as service:
        yield service


async def set_timers(service: Service, stream: str) -> list[str]:
    """Return the timers of tasks in a stream."""
    found = await list_subjects(service.container.reading, stream, "timer.>")
    return [subject for subject in found if not subject.startswith("timer.check.")]


async def are_gone(service: Service, stream: str) -> None:
    async def look() -> bool:
        return not await set_timers(service, stream)

    await wait_until(look, f"the timers in {stream} to be gone")


async def report_twice(server: BackendServer, task: dict[str, Any]) -> None:
    await server.report(task, "PROCESSING")
    await server.report(task, "FINISHED", data=1)


async def have_ended(service: Service) -> None:
    """Wait until no task waits or runs."""
    unended = "/api/tasks?status=WAITING,PROCESSING&limit=1"
    await service.alice.until(unended, lambda page: not page["tasks"], "all tasks to have ended")


async def test_many_callback_tasks_leave_no_timer_and_cost_a_message_each(service: Service, nats_url: str) -> None:
    purged: list[str] = []
    watching = await open_connection(nats_url, "watching")

    def note(message: Msg) -> None:
        purged.append(msgspec.json.decode(message.data)["filter"])

    await watching.listen("$JS.API.STREAM.PURGE.>", note)
    async with BackendServer(reporting(report_twice)) as by_callback, BackendServer(echo) as at_once:
        await service.admin.register(by_callback, "s1", types=["slow"], **CALLBACK)
        await service.admin.register(at_once, "s2", types=["quick"])
        ids = await submit_all(service.alice, [{"type": "slow", "payload": {}}] * TASKS_OF_A_KIND)
        await submit_all(service.alice, [{"type": "quick", "payload": {}}] * 20)
        await have_ended(service)
        await are_gone(service, TIMERS)

    assert (await stream_info(service.container.reading, TIMERS))["state"]["messages"] <= 2  # checks of the servers
    await wait_until(lambda: len(purged) >= len(ids), "the cancellations to be seen")
    assert sorted(purged) == sorted(timer_subject("deadline", *parse_task_id(task_id)) for task_id in ids)
    await watching.close()


async def test_many_retried_tasks_leave_nothing_in_the_stream_of_retries(service: Service) -> None:
    async with BackendServer(at_first(status(500))) as backend:
        await service.admin.register(backend, "s1", maxConcurrent=50)
        await submit_all(service.alice, [{"payload": {}}] * TASKS_OF_A_KIND)
        await have_ended(service)

    assert len(backend.calls) == 2 * TASKS_OF_A_KIND

    async def is_empty() -> bool:
        return (await stream_info(service.container.reading, RETRIES))["state"]["messages"] == 0

    await wait_until(is_empty, "the fired retries to be gone")


async def test_a_task_cancelled_between_two_attempts_leaves_no_timer(service: Service) -> None:
    async with BackendServer(status(500, headers={"Retry-After": "600"})) as backend:
        await service.admin.register(backend, "s1")
        task_id = await service.alice.submit({"payload": {}})

        async def waits() -> list[str]:
            return await set_timers(service, RETRIES)

        await wait_until(waits, "the task to wait for its next attempt")
        await service.alice.done("POST", f"/api/task/{task_id}/cancel")

        await are_gone(service, RETRIES)


async def test_a_task_that_a_busy_server_takes_at_last_leaves_no_timer(service: Service) -> None:
    async with BackendServer(at_first(status(429))) as backend:
        await service.admin.register(backend, "s1")
        await service.alice.ended(await service.alice.submit({"payload": {}}))

        await are_gone(service, TIMERS)


async def test_an_attempt_that_is_accepted_after_its_end_leaves_no_timer(service: Service) -> None:
    async def end_first(server: BackendServer, task: dict[str, Any], request: Any) -> Any:
        await server.report(task, "FINISHED", data=1)
        return await accept(server, task, request)

    async with BackendServer(end_first) as backend:
        await service.admin.register(backend, "s1", **CALLBACK)
        await submit_all(service.alice, [{"payload": {}}] * 20)
        await have_ended(service)

        await are_gone(service, TIMERS)


async def test_a_cancelled_timer_does_not_fire_and_others_do(service: Service) -> None:
    at = utc_now() + timedelta(hours=1)
    first, second = (parse_task_id(f"{number:026d}~alice") for number in range(2))
    await service.container.timers.watch_deadline(first, 1, at)
    await service.container.timers.watch_deadline(second, 1, at)

    await service.container.timers.cancel("deadline", first)
    await service.container.timers.cancel("deadline", first)  # repeating is safe

    async def look() -> bool:
        return await set_timers(service, TIMERS) == [timer_subject("deadline", *second)]

    await wait_until(look, "one of two timers")
