"""Statistics are what the rows say, however few of them are read; what is read is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.envelope import Stored
from taskstream.events.ids import owner_token
from taskstream.index import statistics
from taskstream.index.figures import HOUR, MINUTE, OTHER, WAITING, Flow, add, unpack_flows
from taskstream.index.statistics import Dimension, StatisticsScope, Window, flows
from taskstream.instants import EPOCH

from ..deciders.support import NOW, started, succeeded
from ..deciders.test_histories import histories, history, play
from .test_figures import THIS_MINUTE, named, observed, opened, orders, store, task

OWNERS = tuple(f"user-{number}" for number in range(5))
DIMENSIONS: tuple[Dimension, ...] = ("type", "pool", "server")
played = st.lists(
    st.tuples(st.sampled_from(OWNERS), st.sampled_from(["a", "b", "c", "d"]), histories), min_size=1, max_size=8
)
some = lambda values: st.sampled_from([frozenset(), frozenset(values[:1]), frozenset(values[:2])])  # noqa: E731
scopes = st.builds(
    StatisticsScope,
    owner=st.sampled_from([None, None, *OWNERS[:2]]),
    types=some(["a", "b"]),
    pools=some(["text", "other"]),
    servers=some(["s1", "s2"]),
)


def window(unit: Any = HOUR, step: timedelta = timedelta(hours=1)) -> Window:
    start = EPOCH + (NOW - EPOCH) // step * step
    return Window(start, start + step, step, unit)


def wanted(connection: sqlite3.Connection, scope: StatisticsScope, unit: int, by: str | None) -> dict[str, Flow]:
    """Return what happened in the last hour or minute by the definition: the sum of all rows of owners."""
    found: dict[str, Flow] = {}
    start = THIS_MINUTE if unit == MINUTE else THIS_MINUTE // 60
    sql = "SELECT owner, flows FROM figures WHERE unit = ? AND start = ? AND owner <> ''"
    for owner, blob in connection.execute(sql, (unit, start)):
        for key, flow in unpack_flows(blob).items():
            if scope.owner in (None, owner) and scope.has(key):
                value = owner if by == "owner" else "" if by is None else key[DIMENSIONS.index(by)]  # type: ignore[arg-type]
                add(found.setdefault(value, {}), flow)
    return found


def nonzero(flow: Flow) -> Flow:
    return {key: count for key, count in flow.items() if count}


def happened(flow: Flow) -> int:
    return sum(count for key, count in flow.items() if key < WAITING)


@settings(max_examples=15, deadline=None)
@given(played, orders, scopes, st.sampled_from([None, "owner", *DIMENSIONS]), st.integers(1, 6), st.booleans())
def test_flows_are_the_sum_of_the_rows_that_match(
    asked: Any, order: list[int], scope: StatisticsScope, by: Dimension | None, shown: int, in_minutes: bool
) -> None:
    scope = StatisticsScope(
        owner=None if scope.owner is None or by == "owner" else owner_token(scope.owner),
        types=scope.types,
        pools=scope.pools,
        servers=scope.servers,
    )
    unit = MINUTE if in_minutes and by != "owner" else HOUR
    with closing(opened()) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "MOST_GROUPS", shown)
        store(connection, observed([named(owner, type_, history(play(*each))) for owner, type_, each in asked], order))
        step = timedelta(minutes=1) if unit == MINUTE else timedelta(hours=1)
        found = flows(connection, scope, window(unit, step), NOW, by)
        by_definition = wanted(connection, scope, unit, by)

    expected = {value: flow for value, flow in by_definition.items() if happened(flow)}
    whole: Flow = {}
    for flow in by_definition.values():
        add(whole, flow)
    assert nonzero(found.total.whole) == nonzero(whole)
    assert found.complete
    if by is None:
        assert found.groups == []
        return
    ranked = sorted(expected, key=lambda value: (-happened(expected[value]), value))
    groups = {value: series.whole for value, series in found.groups}
    rest = groups.pop(OTHER, {})
    assert [value for value in groups if happened(groups[value])] == ranked[:shown]
    for value in ranked[:shown]:
        assert nonzero(groups[value]) == nonzero(expected[value])
    together = dict(rest)
    for flow in groups.values():
        add(together, flow)
    assert nonzero(together) == nonzero(whole)


# What is read

HOURS, TYPES, CROWD = 6, 2, 40


@pytest.fixture(scope="module")
def crowd() -> Iterator[sqlite3.Connection]:
    """Each of many owners has a task of each type in each hour, the first owner more."""
    tasks = []
    for number in range(CROWD):
        for hour in range(HOURS):
            for each in range(TYPES if number else 4 * TYPES):
                at = NOW - timedelta(hours=HOURS - 1 - hour)
                first, *rest = task(started(), succeeded(), owner=f"user-{number:02}", task_type=f"t{each % TYPES}")
                tasks.append([Stored(0, msgspec.structs.replace(one.recorded, at=at)) for one in (first, *rest)])
    with closing(opened()) as connection:
        store(connection, observed(tasks))
        yield connection


def whole_window() -> Window:
    end = EPOCH + timedelta(hours=THIS_MINUTE // 60 + 1)
    return Window(end - timedelta(hours=HOURS), end, timedelta(hours=1), HOUR)


@pytest.mark.parametrize(
    ("by", "types", "most"),
    [
        (None, [], HOURS),
        (None, ["t0"], HOURS),
        ("type", [], HOURS + HOURS * TYPES),
        ("server", [], HOURS + HOURS * 2),  # none, and the one
        ("server", ["t0"], HOURS * 2),
        ("owner", [], HOURS + HOURS * statistics.MOST_GROUPS),
    ],
)
def test_the_number_of_owners_does_not_matter_for_everybodys_figures(
    crowd: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, by: Dimension | None, types: list[str], most: int
) -> None:
    unpacked: list[bytes] = []
    unpack = statistics.unpack_flow
    monkeypatch.setattr(statistics, "unpack_flow", lambda blob: unpacked.append(blob) or unpack(blob))

    found = flows(crowd, StatisticsScope(types=frozenset(types)), whole_window(), NOW, by)

    assert found.complete
    assert len(unpacked) == most
    if by == "owner":
        assert next(value for value, _ in found.groups) == owner_token("user-00")
        assert found.groups[-1][0] == OTHER


def test_owners_are_read_with_a_filter_until_the_bound(
    crowd: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_GROUPS", 2)
    scope = StatisticsScope(types=frozenset({"t0"}))
    whole = flows(crowd, scope, whole_window(), NOW, "owner")
    monkeypatch.setattr(statistics, "MOST_OWNER_HOURS", HOURS * 3)
    bounded = flows(crowd, scope, whole_window(), NOW, "owner")

    assert (whole.complete, bounded.complete) == (True, False)
    assert [value for value, _ in bounded.groups] == [value for value, _ in whole.groups]
    assert [series.steps for _, series in bounded.groups] == [series.steps for _, series in whole.groups]


def test_no_further_owner_is_read_with_a_filter_if_none_can_be_among_the_first(
    crowd: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_GROUPS", 1)
    monkeypatch.setattr(statistics, "MOST_OWNER_HOURS", HOURS)

    found = flows(crowd, StatisticsScope(types=frozenset({"t0"})), whole_window(), NOW, "owner")

    assert [value for value, _ in found.groups] == [owner_token("user-00"), OTHER]
    assert found.complete, "all that happened to the second owner is less than what matches of the first's"
