"""What holds a task, what becomes of it when its time is up, and when a parent does not succeed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from taskstream.commands.task import decide
from taskstream.commands.task_commands import (
    CancelTask,
    CancelUnstarted,
    DeleteTask,
    ExpireTask,
    FailAttempt,
    FailByParent,
    HoldTask,
    ReleaseTask,
    Reporter,
    ReportProgress,
    RequeueTask,
    RetryTask,
    ReturnAttempt,
    StartAttempt,
    SucceedTask,
)
from taskstream.commands.task_state import UNKNOWN, Held, Waiting, evolve
from taskstream.errors import AttemptNotCurrent, NotGranted, NotQueued, NotRetryable, RetryTooLate, TimeIsUp
from taskstream.events.task import (
    Plan,
    TaskCancelled,
    TaskDeleted,
    TaskFailed,
    TaskHeld,
    TaskQueued,
)

from .support import (
    NOW,
    POLICY,
    RESULT,
    Given,
    attempt_failed,
    cancelled,
    failed,
    returned,
    seconds,
    started,
    submitted,
    succeeded,
)

given = Given(decide, evolve, UNKNOWN)
GRANTED = TaskQueued(pool="text", priority="normal", reason="nothing holds it any more", granted=True, submission=1)
SOON, LATER = NOW + seconds(10), NOW + seconds(20)

held = given(submitted(held=True))
released = held(GRANTED)
waiting = given(submitted())
running = waiting(started(1))
START = StartAttempt(server_id="s1", worker_id="w1", token_digest="token of 1")
RELEASE = ReleaseTask(submission=1)
HOLD = HoldTask(reason="it shares a limit")
ENDS = [succeeded(), failed(), cancelled(1, "s1")]


def planned(**plan: Any) -> Given:
    """A task in its queue that has a plan."""
    return given(submitted(plan=Plan(**plan)))


# Held and released


def test_a_held_task_is_in_no_queue() -> None:
    assert isinstance(held.state, Held)
    held.when(START).is_refused(NotQueued)
    held.when(RequeueTask(reason="it was in no queue")).is_quiet()


def test_a_held_task_is_released_once() -> None:
    held.when(RELEASE).then(GRANTED).is_quiet()
    assert released.state == Waiting(facts=held.state.facts, granted=True)


def test_a_release_names_the_submission_until_the_first_attempt() -> None:
    [first] = held.when(RELEASE).events
    [later] = running(attempt_failed(1), TaskHeld(reason="it shares a limit")).when(RELEASE).events

    assert isinstance(first, TaskQueued)
    assert isinstance(later, TaskQueued)
    assert (first.submission, later.submission) == (1, 0)


@pytest.mark.parametrize("state", [given, waiting, running, *(running(end) for end in ENDS)])
def test_what_is_not_held_is_not_released(state: Given) -> None:
    state.when(RELEASE).is_quiet()


def test_a_release_queues_the_task_in_its_own_pool_with_its_own_priority() -> None:
    task = given(submitted(held=True, pool="video", priority="high"))

    task.when(ReleaseTask(submission=7)).then(replace(GRANTED, pool="video", priority="high", submission=7))
    task.when(ReleaseTask()).then(replace(GRANTED, pool="video", priority="high", submission=0))


def test_a_waiting_task_is_held_once_and_loses_its_grant() -> None:
    released.when(HOLD).then(TaskHeld(reason="it shares a limit")).is_quiet()
    assert released(TaskHeld(reason="")).state == held.state


@pytest.mark.parametrize("state", [given, running, *(running(end) for end in ENDS)])
def test_what_does_not_wait_is_not_held(state: Given) -> None:
    state.when(HOLD).is_quiet()


def test_a_grant_lasts_until_the_attempt_fails() -> None:
    assert released(started(1), returned(1)).state.granted
    assert not released(started(1), attempt_failed(1)).state.granted


def test_what_shares_a_limit_starts_only_where_it_has_been_counted_in() -> None:
    start = replace(START, needs_grant=True)

    assert released.when(start).events
    waiting.when(start).is_refused(NotGranted)
    released(started(1), attempt_failed(1)).when(start, at=LATER).is_refused(NotGranted)


def test_a_task_put_back_into_its_queue_keeps_its_grant() -> None:
    again = RequeueTask(reason="it was in no queue")

    assert [event.granted for event in released.when(again).events] == [True]  # type: ignore[attr-defined]
    assert [event.granted for event in waiting.when(again).events] == [False]  # type: ignore[attr-defined]


def test_a_held_task_can_be_cancelled_and_deleted() -> None:
    end = TaskCancelled(attempt=0, server_id="", reason="not needed")

    held.when(CancelTask(reason="not needed")).then(end).is_quiet()
    held.when(DeleteTask(reason="not needed")).then(end, TaskDeleted()).is_quiet()


def test_a_held_task_is_not_retried() -> None:
    held.when(RetryTask(reason="again")).is_refused(NotRetryable, "waiting")


def test_no_server_takes_a_held_task_by_reporting_on_it() -> None:
    report = ReportProgress(reporter=Reporter(kind="server", server_id="s1"), progress=1.0)

    held.when(report).is_refused(AttemptNotCurrent)


def test_a_person_may_end_a_held_task() -> None:
    assert held.when(SucceedTask(reporter=Reporter(kind="person"), result=RESULT)).events


# Time


@pytest.mark.parametrize("plan", [{"expires_at": SOON}, {"ends_by": SOON}])
def test_a_task_starts_only_before_its_time_is_up(plan: dict[str, Any]) -> None:
    assert planned(**plan).when(START, at=SOON - seconds(0.001)).events
    planned(**plan).when(START, at=SOON).is_refused(TimeIsUp)


@pytest.mark.parametrize("plan", [{"expires_at": SOON}, {"ends_by": SOON}])
def test_nobody_takes_a_task_by_a_report_once_its_time_is_up(plan: dict[str, Any]) -> None:
    taken = ReportProgress(reporter=Reporter(kind="person"))

    assert planned(**plan).when(taken, at=SOON - seconds(0.001)).events
    planned(**plan).when(taken, at=SOON).is_refused(TimeIsUp)
    assert planned(**plan)(started(1)).when(taken, at=SOON).events


def test_an_attempt_gets_no_more_time_than_the_task_has() -> None:
    short = planned(ends_by=SOON).when(START)
    long = planned(ends_by=NOW + POLICY.timeout + seconds(1)).when(START)

    assert [event.deadline for event in short.events] == [SOON]  # type: ignore[attr-defined]
    assert [event.deadline for event in long.events] == [NOW + POLICY.timeout]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_held", [False, True])
def test_a_task_that_has_not_started_by_its_expiry_fails(is_held: bool) -> None:
    state = given(submitted(held=is_held, plan=Plan(expires_at=SOON)))

    state.when(ExpireTask(), at=SOON - seconds(0.001)).is_quiet()
    state.when(ExpireTask(), at=SOON).then(
        TaskFailed(
            attempt=0,
            server_id="",
            kind="expired",
            error="it had not started by 2026-01-02T03:04:15.000Z",
        )
    ).is_quiet()


def test_a_task_that_runs_does_not_expire_but_it_may_miss_its_deadline() -> None:
    planned(expires_at=SOON)(started(1)).when(ExpireTask(), at=LATER).is_quiet()
    late = planned(ends_by=SOON)(started(1)).when(ExpireTask(), at=SOON)

    late.then(
        TaskFailed(
            attempt=1,
            server_id="s1",
            kind="deadline",
            error="it had not ended by 2026-01-02T03:04:15.000Z",
        )
    ).is_quiet()


@pytest.mark.parametrize("state", [given, *(planned(ends_by=SOON)(started(1), end) for end in ENDS)])
def test_what_is_not_there_or_has_ended_has_all_the_time(state: Given) -> None:
    state.when(ExpireTask(), at=LATER).is_quiet()


@pytest.mark.parametrize(
    ("plan", "kind", "option"),
    [
        ({"expires_at": SOON}, "expired", "expiresAt"),
        ({"ends_by": SOON}, "deadline", "deadline"),
        ({"expires_at": SOON, "ends_by": LATER}, "expired", "expiresAt"),
        ({"expires_at": LATER, "ends_by": SOON}, "deadline", "deadline"),
    ],
)
def test_an_attempt_whose_retry_would_come_too_late_is_the_last_and_says_both(
    plan: dict[str, Any], kind: Any, option: str
) -> None:
    fails = FailAttempt(attempt=1, kind="error", error="500", jitter=0.999, retry_after=seconds(9))
    state = planned(**plan)(started(1))

    in_time = state.when(fails, at=NOW)
    too_late = state.when(fails, at=NOW + seconds(1))

    assert [type(event).__name__ for event in in_time.events] == ["AttemptFailed"]
    error = f"500; another attempt could not start before its `{option}`, 2026-01-02T03:04:15.000Z"
    too_late.then(TaskFailed(attempt=1, server_id="s1", kind=kind, error=error)).is_quiet()


@pytest.mark.parametrize(("kind", "attempts"), [("error", 1), ("rejected", 3)])
def test_an_attempt_that_no_other_would_follow_anyway_fails_as_it_did(kind: Any, attempts: int) -> None:
    policy = replace(POLICY, attempts=attempts)
    state = given(submitted(policy=policy, plan=Plan(expires_at=SOON)))(started(1))

    state.when(FailAttempt(attempt=1, kind=kind, error="no", jitter=0.0), at=LATER).then(
        TaskFailed(attempt=1, server_id="s1", kind=kind, error="no")
    )


def test_an_attempt_cut_by_its_tasks_deadline_fails_as_deadline_not_as_timeout() -> None:
    times_out = FailAttempt(attempt=1, kind="timeout", error="no answer", jitter=0.0)
    cut = planned(ends_by=SOON)(started(1, deadline=SOON))
    uncut = planned(ends_by=SOON + POLICY.timeout)(started(1, deadline=SOON))

    cut.when(times_out, at=SOON).then(
        TaskFailed(attempt=1, server_id="s1", kind="deadline", error="it had not ended by 2026-01-02T03:04:15.000Z")
    ).is_quiet()
    assert [type(event).__name__ for event in uncut.when(times_out, at=SOON).events] == ["AttemptFailed"]
    breaks = replace(times_out, kind="error")
    assert [type(event).__name__ for event in cut.when(breaks, at=NOW).events] == ["AttemptFailed"]


def test_the_first_of_two_last_instants_is_why_a_task_that_waits_fails() -> None:
    both = planned(expires_at=SOON, ends_by=LATER)

    [event] = both.when(ExpireTask(), at=LATER).events
    [again] = both(started(1), returned(1)).when(ExpireTask(), at=LATER).events

    assert isinstance(event, TaskFailed)
    assert isinstance(again, TaskFailed)
    assert (event.kind, event.error) == ("expired", "it had not started by 2026-01-02T03:04:15.000Z")
    assert "had not started again by" in again.error


def test_a_task_handed_back_after_its_expiry_is_not_started_again() -> None:
    state = planned(expires_at=SOON)(started(1))
    assert state.when(ReturnAttempt(attempt=1, reason="the worker ends"), at=LATER).events

    state(returned(1)).when(START, at=LATER).is_refused(TimeIsUp)


@pytest.mark.parametrize(("plan", "option"), [({"expires_at": SOON}, "expiresAt"), ({"ends_by": SOON}, "deadline")])
@pytest.mark.parametrize("end", [failed(), cancelled(1, "s1")])
def test_a_task_whose_time_is_up_is_not_retried(plan: dict[str, Any], option: str, end: Any) -> None:
    ended = planned(**plan)(started(1), end)

    assert ended.when(RetryTask(reason="again"), at=SOON - seconds(0.001)).events
    says = f"`{option}` of the task has passed; submit it again"
    ended.when(RetryTask(reason="again"), at=SOON).is_refused(RetryTooLate, says)


def test_both_last_instants_at_the_same_time_are_the_deadline() -> None:
    both = planned(expires_at=SOON, ends_by=SOON)

    both.when(ExpireTask(), at=SOON).then(
        TaskFailed(attempt=0, server_id="", kind="deadline", error="it had not ended by 2026-01-02T03:04:15.000Z")
    )


def test_a_task_that_waits_for_another_attempt_says_that_it_had_not_started_again() -> None:
    again = planned(expires_at=SOON)(started(1), attempt_failed(1))

    again.when(ExpireTask(), at=SOON).then(
        TaskFailed(
            attempt=1, server_id="", kind="expired", error="it had not started again by 2026-01-02T03:04:15.000Z"
        )
    )


# Concurrency keys


@pytest.mark.parametrize("state", [waiting, held, released])
def test_what_never_started_gives_way(state: Given) -> None:
    state.when(CancelUnstarted(reason="replaced")).then(
        TaskCancelled(attempt=0, server_id="", reason="replaced")
    ).is_quiet()


@pytest.mark.parametrize(
    "state",
    [given, running, running(attempt_failed(1)), running(returned(1)), *(running(end) for end in ENDS)],
)
def test_what_has_started_gives_way_to_nobody(state: Given) -> None:
    state.when(CancelUnstarted(reason="replaced")).is_quiet()


# Parents

BY_PARENT = FailByParent(parent_id="p~alice", outcome="failed")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (
            "fail",
            [TaskFailed(attempt=0, server_id="", kind="parent_failed", error="p~alice, on which it depends, failed")],
        ),
        ("skip", [TaskCancelled(attempt=0, server_id="", reason="skipped: p~alice, on which it depends, failed")]),
        ("run", []),
    ],
)
def test_a_child_does_what_it_chose_when_a_parent_does_not_succeed(choice: Any, expected: list[Any]) -> None:
    child = given(submitted(held=True, plan=Plan(depends_on=("p~alice",), on_parent_failure=choice)))

    child.when(BY_PARENT).then(*expected).is_quiet()


def test_a_child_held_after_an_attempt_fails_with_its_number() -> None:
    child = planned(depends_on=("p~alice",))(started(1), attempt_failed(1), TaskHeld(reason=""))

    error = "p~alice, on which it depends, failed"
    child.when(BY_PARENT).then(TaskFailed(attempt=1, server_id="", kind="parent_failed", error=error))


@pytest.mark.parametrize("state", [given, waiting, running, *(running(end) for end in ENDS)])
def test_a_parent_changes_nothing_for_a_child_that_is_not_held(state: Given) -> None:
    state.when(BY_PARENT).is_quiet()


def test_a_child_that_is_retried_is_held_with_its_whole_budget() -> None:
    child = given(submitted(held=True, plan=Plan(depends_on=("p~alice",))))
    ended = child(GRANTED, started(1), attempt_failed(1), started(2), failed(2))

    ended.when(RetryTask(reason="again")).then(TaskHeld(reason="again", renewed=True)).is_refused(NotRetryable)
    again = ended(TaskHeld(reason="again", renewed=True))
    assert isinstance(again.state, Held)
    assert (again.state.facts.failures, again.state.facts.attempt) == (0, 2)
    [released_again] = again.when(RELEASE).events
    assert isinstance(released_again, TaskQueued)
    assert released_again.granted
