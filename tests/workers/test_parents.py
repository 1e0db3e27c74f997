"""The results of a task's parents are read once for many tasks that start together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest
from msgspec import Raw

from taskstream.errors import NotFound
from taskstream.events.ids import TaskRef
from taskstream.events.task import Plan
from taskstream.projections.task_reader import TaskDetail, TaskReader
from taskstream.projections.task_view import Status, TaskView
from taskstream.workers.attempts import parents
from taskstream.workers.attempts.parents import ParentResult, Parents

PARENT = TaskRef("alice", "0" * 26)
PLAN = Plan(depends_on=(PARENT.id,))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Tasks:
    """A reader of one task, which counts how often it is asked."""

    def __init__(self) -> None:
        self.status: Status = "FINISHED"
        self.result = b"1"
        self.is_there = True
        self.reads = 0

    async def detail(self, ref: TaskRef, *, deleted: bool = False) -> TaskDetail:
        assert deleted
        self.reads += 1
        if not self.is_there:
            raise NotFound("task", ref.id)
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
        return TaskDetail(ref, view, Raw(b"null"), Raw(self.result))


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def told(tasks: Tasks) -> Parents:
    return Parents(cast(TaskReader, tasks))


async def test_a_parent_that_has_ended_is_read_once_for_its_children(tasks: Tasks, told: Parents) -> None:
    first, second = await told.of(PLAN), await told.of(PLAN)

    assert first == second == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"1"))]
    assert tasks.reads == 1


async def test_it_is_read_again_later(tasks: Tasks, told: Parents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "CACHED_SECONDS", 0.0)
    await told.of(PLAN)
    tasks.result = b"2"

    assert await told.of(PLAN) == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"2"))]


async def test_one_that_goes_on_is_not_remembered(tasks: Tasks, told: Parents) -> None:
    tasks.status = "PROCESSING"
    await told.of(PLAN)
    tasks.status = "FINISHED"

    assert await told.of(PLAN) == [ParentResult(task_id=PARENT.id, status="FINISHED", result=Raw(b"1"))]


async def test_a_large_result_is_not_remembered(tasks: Tasks, told: Parents) -> None:
    tasks.result = b"1" * (parents.LARGEST_CACHED_BYTES + 1)
    await told.of(PLAN)
    await told.of(PLAN)

    assert tasks.reads == 2


async def test_no_more_are_remembered_than_may_be(tasks: Tasks, told: Parents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "MOST_CACHED", 1)
    other = Plan(depends_on=(TaskRef("alice", "1" * 26).id,))
    await told.of(PLAN)
    await told.of(other)
    await told.of(PLAN)

    assert tasks.reads == 3
