"""What may be done with an operation, and what its pages come to."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.commands import operation
from taskstream.commands.operation import (
    MOST_REASONS,
    OTHER_REASONS,
    UNSTARTED,
    AdvanceOperation,
    FailOperation,
    Operation,
    PauseOperation,
    ResumeOperation,
    StartOperation,
    StopOperation,
    added,
)
from taskstream.errors import IdempotencyConflict, NotFound, RuleBroken
from taskstream.events.operation import (
    OperationAdvanced,
    OperationCounts,
    OperationEvent,
    OperationFailed,
    OperationFinished,
    OperationPaused,
    OperationResumed,
    OperationStarted,
    OperationStopped,
    RefusalCount,
)

from .support import Given

given = Given(operation.decide, operation.evolve, UNSTARTED)
STARTED = OperationStarted(operation_id="o~alice", owner="alice", action="retry", as_of=9, fingerprint="f")
THREE = OperationCounts(done=2, refused=(RefusalCount(reason="too late", count=1),))
SIX = OperationCounts(done=4, refused=(RefusalCount(reason="too late", count=2),))
FIRST = OperationAdvanced(page=1, counts=OperationCounts(), ids=("a", "b", "c"), cursor="3")
SECOND = OperationAdvanced(page=2, counts=THREE, ids=("d", "e", "f"), cursor="6", is_last=True)
PAUSED, STOPPED = OperationPaused(reason="r"), OperationStopped(reason="r")


def advance(page: int, counts: OperationCounts = THREE, *ids: str, cursor: str = "", is_last: bool = False) -> Any:
    return AdvanceOperation(page=page, counts=counts, ids=ids, cursor=cursor, is_last=is_last)


def test_an_operation_is_started_once_for_a_key() -> None:
    given.when(StartOperation(started=STARTED, repeatable=True)).then(STARTED).is_quiet()
    other = OperationStarted(operation_id="o~alice", owner="alice", action="delete", as_of=9, fingerprint="g")

    given(STARTED).when(StartOperation(started=other, repeatable=True)).is_refused(IdempotencyConflict)


def test_a_page_is_recorded_before_it_begins_and_its_outcome_with_the_next_one() -> None:
    first = advance(0, OperationCounts(), "a", "b", "c", cursor="3")
    second = advance(1, THREE, "d", "e", "f", cursor="6", is_last=True)

    given(STARTED).when(first).then(FIRST)
    given(STARTED, FIRST).when(second).then(SECOND)
    given(STARTED, FIRST, SECOND).when(advance(2, is_last=True)).then(OperationFinished(counts=SIX))


def test_a_page_without_tasks_moves_the_search_on() -> None:
    moved = OperationAdvanced(page=2, counts=THREE, cursor="900")

    given(STARTED, FIRST).when(advance(1, cursor="900")).then(moved)


def test_a_page_that_another_process_recorded_is_not_counted_twice() -> None:
    given(STARTED, FIRST, SECOND).when(advance(1, THREE, "d", cursor="6")).is_quiet()
    given(STARTED, FIRST, SECOND, OperationFinished(counts=SIX)).when(advance(2, is_last=True)).is_quiet()


@pytest.mark.parametrize("event", [PAUSED, STOPPED])
def test_the_outcome_of_a_page_that_had_begun_is_recorded_after_a_pause_or_a_stop(event: OperationEvent) -> None:
    settled = OperationAdvanced(page=1, counts=THREE, cursor="3")

    after = given(STARTED, FIRST, event).when(advance(1, THREE, "d", "e", cursor="6")).then(settled)

    after.is_quiet()
    state: Operation = after.given.state
    assert (state.counts, state.cursor, state.ids, state.is_over) == (THREE, "3", (), event is STOPPED)


def test_a_paused_operation_whose_last_page_has_ended_is_done() -> None:
    given(STARTED, FIRST, SECOND, PAUSED).when(advance(2, is_last=True)).then(OperationFinished(counts=SIX))


def test_it_is_paused_resumed_and_stopped_once() -> None:
    given(STARTED).when(PauseOperation(reason="r")).then(PAUSED).is_quiet()
    given(STARTED, PAUSED).when(ResumeOperation()).then(OperationResumed()).is_quiet()
    given(STARTED, PAUSED).when(StopOperation(reason="r")).then(STOPPED).is_quiet()
    given(STARTED).when(StopOperation(reason="r")).then(STOPPED).is_quiet()


@pytest.mark.parametrize(
    "end", [OperationFinished(counts=SIX), OperationFailed(error="e", counts=SIX)], ids=lambda end: type(end).__name__
)
def test_one_that_is_over_takes_no_command(end: OperationEvent) -> None:
    for command in (PauseOperation(reason=""), ResumeOperation(), StopOperation(reason="")):
        given(STARTED, end).when(command).is_refused(RuleBroken)
    given(STARTED, end).when(FailOperation(error="x")).is_quiet()


def test_a_failure_keeps_the_counts() -> None:
    failed = OperationFailed(error="no batch", counts=THREE)

    state = given(STARTED, FIRST, OperationAdvanced(page=2, counts=THREE)).when(FailOperation(error="no batch"))

    state.then(failed)


def test_one_that_was_never_started_or_is_forgotten_takes_no_command() -> None:
    for command in (PauseOperation(reason=""), ResumeOperation(), StopOperation(reason=""), advance(0)):
        given.when(command).is_refused(NotFound)


def test_the_last_event_of_each_kind_is_enough() -> None:
    history = [STARTED, FIRST, PAUSED, OperationResumed(), SECOND, STOPPED]
    last = [STARTED, PAUSED, OperationResumed(), SECOND, STOPPED]

    assert given(*history).state == given(*last).state


def test_many_reasons_are_counted_as_a_few() -> None:
    total = OperationCounts()
    for number in range(MOST_REASONS + 5):
        total = added(total, OperationCounts(refused=(RefusalCount(reason=str(number), count=2),)))

    assert len(total.refused) == MOST_REASONS + 1
    assert total.refused[-1] == RefusalCount(reason=OTHER_REASONS, count=10)
