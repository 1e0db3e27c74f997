"""Any history that commands can make is a legal one, whatever is asked, by whom, when, and how often."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands import server, task_state, task_type
from taskstream.commands import task_commands as task
from taskstream.commands.task import decide
from taskstream.errors import Refused
from taskstream.events.envelope import Event, Stored
from taskstream.events.kinds import REPLACED_WORDS, word_of
from taskstream.events.subjects import event_subject
from taskstream.events.task import (
    AttemptAccepted,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    CancelReported,
    Plan,
    ProgressReported,
    RetryPolicy,
    TaskCancelled,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.projections.task_view import ACTIVE, TaskView, fold

from .support import NOW, RESULT, defined, recorded, registered, seconds, submitted

ENDS = (TaskSucceeded, TaskFailed, TaskCancelled)
OF_AN_ATTEMPT = (AttemptAccepted, ProgressReported, AttemptFailed, AttemptReturned)

# Commands: each is made from the state it meets, so that it is often, and not always, about the current attempt.

Make = Callable[[task_state.TaskState], task.TaskCommand]
Asked = tuple[Make, list[tuple[Make, float]]]

names = st.sampled_from(["s1", "s2", ""])
digests = st.sampled_from(["d1", "d2", ""])
kinds: Any = st.sampled_from(
    ["rejected", "failed", "busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"]
)
offsets = st.sampled_from([0, 0, 0, -1, 1])
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 4),
    backoff_base=st.sampled_from([seconds(0.001), seconds(1), timedelta(days=7)]),
    backoff_cap=st.sampled_from([seconds(0.5), seconds(30), timedelta(days=7)]),
    timeout=st.sampled_from([seconds(1), timedelta(days=7)]),
)


def _current(state: task_state.TaskState, offset: int) -> int:
    return 0 if isinstance(state, task_state.Unknown) else state.facts.attempt + offset


def _reporter(kind: Any, name: str, offset: int | None) -> Callable[[task_state.TaskState], task.Reporter]:
    return lambda state: task.Reporter(
        kind=kind, attempt=None if offset is None else _current(state, offset), server_id=name
    )


reporters = st.one_of(
    st.builds(_reporter, st.sampled_from(["worker", "server"]), names, offsets),
    st.builds(_reporter, st.sampled_from(["server", "person"]), names, st.none()),
)


plans: Any = st.none() | st.builds(
    Plan,
    expires_at=st.sampled_from([None, None, NOW + seconds(50)]),
    ends_by=st.sampled_from([None, None, NOW + seconds(900)]),
    depends_on=st.sampled_from([(), ("p",)]),
    on_parent_failure=st.sampled_from(["fail", "run", "skip"]),
)


def _submit(policy: RetryPolicy, fingerprint: str, repeatable: bool, held: bool, plan: Plan | None) -> Make:
    submission = submitted(policy=policy, fingerprint=fingerprint, held=held, plan=plan)
    return lambda _: task.SubmitTask(submission=submission, repeatable=repeatable)


submits = st.builds(_submit, policies, st.sampled_from(["f1", "f1", "f2"]), st.booleans(), st.booleans(), plans)
starts: Any = st.builds(
    lambda name, digest: lambda _: task.StartAttempt(server_id=name or "s3", worker_id="w1", token_digest=digest),
    names,
    st.sampled_from(["t1", "t2", "t3"]),
)
accepts: Any = st.builds(
    lambda offset: lambda state: task.AcceptAttempt(attempt=_current(state, offset), backend_task_id=None),
    offsets,
)
reports: Any = st.builds(lambda by: lambda state: task.ReportProgress(reporter=by(state), progress=1.0), reporters)
successes: Any = st.builds(
    lambda by, digest: lambda state: task.SucceedTask(reporter=by(state), result=RESULT, update_digest=digest),
    reporters,
    digests,
)
failures: Any = st.builds(
    lambda by, digest: lambda state: task.FailTask(reporter=by(state), error="", result=None, update_digest=digest),
    reporters,
    digests,
)
attempt_failures: Any = st.builds(
    lambda offset, kind, jitter, pause: (
        lambda state: task.FailAttempt(
            attempt=_current(state, offset), kind=kind, error="no", jitter=jitter, retry_after=pause
        )
    ),
    offsets,
    kinds,
    st.sampled_from([0.0, 0.5, 0.999]),
    st.sampled_from([None, seconds(0), seconds(5), timedelta(days=2)]),
)
returns: Any = st.builds(
    lambda offset, kind: lambda state: task.ReturnAttempt(attempt=_current(state, offset), reason="no", kind=kind),
    offsets,
    st.sampled_from(["shutdown", "busy", "busy", "unsent"]),
)
others: Any = st.sampled_from([task.CancelTask, task.RetryTask, task.RetryTask, task.RequeueTask]).map(
    lambda command: lambda _: command(reason="so")
)
cancel_reports: Any = st.builds(
    lambda offset: lambda state: task.ReportCancel(attempt=_current(state, offset), outcome="requested", detail=""),
    offsets,
)
holds: Any = st.sampled_from(
    [
        task.HoldTask(reason="so"),
        task.ReleaseTask(),
        task.ReleaseTask(),
        task.ExpireTask(),
        task.EndBusyWait(),
        task.FailByParent(parent_id="p", outcome="failed"),
        task.CancelUnstarted(reason="so"),
    ]
).map(lambda command: lambda _: command)


def _go_on(start: Make, report: Make) -> Make:
    retry: Make = lambda _: task.RetryTask(reason="once more")  # noqa: E731 - as the others
    release: Make = lambda _: task.ReleaseTask()  # noqa: E731 - as the others
    by_state: dict[Any, Make] = {
        task_state.Unknown: start,
        task_state.Held: release,
        task_state.Waiting: start,
        task_state.Processing: report,
        task_state.Ended: retry,
    }
    return lambda state: by_state[type(state)](state)


anything = st.one_of(
    submits, starts, accepts, reports, successes, failures, attempt_failures, returns, others, holds, cancel_reports
)
going_on = st.builds(_go_on, starts, st.one_of(accepts, reports, attempt_failures, returns))
"""What leads on from the state it meets: without it, few histories get as far as a third attempt."""
steps = st.tuples(st.one_of(going_on, anything), st.sampled_from([0.0, 0.5, 40.0, 700_000.0]))
histories = st.tuples(submits, st.lists(steps, min_size=10, max_size=30))


class Step(NamedTuple):
    state: task_state.TaskState
    command: task.TaskCommand
    now: datetime
    events: list[Event]


def play(first: Make, asked: list[tuple[Make, float]]) -> list[Step]:
    """Run commands over a new task; each comes a while after the one before. Anything but a refusal is raised."""
    state: task_state.TaskState = task_state.UNKNOWN
    now = NOW
    played = []
    before, *after = asked  # the first comes when there is no task yet
    for make, later in [before, (first, 0.0), *after]:
        now += seconds(later)
        command = make(state)
        try:
            events = list(decide(command, state, now))
        except Refused:
            events = []
        played.append(Step(state, command, now, events))
        for event in events:
            state = task_state.evolve(state, recorded(event, now))
    return played


def history(played: list[Step]) -> list[Stored[Any]]:
    entries = [recorded(event, step.now) for step in played for event in step.events]
    return [Stored(sequence, entry) for sequence, entry in enumerate(entries, 1)]


def check_legal(events: list[Event]) -> None:
    """Walk through a history and fail at what may never happen."""
    attempts, failures, budget, ended, running, held = 0, 0, 0, False, False, False
    unreported = 0
    for event in events:
        if isinstance(event, CancelReported):
            assert ended, "a cancelled attempt is reported after the end"
            assert event.attempt == unreported, "and once"
            unreported = 0
            continue
        unreported = event.attempt if isinstance(event, TaskCancelled) else 0
        match event:
            case TaskSubmitted(policy=policy):
                assert event is events[0], "a task is submitted once, and first"
                budget, held = policy.attempts, event.held
            case TaskQueued(renewed=True):
                assert ended, "only an ended task is renewed"
                ended, failures, held = False, 0, False
            case TaskQueued():
                assert not ended, "an ended task is queued only when renewed"
                assert not running, "a running task is in no queue"
                held = False
            case AttemptStarted(attempt=attempt):
                assert not ended, "nothing starts after the end"
                assert not running, "one attempt at a time"
                assert attempt == attempts + 1, "attempts are numbered without a gap"
                assert not held or not event.worker_id, "a held task starts only by a person's report"
                held = False
                attempts, running = attempt, True
            case TaskHeld(renewed=True):
                assert ended, "only an ended task is renewed"
                ended, failures, held = False, 0, True
            case TaskHeld():
                assert (ended, running, held) == (False, False, False), "only a waiting task is held"
                held = True
            case _ if isinstance(event, OF_AN_ATTEMPT):
                assert running, "only a running attempt has anything happen to it"
                assert event.attempt == attempts, "what happens is of the current attempt"
                if isinstance(event, AttemptFailed):
                    failures += 1
                    assert failures < budget, "another attempt follows only while there is one left"
                if isinstance(event, AttemptFailed | AttemptReturned):
                    running = False
            case _:
                assert isinstance(event, ENDS)
                assert not ended, "a task ends once between renewals"
                ended, running = True, False


@settings(max_examples=300)
@given(histories)
def test_any_history_that_commands_can_make_is_legal(asked: Asked) -> None:
    check_legal([stored.recorded.event for stored in history(play(*asked))])


def occupied(state: task_state.TaskState) -> str:
    return state.occupied_server_id if isinstance(state, task_state.Processing) else ""


@settings(max_examples=300)
@given(histories)
def test_limits_are_kept_only_a_worker_makes_a_task_take_a_slot(asked: Asked) -> None:
    """A report leaves the slot as it is, or ends the task."""
    played = play(*asked)
    for step, after in pairwise(played):
        if isinstance(step.command, task.StartAttempt) and step.events:
            assert occupied(after.state) == step.command.server_id
        else:
            assert occupied(after.state) in ("", occupied(step.state))
        if isinstance(step.command, task.ReportProgress):
            assert occupied(after.state) == occupied(step.state)
        by_person = getattr(getattr(step.command, "reporter", None), "kind", "") == "person"
        if by_person and not isinstance(step.state, task_state.Processing):
            assert {event.server_id for event in step.events if not isinstance(event, ProgressReported)} <= {""}


@settings(max_examples=300)
@given(histories)
def test_a_state_says_what_its_history_says(asked: Asked) -> None:
    played = play(*asked)
    state = played[-1].state
    events = [event for step in played[:-1] for event in step.events]

    if isinstance(state, task_state.Unknown):
        assert not events
        return
    started = [event for event in events if isinstance(event, AttemptStarted)]
    assert state.facts.attempt == len(started)
    assert state.facts.failures <= min(state.facts.attempt, state.facts.policy.attempts)
    assert state.facts.last_server_id == (started[-1].server_id if started else "")
    if isinstance(state, task_state.Processing):
        assert (state.server_id, state.deadline) == (started[-1].server_id, started[-1].deadline)
    if isinstance(state, task_state.Waiting) and state.not_before is not None:
        assert isinstance(events[-1], AttemptFailed)
        assert state.not_before == events[-1].retry_at
    if isinstance(state, task_state.Ended):
        outcomes = {TaskSucceeded: "succeeded", TaskFailed: "failed", TaskCancelled: "cancelled"}
        last = [event for event in events if not isinstance(event, CancelReported)][-1]
        assert state.outcome == outcomes[type(last)]  # type: ignore[index]


@settings(max_examples=300)
@given(histories)
def test_what_is_shown_of_a_task_agrees_with_what_is_decided_on(asked: Asked) -> None:
    state: task_state.TaskState = task_state.UNKNOWN
    view: TaskView | None = None
    for stored in history(play(*asked)):
        state = task_state.evolve(state, stored.recorded)
        view = fold(view, stored)
        assert view is not None
        check_agreement(view, state)


def check_agreement(view: TaskView, state: task_state.TaskState) -> None:
    assert not isinstance(state, task_state.Unknown)
    assert view.attempt == state.facts.attempt
    assert (view.status in ACTIVE) == (view.ended_at is None)
    match state:
        case task_state.Held():
            assert (view.status, view.held, view.granted) == ("WAITING", True, False)
        case task_state.Waiting():
            assert (view.held, view.granted) == (False, state.granted)
            assert (view.status, view.retry_at, view.deadline) == ("WAITING", state.not_before, None)
            assert not view.accepted
        case task_state.Processing():
            assert (view.status, view.retry_at, view.deadline) == ("PROCESSING", None, state.deadline)
            shown = (view.server_id, view.worker_id, view.accepted)
            assert shown == (state.server_id, state.worker_id, state.accepted)
        case task_state.Ended():
            statuses = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "CANCELLED"}
            assert (view.status, view.retry_at, view.deadline) == (statuses[state.outcome], None, None)
            assert not view.accepted
            assert view.cancel_outcome is None or state.unreported == 0


@settings(max_examples=300)
@given(histories)
def test_a_command_given_again_at_once_is_quiet_or_refused(asked: Asked) -> None:
    played = play(*asked)
    for step in played:
        if not step.events:
            continue
        state = step.state
        for event in step.events:
            state = task_state.evolve(state, recorded(event, step.now))
        try:
            again = decide(step.command, state, step.now)
        except Refused:
            continue
        match step.command:
            case task.ReportProgress():  # each report is news, and only that
                assert [type(event) for event in again] == [ProgressReported]
            case task.RequeueTask():  # a task may be queued twice: its claim makes that harmless
                assert [type(event) for event in again] == [TaskQueued]
            case _:
                assert again == []


# Servers and types

server_commands: Any = st.one_of(
    st.builds(
        server.RegisterServer, settings=st.builds(lambda most: registered(max_concurrent=most), st.integers(1, 3))
    ),
    st.builds(server.MarkOnline, reason=st.sampled_from(["", "busy"])),
    st.builds(server.MarkOffline, reason=st.sampled_from(["", "refused"])),
    st.builds(server.ChangeServer, change=st.builds(server.ServerChange, max_concurrent=st.integers(1, 3))),
    st.builds(server.SetMaintenance, maintenance=st.booleans()),
    st.builds(
        server.OpenCircuit,
        reason=st.just(""),
        cooldown=st.timedeltas(seconds(0.1), timedelta(days=366)),
        owner=st.sampled_from(["", "alice", "bob"]),
    ),
    st.just(server.TryCircuit()),
    st.builds(server.CloseCircuit, reason=st.just("")),
    st.builds(server.RemoveServer, reason=st.just("")),
    st.builds(server.RemoveOffline, reason=st.just(""), since=st.datetimes(timezones=st.just(UTC))),
    st.builds(server.RestoreServer, reason=st.just(""), is_kept=st.booleans()),
    st.builds(server.ForgetServer, reason=st.just("")),
)
type_commands: Any = st.one_of(
    st.builds(task_type.DefineType, definition=st.builds(defined, pool=st.sampled_from(["a", "b", "default"]))),
    st.just(task_type.DeleteType(name="chapter")),
)


@given(st.lists(st.tuples(server_commands, st.floats(0, 400)), max_size=40))
def test_a_server_command_has_one_event_at_most_and_none_when_repeated(asked: list[tuple[Any, float]]) -> None:
    state: server.ServerState = server.ABSENT
    now = NOW
    for command, later in asked:
        now += seconds(later)
        before = state
        try:
            events = server.decide(command, state, now)
        except Refused:
            assert not isinstance(state, server.Present)
            continue
        assert len(events) <= 1
        for event in events:
            state = server.evolve(state, recorded(event, now))
            assert state != before, "an event is news"
        try:
            assert server.decide(command, state, now) == []
        except Refused:
            assert isinstance(command, server.RemoveServer | server.RemoveOffline)
        if isinstance(state, server.Present) and isinstance(state.circuit, server.CircuitIsOpen):
            assert state.circuit.until - now <= server.LONGEST_COOLDOWN
            assert state.circuit.failures >= 1


@given(st.lists(type_commands, max_size=20))
def test_a_type_command_has_one_event_at_most_and_none_when_repeated(asked: list[Any]) -> None:
    state = task_type.UNDEFINED
    for command in asked:
        before = state
        try:
            events = task_type.decide(command, state)
        except Refused:
            assert state.definition is None
            continue
        assert len(events) <= 1
        for event in events:
            state = task_type.evolve(state, recorded(event))
        assert set(before.pools) <= set(state.pools), "a pool that tasks may wait in is never forgotten"
        if state.definition is not None:
            assert state.definition.pool in state.pools
        try:
            assert task_type.decide(command, state) == []
        except Refused:
            assert isinstance(command, task_type.DeleteType)


def condensed(whole: list[Stored[Any]]) -> list[Stored[Any]]:
    """Return a history as the log of tasks loads it: some events only if they are the last on their subject."""
    last = {event_subject("task.o.u", stored.recorded.event): stored.sequence for stored in whole}
    return [
        stored
        for stored in whole
        if word_of(type(stored.recorded.event)) not in REPLACED_WORDS or stored.sequence in last.values()
    ]


@settings(max_examples=300)
@given(histories)
def test_a_history_without_replaced_events_has_the_same_state_and_view(asked: Asked) -> None:
    whole = history(play(*asked))
    state: task_state.TaskState = task_state.UNKNOWN
    view: TaskView | None = None
    state_of_all: task_state.TaskState = task_state.UNKNOWN
    view_of_all: TaskView | None = None
    for stored in condensed(whole):
        state, view = task_state.evolve(state, stored.recorded), fold(view, stored)
    for stored in whole:
        state_of_all, view_of_all = task_state.evolve(state_of_all, stored.recorded), fold(view_of_all, stored)

    assert state == state_of_all
    assert present(view) == present(view_of_all)


def present(view: TaskView | None) -> TaskView | None:
    """Return a view without `renewed_after` if the task is not held: then nobody reads it."""
    return view if view is None or view.held else replace(view, renewed_after=0)
