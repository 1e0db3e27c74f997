"""A task that no server takes because all are busy: it spends no attempt, and waits no longer than its type says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands.task import decide
from taskstream.commands.task_commands import EndBusyWait, ExpireTask, FailAttempt, ReturnAttempt
from taskstream.commands.task_state import UNKNOWN, evolve
from taskstream.events.envelope import Stored
from taskstream.events.task import AttemptReturned, Plan, ReturnKind, TaskFailed, TaskHeld
from taskstream.projections.task_view import TaskView, fold

from .support import (
    NOW,
    POLICY,
    Given,
    attempt_failed,
    cancelled,
    queued,
    recorded,
    returned,
    seconds,
    started,
    submitted,
    turned_away,
)

BUSY_FOR = timedelta(minutes=10)
given = Given(decide, evolve, UNKNOWN)
waiting = given(submitted(policy=replace(POLICY, attempts=1, busy_for=BUSY_FOR)))
turned = waiting(started(1), turned_away(1))
END = EndBusyWait()


def turn_away(attempt: int, kind: ReturnKind = "busy") -> ReturnAttempt:
    return ReturnAttempt(attempt=attempt, reason="the server answered 503", kind=kind)


@pytest.mark.parametrize("kind", ["busy", "unsent"])
def test_an_attempt_that_no_server_took_is_not_counted(kind: ReturnKind) -> None:
    state = waiting
    for attempt in range(1, 50):
        state = state(started(attempt))
        state.when(turn_away(attempt, kind)).then(turned_away(attempt, kind=kind)).is_quiet()
        state = state(turned_away(attempt, kind=kind))

    assert state.state.facts.failures == 0
    assert state.state.not_before is None


def test_the_wait_ends_with_a_failure_kind_of_its_own_that_says_since_when() -> None:
    state = turned(started(2), turned_away(2))

    state.when(END, at=NOW + BUSY_FOR - timedelta(milliseconds=1)).is_quiet()
    outcome = state.when(END, at=NOW + BUSY_FOR)

    [event] = outcome.events
    assert isinstance(event, TaskFailed)
    assert (event.kind, event.attempt, event.server_id) == ("busy", 2, "")
    assert event.error == (
        "no server has taken it since 2026-01-02T03:04:05.000Z, longer than the `busyFor` of its type (600 s); "
        "the last attempt: the server answered 503. Retry it when servers have capacity, or raise `busyFor`"
    )
    outcome.then(event).is_quiet()


def test_the_wait_ends_at_the_next_busy_answer_too() -> None:
    state = turned(started(2))

    [event] = state.when(turn_away(2), at=NOW + BUSY_FOR).events

    assert isinstance(event, TaskFailed)
    assert (event.kind, event.server_id) == ("busy", "s1")
    assert state.when(turn_away(2, "shutdown"), at=NOW + BUSY_FOR).events == [
        AttemptReturned(attempt=2, server_id="s1", reason="the server answered 503")
    ]


@pytest.mark.parametrize(
    "since",
    [
        [],
        [started(2), returned(2)],
        [started(2), attempt_failed(2)],
        [TaskHeld(reason="so")],
        [cancelled(), queued(renewed=True)],
        [cancelled(), TaskHeld(reason="so", renewed=True)],
    ],
    ids=["never turned away", "at a shutdown", "failed", "held", "renewed", "renewed and held"],
)
def test_what_else_happens_to_a_task_ends_the_wait(since: list[Any]) -> None:
    state = turned(*since) if since else waiting

    state.when(END, at=NOW + 2 * BUSY_FOR).is_quiet()


def test_a_task_that_runs_is_not_ended_by_the_timer_of_its_wait() -> None:
    turned(started(2)).when(END, at=NOW + 2 * BUSY_FOR).is_quiet()


def test_being_queued_again_by_the_reconciler_does_not_prolong_the_wait() -> None:
    assert turned(queued()).when(END, at=NOW + BUSY_FOR).events


@pytest.mark.parametrize(("plan", "kind"), [({"expires_at": NOW}, "expired"), ({"ends_by": NOW}, "deadline")])
@pytest.mark.parametrize("turned_by", ["busy", "unsent"])
def test_a_last_instant_ends_the_wait_at_the_next_busy_answer(
    plan: dict[str, Any], kind: str, turned_by: ReturnKind
) -> None:
    state = given(submitted(plan=Plan(**plan)), started(1))

    [event] = state.when(turn_away(1, turned_by), at=NOW).events

    assert isinstance(event, TaskFailed)
    assert event.kind == kind
    assert event.error.startswith("the server answered 503; another attempt could not start before its `")


def test_a_wait_that_ends_at_a_last_instant_says_what_the_last_attempt_came_to() -> None:
    state = given(submitted(plan=Plan(expires_at=NOW + seconds(9))), started(1), turned_away(1))

    [event] = state.when(ExpireTask(), at=NOW + seconds(9)).events

    assert isinstance(event, TaskFailed)
    said = "it had not started again by 2026-01-02T03:04:14.000Z; the last attempt: the server answered 503"
    assert event.error == said


def test_failures_are_counted_as_before_between_busy_answers() -> None:
    state = given(submitted(policy=replace(POLICY, attempts=2)))
    state = state(started(1), turned_away(1), started(2), attempt_failed(2), started(3), turned_away(3), started(4))

    [event] = state.when(FailAttempt(attempt=4, kind="error", error="500", jitter=0.0)).events

    assert isinstance(event, TaskFailed)
    assert event.kind == "error"


@examples(st.lists(st.sampled_from(["busy", "unsent", "shutdown", "failed", "held", "queued"]), max_size=8))
def test_the_view_shows_the_same_end_of_the_wait_as_the_decider_keeps(steps: list[str]) -> None:
    events: list[Any] = [submitted(policy=replace(POLICY, attempts=100, busy_for=BUSY_FOR))]
    for attempt, step in enumerate(steps, 1):
        after = {
            "failed": [attempt_failed(attempt)],
            "shutdown": [returned(attempt)],
            "held": [returned(attempt), TaskHeld(reason="so"), queued()],
            "queued": [turned_away(attempt), queued()],
        }
        events += [started(attempt), *after.get(step, [turned_away(attempt, kind=step)])]  # type: ignore[arg-type]
    state: Any = UNKNOWN
    view: TaskView | None = None
    for sequence, event in enumerate(events, 1):
        state = evolve(state, recorded(event))
        view = fold(view, Stored(sequence, recorded(event)))

    assert view is not None
    assert view.busy_until == state.facts.busy_until
