"""The present load of types, pools and owners, read from a few rows."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from taskstream.events.ids import owner_token
from taskstream.index import loads
from taskstream.index.loads import Load
from taskstream.instants import EPOCH

from ..deciders.support import NOW, started, submitted, succeeded
from .test_figures import THIS_MINUTE, connection, observed, opened, store, task

__all__ = ["connection"]


@pytest.mark.parametrize(("of", "value"), [("type", "chapter"), ("pool", "text"), ("owner", owner_token("alice"))])
def test_a_load_has_what_waits_runs_and_started_lately(
    connection: sqlite3.Connection, of: loads.Loaded, value: str
) -> None:
    waits, runs, ended = task(submitted()), task(submitted(), started()), task(submitted(), started(), succeeded())
    store(connection, observed([waits, runs, ended]))
    store(connection, observed([task(submitted(), owner="bob", task_type="other")]))

    found = loads.loads(connection, of, [value, "unknown"], NOW)

    shared = of == "pool"
    assert found["unknown"] == Load()
    assert found[value] == Load(waiting=2 if shared else 1, held=0, running=1, starts_per_minute=2.0)
    assert loads.running(connection, of, value) == 1
    assert loads.running(connection, of, "unknown") == 0


def test_starts_of_the_last_minute_count_less_as_it_passes(connection: sqlite3.Connection) -> None:
    store(connection, observed([task(submitted(), started()), task(submitted(), started())]))
    next_minute = EPOCH + (THIS_MINUTE + 1) * timedelta(minutes=1)

    def starts(after: timedelta) -> list[float]:
        at = next_minute + after
        return [
            loads.loads(connection, of, [value], at)[value].starts_per_minute
            for of, value in (("type", "chapter"), ("owner", "alice"))
        ]

    assert starts(timedelta(0)) == [2.0, 2.0]
    assert starts(timedelta(seconds=30)) == [1.0, 1.0]
    assert starts(timedelta(seconds=60)) == [0.0, 0.0]


def test_a_load_is_read_by_its_key() -> None:
    plan = (
        opened()
        .execute("EXPLAIN QUERY PLAN SELECT processing FROM sums WHERE dimension = ? AND value = ?", ("pool", "text"))
        .fetchall()
    )

    assert [row[3] for row in plan] == ["SEARCH sums USING PRIMARY KEY (dimension=? AND value=?)"]
