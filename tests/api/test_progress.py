"""Floods of progress: followers see all of it, and the log keeps a few reports a second, and the last."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import nats as client
import pytest

from taskstream.events.envelope import Actor
from taskstream.events.ids import parse_task_id
from taskstream.events.subjects import live_subject
from taskstream.events.task import ProgressReported
from taskstream.push import attempt_reports, live
from taskstream.push.attempt_reports import BURST, PER_SECOND
from testkit.backend import BackendServer, accept
from testkit.service import Service, running_service
from testkit.sse import opened, received
from testkit.waiting import wait_until

REPORTS = 100


@contextlib.asynccontextmanager
async def working(nats_url: str) -> AsyncIterator[tuple[Service, BackendServer, str]]:
    """Run a service with a task that its server has accepted; yield them and the task's id."""
    async with BackendServer(accept) as backend, running_service(nats_url) as service:
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        task_id = await service.alice.submit({"payload": 1})
        await wait_until(lambda: backend.calls, "the call")
        yield service, backend, task_id


async def flood(backend: BackendServer, count: int = REPORTS) -> None:
    for number in range(count):
        answer = await backend.report(
            backend.calls[0], "PROCESSING", progress=number * 100 / count, log=f"line {number}", output=f"{number};"
        )
        assert answer[0] == 200


def parts(events: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Return all lines and all output that progress events have."""
    lines = [line for event in events for line in event.get("lines", ())]
    return lines, "".join(event.get("output", "") for event in events)


EVERYTHING = ([f"line {number}" for number in range(REPORTS)], "".join(f"{number};" for number in range(REPORTS)))


async def test_followers_see_each_report_and_the_log_keeps_few(nats_url: str) -> None:
    async with working(nats_url) as (service, backend, task_id):
        async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
            await received(stream, 1)
            began_at = time.monotonic()
            await flood(backend)
            await backend.report(backend.calls[0], "FINISHED", data=1)
            seconds = time.monotonic() - began_at
            sent = [entry.data["event"] async for entry in stream]
        history = [event for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]

    progress = [event for event in sent if event["type"] == "ProgressReported"]
    assert [event["progress"] for event in progress] == [float(number) for number in range(REPORTS)]
    assert parts(progress) == EVERYTHING
    assert parts(history) == EVERYTHING
    assert len(history) <= BURST + PER_SECOND * seconds + 1, "and one at the end"
    assert history[-1]["progress"] == REPORTS - 1
    assert sent[-1]["type"] == "TaskSucceeded"


async def test_the_last_report_is_in_the_log_soon_also_without_an_end(nats_url: str) -> None:
    async with working(nats_url) as (service, backend, task_id):
        await flood(backend, 30)

        async def kept() -> bool:
            return (await service.alice.details(task_id))["progress"] == 29 * 100 / 30

        await wait_until(kept, "the last report to be in the log")


async def test_reports_after_the_end_are_refused_and_not_sent(nats_url: str) -> None:
    async with (
        working(nats_url) as (service, backend, _),
        opened(service.alice, "/api/tasks/stream") as stream,
    ):
        await received(stream, 1)
        await flood(backend, 20)
        await backend.report(backend.calls[0], "FINISHED", data=1)
        late = await asyncio.gather(
            *(backend.report(backend.calls[0], "PROCESSING", progress=number) for number in range(20))
        )
        await service.alice.submit({"payload": 2})
        names = []
        async for entry in stream:
            names.append(entry.type)
            if entry.type == "TaskSubmitted":
                break

    assert {status for status, _ in late} == {409}
    assert names[names.index("TaskSucceeded") :] == ["TaskSucceeded", "TaskSubmitted"]


async def test_a_late_report_is_not_sent_to_followers_who_came_after_its_batch(nats_url: str) -> None:
    """As when NATS has it held up on the way to an API that has just been started."""

    def late(batch: str) -> bytes:
        event = ProgressReported(attempt=1, output="late;")
        by = Actor("server", "one")
        return live.encode(live.LiveReport(batch=batch, index=0, at=datetime.now(UTC), by=by, event=event))

    async with working(nats_url) as (service, backend, task_id), await client.connect(nats_url) as nats_client:
        await flood(backend, 30)

        async def last_batch() -> str | None:
            """The batch of the last report, once it is in the log."""
            entry = (await service.alice.get(f"/api/task/{task_id}/events"))["events"][-1]
            return entry["event"]["batch"] if entry["event"].get("progress") == 29 * 100 / 30 else None

        async def comes_late(batch: str) -> None:
            await nats_client.publish(live_subject(parse_task_id(task_id)), late(batch))
            await nats_client.flush()

        batch = await wait_until(last_batch, "the flood to be in the log")
        async with opened(service.alice, "/api/tasks/stream") as stream:
            await received(stream, 1)
            await comes_late(batch)
            await backend.report(backend.calls[0], "FINISHED", data=1)
            names = [entry.type for entry in await received(stream, 1)]
        async with running_service(nats_url) as new, opened(new.alice, "/api/tasks/stream") as stream:
            await service.alice.submit({"payload": 2})
            await received(stream, 1)
            await comes_late("another")
            await service.alice.submit({"payload": 3})
            async for entry in stream:
                names.append(entry.type)
                if entry.type == "TaskSubmitted":
                    break

    assert names[0] == "TaskSucceeded"
    assert "ProgressReported" not in names


async def test_the_stored_progress_of_a_task_is_bounded_and_followers_see_all(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_reports, "MOST_STORED", 1_000)
    async with working(nats_url) as (service, backend, task_id):
        async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
            await received(stream, 1)
            await wait_until(lambda: service.container.feeds.hub.position, "the stream to be live")
            for number in range(10):
                await backend.report(
                    backend.calls[0], "PROCESSING", progress=number, output="x" * 400, custom_data={"n": "y" * 2_000}
                )
            await backend.report(backend.calls[0], "FINISHED")
            pushed = [entry.data["event"] async for entry in stream]
        history = await service.alice.history(task_id)

    stored = [event for event in history if event["type"] == "ProgressReported"]
    assert sum(len(event.get("output", "")) + len(str(event.get("custom_data", ""))) for event in stored) <= 1_000
    assert stored[-1]["progress"] == 9
    assert attempt_reports.NOT_KEPT in stored[-1]["notes"]
    assert sum(len(event.get("output", "")) for event in pushed) == 4_000
