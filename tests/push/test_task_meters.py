"""Metrics of tasks count each event where it is appended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Raw

from taskstream.commands.task_state import UNKNOWN, TaskState, evolve
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.task import (
    AttemptAccepted,
    AttemptFailed,
    AttemptStarted,
    RetryPolicy,
    StoredResult,
    TaskCancelled,
    TaskDeleted,
    TaskEvent,
    TaskFailed,
    TaskQueued,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.projections.fleet import Fleet
from taskstream.push.task_meters import TaskMeters
from taskstream.runtime import metrics

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(attempts=3, backoff_base=timedelta(1), backoff_cap=timedelta(1), timeout=timedelta(minutes=5))
SUBMITTED = TaskSubmitted(
    owner="alice", task_type="echo", payload=Raw(b"1"), pool="meters", priority="normal", policy=POLICY, fingerprint=""
)
SUCCEEDED = TaskSucceeded(attempt=1, server_id="s", result=StoredResult(inline=Raw(b"1"), size_bytes=1))
ACCEPTED = AttemptAccepted(attempt=1)


def started(attempt: int = 1) -> AttemptStarted:
    return AttemptStarted(attempt=attempt, server_id="s", worker_id="w", deadline=START + timedelta(hours=1))


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"taskstream_{name}", labels) or 0.0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for metric in (metrics.ended, metrics.task_start_seconds, metrics.task_end_seconds, metrics.attempts_reported):
        metrics.keep(metric, ())
    yield
    for metric in (metrics.ended, metrics.task_start_seconds, metrics.task_end_seconds, metrics.attempts_reported):
        metrics.keep(metric, ())


def counted(*events: TaskEvent) -> None:
    """Append events one by one, each ten seconds after the one before."""
    meters, state = TaskMeters(Fleet()), UNKNOWN
    history: TaskState = state
    for number, event in enumerate(events):
        at = START + timedelta(seconds=10 * number)
        recorded: Recorded[TaskEvent] = Recorded(id=str(number), at=at, by=Actor("worker", "w"), event=event)
        meters.count(history, [recorded])
        history = evolve(history, recorded)


def test_the_first_start_and_the_end_are_measured_from_the_submission() -> None:
    failed = AttemptFailed(attempt=1, server_id="s", kind="error", error="", retry_at=START)

    counted(SUBMITTED, started(), failed, started(2), SUCCEEDED)

    assert value("task_start_seconds_count", pool="meters") == 1
    assert value("task_start_seconds_sum", pool="meters") == 10
    assert value("task_end_seconds_sum", pool="meters") == 40
    assert value("tasks_ended_total", pool="meters", status="finished", kind="") == 1


def test_ends_count_by_status_and_kind_and_again_after_a_retry() -> None:
    failure = TaskFailed(attempt=1, server_id="s", kind="timeout", error="")
    queued = TaskQueued(pool="meters", priority="normal", reason="", renewed=True)

    counted(SUBMITTED, started(), failure, queued, TaskCancelled(attempt=0, server_id="", reason=""), TaskDeleted())

    assert value("tasks_ended_total", pool="meters", status="failed", kind="timeout") == 1
    assert value("tasks_ended_total", pool="meters", status="cancelled", kind="") == 1
    assert value("task_end_seconds_count", pool="meters") == 2


def test_an_outcome_of_a_call_is_no_report_and_one_of_an_accepted_attempt_is() -> None:
    counted(SUBMITTED, started(), SUCCEEDED)
    assert value("attempts_reported_total", server="other", outcome="succeeded", dialect="") == 0

    counted(SUBMITTED, started(), ACCEPTED, SUCCEEDED)
    assert value("attempts_reported_total", server="other", outcome="succeeded", dialect="") == 1


def test_a_server_that_is_not_registered_is_no_label() -> None:
    counted(SUBMITTED, started(), ACCEPTED, TaskFailed(attempt=1, server_id="x" * 500, kind="failed", error=""))

    assert value("attempts_reported_total", server="other", outcome="failed", dialect="") == 1


def test_an_end_before_the_submission_by_another_clock_counts_as_no_time() -> None:
    meters = TaskMeters(Fleet())
    recorded: list[Recorded[TaskEvent]] = [
        Recorded(id="1", at=START, by=Actor("worker", "w"), event=SUBMITTED),
        Recorded(id="2", at=START - timedelta(seconds=5), by=Actor("worker", "w"), event=started()),
    ]
    meters.count(evolve(UNKNOWN, recorded[0]), recorded[1:])

    assert value("task_start_seconds_sum", pool="meters") == 0
