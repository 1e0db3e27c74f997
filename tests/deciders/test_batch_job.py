"""What may be done with a batch job, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from taskstream.commands import batch_job
from taskstream.commands.batch_job import (
    UNKNOWN_JOB,
    AcceptInput,
    AdvanceBatchJob,
    BatchJob,
    CancelBatchJob,
    CountBatchJob,
    CreateBatchJob,
    FinalizeBatchJob,
    FinishBatchJob,
    RejectInput,
)
from taskstream.errors import IdempotencyConflict, NotFound, RuleBroken
from taskstream.events.batch_job import (
    BatchJobAdvanced,
    BatchJobCancelRequested,
    BatchJobCounted,
    BatchJobCreated,
    BatchJobEvent,
    BatchJobFinalizing,
    BatchJobFinished,
    BatchJobRejected,
    BatchJobValidated,
    LineCounts,
    LineError,
    TokenUsage,
)

from .support import NOW, Given, seconds

given = Given(batch_job.decide, batch_job.evolve, UNKNOWN_JOB)
CREATED = BatchJobCreated(
    job_id="j~alice",
    owner="alice",
    endpoint="/v1/chat/completions",
    input_file="f~alice",
    window="24h",
    expires_at=NOW + seconds(86_400),
    fingerprint="f",
)
VALID = BatchJobValidated(total=3)
WRONG = (LineError(code="invalid_json_line", message="not JSON", line=2),)
FIRST = BatchJobAdvanced(batches=1, lines=2, offset=80, tasks=2)
ALL = BatchJobAdvanced(batches=2, lines=3, offset=120, tasks=3)
CANCELLING = BatchJobCancelRequested()
FINALIZING = BatchJobFinalizing(outcome="completed", attempt=1, since=NOW, output_file="o", error_file="e")
FINISHED = BatchJobFinished(outcome="completed", counts=LineCounts(completed=3), output_file="o")
REJECTED = BatchJobRejected(errors=WRONG)


def advance(batches: int, lines: int, tasks: int = 1) -> AdvanceBatchJob:
    return AdvanceBatchJob(batches=batches, lines=lines, offset=40 * lines, tasks=tasks)


def finalize(attempt: int = 1, outcome: Any = "completed", lines: int = 3) -> FinalizeBatchJob:
    return FinalizeBatchJob(outcome=outcome, attempt=attempt, lines=lines, output_file="o", error_file="e")


def finish(attempt: int = 1, *, has_errors: bool = False) -> FinishBatchJob:
    return FinishBatchJob(
        attempt=attempt, counts=LineCounts(completed=3), has_output=True, has_errors=has_errors, usage=None
    )


def test_a_job_is_created_once_for_a_key() -> None:
    given.when(CreateBatchJob(created=CREATED, repeatable=True)).then(CREATED).is_quiet()
    other = replace(CREATED, fingerprint="g")

    given(CREATED).when(CreateBatchJob(created=other, repeatable=True)).is_refused(IdempotencyConflict)


def test_an_input_is_accepted_or_rejected_once() -> None:
    given(CREATED).when(AcceptInput(total=3)).then(VALID).is_quiet()
    given(CREATED).when(RejectInput(errors=WRONG)).then(REJECTED).is_quiet()
    given(CREATED, VALID).when(RejectInput(errors=WRONG)).is_quiet()
    given(CREATED, REJECTED).when(AcceptInput(total=3)).is_quiet()


def test_each_batch_of_tasks_is_recorded_once_and_in_order() -> None:
    given(CREATED, VALID).when(advance(1, 2, 2)).then(FIRST).is_quiet()
    given(CREATED, VALID, FIRST).when(advance(3, 3)).is_quiet()
    given(CREATED, VALID, FIRST).when(advance(2, 3)).then(ALL)


def test_lines_that_a_type_refuses_are_passed_over_without_a_batch() -> None:
    passed = BatchJobAdvanced(batches=1, lines=3, offset=120, tasks=2)

    given(CREATED, VALID, FIRST).when(advance(1, 3, 0)).then(passed).is_quiet()


def test_a_batch_that_was_stored_before_a_cancel_is_recorded_after_it() -> None:
    given(CREATED, VALID, FIRST, CANCELLING).when(advance(2, 3)).then(ALL)


@pytest.mark.parametrize("late", [FINALIZING, FINISHED], ids=lambda event: type(event).__name__)
def test_no_batch_is_recorded_once_the_results_are_being_written(late: BatchJobEvent) -> None:
    given(CREATED, VALID, FIRST, late).when(advance(2, 3)).is_quiet()


def test_counts_are_recorded_when_they_change() -> None:
    counts = LineCounts(completed=2, failed=1)

    given(CREATED, VALID).when(CountBatchJob(counts=counts)).then(BatchJobCounted(counts=counts)).is_quiet()


@pytest.mark.parametrize("history", [(CREATED,), (CREATED, VALID), (CREATED, VALID, ALL)], ids=len)
def test_a_job_is_cancelled_until_its_results_are_being_written(history: tuple[BatchJobEvent, ...]) -> None:
    given(*history).when(CancelBatchJob()).then(CANCELLING).is_quiet()


@pytest.mark.parametrize("end", [FINALIZING, FINISHED, REJECTED], ids=lambda event: type(event).__name__)
def test_a_cancel_that_comes_too_late_is_refused(end: BatchJobEvent) -> None:
    given(CREATED, VALID, ALL, end).when(CancelBatchJob()).is_refused(RuleBroken)


def test_a_cancelled_job_is_neither_accepted_nor_rejected_any_more() -> None:
    given(CREATED, CANCELLING).when(AcceptInput(total=3)).is_quiet()
    given(CREATED, CANCELLING).when(RejectInput(errors=WRONG)).is_quiet()


def test_the_files_of_each_try_are_in_the_log_before_they_are_written() -> None:
    first = given(CREATED, VALID, ALL).when(finalize()).then(FINALIZING)
    again = replace(FINALIZING, attempt=2, since=NOW)

    first.is_quiet()
    given(CREATED, VALID, ALL, FINALIZING).when(finalize(2), NOW + seconds(9)).then(again)


def test_results_are_not_written_without_lines_that_came_in_between() -> None:
    given(CREATED, VALID, ALL).when(finalize(lines=2)).is_quiet()


def test_a_cancel_that_came_in_between_decides_how_a_job_ends() -> None:
    given(CREATED, VALID, ALL, CANCELLING).when(finalize()).is_quiet()
    given(CREATED, VALID, ALL).when(finalize(outcome="cancelled")).is_quiet()
    cancelled = replace(FINALIZING, outcome="cancelled")
    given(CREATED, VALID, ALL, CANCELLING).when(finalize(outcome="cancelled")).then(cancelled)


def test_only_the_last_try_ends_a_job_and_with_the_files_that_have_lines() -> None:
    again = replace(FINALIZING, attempt=2)

    given(CREATED, VALID, ALL, again).when(finish(1)).is_quiet()
    given(CREATED, VALID, ALL, again).when(finish(2)).then(FINISHED).is_quiet()
    both = replace(FINISHED, error_file="e")
    given(CREATED, VALID, ALL, again).when(finish(2, has_errors=True)).then(both)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((), "validating"),
        ((REJECTED,), "failed"),
        ((VALID, FIRST), "in_progress"),
        ((VALID, ALL, FINALIZING), "finalizing"),
        ((VALID, CANCELLING), "cancelling"),
        ((CANCELLING, replace(FINALIZING, outcome="cancelled")), "cancelling"),
        ((VALID, ALL, FINALIZING, FINISHED), "completed"),
        ((VALID, FINALIZING, replace(FINISHED, outcome="expired")), "expired"),
        ((VALID, CANCELLING, FINALIZING, replace(FINISHED, outcome="cancelled")), "cancelled"),
    ],
)
def test_the_status_follows_from_the_events(events: tuple[BatchJobEvent, ...], status: str) -> None:
    state: BatchJob = given(CREATED, *events).state

    assert state.status == status


def test_the_state_is_the_same_without_the_events_that_were_replaced() -> None:
    counted = BatchJobCounted(counts=LineCounts(completed=3))
    finished = replace(FINISHED, usage=TokenUsage(input_tokens=5, output_tokens=7))

    assert given(CREATED, VALID, ALL, counted, FINALIZING, finished).state == (
        given(CREATED, VALID, FIRST, ALL, counted, FINALIZING, finished).state
    )


def test_a_job_that_was_never_created_or_is_forgotten_takes_no_command() -> None:
    for command in (AcceptInput(total=1), CancelBatchJob(), advance(1, 1), finish()):
        given.when(command).is_refused(NotFound)
