"""The table of event kinds has a row for every event, and agrees with the folds and the deciders."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from taskstream.commands.task import decide
from taskstream.commands.task_commands import RetryTask, SubmitTask
from taskstream.commands.task_state import UNKNOWN, Ended, Processing, TaskState, Unknown, evolve
from taskstream.events.kinds import (
    ATTEMPT_WORDS,
    ENDING_WORDS,
    FOLLOWING_WORDS,
    FREEING_WORDS,
    LIVE_WORDS,
    MOVING_WORDS,
    OVER_WORDS,
    TASK_EVENTS,
    TASK_WORDS,
    kind_of,
    word_of,
)
from taskstream.events.subjects import event_subject, server_token, task_root, task_word, tasks_filter
from taskstream.events.task import Plan, TaskEvent
from taskstream.projections.task_view import ACTIVE, TaskView
from taskstream.projections.task_view import fold as fold_view
from taskstream.push.live import LiveReport
from testkit.legality import IllegalHistory, check_history

from ..deciders.support import NOW, Given, attempt_failed, cancelled, failed, started, stored, submitted
from ..scheduling.simulation import Simulation
from .test_golden import VOCABULARIES, golden
from .test_subjects import REF, check

HISTORIES: list[list[TaskEvent]] = [
    [],
    [submitted(held=True)],
    [submitted()],
    [submitted(), started(1)],
    [submitted(), started(1), attempt_failed(1)],
    [submitted(), started(1), cancelled(1, "s1")],
    [submitted(), started(1), failed(1)],
]
each_event = pytest.mark.parametrize("event", golden(TaskEvent), ids=lambda event: type(event).__name__)


def state_after(events: list[TaskEvent]) -> TaskState:
    state: TaskState = Given(decide, evolve, UNKNOWN, events).state
    return state


def view_after(events: list[TaskEvent]) -> TaskView | None:
    view = None
    for each in stored(*events):
        view = fold_view(view, each)
    return view


def places_after(events: list[TaskEvent]) -> tuple[object, ...]:
    """Return where the task is, for each part that folds its events: decider, view, scheduler."""
    simulation = Simulation()
    for event in events:
        simulation.say(REF, event)
    entry = simulation.held_tasks.find(REF)
    view = view_after(events)
    return (
        type(state_after(events)),
        view and (view.status, view.held, view.retry_at),
        entry and (entry.stage, entry.granted),
        simulation.held_tasks.take_due(simulation.now),
    )


def test_every_event_of_a_task_has_a_row() -> None:
    assert set(TASK_EVENTS) == set(get_args(TaskEvent))


@pytest.mark.parametrize("vocabulary", [each for each, _ in VOCABULARIES], ids=lambda each: str(get_args(each)[0]))
def test_no_two_events_of_a_vocabulary_share_a_word(vocabulary: Any) -> None:
    words = [word_of(event) for event in get_args(vocabulary)]

    assert len(set(words)) == len(words)


@each_event
def test_an_event_moves_the_task_where_a_fold_says_so(event: TaskEvent) -> None:
    moved = [events for events in HISTORIES if places_after(events) != places_after([*events, event])]

    assert kind_of(event).moves == bool(moved)


@each_event
def test_an_event_ends_the_task_where_every_fold_says_so(event: TaskEvent) -> None:
    for events in HISTORIES[1:-2]:
        view = view_after([*events, event])
        assert view is not None
        assert isinstance(state_after([*events, event]), Ended) == kind_of(event).ends
        assert (view.status not in ACTIVE) == kind_of(event).ends


@each_event
def test_an_event_frees_the_slot_of_the_server_it_names(event: TaskEvent) -> None:
    runs_on = isinstance(state_after([submitted(), started(1), event]), Processing)

    assert kind_of(event).frees_slot == (not runs_on and hasattr(event, "server_id"))


@each_event
def test_the_rules_of_a_legal_history_know_an_event(event: TaskEvent) -> None:
    history = [
        {"sequence": number, "at": NOW.isoformat(), "by": {}, "event": json.loads(msgspec.json.encode(each))}
        for number, each in enumerate([submitted(), event], start=1)
    ]
    broken = ""
    try:
        check_history(history, ended=False)
    except IllegalHistory as error:
        broken = str(error)

    assert "there is no rule for" not in broken


def test_what_activates_a_task_is_a_submission_or_a_retry() -> None:
    submission = decide(SubmitTask(submission=submitted()), Unknown(), NOW)
    retries = [
        decide(RetryTask(reason="again"), state_after([submitted(plan=plan), failed(1)]), NOW)
        for plan in (None, Plan(depends_on=(REF.id,)))
    ]

    decided = {type(event) for events in (submission, *retries) for event in events}
    assert {event for event, kind in TASK_EVENTS.items() if kind.activates} == decided


@each_event
def test_an_event_of_an_attempt_has_its_number_and_is_not_the_end(event: TaskEvent) -> None:
    kind = kind_of(event)

    assert kind.of_attempt == (hasattr(event, "attempt") and not (kind.ends or kind.follows_end or kind.live))


@each_event
def test_an_event_is_live_where_reports_carry_it(event: TaskEvent) -> None:
    assert kind_of(event).live == (get_type_hints(LiveReport)["event"] is type(event))


@each_event
def test_a_subject_has_the_word_and_the_tokens_of_the_row(event: TaskEvent) -> None:
    kind = kind_of(event)
    subject = event_subject(task_root(REF), event)
    queue = [getattr(event, "pool", ""), getattr(event, "priority", "")]
    expected = {"": [], "server": [server_token(getattr(event, "server_id", ""))], "queue": queue}[kind.follows]

    assert task_word(subject) == kind.word
    assert [each for each in check(subject)[4:] if each != "held"] == expected
    assert tasks_filter(REF.owner, kind.word).endswith(f".{kind.word}.>" if expected else f".{kind.word}")


def test_the_words_of_each_property_in_the_order_of_a_tasks_life() -> None:
    ends = ("succeeded", "failed", "cancelled")
    attempts = ("started", "accepted", "attempt_failed", "attempt_returned")

    assert (
        *("submitted", "held", "queued", "started", "accepted", "progressed"),
        *("attempt_failed", "attempt_returned", *ends, "cancel_reported", "deleted"),
    ) == TASK_WORDS
    assert attempts == ATTEMPT_WORDS
    assert LIVE_WORDS == ("progressed",)
    assert set(ends) == ENDING_WORDS
    assert {"attempt_failed", "attempt_returned", *ends} == FREEING_WORDS
    assert set(TASK_WORDS) - {"accepted", "progressed", "cancel_reported", "deleted"} == MOVING_WORDS
    assert {"cancel_reported", "deleted"} == FOLLOWING_WORDS
    assert {*ends, "cancel_reported", "deleted"} == OVER_WORDS
