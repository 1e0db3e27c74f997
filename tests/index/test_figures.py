"""Figures are the fold of the events: of any batches of them, within their bounds whatever owners do."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.events.envelope import Event, Stored
from taskstream.events.ids import owner_token
from taskstream.events.kinds import TASK_EVENTS
from taskstream.events.task import (
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    TaskCancelled,
    TaskFailed,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.index import figures
from taskstream.index.figures import (
    ALL,
    ATTEMPTS,
    ATTEMPTS_FAILED,
    CANCELLED,
    FAILED,
    FINISHED,
    HOUR,
    MINUTE,
    OTHER_KEY,
    RETRIED,
    RETURNED,
    RUN,
    RUNNING,
    STARTED,
    SUBMITTED,
    WAIT,
    WAITING,
    Figures,
    bucket_of,
    bucket_seconds,
    quantiles,
    unpack_failures,
    unpack_flow,
    unpack_flows,
    unpacked,
)
from taskstream.index.schema import SCHEMA, SLOTS
from taskstream.index.shapes import OTHER_SHAPE, fingerprint
from taskstream.index.statistics import window_of
from taskstream.instants import EPOCH
from taskstream.projections.task_view import TaskView, fold

from ..deciders.support import (
    NOW,
    attempt_failed,
    cancelled,
    failed,
    queued,
    recorded,
    seconds,
    started,
    submitted,
    succeeded,
)
from ..deciders.test_histories import histories, history, play

TABLES = ("owners", "counts", "sums", "activity", "shapes")
COLUMNS = "unit, start, owner, total, flows, failures, parts"
THIS_MINUTE = (NOW - EPOCH) // timedelta(minutes=1)
Observed = tuple[TaskView | None, Stored[Any], TaskView]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(opened()) as connection:
        yield connection


def opened() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


def content(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return all figures; the order of the keys of a flow is no matter."""
    found = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=lambda row: row[:3]) for table in TABLES}
    rows = connection.execute(f"SELECT {COLUMNS} FROM figures ORDER BY unit, start, owner")
    found["figures"] = [(*place, unpacked(*columns)) for *place, columns in ((*row[:3], row[3:]) for row in rows)]
    return found


def observed(tasks: Iterable[list[Stored[Any]]], order: Iterable[int] = ()) -> list[Observed]:
    """Return the events of several tasks in one order, each with the views of its task."""
    left = {number: list(entries) for number, entries in enumerate(tasks)}
    views: dict[int, TaskView | None] = {}
    found: list[Observed] = []
    for choice in [*order, *(number for number, entries in left.items() for _ in entries)]:
        number = choice % len(left)
        if not left[number]:
            continue
        stored = Stored(len(found) + 1, left[number].pop(0).recorded)
        before = views.get(number)
        after = views[number] = fold(before, stored)
        assert after is not None
        found.append((before, stored, after))
    return found


def store(connection: sqlite3.Connection, entries: Iterable[Observed], kept: Figures | None = None) -> Figures:
    kept = kept or Figures(lambda: NOW)
    for entry in entries:
        kept.observe(*entry)
    kept.take()(connection, None)
    return kept


def total(connection: sqlite3.Connection, owner: str = ALL, unit: int = MINUTE) -> dict[int, int]:
    """Return all flows of an owner as one."""
    summed: dict[int, int] = {}
    sql = "SELECT total, flows FROM figures WHERE owner = ? AND unit = ?"
    for whole, flows in connection.execute(sql, (owner, unit)):
        added: dict[int, int] = {}
        for flow in unpack_flows(flows).values():
            figures.add(added, flow)
        assert not whole or added == unpack_flow(whole)
        figures.add(summed, added)
    return summed


def task(*events: Event, owner: str = "alice", task_type: str = "chapter") -> list[Stored[Any]]:
    """Return the history of a task whose events are a second apart."""
    first = submitted(owner=owner, task_type=task_type)
    return [Stored(0, recorded(event, NOW + seconds(place))) for place, event in enumerate([first, *events])]


def test_each_event_of_a_task_is_counted_or_left_out_on_purpose() -> None:
    assert figures.COUNTED.keys() == TASK_EVENTS.keys()


# The fold

owners = st.sampled_from(["alice", "bob", "carol|1"])
types = st.sampled_from(["a", "b", "c", "d"])
played = st.lists(st.tuples(owners, types, histories), min_size=1, max_size=5)
orders = st.lists(st.integers(0, 4), max_size=80)
ERRORS = ["no", "code 7", "code 8", "gone"]


def named(owner: str, task_type: str, entries: list[Stored[Any]]) -> list[Stored[Any]]:
    """Return a history with other names, and other texts of errors."""

    def renamed(event: Any) -> Any:
        if isinstance(event, TaskSubmitted):
            return replace(event, owner=owner, task_type=task_type)
        if isinstance(event, AttemptFailed | TaskFailed):
            return replace(event, error=ERRORS[(event.attempt + len(task_type) + ord(task_type)) % 4])
        return event

    return [Stored(n, replace(entry, event=renamed(entry.event))) for n, entry in entries]


@settings(max_examples=25, deadline=None)
@given(played, orders, st.data(), st.booleans())
def test_figures_are_the_same_for_any_batches(asked: Any, order: list[int], data: st.DataObject, tight: bool) -> None:
    log = observed([named(owner, type_, history(play(*each))) for owner, type_, each in asked], order)
    with pytest.MonkeyPatch.context() as patch, closing(opened()) as once, closing(opened()) as often:
        patch.setattr(figures, "MINUTES_KEPT", timedelta(days=400))  # what ages out between batches is another matter
        if tight:  # few events reach every bound
            patch.setattr(figures, "MOST_KEYS", 2)
            patch.setattr(figures, "MOST_KEYS_OF_ALL", 3)
            patch.setattr(figures, "MOST_SHAPES", 1)
            patch.setattr(figures, "MOST_SHAPES_OF_ALL", 2)
        store(once, log)
        kept: Figures | None = None
        start = 0
        while start < len(log):
            end = data.draw(st.integers(start + 1, len(log)), "batch")
            kept = store(often, log[start:end], kept)
            start = end
            if data.draw(st.booleans(), "the process ends"):
                kept = None

        assert content(often) == content(once)


@settings(max_examples=25, deadline=None)
@given(played, orders)
def test_figures_count_what_the_events_say(asked: Any, order: list[int]) -> None:
    log = observed([named(owner, type_, history(play(*each))) for owner, type_, each in asked], order)
    with closing(opened()) as connection:
        store(connection, log)

        views = {after.created_sequence: after for _, _, after in log}.values()
        wanted: Counter[Any] = Counter()
        for view in views:
            key = (owner_token(view.owner), view.task_type, view.pool, view.server_id)
            deleted = "deleted_" if view.deleted else ""
            wanted[key, deleted + {"WAITING": "waiting"}.get(view.status, view.status.lower())] += 1
            wanted[key, "held"] += view.held
        found = {
            (row[:4], slot): number
            for row in connection.execute("SELECT * FROM counts WHERE owner <> ''")
            for slot, number in zip(SLOTS, row[4:], strict=True)
            if number
        }
        assert found == dict(+wanted)

        by_key = f"SELECT type, pool, server, {', '.join(f'sum({slot})' for slot in SLOTS)} FROM counts"
        everybody, owners_together = (
            connection.execute(f"{by_key} WHERE owner {sign} '' GROUP BY 1, 2, 3").fetchall() for sign in ("=", "<>")
        )
        assert everybody == [row for row in owners_together if any(row[3:])]

        kinds = Counter(type(stored.recorded.event) for _, stored, _ in log)
        for owner, unit in [(ALL, MINUTE), (ALL, HOUR)]:
            summed = total(connection, owner, unit)
            assert [summed.get(key, 0) for key in (SUBMITTED, ATTEMPTS, ATTEMPTS_FAILED, RETURNED)] == [
                kinds[each] for each in (TaskSubmitted, AttemptStarted, AttemptFailed, AttemptReturned)
            ]
            assert [summed.get(key, 0) for key in (FINISHED, FAILED, CANCELLED)] == [
                kinds[each] for each in (TaskSucceeded, TaskFailed, TaskCancelled)
            ]
            assert summed.get(STARTED, 0) == sum(WAIT <= key < RUN and count for key, count in summed.items())
            assert summed.get(STARTED, 0) == sum(view.started_at is not None for view in views)
            renewed = [stored for _, stored, _ in log if getattr(stored.recorded.event, "renewed", False)]
            assert summed.get(RETRIED, 0) == len(renewed)
            now = Counter(view.status for view in views)
            assert (summed.get(WAITING, 0), summed.get(RUNNING, 0)) == (now["WAITING"], now["PROCESSING"])

        for owner in {owner_token(view.owner) for view in views} | {ALL}:
            failures: Counter[str] = Counter()
            for _, stored, after in log:
                if isinstance(stored.recorded.event, AttemptFailed | TaskFailed):
                    mine = owner in (ALL, owner_token(after.owner))
                    failures[fingerprint(str(after.failure), after.error)] += mine
            counted: Counter[str] = Counter()
            rows = connection.execute("SELECT failures FROM figures WHERE unit = 1 AND owner = ?", (owner,))
            for (blob,) in rows:
                for (shape, *_), each in unpack_failures(blob).items() if blob else ():
                    counted[shape] += each.count
            assert counted == +failures

        for *place, row in content(connection)["figures"]:
            sums: tuple[dict[str, Any], ...] = ({}, {}, {})
            for key, flow in row.flows.items():
                for part, value in zip(sums, key, strict=True):
                    figures.add(part.setdefault(value, {}), flow)
            assert row.parts == (sums if place[2] == ALL else ({}, {}, {}))
        counters = "SELECT owner, start, total FROM figures WHERE unit = 1 AND owner <> '' ORDER BY 1, 2"
        hours = [
            (owner, hour, sum(count for key, count in unpack_flow(flow).items() if key < WAITING))
            for owner, hour, flow in connection.execute(counters)
        ]
        assert hours == connection.execute("SELECT * FROM activity ORDER BY 1, 2").fetchall()


# Bounds


def row(connection: sqlite3.Connection, owner: str, minute: int = THIS_MINUTE) -> Any:
    """Return the flows and failures of a minute."""
    found = connection.execute(
        "SELECT flows, failures FROM figures WHERE unit = 0 AND start = ? AND owner = ?", (minute, owner)
    ).fetchone()
    return unpack_flows(found[0]), unpack_failures(found[1]) if found[1] else {}


def test_a_minute_of_one_owner_has_a_bounded_number_of_types(connection: sqlite3.Connection) -> None:
    hostile = [task(owner="mallory", task_type=f"t{number}") for number in range(figures.MOST_KEYS + 200)]
    store(connection, observed([*hostile, task(owner="bob", task_type="resize")]))

    flows, _ = row(connection, "mallory")
    assert len(flows) == figures.MOST_KEYS + 1
    assert flows[OTHER_KEY][SUBMITTED] == 200
    assert sum(flow[SUBMITTED] for flow in flows.values()) == len(hostile)
    everybody, _ = row(connection, ALL)
    assert len(everybody) == figures.MOST_KEYS + 2
    assert everybody["resize", "text", ""] == {SUBMITTED: 1, WAITING: 1}
    assert connection.execute("SELECT count(*) FROM figures").fetchone() == (6,)


def test_the_shapes_of_one_owner_are_bounded(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_SHAPES", 20)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
    hostile = [task(started(), failed(error=f"no {word}"), owner="mallory") for word in words]
    store(connection, observed([*hostile, task(started(), failed(error="no such model"), owner="bob")]))

    _, failures = row(connection, "mallory")
    assert len(failures) == 21
    assert failures[OTHER_SHAPE, "chapter", "s1"].count == len(words) - 20
    assert connection.execute("SELECT owner, count(*) FROM shapes GROUP BY owner").fetchall() == [
        (ALL, 21),
        ("bob", 1),
        ("mallory", 20),
    ]


def test_long_errors_of_tasks_take_bounded_space(connection: sqlite3.Connection) -> None:
    store(connection, observed([task(started(), failed(error="no " * 600))]))

    for text, example in connection.execute("SELECT text, example_text FROM shapes"):
        assert (len(text), len(example)) == (figures.LONGEST_SHAPE, figures.LONGEST_EXAMPLE)


def test_minutes_are_kept_for_25_hours_and_hours_as_long_as_the_oldest_task(connection: sqlite3.Connection) -> None:
    store(connection, observed([task(started(), succeeded())]))
    day_later = task()
    day_later = [Stored(0, replace(each.recorded, at=NOW + timedelta(hours=26))) for each in day_later]

    store(connection, observed([day_later]), Figures(lambda: NOW + timedelta(hours=26)))

    kept = connection.execute("SELECT unit, start FROM figures WHERE owner = '' ORDER BY 1, 2").fetchall()
    assert kept == [(MINUTE, THIS_MINUTE + 26 * 60), (HOUR, THIS_MINUTE // 60 + 26)]  # `tasks` has no older one


def test_owners_go_with_their_last_figures_and_come_back_with_new_ones(connection: sqlite3.Connection) -> None:
    def owners() -> list[str]:
        return [subject for (subject,) in connection.execute("SELECT subject FROM owners ORDER BY 1")]

    now = NOW
    kept = Figures(lambda: now)
    store(connection, observed([task(owner="alice"), task(owner="bob")]), kept)
    connection.execute("DELETE FROM counts WHERE owner = 'alice'")  # her tasks have aged out

    now = NOW + timedelta(hours=26)
    store(connection, [], kept)
    assert owners() == ["bob"], "his task is still there, its figures are not"

    store(connection, observed([task(owner="alice")]), kept)
    assert owners() == ["alice", "bob"]


@pytest.mark.parametrize(
    ("ago", "step", "unit"),
    [
        (timedelta(hours=25), 1, MINUTE),
        (timedelta(hours=25, seconds=5), 1, MINUTE),  # in the same minute
        (timedelta(hours=25, seconds=6), 1, HOUR),
        (timedelta(hours=25), 5, HOUR),  # widened to a whole 5 minutes, 25 h and 4 min ago
        (timedelta(hours=24, minutes=59), 5, MINUTE),
    ],
)
def test_a_window_is_read_in_minutes_if_all_of_them_are_kept(
    connection: sqlite3.Connection, ago: timedelta, step: int, unit: int
) -> None:
    now = NOW + timedelta(hours=30)  # 4 minutes and 5 seconds after the hour
    found = window_of(now - ago, now, timedelta(minutes=step), now)
    assert found.unit == unit

    entries = [Stored(0, replace(task()[0].recorded, at=found.start))]
    store(connection, observed([entries]), Figures(lambda: now))
    [(kept,)] = connection.execute("SELECT count(*) FROM figures WHERE unit = 0 AND owner = 'alice'")
    assert kept == (unit == MINUTE)


def test_a_late_event_of_a_minute_that_is_not_kept_changes_its_hour_only(connection: sqlite3.Connection) -> None:
    store(connection, observed([task()]), Figures(lambda: NOW + timedelta(hours=26)))

    assert connection.execute("SELECT count(*) FROM figures WHERE unit = ?", (MINUTE,)).fetchone() == (0,)


# Examples


def test_errors_have_the_last_failure_as_their_example(connection: sqlite3.Connection) -> None:
    first = task(
        started(), attempt_failed(error="code 1"), started(2, "s2"), failed(2, "s2", kind="error", error="code 2")
    )
    kept = store(connection, observed([first, task(started(), owner="bob")]))
    store(connection, [], kept)

    [(shape, kind, text, sequence, example)] = connection.execute(
        "SELECT shape, kind, text, example_sequence, example_text FROM shapes WHERE owner = 'alice'"
    )
    assert (kind, text, sequence, example) == ("error", "code <n>", 1, "code 2")
    _, failures = row(connection, "alice")
    assert {key[1:]: (each.count, each.final) for key, each in failures.items()} == {
        ("chapter", "s1"): (1, 0),
        ("chapter", "s2"): (1, 1),
    }
    assert {key[0] for key in failures} == {shape}


def test_a_retry_by_hand_is_counted_with_its_second_end(connection: sqlite3.Connection) -> None:
    log = observed([task(started(), failed(), queued(renewed=True), started(2), succeeded(2))])
    store(connection, log)

    summed = total(connection, "alice")
    assert [summed[key] for key in (SUBMITTED, STARTED, ATTEMPTS, FAILED, RETRIED, FINISHED)] == [1, 1, 2, 1, 1, 1]
    assert (summed[WAITING], summed[RUNNING]) == (0, 0)
    assert [*quantiles(summed, WAIT, 0.5), *quantiles(summed, RUN, 0.95)] == pytest.approx([1, 1], rel=0.063)


def test_the_run_time_of_a_task_is_that_of_the_attempt_that_ended_it(connection: sqlite3.Connection) -> None:
    """Not the pause before another attempt, nor the time that it lay failed; a task that waits has none."""
    waits = [started(), attempt_failed(), *[queued()] * 200, started(2), failed(2)]
    renewed = [*waits, queued(renewed=True), started(3), attempt_failed(3), cancelled(3)]
    store(connection, observed([task(*waits), task(*renewed)]))

    summed = total(connection, "alice")
    assert sum(count for key, count in summed.items() if key >= RUN) == 2
    assert quantiles(summed, RUN, 1.0) == pytest.approx([1], rel=0.063)


# Quantiles


@given(st.integers(0, 10**14))
def test_a_time_is_at_most_6_3_percent_from_the_middle_of_its_bucket(microseconds: int) -> None:
    bucket = bucket_of(microseconds)

    assert bucket < 1_000
    assert bucket_of(microseconds + 1) in (bucket, bucket + 1)
    assert abs(bucket_seconds(bucket) * 1e6 - microseconds) <= 0.0626 * microseconds


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_at_most_6_3_percent_off(times: list[int], share: float) -> None:
    flow = Counter(WAIT + bucket_of(each) for each in times)
    exact = sorted(times)[-int(-share * len(times) // 1) - 1]

    assert quantiles(flow, WAIT, share, 1.0) == pytest.approx([exact / 1e6, max(times) / 1e6], rel=0.0626)
    assert quantiles(flow, RUN, share) == [None]
