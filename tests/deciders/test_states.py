"""Whole states: each event changes what it should, and every other field passes through as it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands import pool, schedule, server, task_type, webhook
from taskstream.commands.pause import Pause
from taskstream.commands.pool import PoolState
from taskstream.commands.schedule import Created, DeletedSchedule, Failure
from taskstream.commands.server import CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present, Removed
from taskstream.commands.task_state import (
    UNKNOWN,
    Ended,
    Held,
    Processing,
    TaskFacts,
    TaskState,
    Waiting,
    evolve,
)
from taskstream.commands.task_type import TypeState
from taskstream.commands.webhook import DeletedWebhook, Registered
from taskstream.events.envelope import Event
from taskstream.events.pool import PoolPaused, PoolResumed
from taskstream.events.schedule import (
    Counts,
    Run,
    ScheduleChanged,
    ScheduleCreated,
    ScheduleDeleted,
    ScheduleFailed,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSettings,
    ScheduleSkipped,
    ScheduleTriggered,
)
from taskstream.events.server import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    MaintenanceEnded,
    MaintenanceStarted,
    ModelsFound,
    ServerForgotten,
    ServerRemoved,
    ServerRestored,
    ServerStatusReasonChanged,
    ServerWentOffline,
    ServerWentOnline,
)
from taskstream.events.task import (
    AttemptAccepted,
    Plan,
    ProgressReported,
    TaskDeleted,
    TaskHeld,
    TaskQueued,
)
from taskstream.events.task_type import TypeDeleted, TypePaused, TypeResumed
from taskstream.events.webhook import (
    SecretRotated,
    WebhookChanged,
    WebhookDeleted,
    WebhookDisabled,
    WebhookEnabled,
    WebhookRegistered,
    WebhookSettings,
)

from .support import (
    BY,
    NOW,
    POLICY,
    attempt_failed,
    cancel_reported,
    cancelled,
    defined,
    failed,
    recorded,
    registered,
    returned,
    seconds,
    started,
    submitted,
    succeeded,
    turned_away,
)

Evolve = Callable[[Any, Any], Any]


def at(number: float) -> datetime:
    return NOW + seconds(number)


def after(evolve: Evolve, state: Any, *events: Event, first: int = 0) -> Any:
    """Return the state after events, each a second after the one before."""
    for number, event in enumerate(events, first):
        state = evolve(state, recorded(event, at(number)))
    return state


# A task

PLAN = Plan(not_before=at(5), expires_at=at(50), depends_on=("p~alice",), concurrency_key="k", prefer={"a": "b"})
SUBMITTED = submitted(key_id="key-1", plan=PLAN, priority="high")
FACTS = TaskFacts(
    owner="alice",
    task_type="chapter",
    pool="text",
    priority="high",
    policy=POLICY,
    fingerprint="f1",
    submitted_at=NOW,
    key_id="key-1",
    plan=PLAN,
)
ONCE = replace(FACTS, attempt=1, last_server_id="s1")
RUNNING = Processing(
    facts=ONCE,
    granted=True,
    server_id="s1",
    worker_id="w1",
    deadline=NOW + POLICY.timeout,
    token_digest="token of 1",
    accepted=False,
)
GRANTED = TaskQueued(pool="text", priority="high", reason="", granted=True)


def task(*events: Event) -> TaskState:
    state: TaskState = after(evolve, UNKNOWN, *events)
    return state


def test_a_submission_is_folded_with_every_field() -> None:
    assert task(SUBMITTED) == Waiting(facts=FACTS)
    assert task(replace(SUBMITTED, held=True)) == Held(facts=FACTS)
    assert task(submitted()) == Waiting(facts=replace(FACTS, key_id="", plan=Plan(), priority="normal"))


def test_a_task_that_starts_keeps_its_grant_and_names_server_worker_and_deadline() -> None:
    assert task(SUBMITTED, GRANTED) == Waiting(facts=FACTS, granted=True)
    assert task(SUBMITTED, GRANTED, started()) == RUNNING
    assert task(SUBMITTED, started()) == replace(RUNNING, granted=False)
    assert task(replace(SUBMITTED, held=True), started()) == replace(RUNNING, granted=False)


def test_a_task_taken_by_a_report_is_accepted_at_once() -> None:
    taken = started(1, worker_id="", token_digest="")

    assert task(SUBMITTED, taken) == replace(RUNNING, granted=False, worker_id="", token_digest="", accepted=True)
    assert task(SUBMITTED, started()).occupied_server_id == "s1"  # type: ignore[union-attr]
    assert task(SUBMITTED, taken).occupied_server_id == ""  # type: ignore[union-attr]


def test_acceptance_and_progress_leave_everything_else_as_it_was() -> None:
    accepted = AttemptAccepted(attempt=1, backend_task_id="b")

    assert task(SUBMITTED, GRANTED, started(), accepted) == replace(RUNNING, accepted=True)
    assert task(SUBMITTED, GRANTED, started(), ProgressReported(attempt=1, earlier=0)) == RUNNING
    assert task(SUBMITTED, GRANTED, started(), ProgressReported(attempt=1, progress=5.0, earlier=2)) == replace(
        RUNNING, reported=3
    )
    assert task(SUBMITTED, accepted) == Waiting(facts=FACTS)


def test_a_failed_attempt_counts_loses_the_grant_and_ends_the_wait_for_busy_servers() -> None:
    turned = task(SUBMITTED, GRANTED, started(), turned_away(), started(2), attempt_failed(2, retry_at=at(9)))

    facts = replace(ONCE, attempt=2, failures=1, unserved_reason="the server answered 503")
    assert turned == Waiting(facts=facts, not_before=at(9))


def test_an_attempt_that_was_turned_away_keeps_the_grant_and_the_first_such_instant() -> None:
    once = replace(ONCE, unserved_since=at(3), unserved_reason="the server answered 503")
    history = [SUBMITTED, GRANTED, started(), turned_away()]

    assert task(*history) == Waiting(facts=once, granted=True)
    assert task(*history, started(2), turned_away(2, kind="unsent")) == Waiting(
        facts=replace(once, attempt=2), granted=True
    )
    assert task(*history).facts.busy_until == at(3) + POLICY.busy_for  # type: ignore[union-attr]
    assert task(SUBMITTED).facts.busy_until is None  # type: ignore[union-attr]
    assert task(SUBMITTED, returned()) == Waiting(facts=replace(FACTS, unserved_reason="the worker is shutting down"))


def test_a_shutdown_ends_the_wait_for_busy_servers_and_keeps_the_grant() -> None:
    history = [SUBMITTED, GRANTED, started(), turned_away(), started(2), returned(2)]

    facts = replace(ONCE, attempt=2, unserved_reason="the worker is shutting down")
    assert task(*history) == Waiting(facts=facts, granted=True)


FAILED_TWICE = [SUBMITTED, started(), attempt_failed(), started(2), turned_away(2)]
SPENT = replace(ONCE, attempt=2, failures=1, unserved_since=at(4), unserved_reason="the server answered 503")


def test_a_hold_keeps_the_budget_and_a_renewed_one_begins_anew() -> None:
    assert task(*FAILED_TWICE, TaskHeld(reason="")) == Held(facts=replace(SPENT, unserved_since=None))
    assert task(*FAILED_TWICE, TaskHeld(reason="", renewed=True)) == Held(
        facts=replace(SPENT, unserved_since=None, failures=0)
    )


def test_a_task_queued_again_keeps_budget_and_wait_and_a_renewed_one_begins_anew() -> None:
    assert task(*FAILED_TWICE, GRANTED) == Waiting(facts=SPENT, granted=True)
    assert task(*FAILED_TWICE, replace(GRANTED, granted=False)) == Waiting(facts=SPENT)
    assert task(*FAILED_TWICE, replace(GRANTED, renewed=True, granted=False)) == Waiting(
        facts=replace(SPENT, failures=0, unserved_since=None)
    )


def test_an_end_keeps_all_facts_and_the_update_that_caused_it() -> None:
    history = [SUBMITTED, GRANTED, started()]

    assert task(*history, succeeded(update_digest="d")) == Ended(facts=ONCE, outcome="succeeded", update_digest="d")
    assert task(*history, failed(update_digest="d")) == Ended(facts=ONCE, outcome="failed", update_digest="d")
    assert task(*history, cancelled(1, "s1")) == Ended(facts=ONCE, outcome="cancelled", unreported=1)
    assert task(*history, cancelled(1, "s1"), cancel_reported()) == Ended(facts=ONCE, outcome="cancelled")
    assert task(*history, cancelled(1, "s1"), cancel_reported(2)) == Ended(
        facts=ONCE, outcome="cancelled", unreported=1
    )
    assert task(*history, cancel_reported()) == RUNNING
    assert task(*history, succeeded(update_digest="d"), TaskDeleted()) == Ended(
        facts=ONCE, outcome="succeeded", update_digest="d", deleted=True
    )
    assert task(*history, TaskDeleted()) == RUNNING


# A server

SERVER = registered()
NEW = Present(settings=SERVER, registered_at=NOW, changed_at=NOW, status_reason="not checked yet")
HISTORY: list[Event] = [
    SERVER,
    ServerWentOnline(server_id="s1", reason="answers"),
    MaintenanceStarted(server_id="s1", reason="disk"),
    CircuitOpened(server_id="s1", reason="5 failed", until=at(99), failures=2, owner="mallory"),
]
FULL = Present(
    settings=SERVER,
    registered_at=NOW,
    online=True,
    changed_at=at(1),
    status_reason="answers",
    maintenance=True,
    maintenance_reason="disk",
    maintenance_since=at(2),
    circuit=CircuitIsOpen(until=at(99), failures=2, reason="5 failed", owner="mallory"),
)


def the_server(*more: Event) -> Any:
    return after(server.evolve, server.ABSENT, *HISTORY, *more)


def test_every_condition_of_a_server_is_folded_with_every_field() -> None:
    assert after(server.evolve, server.ABSENT, SERVER) == NEW
    assert the_server() == FULL
    assert the_server(ServerWentOffline(server_id="s1", reason="refused")) == replace(
        FULL, online=False, changed_at=at(4), status_reason="refused"
    )
    assert the_server(MaintenanceEnded(server_id="s1")) == replace(
        FULL, maintenance=False, maintenance_reason="", maintenance_since=None
    )
    assert the_server(CircuitHalfOpened(server_id="s1")) == replace(
        FULL, circuit=CircuitIsHalfOpen(failures=2, reason="5 failed")
    )
    assert the_server(CircuitHalfOpened(server_id="s1"), CircuitHalfOpened(server_id="s1")) == replace(
        FULL, circuit=CircuitIsHalfOpen(failures=2, reason="5 failed")
    )
    assert the_server(CircuitClosed(server_id="s1", reason="")) == replace(FULL, circuit=CircuitIsClosed())
    assert the_server(ServerStatusReasonChanged(server_id="s1", reason="busy")) == replace(
        FULL, status_reason="busy", reason_changed_at=at(4), reason_changes=1
    )
    assert the_server(ModelsFound(server_id="s1", models=("llama",))) == replace(
        FULL, found=("llama",), found_at=at(4), found_changes=1
    )
    gone = Removed(server_id="s1", removed_at=at(4), reason="gone", before=FULL, by=BY)
    assert the_server(ServerRemoved(server_id="s1", reason="gone")) == gone
    kept = ServerRemoved(server_id="s1", reason="gone", is_kept=True)
    assert the_server(kept) == replace(gone, is_kept=True)
    assert the_server(kept, ServerForgotten(server_id="s1", reason="")) == gone
    assert the_server(kept, ServerRemoved(server_id="s1", reason="gone")) == replace(gone, removed_at=at(5))
    assert the_server(kept, ServerRestored(server_id="s1", reason="", api_key_id="k2")) == replace(
        FULL,
        settings=replace(SERVER, api_key_id="k2"),
        online=False,
        changed_at=at(5),
        status_reason="not checked yet",
    )


def test_a_trial_of_a_circuit_whose_opening_is_past_its_retention_counts_no_failures() -> None:
    half_open = after(server.evolve, server.ABSENT, SERVER, CircuitHalfOpened(server_id="s1"))

    assert half_open == replace(NEW, circuit=CircuitIsHalfOpen(failures=0))


def test_a_registration_at_the_same_address_ends_no_condition() -> None:
    other = registered(max_concurrent=99, weight=7)

    assert the_server(other) == replace(FULL, settings=other, registered_at=at(4))


@pytest.mark.parametrize("address", ["predict_url", "health_url"])
def test_a_registration_with_a_new_address_does_not_end_maintenance(address: str) -> None:
    moved = registered(**{address: "http://two.example/"})

    assert the_server(moved) == Present(
        settings=moved,
        registered_at=at(4),
        changed_at=at(4),
        status_reason="not checked yet",
        maintenance=True,
        maintenance_reason="disk",
        maintenance_since=at(2),
    )


def test_a_server_registered_after_its_removal_has_no_condition_of_before() -> None:
    again = the_server(ServerRemoved(server_id="s1", reason="gone"), SERVER)

    assert again == replace(NEW, registered_at=at(5), changed_at=at(5))


# Types and pools


def test_a_pause_of_a_type_or_pool_says_since_when_by_whom_and_why() -> None:
    pause = Pause(since=at(1), by=BY, reason="new model")
    begun = [defined(), TypePaused(name="chapter", reason="new model")]
    paused = TypeState(definition=defined(), pools=("default", "text"), pause=pause)

    assert after(task_type.evolve, task_type.UNDEFINED, *begun) == paused
    assert after(task_type.evolve, paused, TypeResumed(name="chapter")) == replace(paused, pause=None)
    assert after(task_type.evolve, paused, defined(pool="b")) == TypeState(
        definition=defined(pool="b"), pools=("default", "text", "b"), pause=pause
    )
    assert after(task_type.evolve, paused, TypeDeleted(name="chapter")) == TypeState(pools=("default", "text"))
    pool_paused = after(pool.evolve, pool.NEVER_PAUSED, PoolPaused(name="text", reason="new model"), first=1)
    assert pool_paused == PoolState(pause=pause)
    assert after(pool.evolve, pool_paused, PoolResumed(name="text")) == PoolState()


# A webhook

SETTINGS = WebhookSettings(
    url="https://h.example/", events=("succeeded",), types=("chapter",), task_id="t", description="d"
)
REGISTERED = WebhookRegistered(webhook_id="w~alice", owner="alice", settings=SETTINGS, secret_id="s1", after=7)
HOOK = Registered(
    webhook_id="w~alice",
    owner="alice",
    settings=SETTINGS,
    created_at=NOW,
    changed_at=NOW,
    active=True,
    after=7,
    secret_id="s1",
)


def hook(*more: Event) -> Any:
    return after(webhook.evolve, webhook.UNREGISTERED, REGISTERED, *more)


def test_every_change_of_a_webhook_is_folded_with_every_field() -> None:
    other = WebhookSettings(url="https://i.example/", events=("failed",))
    disabled = WebhookDisabled(reason="410")

    assert hook() == HOOK
    assert hook(WebhookChanged(settings=other)) == replace(HOOK, settings=other, changed_at=at(1))
    assert hook(disabled) == replace(HOOK, active=False, disabled_reason="410", disabled_by=BY, changed_at=at(1))
    assert hook(disabled, WebhookEnabled(after=20)) == replace(HOOK, after=20, enablings=1, changed_at=at(2))
    assert hook(disabled, WebhookEnabled(after=20), disabled, WebhookEnabled(after=20)) == replace(
        HOOK, after=20, enablings=2, changed_at=at(4)
    )
    assert hook(SecretRotated(secret_id="s2", previous_until=at(60))) == replace(
        HOOK, secret_id="s2", previous_secret_id="s1", previous_until=at(60), changed_at=at(1)
    )
    assert hook(WebhookDeleted()) == DeletedWebhook(webhook_id="w~alice")
    assert hook(WebhookDeleted(), disabled) == DeletedWebhook(webhook_id="w~alice")
    assert after(webhook.evolve, webhook.UNREGISTERED, disabled) == webhook.UNREGISTERED


# A schedule

CRON = ScheduleSettings(cron="0 * * * *", task=Raw(b"{}"))
CREATED = ScheduleCreated(schedule_id="s~alice", owner="alice", settings=CRON, next_at=at(60), fingerprint="f")
RUN = Run(occurrence=at(60), task_id="t1")
COUNTS = Counts(fired=1, skipped=2, failed=3, triggered=4)
SCHEDULE = Created(
    schedule_id="s~alice",
    owner="alice",
    settings=CRON,
    fingerprint="f",
    created_at=NOW,
    changed_at=NOW,
    next_at=at(60),
)


def the_schedule(*more: Event) -> Any:
    return after(schedule.evolve, schedule.UNCREATED, CREATED, *more)


def test_every_change_of_a_schedule_is_folded_with_every_field() -> None:
    other = replace(CRON, name="n")
    paused = SchedulePaused(reason="by alice", next_at=at(70))
    fired = ScheduleFired(runs=(RUN,), next_at=at(80), counts=COUNTS)
    later = replace(SCHEDULE, changed_at=at(1))
    is_fired = replace(later, fired=(RUN,), fired_at=at(1), unsettled=True, next_at=at(80), counts=COUNTS)

    assert the_schedule() == SCHEDULE
    assert the_schedule(ScheduleChanged(settings=other, next_at=None)) == replace(later, settings=other, next_at=None)
    assert the_schedule(paused) == replace(later, paused=True, pause_reason="by alice", next_at=at(70))
    assert the_schedule(paused, ScheduleResumed(next_at=at(90), counts=COUNTS)) == replace(
        later, next_at=at(90), counts=COUNTS, changed_at=at(2)
    )
    assert the_schedule(fired) == is_fired
    assert the_schedule(ScheduleSkipped(next_at=at(75), counts=COUNTS)) == replace(
        later, next_at=at(75), counts=COUNTS, skipped_at=at(1)
    )
    failure = Failure(at=at(2), runs=(RUN,), error="too strict", path="$.payload")
    more = Counts(fired=9)
    assert the_schedule(
        fired, ScheduleFailed(runs=(RUN,), error="too strict", path="$.payload", counts=more)
    ) == replace(is_fired, changed_at=at(2), unsettled=False, failure=failure, counts=more)
    assert the_schedule(ScheduleTriggered(task_id="t9", counts=COUNTS)) == replace(
        later, triggered="t9", triggered_at=at(1), counts=COUNTS
    )
    assert the_schedule(ScheduleDeleted()) == DeletedSchedule(schedule_id="s~alice")
    assert the_schedule(ScheduleDeleted(), fired) == DeletedSchedule(schedule_id="s~alice")
    assert after(schedule.evolve, schedule.UNCREATED, fired) == schedule.UNCREATED


def test_two_secrets_sign_for_a_day() -> None:
    assert timedelta(hours=24) == webhook.BOTH_SECRETS
