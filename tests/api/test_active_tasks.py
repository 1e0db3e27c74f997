"""The list of active tasks that a stream keeps: by events alone it is what a read would show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from msgspec.structs import replace

from taskstream.api.legacy.activity import ActiveTasks
from taskstream.events.envelope import Stored
from taskstream.events.ids import TaskRef
from taskstream.events.task import TaskSubmitted
from taskstream.projections.task_view import ACTIVE, Listed, TaskView, fold

from ..deciders.test_histories import Asked, histories, history, play

REF = TaskRef("alice", "0" * 26)


def of_project(stored: Stored[Any]) -> Stored[Any]:
    event = stored.recorded.event
    is_submission = isinstance(event, TaskSubmitted)
    event = replace(event, project="novel", payload=b'{"chaptersToGenerate":3}') if is_submission else event
    return Stored(stored.sequence, replace(stored.recorded, event=event))


def update(stored: Stored[Any]) -> Any:
    return SimpleNamespace(ref=REF, stored=stored, event=stored.recorded.event)


def take(tasks: ActiveTasks, event: Any, view: TaskView | None) -> None:
    """Apply an event, and read the task if the list asks for that."""
    tasks.apply(event)
    if tasks.returns(event) and view is not None:
        tasks.put(Listed(REF, view))


@settings(max_examples=50)
@given(histories)
def test_after_every_event_the_list_is_what_a_read_shows_also_if_events_come_twice(asked: Asked) -> None:
    events = [of_project(stored) for stored in history(play(*asked))]
    tasks, view = ActiveTasks([]), None
    for stored in events:
        view = fold(view, stored)
        for _ in range(2):
            take(tasks, update(stored), view)

        is_active = view is not None and view.status in ACTIVE and not view.deleted
        assert [task.id for task in tasks.shown()] == [REF.id] * is_active
        assert not is_active or tasks._views == {REF: view}


@settings(max_examples=50)
@given(histories)
def test_a_task_of_no_project_is_never_listed(asked: Asked) -> None:
    tasks, view = ActiveTasks([]), None
    for stored in history(play(*asked)):
        view = fold(view, stored)
        take(tasks, update(stored), view)
        assert tasks.shown() == []
