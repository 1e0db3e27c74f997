"""What is shown of a task: what each event does to it, and that no event does it twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.events.chapters import NO_CHAPTERS
from taskstream.events.envelope import Event, Stored
from taskstream.events.ids import TaskRef
from taskstream.events.task import AttemptAccepted, MergedReport, ProgressReported
from taskstream.projections import task_view
from taskstream.projections.task_view import TaskView, active_key, fold, view_key

from ..deciders.support import (
    NOW,
    attempt_failed,
    cancelled,
    failed,
    queued,
    returned,
    seconds,
    started,
    stored,
    submitted,
    succeeded,
)
from ..deciders.test_histories import Asked, histories, history, play

PROGRESS = ProgressReported(attempt=1, progress=40.0, message="4 of 10", custom_data=Raw(b"1"))


def view_of(*events: Event) -> TaskView:
    """Return the view after events that are stored one a second, from sequence 1 on."""
    view = fold_all(None, stored(*events))
    assert view is not None
    return view


def fold_all(view: TaskView | None, entries: list[Stored[Any]]) -> TaskView | None:
    for entry in entries:
        view = fold(view, entry)
    return view


def changes(before: TaskView, after: TaskView) -> dict[str, Any]:
    """Return the fields that differ, apart from those that every event changes."""
    return {
        name: getattr(after, name)
        for name in TaskView.__struct_fields__
        if name not in ("updated_at", "sequence") and getattr(before, name) != getattr(after, name)
    }


def effect(*events: Event) -> dict[str, Any]:
    """Return what the last of some events changes."""
    return changes(view_of(*events[:-1]), view_of(*events))


def test_a_submitted_task_is_shown_as_waiting() -> None:
    (first,) = stored(submitted(priority="high"), first=17)

    assert fold(None, first) == TaskView(
        owner="alice",
        task_type="chapter",
        pool="text",
        priority="high",
        status="WAITING",
        created_at=NOW,
        updated_at=NOW,
        created_sequence=17,
        sequence=17,
        attempts=3,
        budget=3,
    )


@pytest.mark.parametrize(
    "events",
    [
        [queued()],
        [started()],
        [started(), AttemptAccepted(attempt=1)],
        [started(), PROGRESS],
        [started(), attempt_failed()],
        [started(), returned()],
        [started(), succeeded()],
        [started(), failed()],
        [cancelled()],
    ],
    ids=lambda events: type(events[-1]).__name__,
)
def test_every_event_moves_the_view_on(events: list[Event]) -> None:
    view = view_of(submitted(), *events)

    assert (view.sequence, view.updated_at) == (len(events) + 1, NOW + seconds(len(events)))
    assert (view.created_sequence, view.created_at) == (1, NOW)


def test_a_started_attempt_is_shown_with_its_server_and_deadline() -> None:
    assert effect(submitted(), started(1, "s1", worker_id="w1")) == {
        "status": "PROCESSING",
        "attempt": 1,
        "server_id": "s1",
        "worker_id": "w1",
        "deadline": NOW + seconds(300),
        "started_at": NOW + seconds(1),
        "attempt_started_at": NOW + seconds(1),
    }


def test_a_task_was_started_when_its_first_attempt_was() -> None:
    view = view_of(submitted(), started(1), attempt_failed(1), started(2, "s2"))

    assert (view.started_at, view.server_id, view.attempt) == (NOW + seconds(1), "s2", 2)


def test_a_task_that_a_server_took_by_itself_is_known_to_be_reported_on() -> None:
    assert view_of(submitted(), started(1, worker_id="")).accepted


def test_an_acceptance_says_that_the_server_reports_by_itself() -> None:
    assert effect(submitted(), started(), AttemptAccepted(attempt=1, backend_task_id="b")) == {"accepted": True}


def test_progress_is_shown_with_its_message() -> None:
    assert effect(submitted(), started(), PROGRESS) == {"progress": 40.0, "message": "4 of 10"}


def test_a_report_without_a_percentage_keeps_the_last_one() -> None:
    news = ProgressReported(attempt=1, message="almost")

    assert effect(submitted(), started(), PROGRESS, news) == {"message": "almost"}


def test_progress_may_go_back_to_nothing() -> None:
    assert effect(submitted(), started(), PROGRESS, ProgressReported(attempt=1, progress=0.0)) == {
        "progress": 0.0,
        "message": None,
    }


def test_a_failed_attempt_is_shown_with_its_error_and_when_the_next_one_is_due() -> None:
    due = NOW + seconds(9)

    assert effect(
        submitted(), started(), AttemptAccepted(attempt=1), PROGRESS, attempt_failed(error="busy", retry_at=due)
    ) == {
        "status": "WAITING",
        "error": "busy",
        "failure": "error",
        "retry_at": due,
        "attempt_started_at": None,
        "accepted": False,
        "deadline": None,
        "progress": None,
        "message": None,
    }


def test_the_next_attempt_still_shows_why_the_one_before_failed() -> None:
    view = view_of(submitted(), started(), attempt_failed(error="busy"), started(2))

    assert (view.status, view.error, view.retry_at) == ("PROCESSING", "busy", None)


def test_an_attempt_handed_back_leaves_no_trace_of_its_progress() -> None:
    assert effect(submitted(), started(), AttemptAccepted(attempt=1), PROGRESS, returned()) == {
        "status": "WAITING",
        "attempts": 4,
        "attempt_started_at": None,
        "accepted": False,
        "deadline": None,
        "progress": None,
        "message": None,
    }


def test_a_success_is_shown_as_complete_and_without_the_errors_on_the_way() -> None:
    assert effect(submitted(), started(), attempt_failed(), started(2, "s2"), succeeded(2, "s2")) == {
        "status": "FINISHED",
        "deadline": None,
        "error": "",
        "failure": None,
        "progress": 100.0,
        "attempt_started_at": None,
        "ended_at": NOW + seconds(4),
        "ended_sequence": 5,
        "result_bytes": 10,
    }


def test_a_failure_is_shown_with_its_error_and_where_it_had_got_to() -> None:
    view = view_of(submitted(), started(), AttemptAccepted(attempt=1), PROGRESS, failed(error="no such model"))

    assert (view.status, view.error, view.progress, view.message) == ("FAILED", "no such model", 40.0, "4 of 10")
    assert (view.accepted, view.deadline, view.ended_at) == (False, None, NOW + seconds(4))


def test_an_end_that_a_server_reports_by_itself_is_shown_as_its_own() -> None:
    assert view_of(submitted(), succeeded(1, "s9")).server_id == "s9"


def test_a_cancelled_task_is_shown_with_the_reason_and_the_server_it_was_on() -> None:
    view = view_of(submitted(), started(1, "s1"), attempt_failed(), cancelled())

    assert (view.status, view.error, view.server_id, view.retry_at) == ("CANCELLED", "not needed", "s1", None)


@pytest.mark.parametrize(
    "end", [failed(error="no such model"), cancelled(1, "s1")], ids=lambda event: type(event).__name__
)
def test_a_retried_task_shows_nothing_of_its_former_end(end: Event) -> None:
    view = view_of(submitted(), started(), AttemptAccepted(attempt=1), PROGRESS, end, queued(renewed=True))

    assert view.status == "WAITING"
    assert (view.error, view.progress, view.message, view.ended_at) == ("", None, None, None)
    assert (view.retry_at, view.deadline, view.accepted) == (None, None, False)
    assert (view.attempt, view.started_at) == (1, NOW + seconds(1))


def test_a_task_put_back_into_its_queue_is_due_at_once_and_keeps_its_error() -> None:
    assert effect(submitted(), started(), attempt_failed(error="busy"), queued()) == {
        "retry_at": None,
        "released": True,
    }


def test_a_task_whose_beginning_is_past_its_retention_is_not_shown() -> None:
    assert fold_all(None, stored(started(), PROGRESS, succeeded(), first=9)) is None


def test_a_view_reads_back_as_it_was_written() -> None:
    view = view_of(submitted(), started(), PROGRESS, attempt_failed())

    assert task_view.decode(task_view.encode(view)) == view


# Redelivery


@given(histories, st.data())
def test_any_suffix_delivered_again_changes_nothing(asked: Asked, data: st.DataObject) -> None:
    entries = history(play(*asked))
    view = fold_all(None, entries)

    again = data.draw(st.integers(0, len(entries)))

    assert fold_all(view, entries[again:]) is view


@given(histories, st.data())
def test_a_fold_begun_again_on_the_way_comes_to_the_same(asked: Asked, data: st.DataObject) -> None:
    entries = history(play(*asked))
    stop = data.draw(st.integers(0, len(entries)))
    again = data.draw(st.integers(0, stop))

    half = fold_all(None, entries[:stop])
    restored = None if half is None else task_view.decode(task_view.encode(half))

    assert fold_all(restored, entries[again:]) == fold_all(None, entries)


# Keys

REF = TaskRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRS")


def test_a_task_is_listed_as_active_by_the_server_it_runs_on_until_it_ends() -> None:
    waiting, running, ended = (
        view_of(submitted()),
        view_of(submitted(), started(1, "gpu 1")),
        view_of(submitted(), cancelled()),
    )

    assert active_key(REF, waiting) == f"active.=.alice.{REF.unique}"
    assert active_key(REF, running) == f"active.gpu=201.alice.{REF.unique}"
    assert active_key(REF, ended) is None


def test_no_servers_name_lists_its_tasks_among_those_that_wait() -> None:
    for name in ("-", "=", "."):
        running = view_of(submitted(), started(1, name))
        assert active_key(REF, running) != active_key(REF, view_of(submitted()))


def test_views_of_one_owner_share_a_prefix() -> None:
    assert view_key(REF) == f"task.alice.{REF.unique}"


def test_the_chapters_of_a_project_are_as_last_reported_and_a_retry_forgets_them() -> None:
    def report(*chapters: tuple[int, str]) -> ProgressReported:
        data = [Raw(b'{"chapterIndex":%d,"status":"%b"}' % (number, status.encode())) for number, status in chapters]
        merged = tuple(MergedReport(report=place, custom_data=each) for place, each in enumerate(data[:-1]))
        return ProgressReported(attempt=1, custom_data=data[-1], merged=merged)

    begun = [replace(submitted(), project="novel"), started()]
    reports = [report((3, "complete"), (4, "error")), report((5, "complete"), (4, "generating"))]

    chapters = view_of(*begun, *reports).chapters

    assert (chapters.completed, chapters.failed, chapters.first) == (((3, 3), (5, 5)), (), 3)
    assert view_of(*begun, *reports, attempt_failed()).chapters == chapters
    assert view_of(*begun, *reports, failed(), replace(queued(), renewed=True)).chapters == NO_CHAPTERS
    assert view_of(submitted(), started(), *reports).chapters == NO_CHAPTERS
