"""Lists of a running process: current, in pages that lose and double nothing, whatever else happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from taskstream.clock import utc_now
from taskstream.commands import task_commands as task
from taskstream.container import Container, open_container
from taskstream.errors import NotFound
from taskstream.events.ids import TaskRef, new_batch, nth
from taskstream.index import lists as lists_module
from taskstream.index.lists import TaskLists
from taskstream.index.query import Span, TaskQuery, read_cursor
from taskstream.projections.task_view import ACTIVE, encode, view_key
from testkit.histories import WORKER, claim, folded, give, ref, submission, success, wander, whole_log
from testkit.service import quick_settings
from testkit.traffic import counted

EVERYTHING = TaskQuery(deleted=True)
CHAPTER = replace(submission(), submission=replace(submission().submission, project="novel"))


@pytest.fixture
async def container(nats_url: str, tmp_path: Path) -> AsyncIterator[Container]:
    """A core with an index, and nothing else running."""
    settings = quick_settings(index_dir=str(tmp_path / "index"))
    async with await open_container(settings, nats_url, durability="always") as container:
        container.start_index()
        yield container


@pytest.fixture
def lists(container: Container) -> TaskLists:
    return container.lists


async def pages(lists: TaskLists, wanted: TaskQuery = EVERYTHING, limit: int = 3) -> list[TaskRef]:
    """Return the tasks of all pages."""
    found: list[TaskRef] = []
    cursor: str | None = None
    while True:
        after = None if cursor is None else read_cursor(wanted, cursor)
        page = await lists.page(wanted, limit, after, user="u")
        found.extend(listed.ref for listed in page.tasks)
        cursor = page.cursor
        if cursor is None:
            return found
        assert len(page.tasks) == limit


async def test_no_tasks_are_an_empty_last_page(lists: TaskLists) -> None:
    assert await lists.page(EVERYTHING, 10, user="u") == ([], None, 0)
    assert (await lists.count(EVERYTHING, "status", user="u")).groups == ({}, False)


async def test_lists_are_newest_first_current_and_complete_while_tasks_come_and_go(
    container: Container, lists: TaskLists
) -> None:
    for number in range(20):
        last = await give(container.commands, ref(number), submission(), claim(), success())
        newest = await lists.page(EVERYTHING, 1, user="u")
        assert ([each.ref for each in newest.tasks], newest.as_of) == ([ref(number)], last)
    for limit in (1, 7, 100):
        assert await pages(lists, limit=limit) == [ref(number) for number in reversed(range(20))]
    first = await lists.page(EVERYTHING, 10, user="u")
    assert first.cursor is not None
    for number in range(20, 30):
        await give(container.commands, ref(number), submission())
    await give(container.commands, ref(3), task.DeleteTask(reason=""))
    second = await lists.page(TaskQuery(), 10, read_cursor(TaskQuery(), first.cursor), user="u")

    listed = [each.ref for page in (first, second) for each in page.tasks]
    assert listed == [ref(number) for number in reversed(range(20)) if number != 3]


@pytest.mark.parametrize("seed", [0, 1])
async def test_a_list_shows_the_fold_of_the_log(container: Container, lists: TaskLists, seed: int) -> None:
    await wander(container.commands, [ref(number) for number in range(8)], 150, seed=seed)

    page = await lists.page(EVERYTHING, 100, user="u")

    shown = {view_key(listed.ref): encode(listed.view) for listed in page.tasks}
    wanted = folded(await whole_log(container.reading))
    assert shown == {key: value for key, value in wanted.items() if key.startswith("task.")}


async def test_owners_active_tasks_and_ends_are_listed_apart(container: Container, lists: TaskLists) -> None:
    started = utc_now()
    for number in range(6):
        for owner in ("alice", "alic"):
            await give(container.commands, ref(number, owner), submission(owner))
    for number in (4, 0):
        await give(container.commands, ref(number), claim())
    for number in (5, 2):
        await give(container.commands, ref(number), claim(), success())

    assert await pages(lists, TaskQuery(owner="alice")) == [ref(number) for number in reversed(range(6))]
    assert await pages(lists, TaskQuery(owner="ali")) == []
    assert await pages(lists, TaskQuery(owner="alice", statuses=ACTIVE), 2) == [ref(n) for n in (4, 3, 1, 0)]
    assert await pages(lists, TaskQuery(owner="alice", statuses=frozenset({"PROCESSING"})), 1) == [ref(4), ref(0)]
    assert await pages(lists, TaskQuery(sort="ended", ended=Span(started)), 1) == [ref(2), ref(5)]
    assert await pages(lists, TaskQuery(sort="ended", descending=False), 1) == [ref(5), ref(2)]
    assert await lists.running(["s1", "s2"]) == {"s1": 2, "s2": 0}
    found = await lists.count(TaskQuery(owner="alice"), "status", user="u")
    assert found.groups is not None
    assert {status: count.number for status, count in found.groups.counts.items()} == {
        "WAITING": 2,
        "PROCESSING": 2,
        "FINISHED": 2,
    }


async def test_a_task_that_a_report_took_takes_no_slot(container: Container, lists: TaskLists) -> None:
    await give(container.commands, ref(1), submission(), claim("s1", worker_id=""))
    await give(container.commands, ref(2), submission(), claim("s1"))

    assert await lists.running(["s1"]) == {"s1": 1}
    assert await pages(lists, TaskQuery(servers=frozenset({"s1"}))) == [ref(2), ref(1)]


async def test_a_list_has_the_tasks_without_a_server(container: Container, lists: TaskLists) -> None:
    await give(container.commands, ref(1), submission())
    await give(container.commands, ref(2), submission(), claim("s1"))

    assert await pages(lists, TaskQuery(servers=frozenset({""}))) == [ref(1)]
    assert await pages(lists, TaskQuery(servers=frozenset({"", "s1"}))) == [ref(2), ref(1)]


async def test_batches_are_listed_unless_all_their_tasks_are_deleted(
    container: Container, lists: TaskLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [new_batch("alice", utc_now() + timedelta(milliseconds=number), number) for number in range(5)]
    for batch in batches:
        for place in range(2):
            submitted = replace(submission().submission, batch=batch.id, batch_size=2)
            await give(container.commands, nth(batch, place), replace(submission(), submission=submitted))
    await give(container.commands, nth(batches[1], 0), task.DeleteTask(reason=""))
    for batch in batches[2:4]:
        for place in range(2):
            await give(container.commands, nth(batch, place), task.DeleteTask(reason=""))

    async def listed(limit: int, *, deleted: bool = False) -> list[int]:
        found: list[int] = []
        before: int | None = None
        while True:
            page = await lists.batches("alice", limit, before, deleted=deleted, user="u")
            assert len(page.batches) <= limit
            found += [batches.index(batch.ref) for batch in page.batches]
            before = page.cursor
            if before is None:
                return found

    for limit in (1, 2, 3, 9):
        assert await listed(limit) == [4, 1, 0]
        assert await listed(limit, deleted=True) == [4, 3, 2, 1, 0]
    monkeypatch.setattr(lists_module, "BATCHES_AT_ONCE", 2)
    monkeypatch.setattr(lists_module, "DELETED_BATCHES", 1)
    assert await listed(3) == [4, 1, 0]
    assert [each.ref for each in await lists.of_batch(batches[1], deleted=False, user="u")] == [nth(batches[1], 1)]
    with pytest.raises(NotFound):
        await lists.of_batch(batches[2], deleted=False, user="u")
    assert (await lists.batches("bob", 9, None, deleted=True, user="u")).batches == []


async def test_lists_read_at_once_with_writes_never_go_back(container: Container, lists: TaskLists) -> None:
    await give(container.commands, ref(), submission(), claim())
    shown: list[int] = []

    async def read() -> None:
        while not shown or shown[-1] < 42:
            [listed] = (await lists.page(EVERYTHING, 1, user="u")).tasks
            shown.append(listed.view.sequence)

    async def write() -> None:
        for number in range(40):
            await give(container.commands, ref(), task.ReportProgress(reporter=WORKER, progress=float(number)))

    await asyncio.gather(read(), write())

    assert shown == sorted(shown)


async def test_a_list_reads_nothing_of_nats_but_the_end_of_the_log(container: Container, lists: TaskLists) -> None:
    for number in range(30):
        await give(container.commands, ref(number), CHAPTER, claim(), success())
    await pages(lists)

    with counted(container.reading) as traffic:
        await lists.page(TaskQuery(owner="alice", in_project=True), 10, user="u")

    assert len(traffic.requests) == traffic.of("STREAM.INFO") == 1
