"""What may be done with a task, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands.task import (
    ALREADY_STREAMED,
    BY_CALLBACK,
    EARLIEST_START,
    FINAL_KINDS,
    LONGEST_RETRY_AFTER,
    decide,
)
from taskstream.commands.task_commands import (
    AcceptAttempt,
    CancelTask,
    DeleteTask,
    FailAttempt,
    FailTask,
    ReportCancel,
    Reporter,
    ReportProgress,
    RequeueTask,
    RetryTask,
    ReturnAttempt,
    StartAttempt,
    SubmitTask,
    SucceedTask,
)
from taskstream.commands.task_reports import check_reporter
from taskstream.commands.task_state import UNKNOWN, Ended, Processing, Waiting, evolve
from taskstream.errors import (
    AlreadyEnded,
    AlreadyExists,
    AttemptNotCurrent,
    IdempotencyConflict,
    KeyDestroyed,
    NotDue,
    NotFound,
    NotRetryable,
    Refused,
    ResultExpired,
)
from taskstream.events.stream_parts import StreamParts
from taskstream.events.task import (
    AttemptAccepted,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    CancelReported,
    ErrorAnswer,
    ProgressReported,
    RetryPolicy,
    TaskCancelled,
    TaskDeleted,
    TaskFailed,
    TaskQueued,
    TaskSucceeded,
)

from .support import (
    NOW,
    RESULT,
    Given,
    accepted,
    attempt_failed,
    cancel_reported,
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

given = Given(decide, evolve, UNKNOWN)

waiting = given(submitted())
running = waiting(started(1))
retrying = running(attempt_failed(1))
"""Its second attempt is due one second from now."""
finished = running(succeeded(1, update_digest="d1"))
failed_for_good = running(failed(1, update_digest="d2"))
called_off = waiting(cancelled())

WORKER = Reporter(kind="worker", attempt=1)
TOKEN_HOLDER = Reporter(kind="server", attempt=1, server_id="s1")
SERVER = Reporter(kind="server", server_id="s1")
NAMELESS = Reporter(kind="server")
OWNER = Reporter(kind="person")
NAMING = Reporter(kind="person", server_id="s1")
"""A person whose update names a server."""


def submit(*, repeatable: bool = False, **more: Any) -> SubmitTask:
    return SubmitTask(submission=submitted(**more), repeatable=repeatable)


def start(**more: Any) -> StartAttempt:
    return StartAttempt(**({"server_id": "s1", "worker_id": "w1", "token_digest": "t"} | more))


def fail_attempt(attempt: int = 1, **more: Any) -> FailAttempt:
    values: dict[str, Any] = {"attempt": attempt, "kind": "error", "error": "the server answered 500", "jitter": 0.5}
    return FailAttempt(**(values | more))


def progress(reporter: Reporter, **more: Any) -> ReportProgress:
    return ReportProgress(reporter=reporter, progress=40.0, message="4 of 10", **more)


def succeed(reporter: Reporter, digest: str = "d1") -> SucceedTask:
    return SucceedTask(reporter=reporter, result=RESULT, update_digest=digest)


def fail(reporter: Reporter, digest: str = "d2") -> FailTask:
    return FailTask(reporter=reporter, error="no such model", result=None, update_digest=digest)


REPORTS = [progress, succeed, fail]


@pytest.mark.parametrize("state", [running, waiting], ids=["running", "waiting"])
@pytest.mark.parametrize("report", [succeed, fail])
def test_an_end_whose_result_may_be_gone_is_refused(state: Given, report: Any) -> None:
    command = replace(report(OWNER), decided_by=NOW)

    assert len(state.when(command, at=NOW).events) == 1
    state.when(command, at=NOW + seconds(0.001)).is_refused(ResultExpired)


@pytest.mark.parametrize("reporter", [WORKER, TOKEN_HOLDER, SERVER, NAMELESS, OWNER])
@pytest.mark.parametrize("state", [given, waiting, running, retrying, finished, failed_for_good, called_off])
def test_a_reporter_is_refused_before_its_report_only_if_every_report_is(reporter: Reporter, state: Given) -> None:
    def refusal(decide: Callable[[], object]) -> str | None:
        try:
            decide()
        except Refused as refused:
            return str(refused)
        return None

    reports = (progress(reporter), succeed(reporter), fail(reporter), succeed(reporter, "d9"), fail(reporter, ""))
    after = {refusal(lambda report=report: state.when(report).events) for report in reports}  # type: ignore[misc]
    before = refusal(lambda: check_reporter(reporter, state.state))

    assert after == {before} if before else len(after) > 1 or after == {None}


def test_the_examples_are_in_the_states_their_names_say() -> None:
    assert isinstance(waiting.state, Waiting)
    assert isinstance(running.state, Processing)
    assert isinstance(retrying.state, Waiting)
    assert [each.state.outcome for each in (finished, failed_for_good, called_off)] == [
        "succeeded",
        "failed",
        "cancelled",
    ]


@pytest.mark.parametrize(
    "command", [start(), *(report(OWNER) for report in REPORTS), CancelTask(reason="no"), RetryTask(reason="once more")]
)
def test_nothing_is_done_with_a_task_that_is_not_there(command: Any) -> None:
    given.when(command).is_refused(NotFound)


# Submit


def test_a_submitted_task_is_recorded_as_it_was_asked_for() -> None:
    command = submit(payload=Raw(b'{"b": [2 ]}'), priority="high", pool="video", task_type="clip", owner="bob")

    given.when(command).then(
        submitted(payload=Raw(b'{"b": [2 ]}'), priority="high", pool="video", task_type="clip", owner="bob")
    )


def test_a_repeated_submit_of_the_same_body_is_the_same_task() -> None:
    given.when(submit(repeatable=True)).then(submitted()).is_quiet()


@pytest.mark.parametrize("state", [waiting, running, finished, called_off])
def test_an_idempotency_key_used_again_with_another_body_is_refused(state: Given) -> None:
    state.when(submit(fingerprint="f2", repeatable=True)).is_refused(IdempotencyConflict)


def test_an_id_that_is_taken_by_chance_is_refused() -> None:
    waiting.when(submit(fingerprint="f2")).is_refused(AlreadyExists)
    waiting.when(SubmitTask(submission=submitted(fingerprint="f2"))).is_refused(AlreadyExists)


def test_a_submit_whose_answer_was_lost_is_found_done_without_a_key_too() -> None:
    waiting.when(submit()).is_quiet()


# Start


def test_a_waiting_task_is_claimed_for_a_server_with_a_deadline_of_its_policy() -> None:
    waiting.when(start()).then(
        AttemptStarted(attempt=1, server_id="s1", worker_id="w1", deadline=NOW + seconds(300), token_digest="t")
    )


def test_our_own_claim_that_was_stored_though_the_answer_was_lost_is_found_done() -> None:
    claimed = waiting(started(1, token_digest="t"))

    claimed.when(start(token_digest="t")).is_quiet()


def test_a_task_claimed_by_another_is_not_claimed_twice() -> None:
    claimed = waiting(started(1, token_digest="t"))

    claimed.when(start(token_digest="another")).is_refused(AttemptNotCurrent, "attempt 1 is running")


def test_attempts_are_numbered_on_through_failures_hand_backs_and_retries() -> None:
    state = running(
        attempt_failed(1), started(2), returned(2), started(3), failed(3), queued(renewed=True), started(4), returned(4)
    )

    assert state.when(start()).events[0].attempt == 5  # type: ignore[attr-defined]


def test_a_retry_is_not_started_before_it_is_due() -> None:
    retrying.when(start()).is_refused(NotDue)
    retrying.when(start(), at=NOW + seconds(1) - EARLIEST_START - timedelta(microseconds=1)).is_refused(NotDue)


def test_a_retry_whose_timer_fires_by_a_clock_a_little_fast_is_started() -> None:
    outcome = retrying.when(start(), at=NOW + seconds(1) - EARLIEST_START)

    assert outcome.events[0].attempt == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", [finished, failed_for_good, called_off])
def test_an_ended_task_is_not_started(state: Given) -> None:
    state.when(start()).is_refused(AlreadyEnded)


# Accept


def test_an_acceptance_is_recorded_once() -> None:
    command = AcceptAttempt(attempt=1, backend_task_id="b7")

    running.when(command).then(AttemptAccepted(attempt=1, backend_task_id="b7")).is_quiet()


@pytest.mark.parametrize("state", [given, waiting, retrying, finished, retrying(started(2))])
def test_an_acceptance_that_comes_after_the_callback_or_too_late_changes_nothing(state: Given) -> None:
    state.when(AcceptAttempt(attempt=1, backend_task_id=None)).is_quiet()


# Progress


@pytest.mark.parametrize("reporter", [WORKER, TOKEN_HOLDER, SERVER, NAMELESS, OWNER])
def test_progress_is_taken_from_all_that_speak_for_the_attempt(reporter: Reporter) -> None:
    running.when(progress(reporter, custom_data=Raw(b'{"eta":3}'))).then(
        ProgressReported(attempt=1, progress=40.0, message="4 of 10", custom_data=Raw(b'{"eta":3}'), earlier=0)
    )


def test_a_report_is_recorded_with_every_field() -> None:
    said: dict[str, Any] = {
        "progress": 40.0,
        "message": "4 of 10",
        "custom_data": Raw(b'{"eta":3}'),
        "lines": ("a", "b"),
        "output": "once upon",
        "batch": "b1",
        "reports": 7,
        "notes": ("progress: clamped to 100",),
    }

    running.when(ReportProgress(reporter=WORKER, **said)).then(ProgressReported(attempt=1, **said, earlier=0))
    waiting.when(ReportProgress(reporter=SERVER, **said)).then(
        AttemptStarted(attempt=1, server_id="s1", worker_id="", deadline=NOW + seconds(300)),
        ProgressReported(attempt=1, **said, earlier=0),
    )


def test_an_end_by_a_report_is_recorded_with_every_field() -> None:
    said: dict[str, Any] = {"result": RESULT, "update_digest": "d1", "notes": ("message: shortened",)}

    running.when(SucceedTask(reporter=WORKER, **said)).then(TaskSucceeded(attempt=1, server_id="s1", **said))
    running.when(FailTask(reporter=WORKER, error="no such model", **said)).then(
        TaskFailed(attempt=1, server_id="s1", kind="failed", error="no such model", **said)
    )


def test_progress_said_twice_is_recorded_twice() -> None:
    report = ProgressReported(attempt=1, progress=40.0, message="4 of 10", earlier=0)

    running.when(progress(SERVER)).then(report).then(replace(report, earlier=1))


def test_a_report_says_what_earlier_ones_of_its_attempt_had() -> None:
    with_data = ReportProgress(reporter=WORKER, data=RESULT)
    bare = ReportProgress(reporter=WORKER)

    running.when(bare).then(ProgressReported(attempt=1, earlier=0)).then(ProgressReported(attempt=1, earlier=0))
    after = running.when(with_data).then(ProgressReported(attempt=1, data=RESULT, earlier=0)).given
    after.when(progress(SERVER)).then(ProgressReported(attempt=1, progress=40.0, message="4 of 10", earlier=2))
    both = after(ProgressReported(attempt=1, progress=1.0, earlier=2))
    both.when(bare).then(ProgressReported(attempt=1, earlier=3))
    anew = ReportProgress(reporter=replace(WORKER, attempt=2))
    both(returned(1), started(2)).when(anew).then(ProgressReported(attempt=2, earlier=0))
    of_older_version = running(ProgressReported(attempt=1, progress=1.0))
    of_older_version.when(bare).then(ProgressReported(attempt=1, earlier=None))


PART = StreamParts(first=0, middles=("a",))
streaming = running(ProgressReported(attempt=1, parts=PART, earlier=0))


@pytest.mark.parametrize("kind", ["error", "worker_lost", "timeout", "bad_answer"])
def test_a_stream_that_clients_may_have_seen_is_not_begun_again(kind: Any) -> None:
    answer = ErrorAnswer(status=500, body=Raw(b"null"))
    command = FailAttempt(attempt=1, kind=kind, error="it broke", jitter=0.0, answer=answer)

    [ended] = streaming(ProgressReported(attempt=1, progress=4.0, earlier=4)).when(command).events

    assert isinstance(ended, TaskFailed)
    assert (ended.kind, ended.answer) == (kind, answer)
    assert ALREADY_STREAMED in ended.error


@pytest.mark.parametrize("kind", ["shutdown", "busy", "unsent"])
def test_an_attempt_that_has_streamed_is_not_returned(kind: Any) -> None:
    [ended] = streaming.when(ReturnAttempt(attempt=1, reason="the worker ends", kind=kind)).events

    assert isinstance(ended, TaskFailed)
    assert ended.kind == "worker_lost"


def test_a_later_attempt_that_has_not_streamed_is_tried_again() -> None:
    later = streaming(failed(1), queued(renewed=True), started(2))

    [failure] = later.when(FailAttempt(attempt=2, kind="error", error="it broke", jitter=0.0)).events

    assert isinstance(failure, AttemptFailed)


def test_the_answer_of_the_server_is_recorded_with_the_last_failure_only() -> None:
    answer = ErrorAnswer(status=400, body=Raw(b'{"error":{}}'))
    command = FailAttempt(attempt=1, kind="rejected", error="no", jitter=0.0, answer=answer)

    running.when(command).then(TaskFailed(attempt=1, server_id="s1", kind="rejected", error="no", answer=answer))
    [failure] = running.when(replace(command, kind="error")).events
    assert isinstance(failure, AttemptFailed)


def test_a_server_that_reports_on_a_task_nobody_started_takes_it_over() -> None:
    after = waiting.when(progress(SERVER)).then(
        AttemptStarted(attempt=1, server_id="s1", worker_id="", deadline=NOW + seconds(300)),
        ProgressReported(attempt=1, progress=40.0, message="4 of 10", earlier=0),
    )

    assert after.given.state.accepted
    after.then(ProgressReported(attempt=1, progress=40.0, message="4 of 10", earlier=1))
    after.given.when(succeed(SERVER)).then(succeeded(1, update_digest="d1"))


@pytest.mark.parametrize("reporter", [SERVER, NAMELESS, OWNER, NAMING])
def test_limits_are_kept_a_task_taken_by_a_report_takes_a_slot_of_no_server(reporter: Reporter) -> None:
    taken = waiting(*waiting.when(progress(reporter)).events).state

    assert isinstance(taken, Processing)
    assert taken.occupied_server_id == ""


def test_a_person_names_no_server_by_a_report() -> None:
    claim = AttemptStarted(attempt=1, server_id="", worker_id="", deadline=NOW + seconds(300))

    assert waiting.when(progress(NAMING)).events[0] == claim
    waiting.when(succeed(NAMING)).then(succeeded(1, "", update_digest="d1"))
    waiting.when(fail(NAMING)).then(failed(1, "", update_digest="d2"))


def test_a_server_ends_a_task_that_a_person_took() -> None:
    taken = waiting(*waiting.when(progress(NAMING)).events)

    taken.when(succeed(SERVER)).then(succeeded(1, "", update_digest="d1"))


def test_a_server_nobody_registered_may_take_a_fresh_task_over_by_a_report() -> None:
    outcome = waiting.when(progress(NAMELESS))

    assert [type(event) for event in outcome.events] == [AttemptStarted, ProgressReported]


def test_a_task_taken_over_by_a_report_is_not_claimed_by_a_worker() -> None:
    taken = waiting(*waiting.when(progress(SERVER)).events)

    taken.when(start()).is_refused(AttemptNotCurrent)


# Who may report


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize(
    "reporter", [WORKER, TOKEN_HOLDER, Reporter(kind="server", attempt=1)], ids=["worker", "token", "nameless token"]
)
def test_a_report_of_an_attempt_that_no_longer_counts_is_refused(report: Any, reporter: Reporter) -> None:
    retrying.when(report(reporter)).is_refused(AttemptNotCurrent, "no attempt is running")
    retrying(started(2)).when(report(reporter)).is_refused(AttemptNotCurrent, "attempt 2 is running")
    running(returned(1)).when(report(reporter)).is_refused(AttemptNotCurrent)


@pytest.mark.parametrize("report", REPORTS)
def test_a_token_speaks_for_no_attempt_that_has_not_begun(report: Any) -> None:
    waiting.when(report(TOKEN_HOLDER)).is_refused(AttemptNotCurrent)


@pytest.mark.parametrize("report", REPORTS)
def test_a_server_does_not_speak_for_an_attempt_on_another(report: Any) -> None:
    elsewhere = retrying(started(2, server_id="s2"))

    elsewhere.when(report(SERVER)).is_refused(AttemptNotCurrent)


@pytest.mark.parametrize("report", REPORTS)
def test_a_server_without_a_token_speaks_for_the_attempt_that_runs_on_it(report: Any) -> None:
    assert retrying(started(2, server_id="s1")).when(report(SERVER)).events[0].attempt == 2


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("reporter", [SERVER, NAMELESS])
def test_a_late_server_does_not_overrule_a_retry_that_is_due(report: Any, reporter: Reporter) -> None:
    retrying.when(report(reporter)).is_refused(AttemptNotCurrent, "no attempt is running")


@pytest.mark.parametrize("report", REPORTS)
def test_a_person_may_overrule_whatever_attempt_there_is(report: Any) -> None:
    assert retrying.when(report(OWNER)).events[0].attempt == 2
    assert retrying(started(2, server_id="s2")).when(report(OWNER)).events[0].attempt == 2
    assert retrying(started(2, server_id="s2")).when(report(NAMING)).events[0].attempt == 2
    assert waiting.when(report(OWNER)).events[0].attempt == 1


@pytest.mark.parametrize("state", [finished, failed_for_good, called_off])
def test_progress_after_the_end_is_refused(state: Given) -> None:
    state.when(progress(SERVER)).is_refused(AlreadyEnded)


# Ends by a report


def test_a_success_ends_the_task_on_the_server_it_ran_on_and_only_once() -> None:
    running.when(succeed(NAMELESS)).then(
        TaskSucceeded(attempt=1, server_id="s1", result=RESULT, update_digest="d1")
    ).is_quiet()


def test_a_failure_by_the_backend_ends_the_task_and_only_once() -> None:
    command = replace(fail(SERVER), result=RESULT)

    running.when(command).then(
        TaskFailed(attempt=1, server_id="s1", kind="failed", error="no such model", result=RESULT, update_digest="d2")
    ).is_quiet()


def test_a_server_may_end_a_task_that_nobody_started() -> None:
    waiting.when(succeed(SERVER)).then(succeeded(1, "s1", update_digest="d1")).is_quiet()
    waiting.when(fail(SERVER)).then(failed(1, "s1", update_digest="d2")).is_quiet()


@pytest.mark.parametrize("reporter", [WORKER, TOKEN_HOLDER, SERVER, NAMELESS, OWNER])
def test_the_same_final_update_again_changes_nothing_from_any_reporter(reporter: Reporter) -> None:
    finished.when(succeed(reporter)).is_quiet()
    failed_for_good.when(fail(reporter)).is_quiet()


@pytest.mark.parametrize(
    ("state", "command"),
    [
        (finished, succeed(SERVER, "another")),
        (finished, fail(SERVER, "d1")),
        (failed_for_good, fail(SERVER, "another")),
        (failed_for_good, succeed(SERVER, "d2")),
        (called_off, succeed(SERVER, "")),
        (called_off, fail(SERVER, "")),
    ],
)
def test_an_update_that_contradicts_the_end_is_refused(state: Given, command: Any) -> None:
    state.when(command).is_refused(AlreadyEnded, state.state.outcome)


# Attempts that come to nothing


def test_a_failed_attempt_waits_for_the_next_one() -> None:
    running.when(fail_attempt(jitter=0.25)).then(
        AttemptFailed(
            attempt=1,
            server_id="s1",
            kind="error",
            error="the server answered 500",
            retry_at=NOW + seconds(0.25),
        )
    ).is_quiet()


def test_the_last_attempt_that_fails_ends_the_task_with_its_error() -> None:
    last = retrying(started(2), attempt_failed(2), started(3, server_id="s3"))

    last.when(fail_attempt(3, kind="timeout", error="too slow")).then(
        TaskFailed(attempt=3, server_id="s3", kind="timeout", error="too slow")
    ).is_quiet()


@pytest.mark.parametrize("kind", ["rejected", "failed"])
def test_a_failure_that_another_try_would_only_repeat_is_final(kind: Any) -> None:
    running.when(fail_attempt(kind=kind, error="no")).then(
        TaskFailed(attempt=1, server_id="s1", kind=kind, error="no")
    ).is_quiet()


@pytest.mark.parametrize("kind", ["busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"])
def test_any_other_failure_is_followed_by_another_try(kind: Any) -> None:
    assert kind not in FINAL_KINDS
    assert isinstance(running.when(fail_attempt(kind=kind)).events[0], AttemptFailed)


@pytest.mark.parametrize("state", [given, waiting, retrying, retrying(started(2)), finished, called_off])
def test_the_failure_of_an_attempt_that_was_dealt_with_changes_nothing(state: Given) -> None:
    state.when(fail_attempt(1)).is_quiet()


def delays(policy: RetryPolicy, jitter: float) -> list[float]:
    """Return the seconds waited after each failed attempt of a task."""
    state = given(submitted(policy=policy))
    waited = []
    for attempt in range(1, policy.attempts):
        state = state(started(attempt))
        (event,) = state.when(fail_attempt(attempt, jitter=jitter)).events
        assert isinstance(event, AttemptFailed)
        waited.append((event.retry_at - NOW).total_seconds())
        state = state(event)
    return waited


LONG = RetryPolicy(attempts=9, backoff_base=seconds(1), backoff_cap=seconds(30), timeout=seconds(1))


def test_the_backoff_doubles_up_to_its_cap() -> None:
    almost_one = 0.9999999999

    assert [round(delay, 5) for delay in delays(LONG, almost_one)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_backoff_is_jittered_over_its_whole_length() -> None:
    assert delays(LONG, 0.0) == [0.0] * 8
    assert delays(LONG, 0.5) == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_the_backoff_of_a_long_base_and_many_attempts_stays_at_the_cap() -> None:
    days = RetryPolicy(attempts=100, backoff_base=seconds(7 * 86400), backoff_cap=seconds(3600), timeout=seconds(1))

    assert delays(days, 0.5) == [1800.0] * 99


def test_the_backoff_counts_the_failures_of_the_present_budget_only() -> None:
    renewed = retrying(started(2), failed(2), queued(renewed=True), started(3))

    assert renewed.when(fail_attempt(3, jitter=0.5)).events[0].retry_at == NOW + seconds(0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (seconds(0.2), 0.5),
        (seconds(5), 5),
        (seconds(120), 120),
        (LONGEST_RETRY_AFTER + seconds(1), 3600),
        (None, 0.5),
    ],
    ids=["shorter than the backoff", "longer", "longer than the cap", "longer than is believed", "nothing"],
)
def test_a_pause_that_the_server_asks_for_is_kept(asked: timedelta | None, waited: float) -> None:
    command = fail_attempt(kind="busy", jitter=0.5, retry_after=asked)

    assert running.when(command).events[0].retry_at == NOW + seconds(waited)  # type: ignore[attr-defined]


def test_how_early_a_retry_starts_and_how_long_a_server_may_ask_to_wait() -> None:
    assert timedelta(milliseconds=250) == EARLIEST_START
    assert timedelta(hours=1) == LONGEST_RETRY_AFTER
    assert frozenset({"rejected", "failed"}) == FINAL_KINDS


def test_a_backoff_of_microseconds_doubles_forty_times_and_no_more() -> None:
    tiny = RetryPolicy(
        attempts=100, backoff_base=timedelta(microseconds=1), backoff_cap=timedelta(days=90), timeout=seconds(1)
    )

    waited = delays(tiny, 0.999999999)

    assert waited[39] < 0.51 * waited[40]
    assert waited[40] == waited[98] == pytest.approx(2**40 / 1e6, rel=1e-6)


def test_a_task_whose_worker_was_lost_waits_for_nothing() -> None:
    command = fail_attempt(kind="worker_lost", jitter=0.9, retry_after=seconds(60))

    assert running.when(command).events[0].retry_at == NOW  # type: ignore[attr-defined]


# Hand-back


def test_an_attempt_handed_back_leaves_the_task_waiting_and_only_once() -> None:
    after = running.when(ReturnAttempt(attempt=1, reason="shutdown")).then(
        AttemptReturned(attempt=1, server_id="s1", reason="shutdown")
    )

    after.is_quiet()
    assert after.given.when(start()).events[0].attempt == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["shutdown", "busy", "unsent"])
def test_an_attempt_handed_back_says_why(kind: Any) -> None:
    retrying(started(2, server_id="s2")).when(ReturnAttempt(attempt=2, reason="so", kind=kind)).then(
        AttemptReturned(attempt=2, server_id="s2", reason="so", kind=kind)
    )


def test_an_attempt_handed_back_is_not_counted_as_a_failure() -> None:
    state = running
    for attempt in range(1, 6):
        state = state(returned(attempt), started(attempt + 1))

    assert state.state.facts.failures == 0
    assert isinstance(state.when(fail_attempt(6)).events[0], AttemptFailed)


@pytest.mark.parametrize("state", [given, waiting, retrying, retrying(started(2)), finished])
def test_an_attempt_that_was_dealt_with_is_not_handed_back(state: Given) -> None:
    state.when(ReturnAttempt(attempt=1, reason="shutdown")).is_quiet()


# Cancel


def test_a_puller_of_a_cancelled_attempt_says_itself_what_became_of_it() -> None:
    pulled = running(AttemptAccepted(attempt=1, lease=timedelta(seconds=60)))

    pulled.when(CancelTask(reason="no")).then(TaskCancelled(attempt=1, server_id="s1", reason="no")).is_quiet()


def test_a_pulled_attempt_is_due_with_its_lease_but_not_after_its_deadline() -> None:
    state = running(AttemptAccepted(attempt=1, lease=timedelta(seconds=60))).state
    assert isinstance(state, Processing)

    assert state.due_at(state.deadline - timedelta(seconds=90)) == state.deadline - timedelta(seconds=30)
    assert state.due_at(state.deadline - timedelta(seconds=5)) == state.deadline


@pytest.mark.parametrize("state", [waiting, retrying])
def test_a_waiting_task_is_cancelled_without_an_attempt(state: Given) -> None:
    state.when(CancelTask(reason="no")).then(TaskCancelled(attempt=0, server_id="", reason="no")).is_quiet()


def test_a_running_task_is_cancelled_naming_attempt_and_server() -> None:
    retrying(started(2, server_id="s2")).when(CancelTask(reason="no")).then(
        TaskCancelled(attempt=2, server_id="s2", reason="no")
    ).is_quiet()


def test_an_attempt_that_reports_by_callback_cannot_be_told_of_its_cancellation() -> None:
    told = CancelReported(attempt=1, server_id="s1", outcome="impossible", detail=BY_CALLBACK)
    end = TaskCancelled(attempt=1, server_id="s1", reason="no")

    running(accepted()).when(CancelTask(reason="no")).then(end, told).is_quiet()
    running(accepted()).when(DeleteTask(reason="no")).then(end, told, TaskDeleted()).is_quiet()


def test_an_attempt_of_nobody_has_no_server_to_be_told() -> None:
    taken = waiting(started(1, server_id="", worker_id=""))

    taken.when(CancelTask(reason="no")).then(TaskCancelled(attempt=1, server_id="", reason="no"))


# What became of a cancelled attempt

REPORTED = ReportCancel(attempt=1, outcome="unconfirmed", detail="no answer")


def test_what_became_of_a_cancelled_attempt_is_reported_once() -> None:
    running(cancelled(1, "s1")).when(REPORTED).then(
        CancelReported(attempt=1, server_id="s1", outcome="unconfirmed", detail="no answer")
    ).is_quiet()


@pytest.mark.parametrize(
    "state",
    [
        waiting,
        running,
        finished,
        failed_for_good,
        called_off,
        retrying(cancelled()),
        retrying(started(2), cancelled(2, "s1")),
        running(cancelled(1, "s1"), queued(renewed=True)),
        running(cancelled(1, "s1"), queued(renewed=True), started(2)),
        running(cancelled(1, "s1"), queued(renewed=True), started(2), cancelled(2, "s1")),
        running(cancelled(1, "s1"), TaskDeleted()),
        running(accepted(), cancelled(1, "s1"), cancel_reported(outcome="impossible")),
    ],
)
def test_a_report_of_an_attempt_that_nobody_asks_about_changes_nothing(state: Given) -> None:
    state.when(REPORTED).is_quiet()


def test_a_cancelled_attempt_of_no_task_is_not_reported() -> None:
    given.when(REPORTED).is_refused(NotFound)


@pytest.mark.parametrize("state", [finished, failed_for_good])
def test_a_task_that_ended_otherwise_is_not_cancelled(state: Given) -> None:
    state.when(CancelTask(reason="no")).is_refused(AlreadyEnded, state.state.outcome)


# Retry from outside


@pytest.mark.parametrize("state", [failed_for_good, called_off])
def test_a_failed_or_cancelled_task_is_queued_again_as_it_was(state: Given) -> None:
    state.when(RetryTask(reason="once more")).then(
        TaskQueued(pool="text", priority="normal", reason="once more", renewed=True)
    ).is_refused(NotRetryable)


def test_a_retried_task_has_its_whole_budget_again() -> None:
    spent = retrying(started(2), attempt_failed(2), started(3), failed(3, kind="error"))

    state = spent(queued(renewed=True), started(4), attempt_failed(4), started(5))
    assert isinstance(state.when(fail_attempt(5)).events[0], AttemptFailed)
    last = state(attempt_failed(5), started(6))
    assert isinstance(last.when(fail_attempt(6)).events[0], TaskFailed)


def test_a_retried_task_ends_anew_whatever_ended_it_before() -> None:
    again = failed_for_good(queued(renewed=True), started(2))

    again.when(fail(OWNER, "d2")).then(failed(2, update_digest="d2"))


@pytest.mark.parametrize(
    ("state", "says"), [(finished, "finished"), (waiting, "waiting"), (running, "being processed")]
)
def test_a_task_that_has_not_failed_is_not_retried(state: Given, says: str) -> None:
    state.when(RetryTask(reason="once more")).is_refused(NotRetryable, says)


@pytest.mark.parametrize("end", [failed(), cancelled(1, "s1")])
def test_a_task_whose_model_key_was_destroyed_at_its_end_is_not_retried(end: Any) -> None:
    ended = given(submitted(key_id="key-1"), started(1), end)

    ended.when(RetryTask(reason="once more")).is_refused(KeyDestroyed)


# Delete

REMOVED = DeleteTask(reason="deleted by its owner")


@pytest.mark.parametrize("state", [waiting, retrying])
def test_a_waiting_task_is_cancelled_and_deleted_together(state: Given) -> None:
    end = TaskCancelled(attempt=0, server_id="", reason="deleted by its owner")

    state.when(REMOVED).then(end, TaskDeleted()).is_quiet()


def test_a_running_task_is_cancelled_on_its_server_and_deleted_together() -> None:
    end = TaskCancelled(attempt=1, server_id="s1", reason="deleted by its owner")

    running.when(REMOVED).then(end, TaskDeleted()).is_quiet()


@pytest.mark.parametrize("state", [finished, failed_for_good, called_off])
def test_an_ended_task_is_deleted_once_and_not_retried_then(state: Given) -> None:
    after = state.when(REMOVED).then(TaskDeleted())

    after.is_quiet()
    after.given.when(RetryTask(reason="once more")).is_refused(NotFound)


def test_a_task_that_is_not_there_is_not_deleted() -> None:
    given.when(REMOVED).is_refused(NotFound)


# Requeue


def test_a_waiting_task_is_put_back_into_its_queue_and_keeps_its_budget() -> None:
    late = NOW + timedelta(minutes=1)
    after = retrying.when(RequeueTask(reason="lost"), at=late).then(
        TaskQueued(pool="text", priority="normal", reason="lost")
    )

    assert after.given.state.facts.failures == 1
    assert after.given.when(start()).events[0].attempt == 2  # type: ignore[attr-defined]


def test_a_task_is_put_back_from_the_instant_at_which_its_retry_is_due() -> None:
    due = NOW + seconds(1)

    retrying.when(RequeueTask(reason="lost"), at=due - timedelta(microseconds=1)).is_quiet()
    retrying.when(RequeueTask(reason="lost"), at=due).then(TaskQueued(pool="text", priority="normal", reason="lost"))
    high = given(submitted(priority="high", pool="video"), TaskQueued(pool="video", priority="high", reason=""))
    high.when(RequeueTask(reason="lost")).then(TaskQueued(pool="video", priority="high", reason="lost"))


def test_a_task_whose_retry_is_still_to_come_keeps_its_backoff() -> None:
    retrying.when(RequeueTask(reason="lost")).is_quiet()


def test_a_task_put_back_twice_is_started_once() -> None:
    twice = waiting(queued(), queued(), started(1, token_digest="t"))

    twice.when(start(token_digest="another")).is_refused(AttemptNotCurrent)


@pytest.mark.parametrize("state", [given, running, finished, called_off])
def test_a_task_that_does_not_wait_is_not_put_back(state: Given) -> None:
    state.when(RequeueTask(reason="lost")).is_quiet()


# Folding


def test_a_history_whose_beginning_is_past_its_retention_is_no_task() -> None:
    assert given(started(1), succeeded(1)).state is UNKNOWN


def test_a_late_acceptance_in_the_log_leaves_an_ended_task_ended() -> None:
    assert isinstance(finished(AttemptAccepted(attempt=1)).state, Ended)


def test_the_time_of_submission_is_kept() -> None:
    (first,) = stored(submitted())

    assert evolve(UNKNOWN, first.recorded).facts.submitted_at == NOW  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("longer", "reports_later", "allowed"),
    [
        (None, False, timedelta(seconds=300)),
        (None, True, timedelta(seconds=300)),
        (timedelta(hours=1), False, timedelta(seconds=300)),
        (timedelta(hours=1), True, timedelta(hours=1)),
    ],
)
def test_an_attempt_may_take_longer_on_a_server_that_reports_by_callback(
    longer: timedelta | None, reports_later: bool, allowed: timedelta
) -> None:
    policy = replace(submitted().policy, timeout=timedelta(seconds=300), callback_timeout=longer)
    [started] = decide(
        start(reports_later=reports_later), Given(decide, evolve, UNKNOWN)(submitted(policy=policy)).state, NOW
    )

    assert isinstance(started, AttemptStarted)
    assert started.deadline == NOW + allowed
