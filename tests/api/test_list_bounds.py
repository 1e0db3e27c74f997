"""The work of one list request does not grow with what is stored."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.api.legacy import queue
from taskstream.commands import task_commands as task
from taskstream.events.task import StoredResult
from taskstream.index import search
from testkit.histories import WORKER, claim, give, ref, submission, success
from testkit.service import Service
from testkit.traffic import Traffic, counted

RESULT = StoredResult(inline=Raw(b'{"data":"%b"}' % (b"x" * 20_000)), size_bytes=20_011)
CHAPTER = replace(submission(), submission=replace(submission().submission, project="novel", task_type="chapter"))


async def end(service: Service, *numbers: int) -> None:
    for number in numbers:
        await give(service.container.commands, ref(number), CHAPTER, claim(), success(RESULT))


async def polled(service: Service, path: str = "/api/queue/tasks") -> tuple[list[str], str | None, Traffic]:
    """Poll a list as alice, while bob submits and reads; return its ids, its cursor, and what was read from NATS."""
    with counted(service.container.reading) as traffic:
        answer = await service.alice.done("GET", path)
    bobs = await asyncio.gather(service.bob.submit({"payload": 1}), service.bob.get("/api/queue/tasks"))
    assert bobs[1].status == 200
    return [entry["id"] for entry in answer["tasks"]], answer["nextCursor"], traffic


async def test_polling_reads_none_of_many_tasks_that_ended_lately(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_ENDED", 5)
    await end(api, *range(60))

    shown, cursor, traffic = await polled(api)

    assert (shown, cursor) == ([ref(number).id for number in range(55, 60)], None)
    assert len(traffic.requests) <= 4  # the end of the log, for each of two lists
    assert traffic.size_bytes < 20_000 < RESULT.size_bytes  # no result is read


async def test_the_last_ended_tasks_are_found_however_long_ago_they_were_submitted(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_ENDED", 3)
    commands = api.container.commands
    for number in range(10):
        await give(commands, ref(number), CHAPTER, claim())
    for number in (7, 2, 5, 4):
        await give(commands, ref(number), success(RESULT))
    shown, _, _ = await polled(api)
    assert shown == [ref(number).id for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
    await give(commands, ref(4), task.DeleteTask(reason=""))
    shown, _, _ = await polled(api)
    assert shown == [ref(number).id for number in (0, 1, 2, 3, 5, 6, 7, 8, 9)]


async def test_active_tasks_come_in_pages_that_lose_and_double_none(api: Service) -> None:
    ids = [ref(number).id for number in range(12)]
    for number in range(12):
        await give(api.container.commands, ref(number), CHAPTER)
    await end(api, 50)
    first, cursor, _ = await polled(api, "/api/queue/tasks?limit=5")
    assert first == [*ids[-5:], ref(50).id]
    second, cursor, _ = await polled(api, f"/api/queue/tasks?limit=5&cursor={cursor}")
    third, cursor, _ = await polled(api, f"/api/active-tasks?limit=5&cursor={cursor}")
    assert (second + third[::-1], cursor) == (ids[2:7] + ids[:2], None)
    assert (await api.alice.get("/api/queue/tasks?cursor=x")).status == 400
    assert (await api.alice.get("/api/queue/tasks?limit=1001&t=1")).status == 400


async def test_a_page_that_matches_few_of_many_tasks_ends_early_with_a_cursor(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PROBED", 4)
    monkeypatch.setattr(search, "EXAMINED", 10)
    for number in range(40):
        await give(api.container.commands, ref(number), CHAPTER)
    await give(api.container.commands, ref(2), claim())
    path = "/api/tasks?startedSince=1h&limit=10"
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        shown, cursor, _ = await polled(api, f"{path}&cursor={cursor}" if cursor else path)
        pages.append(shown)

    assert [task_id for page in pages for task_id in page] == [ref(2).id]
    assert 3 <= len(pages) <= 12


async def test_a_long_history_is_read_by_the_page(api: Service) -> None:
    commands = api.container.commands
    reports = [task.ReportProgress(reporter=WORKER, progress=1.0, message="m" * 1_000)] * 60
    await give(commands, ref(1), CHAPTER, claim(), *reports)

    with counted(api.container.reading) as traffic:
        page = await api.alice.done("GET", f"/api/task/{ref(1).id}/events?limit=10")
    assert len(page["events"]) == 10
    assert traffic.messages < 20
    events = page["events"]
    while page["nextAfter"] is not None:
        page = await api.alice.done("GET", f"/api/task/{ref(1).id}/events?limit=10&after={page['nextAfter']}")
        events += page["events"]
    assert [entry["sequence"] for entry in events] == list(range(1, 63))


LARGEST = {
    "/api/log": 500,
    "/api/servers/{server_id}/events": 1_000,
    "/api/queue/tasks": 1_000,
    "/api/active-tasks": 1_000,
    "/api/servers": 5_000,
    "/api/types": 1_000,
    "/api/task/{task_id}/events": 1_000,
}
"""Most entries of a page, where it is not 200."""


async def test_a_page_larger_than_the_largest_is_refused_in_every_list(api: Service) -> None:
    paths = (await api.admin.done("GET", "/openapi.json"))["paths"]
    examples = {
        "task_id": ref(1).id,
        "batch_id": f"{ref(1).id[:24]}00~alice",
        "webhook_id": ref(1).id,
        "schedule_id": ref(1).id,
        "server_id": "gpu-1",
    }
    lists = [
        path
        for path, operations in paths.items()
        if any(each["name"] == "limit" for each in operations.get("get", {}).get("parameters", ()))
    ]
    assert len(lists) > 15
    for path in lists:
        most = LARGEST.get(path, 200)
        for limit in (0, -1, most + 1, 10**30, "x"):
            refusal = await api.admin.refusal("GET", f"{path.format(**examples)}?limit={limit}")
            assert refusal == (400, "limit"), (path, limit)
        accepted = await api.admin.get(f"{path.format(**examples)}?limit={most}")
        assert accepted.status in (200, 404), path
