"""The parents of a task as its server receives them: read once for many tasks, with links where they are large."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.backends.dialects.dialect import ParentResult
from taskstream.errors import NotFound
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.ids import TaskRef
from taskstream.events.task import AttemptAccepted, Plan, StoredResult, TaskEvent, TaskFailed, TaskSucceeded
from taskstream.projections.task_reader import TaskDetail, TaskReader
from taskstream.projections.task_view import Status, TaskView
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.results import Results
from taskstream.vault.result_links import ResultLinks
from taskstream.vault.sealing import Sealer
from taskstream.workers.attempts import parents
from taskstream.workers.attempts.parents import SHORTENED_ERROR, Parent, Parents, choose

PARENT = TaskRef("alice", "0" * 26)
PLAN = Plan(depends_on=(PARENT.id,))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Reader:
    """Parents of a reader of tasks, as a server receives them."""

    def __init__(self, tasks: Tasks) -> None:
        links = ResultLinks("http://here", Sealer())
        self._parents = Parents(cast(TaskReader, tasks), cast(Results, None), links, 64 * 1024)

    async def of(self, plan: Plan) -> list[ParentResult]:
        found = await self._parents.of(plan)
        assert found is not None
        return found.sent(NOW)


class Tasks:
    """A reader of one task, which counts how often it is asked."""

    def __init__(self) -> None:
        self.status: Status = "FINISHED"
        self.result = b"1"
        self.is_there = True
        self.reads = 0

    async def last_event(self, ref: TaskRef, *, deleted: bool) -> Position:
        assert deleted
        self.reads += 1
        if not self.is_there:
            raise NotFound("task", ref.id)
        result = StoredResult(inline=Raw(self.result), size_bytes=len(self.result))
        event: TaskEvent = AttemptAccepted(attempt=1)
        if self.status == "FINISHED":
            event = TaskSucceeded(attempt=1, server_id="one", result=result)
        if self.status == "FAILED":
            event = TaskFailed(attempt=1, server_id="one", kind="failed", error="no", result=result)
        return Position(3, "task", task_codec.encode(Recorded(id="1", at=NOW, by=Actor("worker", "1"), event=event)))

    async def detail(self, ref: TaskRef, *, deleted: bool = False) -> TaskDetail:
        assert deleted
        view = TaskView(
            owner="alice",
            task_type="t",
            pool="p",
            priority="normal",
            status=self.status,
            created_at=NOW,
            updated_at=NOW,
            created_sequence=1,
            sequence=3,
            attempts=1,
        )
        return TaskDetail(
            ref, view, Raw(b"null"), StoredResult(inline=Raw(self.result), size_bytes=len(self.result)), 3
        )


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def told(tasks: Tasks) -> Reader:
    return Reader(tasks)


async def test_a_parent_that_has_ended_is_read_once_for_its_children(tasks: Tasks, told: Reader) -> None:
    first, second = await told.of(PLAN), await told.of(PLAN)

    assert first == second == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"1"))]
    assert tasks.reads == 1


async def test_it_is_read_again_later(tasks: Tasks, told: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "CACHED_SECONDS", 0.0)
    await told.of(PLAN)
    tasks.result = b"2"

    assert await told.of(PLAN) == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"2"))]


async def test_one_that_goes_on_is_not_remembered(tasks: Tasks, told: Reader) -> None:
    tasks.status = "PROCESSING"
    await told.of(PLAN)
    tasks.status = "FINISHED"

    assert await told.of(PLAN) == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"1"))]


async def test_one_that_failed_is_read_again_as_it_may_be_retried(tasks: Tasks, told: Reader) -> None:
    tasks.status = "FAILED"
    assert (await told.of(PLAN))[0].status == "FAILED"
    tasks.status = "FINISHED"

    assert (await told.of(PLAN))[0].status == "FINISHED"


async def test_a_large_result_is_not_remembered(tasks: Tasks, told: Reader) -> None:
    tasks.result = b"1" * (parents.LARGEST_CACHED_BYTES + 1)
    await told.of(PLAN)
    await told.of(PLAN)

    assert tasks.reads == 2


async def test_no_more_are_remembered_than_may_be(tasks: Tasks, told: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "MOST_CACHED", 1)
    other = Plan(depends_on=(TaskRef("alice", "1" * 26).id,))
    await told.of(PLAN)
    await told.of(other)
    await told.of(PLAN)

    assert tasks.reads == 3


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.text(max_size=600)), max_size=20),
    st.integers(0, 10_000),
)
def test_results_and_errors_have_a_bounded_total(found: list[tuple[int, str]], most_bytes: int) -> None:
    chosen = choose([Parent("t", "FAILED", error, 7, size) for size, error in found], most_bytes)

    inline = sum(choice.parent.size_bytes for choice in chosen if choice.is_inline)
    whole = sum(len(choice.error) for choice in chosen if len(choice.error) > SHORTENED_ERROR)
    assert inline + whole <= most_bytes
    assert all(parent.error.startswith(error) for parent, error, _ in chosen)


def test_the_first_parents_that_fit_are_inline() -> None:
    sizes = [60, 50, 30, 0, 20, 10]

    chosen = choose([Parent("t", "FINISHED", "", 7, size) for size in sizes], 100)

    assert [choice.parent.size_bytes for choice in chosen if choice.is_inline] == [60, 30, 10]
