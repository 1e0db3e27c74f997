"""What a list costs does not grow with the number of tasks: for each filter, each two of them, and each order.

The cost is the number of steps of SQLite's machine. All bounds are small here, so few tasks are many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest

from taskstream.events.ids import TaskRef
from taskstream.events.task import Plan
from taskstream.index import search
from taskstream.index.facts import label, payload
from taskstream.index.query import Key, Sort, Span, TaskQuery
from taskstream.index.schema import SCHEMA, connect
from taskstream.index.search import count, count_by, find_page
from taskstream.index.shapes import fingerprint
from taskstream.instants import EPOCH
from taskstream.projections.task_view import TaskView

from .rows import put

TASKS = 4_000
START = EPOCH + timedelta(days=20_000)
END = START + timedelta(seconds=TASKS)
BOUNDS = {"PROBED": 20, "EXAMINED": 100, "EXAMINED_BY_DURATION": 60, "EXAMINED_TO_COUNT": 200, "COUNTED_AT_ONCE": 50}
COUNTED = 50
MOST_STEPS = 15_000
"""A query that looks at each task once takes at least 40,000."""
ORDERS = [(sort, descending) for sort in get_args(Sort) for descending in (True, False)]


def hour(name: str) -> dict[str, Any]:
    return {name: Span(END - timedelta(seconds=200), END - timedelta(seconds=100))}


FILTERS: dict[str, dict[str, Any]] = {
    "owner": {"owner": "owner-1"},
    "small owner": {"owner": "small"},
    "finished": {"statuses": frozenset({"FINISHED"})},
    "failed": {"statuses": frozenset({"FAILED"})},
    "active": {"statuses": frozenset({"WAITING", "PROCESSING"})},
    "type": {"types": frozenset({"type-3"})},
    "types": {"types": frozenset(f"type-{number}" for number in range(5))},
    "pool": {"pools": frozenset({"pool-2"})},
    "server": {"servers": frozenset({"server-7"})},
    "priority": {"priorities": frozenset({"high"})},
    "normal priority": {"priorities": frozenset({"normal"})},
    "kind": {"failures": frozenset({"timeout"})},
    "hold": {"holds": frozenset({"limit"})},
    "batch": {"batch": "b"},
    "schedule": {"schedule": "s"},
    "project": {"project": "p"},
    "key": {"concurrency_key": "k"},
    "label": {"attributes": frozenset({label("region", "eu")})},
    "payload": {"attributes": frozenset({payload("customer", "c7")})},
    "error": {"error": "model"},
    "another error": {"error": "no such text"},
    "shape": {"shape": fingerprint("timeout", "no model 7")},
    "attempts": {"attempts": 2},
    "id": {"id_prefix": f"{12:08}"},
    "created": hour("created"),
    "started": hour("started"),
    "ended": hour("ended"),
    "updated": hour("updated"),
    "created long ago": {"created": Span(None, START + timedelta(seconds=50))},
    "long": {"min_run": timedelta(seconds=50), "now": END},
}


def view_of(number: int) -> TaskView:
    """Return a task; fields with few values are independent of each other."""
    failure = "timeout" if number % 20 == 1 else None
    status = "FAILED" if failure else "WAITING" if number % 101 == 5 else "FINISHED"
    created = START + timedelta(seconds=number)
    started = None if status == "WAITING" else created + timedelta(seconds=0.1)
    ended = None if started is None else started + timedelta(seconds=number * 7919 % 61)
    return TaskView(
        owner="", task_type=f"type-{number % 10}", pool=f"pool-{number // 10 % 5}",
        priority="high" if number % 17 == 3 else "normal", status=status, created_at=created,
        updated_at=ended or created, created_sequence=3 * number + 1, sequence=3 * number + 3, attempts=3,
        attempt=2 if number % 29 == 4 else 1, server_id=f"server-{number // 50 % 20}", started_at=started,
        ended_at=ended, failure=failure, error="no model 7" if failure else "", held=status == "WAITING",
        batch="b" if number % 31 == 6 else "", schedule="s" if number % 37 == 8 else "",
        project="p" if number % 11 == 2 else "",
        plan=Plan(require={"region": "eu"}, concurrency_key="k" if number % 3 else "") if number % 7 == 1 else None,
        indexed={"customer": f"c{number % 40}"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path: Path = tmp_path_factory.mktemp("index") / "index"
    connection = connect(path)
    connection.executescript(SCHEMA)
    owners = [f"owner-{number}" for number in range(9)]
    put(
        connection,
        {
            TaskRef("small" if n % 400 == 9 else owners[n // 7 % 9], f"{n % 100:08}{n:018}"): view_of(n)
            for n in range(TASKS)
        },
    )
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BOUNDS.items():
        monkeypatch.setattr(search, name, value)


class Steps:
    """Counts the steps of all statements of a connection, by tens."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.taken = 0

    def __enter__(self) -> Steps:
        self._connection.set_progress_handler(self._count, 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.set_progress_handler(None, 0)

    def _count(self) -> int:
        self.taken += 10
        return 0


MIDDLE: dict[Sort, Key] = {
    "created": (3 * TASKS // 2,),
    "ended": ((START - EPOCH) // timedelta(microseconds=1) + TASKS * 500_000, 3 * TASKS // 2),
    "duration": (30_000_000, 3 * TASKS // 2),
}


@pytest.mark.parametrize(("sort", "descending"), ORDERS)
def test_no_page_of_any_one_or_two_filters_looks_at_all_tasks(
    index: sqlite3.Connection, sort: Sort, descending: bool
) -> None:
    costs: dict[tuple[str, ...], int] = {}

    def ask(names: tuple[str, ...], after: Key | None) -> None:
        filters = {name: value for each in names for name, value in FILTERS[each].items()}
        with Steps(index) as steps:
            find_page(index, TaskQuery(**filters, sort=sort, descending=descending), 10, after)
        costs[(*names, "middle" if after else "first")] = steps.taken

    ask((), None)
    for name in FILTERS:
        ask((name,), None)
        ask((name,), MIDDLE[sort])
    for names in combinations(FILTERS, 2):
        ask(names, None)

    dearest = sorted(costs, key=lambda key: -costs[key])[:5]
    assert costs[dearest[0]] <= MOST_STEPS, {key: costs[key] for key in dearest}


def test_counts_are_capped_for_each_filter(index: sqlite3.Connection) -> None:
    costs: dict[str, int] = {}
    for name, filters in FILTERS.items():
        query = TaskQuery(**filters)
        with Steps(index) as steps:
            number, is_capped = count(index, query, COUNTED)
        costs[name] = steps.taken
        matching = count(index, query, TASKS) if not is_capped else None
        assert number <= COUNTED
        assert is_capped or matching is None or matching.number == number
        with Steps(index) as steps:
            count_by(index, query, "type", COUNTED)
        costs[f"{name} by type"] = steps.taken // 10  # ten types
    assert max(costs.values()) <= MOST_STEPS, sorted(costs.items(), key=lambda cost: -cost[1])[:5]


def test_a_short_time_in_another_order_is_a_full_page(index: sqlite3.Connection) -> None:
    short = Span(START + timedelta(seconds=800), START + timedelta(seconds=880))
    for sort, descending in ORDERS:
        page = find_page(index, TaskQuery(created=short, sort=sort, descending=descending), 20, None)
        assert len(page.keys) == 20, (sort, descending)
