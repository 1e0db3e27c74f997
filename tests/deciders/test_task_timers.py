"""Which timers a change of a task leaves without a purpose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from taskstream.commands.task_state import UNKNOWN, TaskState, evolve
from taskstream.commands.task_timers import timers_over
from taskstream.events.envelope import Event
from taskstream.events.task import AttemptAccepted, ProgressReported, TaskHeld, TaskQueued

from .support import attempt_failed, cancelled, failed, recorded, returned, started, submitted, succeeded, turned_away

SUBMITTED = [submitted()]
STARTED = [*SUBMITTED, started(1)]
PULLED = [*STARTED, AttemptAccepted(attempt=1, lease=timedelta(seconds=60))]
ACCEPTED = [*STARTED, AttemptAccepted(attempt=1)]
FAILED_ONCE = [*STARTED, attempt_failed(1)]
BUSY = [*STARTED, turned_away(1)]
BUSY_THEN_STARTED = [*BUSY, started(2)]
QUEUED = TaskQueued(pool="text", priority="normal", reason="it was in no queue")


def state_after(events: Sequence[Event]) -> TaskState:
    state: TaskState = UNKNOWN
    for event in events:
        state = evolve(state, recorded(event))
    return state


@pytest.mark.parametrize(
    ("given", "event", "over"),
    [
        pytest.param([], submitted(), [], id="submitted"),
        pytest.param(SUBMITTED, started(1), [], id="started"),
        pytest.param(STARTED, succeeded(1), [], id="a short task ends"),
        pytest.param(STARTED, attempt_failed(1), [], id="a call fails"),
        pytest.param(STARTED, AttemptAccepted(attempt=1), [], id="accepted"),
        pytest.param(ACCEPTED, ProgressReported(attempt=1), [], id="an accepted attempt reports"),
        pytest.param(ACCEPTED, succeeded(1), ["deadline"], id="an accepted attempt succeeds"),
        pytest.param(ACCEPTED, failed(1), ["deadline"], id="an accepted attempt fails for good"),
        pytest.param(ACCEPTED, attempt_failed(1), ["deadline"], id="an accepted attempt fails"),
        pytest.param(ACCEPTED, cancelled(1), ["deadline"], id="an accepted attempt is cancelled"),
        pytest.param(PULLED, succeeded(1), ["deadline"], id="a pulled attempt succeeds"),
        pytest.param(PULLED, attempt_failed(1), ["deadline"], id="a pulled attempt fails"),
        pytest.param(PULLED, cancelled(1), [], id="cancelled: the lease is left for its puller to say that it stopped"),
        pytest.param(FAILED_ONCE, started(2), [], id="a retry starts: its timer has fired"),
        pytest.param(FAILED_ONCE, QUEUED, [], id="a retry is queued again: it had no timer"),
        pytest.param(FAILED_ONCE, cancelled(0), ["retry"], id="cancelled before its retry"),
        pytest.param(FAILED_ONCE, TaskHeld(reason="a limit"), ["retry"], id="held before its retry"),
        pytest.param(BUSY, started(2), [], id="a returned task starts"),
        pytest.param(BUSY, failed(1), ["busy"], id="it waited for too long"),
        pytest.param(BUSY, cancelled(0), ["busy"], id="cancelled while servers are busy"),
        pytest.param(BUSY_THEN_STARTED, turned_away(2), [], id="busy once more"),
        pytest.param(BUSY_THEN_STARTED, succeeded(2), ["busy"], id="no longer busy"),
        pytest.param(BUSY_THEN_STARTED, attempt_failed(2), ["busy"], id="no longer busy, but failed"),
        pytest.param(BUSY_THEN_STARTED, returned(2), ["busy"], id="returned by a worker that ends"),
        pytest.param(
            [*BUSY_THEN_STARTED, AttemptAccepted(attempt=2)],
            succeeded(2),
            ["deadline", "busy"],
            id="busy, then accepted",
        ),
    ],
)
def test_a_change_ends_the_timers_that_nothing_waits_for(given: list[Event], event: Event, over: list[str]) -> None:
    assert timers_over(state_after(given), state_after([*given, event])) == over
