"""Alarms: which states of the service need a person, and which do not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands.pause import Pause
from taskstream.commands.server import CircuitIsHalfOpen, CircuitIsOpen, Present, Removed
from taskstream.events.envelope import Actor
from taskstream.explain import alarms
from taskstream.explain.alarms import CRITICAL, KINDS, MOST_OF_A_KIND, Alarm, AlarmSubject, alarms_of
from taskstream.explain.situation import (
    DisabledWebhook,
    EndFigures,
    FailedSchedule,
    MissedSchedule,
    PausedWebhook,
    PoolLoad,
    Situation,
    StoreFigures,
    StuckPool,
    TypeLoad,
)

from ..deciders.support import NOW, registered

MINUTE = timedelta(minutes=1)
LONG_AGO = NOW - timedelta(hours=1)
PAUSE = Pause(since=LONG_AGO, by=Actor("user", "root"), reason="new driver")


def server(server_id: str = "gpu-1", **more: Any) -> Present:
    settings = registered(server_id)
    return replace(
        Present(settings=settings, registered_at=LONG_AGO, changed_at=LONG_AGO, online=True, status_reason="ok"), **more
    )


def found(**situation: Any) -> list[Alarm]:
    return alarms_of(Situation(now=NOW, **situation)).alarms


def kinds(**situation: Any) -> list[str]:
    return [alarm.kind for alarm in found(**situation)]


def stuck(**more: Any) -> StuckPool:
    return StuckPool(**{"pool": "p", "task_id": "t", "since": LONG_AGO, "server_id": "gpu-1", "waiting": 3} | more)


def webhook_pause(since: timedelta) -> PausedWebhook:
    return PausedWebhook(
        id="w~alice", owner="alice", url="https://x.test/", since=NOW - since, until=NOW + MINUTE, pauses=2
    )


def type_load(**more: Any) -> TypeLoad:
    return TypeLoad(**{"name": "ocr", "pools": frozenset(["ocr"]), "waiting": 2, "is_served": True} | more)


# One state for each kind


SITUATIONS: dict[str, dict[str, Any]] = {
    "store-unreachable": {"is_store_reachable": False},
    "store-refuses": {"store": StoreFigures(accepting=False, text="it is full", percent=99.0, free_bytes=1)},
    "service-halted": {"halted": {"scheduler": "event 7 does not decode"}},
    "unreadable-event": {"unreadable": {"server.gpu-1": "event 7 does not decode"}},
    "process-missing": {"missing": ["worker-1"]},
    "no-worker": {"worker_seen_at": NOW - MINUTE},
    "held-by-nobody": {"pools": [PoolLoad(name="p", waiting_for={"turn": 2}, turn_since=NOW - MINUTE)]},
    "oldest-waiting-while-slots-free": {"stuck": [stuck()]},
    "type-without-server": {
        "types": [type_load(is_served=False)],
        "pools": [PoolLoad(name="ocr", waiting_for={"no-server": 2})],
    },
    "no-server-fits": {"types": [type_load()], "pools": [PoolLoad(name="ocr", waiting_for={"no-server": 2})]},
    "server-offline": {"servers": [server(online=False, status_reason="connection refused")]},
    "server-removed": {
        "removed": [Removed(server_id="gpu-3", removed_at=LONG_AGO, reason="offline for 3 min", is_kept=True)]
    },
    "circuit-open": {"servers": [server(circuit=CircuitIsOpen(until=NOW + MINUTE, failures=1, reason="5 timeouts"))]},
    "pool-paused-with-backlog": {"pools": [PoolLoad(name="p", pause=PAUSE, waiting_for={"pool-paused": 412})]},
    "type-paused-with-backlog": {"types": [type_load(pause=PAUSE)]},
    "dead-letters-growing": {"ends": EndFigures(window=10 * MINUTE, failed=10, ended=100)},
    "schedule-failed": {
        "schedules": [FailedSchedule(id="s~a", name="nightly", owner="a", at=LONG_AGO, error="no type", path="$.type")]
    },
    "schedule-missed": {"missed": [MissedSchedule(id="s~a", name="nightly", owner="a", at=LONG_AGO)]},
    "webhook-disabled": {
        "disabled": [DisabledWebhook(id="w~a", owner="a", url="https://x.test/", at=LONG_AGO, reason="410")]
    },
    "webhook-paused": {"paused": [webhook_pause(2 * MINUTE)]},
    "store-nearly-full": {"store": StoreFigures(accepting=True, text="92 % full", percent=92.0, free_bytes=1)},
    "quota-nearly-full": {"crowded_owners": 2},
    "queue-report-old": {"report_due_since": NOW - MINUTE},
    "index-behind": {"index_lag": 12_000},
    "clocks-differ": {"clock_difference_ms": -1_500.0},
    "not-durable": {"is_durable": False},
}


def test_every_kind_of_alarm_has_a_situation_here() -> None:
    assert set(SITUATIONS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_situation_gives_its_alarm_and_no_other(kind: str) -> None:
    [alarm] = found(**SITUATIONS[kind])

    assert alarm.kind == kind
    assert alarm.severity == ("critical" if kind in CRITICAL else "warning")
    assert alarm.text[0].isupper() or alarm.text[0].isdigit() or alarm.text.startswith("server.")
    assert alarm.text.endswith(".")
    assert alarm.link.startswith("#/")


def test_a_quiet_service_has_no_alarm() -> None:
    quiet = {
        "servers": [server()],
        "pools": [PoolLoad(name="default", waiting_for={"queued": 9, "owner-limit": 40, "turn": 1}, turn_since=NOW)],
        "types": [type_load()],
        "report_due_since": NOW - timedelta(seconds=2),
        "held": 40,
        "store": StoreFigures(accepting=True, text="", percent=12.0, free_bytes=10**9),
        "ends": EndFigures(window=10 * MINUTE, failed=3, ended=5_000),
        "clock_difference_ms": 12.0,
    }

    assert alarms_of(Situation(now=NOW, **quiet)) == ([], {})


# Nothing starts although slots are free


def test_a_queue_that_stands_still_is_an_alarm_after_half_a_minute() -> None:
    before = stuck(since=NOW - alarms.STUCK_AFTER + timedelta(seconds=1))

    assert kinds(stuck=[before]) == []
    [alarm] = found(stuck=[stuck(since=NOW - alarms.STUCK_AFTER)])
    assert alarm.subject == AlarmSubject("pool", "p")
    assert (alarm.data["taskId"], alarm.data["serverId"], alarm.data["waiting"]) == ("t", "gpu-1", 3)


# Held tasks


def test_held_tasks_without_a_scheduler_are_held_by_nobody() -> None:
    silent = {"report_due_since": NOW - MINUTE}

    assert kinds(held=7, **silent) == ["held-by-nobody", "queue-report-old"]
    assert kinds(held=0, **silent) == ["queue-report-old"]
    assert kinds(held=7, report_due_since=NOW - alarms.REPORT_LATE) == []


def test_tasks_that_wait_a_moment_for_the_scheduler_are_no_alarm() -> None:
    pool = PoolLoad(name="p", waiting_for={"turn": 2}, turn_since=NOW - alarms.TURN_AFTER + timedelta(seconds=1))

    assert kinds(pools=[pool]) == []


def test_workers_may_be_silent_for_as_long_as_a_restart_takes() -> None:
    half_a_minute = timedelta(seconds=30)

    assert kinds(worker_seen_at=NOW - half_a_minute) == []
    assert kinds(worker_seen_at=NOW - MINUTE, worker_late=2 * MINUTE) == []


# Servers


def test_a_server_in_maintenance_is_no_alarm_when_it_is_offline() -> None:
    assert kinds(servers=[server(online=False, maintenance=True, status_reason="refused")]) == []


def test_a_server_that_nothing_has_checked_yet_is_an_alarm_after_a_minute() -> None:
    new = server(online=False, status_reason="not checked yet", registered_at=NOW - timedelta(seconds=59))

    assert kinds(servers=[new]) == []
    assert kinds(servers=[replace(new, registered_at=NOW - MINUTE)]) == ["server-offline"]


def test_a_server_that_an_admin_removed_is_no_alarm() -> None:
    assert kinds(removed=[Removed(server_id="gpu-3", removed_at=LONG_AGO, reason="by an admin")]) == []


def test_a_circuit_on_trial_is_still_an_alarm() -> None:
    [alarm] = found(servers=[server(circuit=CircuitIsHalfOpen(failures=2, reason="5 timeouts"))])

    assert (alarm.kind, alarm.data["openings"]) == ("circuit-open", 2)


# Pools and types


def test_a_paused_pool_and_a_paused_type_without_tasks_are_no_alarm() -> None:
    assert kinds(pools=[PoolLoad(name="p", pause=PAUSE)], types=[type_load(pause=PAUSE, waiting=0)]) == []


def test_tasks_that_wait_for_their_time_need_no_server() -> None:
    unserved = type_load(is_served=False)

    assert kinds(types=[unserved], pools=[PoolLoad(name="ocr", waiting_for={"time": 2})]) == []


def test_a_paused_pool_says_who_paused_it_why_and_how_many_wait() -> None:
    [alarm] = found(pools=[PoolLoad(name="p", pause=PAUSE, waiting_for={"pool-paused": 412})])

    assert "paused by root (new driver), and 412 tasks are waiting" in alarm.text
    assert alarm.since == PAUSE.since


# Failures, webhooks


@pytest.mark.parametrize(("failed", "ended"), [(9, 9), (10, 201)])
def test_few_failures_are_no_alarm(failed: int, ended: int) -> None:
    assert kinds(ends=EndFigures(window=10 * MINUTE, failed=failed, ended=ended)) == []


def test_a_short_pause_of_a_webhook_is_no_alarm() -> None:
    assert kinds(paused=[webhook_pause(timedelta(seconds=59))]) == []


def test_a_links_names_are_escaped() -> None:
    [alarm] = found(servers=[server("a b/#?", online=False)])

    assert alarm.link == "#/fleet/a%20b%2F%23%3F"


# All together


def test_of_a_thousand_servers_offline_fifty_are_listed_and_the_others_counted() -> None:
    servers = [server(f"s{number:04}", online=False, changed_at=LONG_AGO + number * MINUTE) for number in range(1_000)]

    listed = alarms_of(Situation(now=NOW, servers=servers))

    assert [alarm.subject.id for alarm in listed.alarms if alarm.subject] == [f"s{n:04}" for n in range(MOST_OF_A_KIND)]
    assert listed.more == {"server-offline": 950}


@given(st.lists(st.sampled_from(KINDS), unique=True))
def test_alarms_of_different_parts_are_all_listed_and_critical_ones_first(chosen: list[str]) -> None:
    parts: dict[str, Any] = {}
    for kind in chosen:
        for name, value in SITUATIONS[kind].items():
            parts[name] = [*parts[name], *value] if isinstance(value, list) and name in parts else value
    expected = {kind for kind in chosen if all(_keeps(name, value, parts) for name, value in SITUATIONS[kind].items())}

    shown = alarms_of(Situation(now=NOW, **parts)).alarms

    assert {alarm.kind for alarm in shown} >= expected - {"no-server-fits", "type-without-server", "held-by-nobody"}
    severities = [alarm.severity for alarm in shown]
    assert severities == sorted(severities)


def _keeps(name: str, value: Any, parts: dict[str, Any]) -> bool:
    """Return True if a part of a situation was not replaced by that of another kind."""
    return isinstance(value, list) or parts[name] == value
