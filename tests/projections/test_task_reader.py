"""Reading tasks: current without waiting for anybody, in pages that lose and double nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import Raw

from taskstream.commands import task_commands as task
from taskstream.container import Container
from taskstream.errors import NotFound
from taskstream.events.ids import TaskRef
from taskstream.events.task import StoredResult
from taskstream.projections import submissions, task_reader
from taskstream.projections.task_projection import TaskProjection
from taskstream.projections.task_reader import TaskFilter
from taskstream.projections.task_view import encode, view_key
from taskstream.streams.buckets import Bucket, BucketEntry
from taskstream.streams.jetstream import messages
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position
from testkit.histories import WORKER, claim, folded, give, ref, submission, success, wander, whole_log

EVERYTHING = TaskFilter()


async def project(container: Container, upto: int | None = None) -> None:
    projection = TaskProjection(container.buckets.tasks)
    checkpoint = await projection.resume()
    todo = [position for position in await whole_log(container.reading) if position.sequence > checkpoint]
    await projection.apply([position for position in todo if upto is None or position.sequence <= upto])
    await projection.write_all()


async def pages(container: Container, wanted: TaskFilter = EVERYTHING, limit: int = 3) -> list[TaskRef]:
    """Return the tasks of all pages."""
    found: list[TaskRef] = []
    cursor: int | None = None
    while True:
        page = await container.tasks.page(wanted, limit, cursor)
        assert len(page.tasks) <= limit
        found.extend(listed.ref for listed in page.tasks)
        if page.cursor is None:
            return found
        assert cursor is None or page.cursor < cursor
        cursor = page.cursor


async def statuses(container: Container, limit: int = 100) -> dict[TaskRef, str]:
    return {listed.ref: listed.view.status for listed in (await container.tasks.page(EVERYTHING, limit)).tasks}


async def test_no_tasks_are_an_empty_last_page(container: Container) -> None:
    assert await container.tasks.page(EVERYTHING, 10) == ([], None)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_a_list_is_newest_first_and_its_pages_lose_and_double_nothing(container: Container, limit: int) -> None:
    for number in range(20):
        await give(container.commands, ref(number), submission(), claim(), success())

    assert await pages(container, limit=limit) == [ref(number) for number in reversed(range(20))]


async def test_pages_lose_and_double_nothing_while_tasks_arrive(container: Container) -> None:
    for number in range(30):
        await give(container.commands, ref(number), submission())
    first = await container.tasks.page(EVERYTHING, 10)
    for number in range(30, 50):
        await give(container.commands, ref(number), submission())
    await project(container)
    second = await container.tasks.page(EVERYTHING, 10, first.cursor)
    third = await container.tasks.page(EVERYTHING, 10, second.cursor)

    listed = [entry.ref for page in (first, second, third) for entry in page.tasks]
    assert listed == [ref(number) for number in reversed(range(30))]


async def test_tasks_far_apart_in_the_log_are_all_found(container: Container) -> None:
    chatter = [task.ReportProgress(reporter=WORKER, progress=1.0)] * 150
    await give(container.commands, ref(1), submission(), claim(), *chatter)
    await give(container.commands, ref(2), submission(), claim(), *chatter)
    await give(container.commands, ref(3), submission())

    assert await pages(container, limit=2) == [ref(3), ref(2), ref(1)]


async def test_a_list_is_current_without_any_projector(container: Container) -> None:
    await give(container.commands, ref(1), submission())
    await give(container.commands, ref(2), submission(), claim())
    await give(container.commands, ref(3), submission(), claim(), success())

    assert await statuses(container) == {ref(1): "WAITING", ref(2): "PROCESSING", ref(3): "FINISHED"}


async def test_a_list_is_current_with_a_projector_that_lags(container: Container) -> None:
    for number in range(10):
        await give(container.commands, ref(number), submission(), claim())
    await project(container, upto=11)
    await give(container.commands, ref(0), success())
    await give(container.commands, ref(9), success())
    await give(container.commands, ref(10), submission())

    found = await statuses(container)

    assert found == {ref(number): "PROCESSING" for number in range(1, 9)} | {
        ref(0): "FINISHED",
        ref(9): "FINISHED",
        ref(10): "WAITING",
    }


@pytest.mark.parametrize("upto", [0, 40, 1_000_000])
async def test_a_list_shows_the_fold_of_the_log_however_far_the_projector_is(container: Container, upto: int) -> None:
    refs = [ref(number) for number in range(8)]
    await wander(container.commands, refs, 150, seed=upto)
    if upto:
        await project(container, upto=upto)

    page = await container.tasks.page(EVERYTHING, 100)

    shown = {view_key(listed.ref): encode(listed.view) for listed in page.tasks}
    wanted = folded(await whole_log(container.reading))
    assert shown == {key: value for key, value in wanted.items() if key.startswith("task.")}


async def test_a_list_is_current_behind_a_tail_too_long_to_fold(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(container.commands, ref(1), submission(), claim())
    await project(container)
    await give(container.commands, ref(1), success())
    await give(container.commands, ref(2), submission(), claim())
    for longest in (1, 2, 3, 4):
        monkeypatch.setattr(task_reader, "LONGEST_TAIL", longest)
        assert await statuses(container) == {ref(1): "FINISHED", ref(2): "PROCESSING"}


async def test_a_list_behind_a_long_tail_needs_no_results(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result past its retention, or a slow object store, is nothing to a list."""
    monkeypatch.setattr(task_reader, "LONGEST_TAIL", 1)
    await give(
        container.commands, ref(), submission(), claim(), success(StoredResult(object_name="gone", size_bytes=9))
    )

    assert await statuses(container) == {ref(): "FINISHED"}


async def test_a_list_has_a_task_whose_key_is_written_while_it_is_read(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS leaves such a key out of a batch."""
    for number in range(3):
        await give(container.commands, ref(number), submission(), claim())
    await project(container)
    read = Bucket.get_many

    async def without_one(bucket: Bucket, keys: Sequence[str]) -> dict[str, BucketEntry]:
        return await read(bucket, [key for key in keys if key != view_key(ref(1))])

    monkeypatch.setattr(Bucket, "get_many", without_one)

    assert await statuses(container) == {ref(number): "PROCESSING" for number in range(3)}


async def test_a_list_can_be_filtered(container: Container) -> None:
    await give(container.commands, ref(1), submission(task_type="image"))
    await give(container.commands, ref(2), submission(task_type="text"), claim())
    await give(container.commands, ref(3), submission(task_type="image"), claim(), success())
    await give(container.commands, ref(4), submission(task_type="text"), task.CancelTask(reason=""))
    await project(container, upto=5)

    async def found(**wanted: frozenset[str]) -> list[TaskRef]:
        return await pages(container, TaskFilter(**wanted), limit=1)

    assert await found(types=frozenset({"image"})) == [ref(3), ref(1)]
    assert await found(statuses=frozenset({"PROCESSING", "CANCELLED"})) == [ref(4), ref(2)]
    assert await found(types=frozenset({"text"}), statuses=frozenset({"CANCELLED"})) == [ref(4)]
    assert await found(types=frozenset({"sound"})) == []


async def test_an_owner_sees_no_other_owner_s_tasks(container: Container) -> None:
    for number in range(12):
        await give(container.commands, ref(number, "alice"), submission())
        await give(container.commands, ref(number, "alic"), submission("alic"))
        await give(container.commands, ref(number, "alice2"), submission("alice2"))
    await project(container, upto=20)

    for owner in ("alice", "alic", "alice2"):
        listed = await pages(container, TaskFilter(owner=owner), limit=5)
        assert listed == [ref(number, owner) for number in reversed(range(12))]
    assert await pages(container, TaskFilter(owner="al")) == []


@pytest.mark.parametrize("length", [1, 4, 100])
@pytest.mark.parametrize("upto", [0, 10, 25, 1_000])
async def test_the_bucket_and_the_log_together_make_one_list(
    container: Container, monkeypatch: pytest.MonkeyPatch, length: int, upto: int
) -> None:
    monkeypatch.setattr(submissions, "RECENT_LENGTH", length)
    monkeypatch.setattr(messages, "FIRST_STRIDE", 4)
    for number in range(12):
        await give(container.commands, ref(number), submission())
        await give(container.commands, ref(number, "bob"), submission("bob"), claim(), success())
    if upto:
        await project(container, upto=upto)

    for limit in (1, 2, 5, 50):
        assert await pages(container, TaskFilter(owner="alice"), limit) == [
            ref(number) for number in reversed(range(12))
        ]
    assert await pages(container, TaskFilter(owner="carol")) == []


async def test_a_list_reads_no_further_back_than_its_owner_goes(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(container.commands, ref(0), submission())
    for number in range(40):
        await give(container.commands, ref(number, "bob"), submission("bob"))
    await project(container)

    async def never(*_: object) -> list[Position]:
        raise AssertionError("the log was searched")

    monkeypatch.setattr(messages, "read_some", never)

    assert await pages(container, TaskFilter(owner="alice")) == [ref(0)]


@pytest.mark.parametrize("more", [0, 1])
async def test_what_a_killed_nats_has_forgotten_of_a_bucket_is_read_from_the_log(
    container: Container, more: int
) -> None:
    for number in range(5):
        await give(container.commands, ref(number), submission())
        await give(container.commands, ref(number, "bob"), submission("bob"))
    await project(container)
    for key in (submissions.recent_key("alice"), view_key(ref(1))):
        await api(container.reading, "STREAM.PURGE.KV_tasks", {"filter": f"$KV.tasks.{key}"})
    await give(container.commands, ref(1), claim())
    for number in range(5, 5 + more):
        await give(container.commands, ref(number), submission())
    await project(container)

    assert await pages(container, TaskFilter(owner="alice")) == [ref(number) for number in reversed(range(5 + more))]
    assert await pages(container, TaskFilter(owner="carol")) == []


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("upto", [0, 7, 1_000])
async def test_tasks_that_have_not_ended_are_listed_in_the_order_of_any_list(
    container: Container, monkeypatch: pytest.MonkeyPatch, few: bool, upto: int
) -> None:
    async def too_many(_: Bucket, __: str) -> None:
        return None

    if not few:
        monkeypatch.setattr(Bucket, "get_matching", too_many)
    for number in range(6):
        await give(container.commands, ref(number), submission())
    await give(container.commands, ref(7, "bob"), submission("bob"))
    await give(container.commands, ref(4), claim())
    await give(container.commands, ref(0), claim())
    await give(container.commands, ref(2), claim(), success())
    if upto:
        await project(container, upto=upto)

    def listed(*statuses: str) -> TaskFilter:
        return TaskFilter(owner="alice", statuses=frozenset(statuses))

    for limit in (1, 2, 10):
        assert await pages(container, listed("WAITING"), limit) == [ref(5), ref(3), ref(1)]
        assert await pages(container, listed("PROCESSING"), limit) == [ref(4), ref(0)]
        assert await pages(container, listed("PROCESSING", "WAITING"), limit) == [ref(n) for n in (5, 4, 3, 1, 0)]


async def test_the_oldest_task_that_has_not_ended_is_found_at_once(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_reader, "LONGEST_WALK", 5)
    await give(container.commands, ref(0), submission())
    for number in range(1, 30):
        await give(container.commands, ref(number), submission(), claim(), success())
    await project(container)

    page = await container.tasks.page(TaskFilter(owner="alice", statuses=frozenset({"WAITING"})), 10)

    assert [listed.ref for listed in page.tasks] == [ref(0)]
    assert page.cursor is None


async def test_a_page_that_looked_long_enough_is_short_and_has_a_cursor(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_reader, "LONGEST_WALK", 10)
    monkeypatch.setattr(messages, "FIRST_STRIDE", 8)
    await give(container.commands, ref(0), submission(task_type="rare"))
    for number in range(1, 60):
        await give(container.commands, ref(number), submission())

    page = await container.tasks.page(TaskFilter(types=frozenset({"rare"})), 1)

    assert page.tasks == []
    assert page.cursor is not None
    assert await pages(container, TaskFilter(types=frozenset({"rare"})), limit=1) == [ref(0)]


async def test_a_detail_has_payload_and_result(container: Container) -> None:
    await give(container.commands, ref(), submission(payload=b'{"b" : 1, "a": 2}'))
    before = await container.tasks.detail(ref())
    await give(container.commands, ref(), claim(), success())
    after = await container.tasks.detail(ref())

    assert bytes(before.payload) == bytes(after.payload) == b'{"b" : 1, "a": 2}'
    assert before.result is None
    assert after.result is not None
    assert bytes(after.result.inline) == b'{"data":1}'
    assert (before.view.status, after.view.status) == ("WAITING", "FINISHED")


async def test_a_detail_sees_every_write_that_was_answered_before(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())
    for number in range(50):
        sequence = await give(container.commands, ref(), task.ReportProgress(reporter=WORKER, progress=float(number)))
        detail = await container.tasks.detail(ref())
        assert (detail.view.sequence, detail.view.progress) == (sequence, float(number))


async def test_a_task_queued_anew_has_no_result(container: Container) -> None:
    failure = task.FailTask(reporter=WORKER, error="no", result=StoredResult(inline=Raw(b"1"), size_bytes=1))
    await give(container.commands, ref(), submission(), claim(), failure)
    assert (await container.tasks.detail(ref())).result == failure.result

    await give(container.commands, ref(), task.RetryTask(reason=""))

    assert (await container.tasks.detail(ref())).result is None


async def test_a_large_result_is_named_and_not_read(container: Container) -> None:
    large = StoredResult(object_name="r", size_bytes=32 * 1024 * 1024)
    sequence = await give(container.commands, ref(), submission(), claim(), success(large))

    detail = await container.tasks.detail(ref())

    assert (detail.result, detail.result_sequence) == (large, sequence)
    assert (detail.view.result_bytes, detail.view.ended_sequence) == (large.size_bytes, sequence)


async def test_an_unknown_task_is_not_found(container: Container) -> None:
    with pytest.raises(NotFound):
        await container.tasks.detail(ref())
    with pytest.raises(NotFound):
        await container.tasks.history(ref())


async def test_lists_read_at_once_with_writes_never_go_back(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())
    shown: list[int] = []

    async def read() -> None:
        while not shown or shown[-1] < 42:
            [listed] = (await container.tasks.page(EVERYTHING, 1)).tasks
            shown.append(listed.view.sequence)

    async def write() -> None:
        for number in range(40):
            await give(container.commands, ref(), task.ReportProgress(reporter=WORKER, progress=float(number)))
            if number % 7 == 0:
                await project(container)

    await asyncio.gather(read(), write())

    assert shown == sorted(shown)
