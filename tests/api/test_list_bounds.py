"""The work of one list request does not grow with what is stored."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.api.legacy import queue
from taskstream.clock import utc_now
from taskstream.commands import task_commands as task
from taskstream.events.task import StoredResult
from taskstream.projections import task_reader
from taskstream.projections.task_projection import TaskProjection
from taskstream.projections.task_reader import TaskFilter
from taskstream.streams.buckets import Bucket
from testkit.histories import WORKER, claim, give, ref, submission, success, whole_log
from testkit.service import Service
from testkit.traffic import Traffic, counted

RESULT = StoredResult(inline=Raw(b'{"data":"%b"}' % (b"x" * 20_000)), size_bytes=20_011)
CHAPTER = replace(submission(), submission=replace(submission().submission, project="novel", task_type="chapter"))
OF_PROJECT = TaskFilter(owner="alice", in_project=True)


async def project(service: Service) -> None:
    projection = TaskProjection(service.container.buckets.tasks)
    checkpoint = await projection.resume()
    todo = [position for position in await whole_log(service.container.reading) if position.sequence > checkpoint]
    await projection.apply(todo)
    await projection.write_all()


async def end(service: Service, *numbers: int) -> None:
    for number in numbers:
        await give(service.container.commands, ref(number), CHAPTER, claim(), success(RESULT))


async def too_many(*_: object) -> None:
    """Stand for `Bucket.get_matching` of a user who has more active tasks than NATS lists at once."""


async def polled(service: Service, path: str = "/api/queue/tasks") -> tuple[list[str], str | None, Traffic]:
    """Poll a list as alice, while bob submits and reads; return its ids, its cursor, and what was read from NATS."""
    with counted(service.container.reading) as traffic:
        answer = await service.alice.done("GET", path)
    bobs = await asyncio.gather(service.bob.submit({"payload": 1}), service.bob.get("/api/queue/tasks"))
    assert bobs[1].status == 200
    return [entry["id"] for entry in answer["tasks"]], answer["nextCursor"], traffic


async def test_polling_reads_few_of_many_tasks_that_ended_lately(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_ENDED", 5)
    await end(api, *range(20))
    await project(api)
    shown, cursor, few = await polled(api)
    assert (shown, cursor) == ([ref(number).id for number in range(15, 20)], None)
    await end(api, *range(20, 60))
    await project(api)

    shown, _, many = await polled(api)

    assert shown == [ref(number).id for number in range(55, 60)]
    assert len(many.requests) <= len(few.requests) <= 16
    assert many.messages <= few.messages + 40  # a step back has at most 256 entries
    assert many.size_bytes < 100_000 < 60 * RESULT.size_bytes  # no result is read


async def test_the_last_ended_tasks_are_found_however_long_ago_they_were_submitted(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_ENDED", 3)
    commands = api.container.commands
    for number in range(10):
        await give(commands, ref(number), CHAPTER, claim())
    await project(api)
    for number in (7, 2, 5, 4):
        await give(commands, ref(number), success(RESULT))
    for projects in (False, True):
        if projects:
            await project(api)
        shown, _, _ = await polled(api)
        assert shown == [ref(number).id for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
    await give(commands, ref(4), task.DeleteTask(reason=""))
    shown, _, _ = await polled(api)
    assert shown == [ref(number).id for number in (0, 1, 2, 3, 5, 6, 7, 8, 9)]


async def test_what_ended_behind_a_long_tail_is_found(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await end(api, 1)
    await give(api.container.commands, ref(2), CHAPTER)
    await project(api)
    await end(api, 3, 4)
    await give(api.container.commands, ref(2), task.CancelTask(reason="enough"))
    for longest in (1, 3, 7, 8):
        monkeypatch.setattr(task_reader, "LONGEST_TAIL", longest)
        found = await api.container.tasks.ended_lately(OF_PROJECT, utc_now() - timedelta(hours=1), 3)
        assert [listed.ref for listed in found] == [ref(2), ref(4), ref(3)]
    monkeypatch.setattr(task_reader, "TAIL_BYTES", 1)
    found = await api.container.tasks.ended_lately(OF_PROJECT, utc_now() - timedelta(hours=1), 2)
    assert found[0].ref == ref(2)


async def test_active_tasks_come_in_pages_that_lose_and_double_none(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [ref(number).id for number in range(12)]
    for number in range(12):
        await give(api.container.commands, ref(number), CHAPTER)
    await end(api, 50)
    for projects in (False, True):
        if projects:
            await project(api)
        for is_many in (False, True):  # from the keys of active tasks, or from the submissions
            if is_many:
                monkeypatch.setattr(Bucket, "get_matching", too_many)
            else:
                monkeypatch.undo()
            first, cursor, _ = await polled(api, "/api/queue/tasks?limit=5")
            assert first == [*ids[-5:], ref(50).id]
            second, cursor, _ = await polled(api, f"/api/queue/tasks?limit=5&cursor={cursor}")
            third, cursor, _ = await polled(api, f"/api/active-tasks?limit=5&cursor={cursor}")
            assert (second + third[::-1], cursor) == (ids[2:7] + ids[:2], None)
    assert (await api.alice.get("/api/queue/tasks?cursor=x")).status == 400
    assert (await api.alice.get("/api/queue/tasks?limit=1001&t=1")).status == 400


async def test_a_page_searches_no_more_submissions_though_the_log_has_them_side_by_side(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [ref(number).id for number in range(30)]
    for number in range(30):
        await give(api.container.commands, ref(number), CHAPTER)
    monkeypatch.setattr(Bucket, "get_matching", too_many)
    monkeypatch.setattr(task_reader, "LONGEST_WALK", 5)
    monkeypatch.setattr(task_reader, "MOST_SEARCHED", 12)
    for projects in (False, True):
        if projects:
            await project(api)
        for path, most in (("/api/active-tasks?limit=1000", 12), ("/api/tasks?limit=20", 5)):
            pages = []
            cursor: str | None = ""
            while cursor is not None:
                shown, cursor, _ = await polled(api, f"{path}&cursor={cursor}" if cursor else path)
                pages.append(shown)
            assert [task_id for page in pages for task_id in page] == ids[::-1]
            assert max(map(len, pages)) == most


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
