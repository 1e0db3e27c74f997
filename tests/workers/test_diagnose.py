"""What a task needs that fell between two steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.events.envelope import Event
from taskstream.events.task import AttemptAccepted
from taskstream.projections.task_view import TaskView
from taskstream.workers.reconciler import FORGOTTEN_AFTER, SETTLED_AFTER, Remedy, diagnose

from ..deciders.support import NOW, attempt_failed, queued, returned, seconds, started, submitted, turned_away
from ..folds.test_task_view import view_of

SETTLED = NOW + SETTLED_AFTER + timedelta(milliseconds=1)
INSTANT = timedelta(milliseconds=1)


def test_a_task_that_waits_in_no_queue_is_queued_again() -> None:
    assert diagnose(view_of(submitted()), SETTLED, queued=False, worker_alive=False) is Remedy.QUEUE_AGAIN


def test_a_task_that_waits_in_its_queue_needs_nothing_however_long() -> None:
    later = NOW + timedelta(days=30)

    assert diagnose(view_of(submitted()), later, queued=True, worker_alive=False) is Remedy.NONE


@pytest.mark.parametrize(
    "events", [[], [queued()], [started(), returned()]], ids=["submitted", "queued again", "handed back"]
)
def test_a_task_that_changed_lately_is_left_to_whoever_is_at_it(events: list[Event]) -> None:
    view = view_of(submitted(), *events)
    settled_at = view.updated_at + SETTLED_AFTER

    assert diagnose(view, settled_at, queued=False, worker_alive=False) is Remedy.NONE
    assert diagnose(view, settled_at + INSTANT, queued=False, worker_alive=False) is Remedy.QUEUE_AGAIN


def test_a_task_whose_retry_is_not_due_needs_nothing_even_without_a_timer() -> None:
    due = NOW + seconds(3600)
    view = view_of(submitted(), started(), attempt_failed(retry_at=due))

    assert diagnose(view, due + SETTLED_AFTER, queued=False, worker_alive=False) is Remedy.NONE


def test_a_task_whose_retry_is_overdue_and_in_no_timer_is_queued_again() -> None:
    due = NOW + seconds(3600)
    view = view_of(submitted(), started(), attempt_failed(retry_at=due))

    assert diagnose(view, due + SETTLED_AFTER + INSTANT, queued=False, worker_alive=False) is Remedy.QUEUE_AGAIN
    assert diagnose(view, due + SETTLED_AFTER + INSTANT, queued=True, worker_alive=False) is Remedy.NONE


def running(*, accepted: bool = False) -> TaskView:
    """Return a task whose attempt's deadline is one minute after NOW."""
    events: list[Event] = [submitted(), started(deadline=NOW + seconds(60))]
    return view_of(*events, *([AttemptAccepted(attempt=1)] if accepted else []))


def test_an_attempt_whose_worker_is_gone_is_lost_at_once() -> None:
    assert diagnose(running(), NOW, queued=False, worker_alive=False) is Remedy.ATTEMPT_LOST


def test_an_attempt_of_a_live_worker_is_left_to_it_well_past_the_deadline() -> None:
    last = NOW + seconds(60) + FORGOTTEN_AFTER

    assert FORGOTTEN_AFTER > SETTLED_AFTER
    assert diagnose(running(), last, queued=False, worker_alive=True) is Remedy.NONE


def test_an_attempt_that_its_living_worker_has_forgotten_expires() -> None:
    last = NOW + seconds(60) + FORGOTTEN_AFTER

    assert diagnose(running(), last + INSTANT, queued=False, worker_alive=True) is Remedy.ATTEMPT_EXPIRED


@pytest.mark.parametrize("worker_alive", [True, False])
def test_an_accepted_attempt_does_not_depend_on_its_worker(worker_alive: bool) -> None:
    assert diagnose(running(accepted=True), NOW, queued=False, worker_alive=worker_alive) is Remedy.NONE


@pytest.mark.parametrize("worker_alive", [True, False])
def test_an_accepted_attempt_without_a_report_expires_a_while_after_its_deadline(worker_alive: bool) -> None:
    last = NOW + seconds(60) + SETTLED_AFTER

    view = running(accepted=True)

    assert diagnose(view, last, queued=False, worker_alive=worker_alive) is Remedy.NONE
    assert diagnose(view, last + INSTANT, queued=False, worker_alive=worker_alive) is Remedy.ATTEMPT_EXPIRED


def test_a_task_that_a_server_took_by_itself_expires_like_an_accepted_one() -> None:
    view = view_of(submitted(), started(worker_id="", deadline=NOW))

    assert diagnose(view, NOW, queued=False, worker_alive=False) is Remedy.NONE
    assert diagnose(view, SETTLED, queued=False, worker_alive=False) is Remedy.ATTEMPT_EXPIRED


def test_a_wait_for_busy_servers_ends_though_its_timer_was_lost() -> None:
    view = view_of(submitted(), started(), turned_away(), started(2), turned_away(2))
    assert view.busy_until is not None
    settled = view.busy_until + SETTLED_AFTER

    assert diagnose(view, settled, queued=True, worker_alive=False) is Remedy.NONE
    assert diagnose(view, settled + INSTANT, queued=True, worker_alive=False) is Remedy.BUSY_TOO_LONG
