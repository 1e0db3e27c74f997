"""Pages and counts of the index are those of the filter, whatever the filter and the tasks, and while tasks change."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.events.ids import TaskRef
from taskstream.events.task import Plan
from taskstream.index import search
from taskstream.index.facts import HOLDS, attributes_of, hold_of, label, payload
from taskstream.index.query import Key, Span, TaskQuery, read_cursor, write_cursor
from taskstream.index.schema import FAILURE_KINDS, SCHEMA, STATUSES, connect
from taskstream.index.search import By, FoundPage, count, count_by, find_page
from taskstream.instants import EPOCH
from taskstream.projections.task_view import TaskView

from .rows import put

START = EPOCH + timedelta(days=20_000)
NOW = START + timedelta(seconds=100)
OWNERS, NAMES = ("alice", "bob"), ("a", "b")
Tasks = dict[TaskRef, TaskView]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


moments = st.integers(0, 60).map(lambda tenths: at(tenths * 2.0))
some = lambda values: st.frozensets(st.sampled_from(values), max_size=2)  # noqa: E731
names = some(NAMES)


@st.composite
def plans(draw: Any) -> Plan | None:
    if draw(st.booleans()):
        return None
    return Plan(
        not_before=draw(st.none() | moments),
        depends_on=draw(st.sampled_from([(), ("x~alice",)])),
        concurrency_key=draw(st.sampled_from(["", "k"])),
        require=draw(st.sampled_from([{}, {"region": "eu"}])),
        prefer=draw(st.sampled_from([{}, {"region": "us"}])),
    )


@st.composite
def views(draw: Any, sequence: int) -> TaskView:
    """Draw a view as the fold could have made it, with few different values, submitted at a sequence."""
    status = draw(st.sampled_from(STATUSES))
    created = at(sequence + draw(st.integers(-20, 20)) / 10)
    started = (
        None if status == "WAITING" and draw(st.booleans()) else created + timedelta(seconds=draw(st.integers(0, 5)))
    )
    has_ended = status in ("FINISHED", "FAILED", "CANCELLED")
    ended = (started or created) + timedelta(seconds=draw(st.integers(0, 5))) if has_ended else None
    failure = draw(st.sampled_from(FAILURE_KINDS[:3]))
    if status == "FINISHED" or (status != "FAILED" and draw(st.booleans())):
        failure = None
    error = (
        draw(st.sampled_from(["Out of MEMORY", "100%_é", "É", "mem\0ory %"]))
        if failure or status == "CANCELLED"
        else ""
    )
    return TaskView(
        owner="",
        task_type=draw(st.sampled_from(NAMES)),
        pool=draw(st.sampled_from(NAMES)),
        priority=draw(st.sampled_from(["high", "normal", "low"])),
        status=status,
        created_at=created,
        updated_at=ended or started or created,
        created_sequence=sequence,
        sequence=sequence,
        attempts=3,
        attempt=draw(st.integers(0, 3)),
        server_id=draw(st.sampled_from(["", *NAMES])),
        retry_at=at(1) if status == "WAITING" and draw(st.booleans()) else None,
        error=error,
        failure=failure,
        started_at=started,
        ended_at=ended,
        project=draw(st.sampled_from(["", *NAMES])),
        deleted=has_ended and draw(st.sampled_from([False, False, True])),
        held=status == "WAITING" and draw(st.booleans()),
        plan=draw(plans()),
        batch=draw(st.sampled_from(["", "b1"])),
        schedule=draw(st.sampled_from(["", "s1"])),
        busy_until=at(9) if status == "WAITING" and draw(st.booleans()) else None,
        indexed=draw(st.sampled_from([{}, {"customer": "acme"}])),
    )


@st.composite
def tasks(draw: Any, most: int = 30) -> Tasks:
    sequences = draw(st.lists(st.integers(1, 100), max_size=most, unique=True))
    return {
        TaskRef(draw(st.sampled_from(OWNERS)), f"{draw(st.sampled_from('AB'))}{number:025}"): draw(views(number))
        for number in sequences
    }


spans = st.builds(Span, st.none() | moments, st.none() | moments)
WANTED: dict[str, st.SearchStrategy[Any]] = {
    "owner": st.sampled_from([*OWNERS, "carol"]),
    "statuses": some(STATUSES),
    "types": some([*NAMES, "unknown"]),
    "pools": names,
    "servers": names,
    "priorities": some(["high", "normal", "low"]),
    "failures": some(FAILURE_KINDS[:3]),
    "holds": some(HOLDS[1:]),
    "batch": st.sampled_from(["b1", "b2"]),
    "schedule": st.sampled_from(["s1", "s2"]),
    "project": st.sampled_from(NAMES),
    "in_project": st.booleans(),
    "concurrency_key": st.sampled_from(["k", "l"]),
    "attributes": some([label("region", "eu"), label("region", "us"), payload("customer", "acme")]),
    "error": st.sampled_from(["memory", "%", "_", "É", "é", "of m", "\0", "\0none", "M\0O"]),
    "attempts": st.integers(0, 4),
    "id_prefix": st.sampled_from(["A", "B00", "C", f"A{7:025}~", f"A{7:025}~al"]),
    "created": spans,
    "started": spans,
    "ended": spans,
    "updated": spans,
    "min_run": st.integers(0, 60).map(lambda seconds: timedelta(seconds=seconds)),
    "deleted": st.booleans(),
}


@st.composite
def queries(draw: Any) -> TaskQuery:
    """Draw a query with up to three conditions."""
    chosen = draw(st.lists(st.sampled_from(sorted(WANTED)), max_size=3, unique=True))
    return TaskQuery(
        **{name: draw(WANTED[name]) for name in chosen},
        now=NOW,
        sort=draw(st.sampled_from(["created", "created", "ended", "duration"])),
        descending=draw(st.booleans()),
    )


@pytest.fixture
def index(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "index")
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def refill(index: sqlite3.Connection, found: Tasks) -> None:
    for table in ("tasks", "views", "attributes", "names", "counts", "sums"):
        index.execute(f"DELETE FROM {table}")
    put(index, found)


def wanted_page(query: TaskQuery, found: Tasks, limit: int, after: Key | None) -> FoundPage:
    """Return the page by the definition of the list."""
    keys = [key for ref, view in found.items() if query.matches(ref, view) and (key := query.key_of(view)) is not None]
    keys.sort(reverse=query.descending)
    rest = [key for key in keys if after is None or (key < after if query.descending else key > after)]
    return FoundPage(rest[:limit], rest[limit - 1] if len(rest) > limit else None)


few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@few
@given(tasks(), queries(), st.integers(1, 7))
def test_pages_and_counts_are_those_of_the_filter(
    index: sqlite3.Connection, found: Tasks, query: TaskQuery, limit: int
) -> None:
    refill(index, found)
    after: Key | None = None
    while True:
        page = find_page(index, query, limit, after)
        assert page == wanted_page(query, found, limit, after)
        after = page.cursor
        if after is None:
            break
    number = sum(query.matches(ref, view) for ref, view in found.items())
    assert count(index, query) == (number, False)
    assert count(index, query, 3) == (min(number, 3), number > 3)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every bound small, so that few tasks are many."""
    for name, value in (
        ("PROBED", 3),
        ("EXAMINED", 6),
        ("EXAMINED_BY_DURATION", 5),
        ("COUNTED_AT_ONCE", 4),
        ("MOST_SOURCES", 2),
    ):
        monkeypatch.setattr(search, name, value)


@few
@given(tasks(), queries(), st.integers(1, 7), st.data())
def test_bounded_pages_have_no_gap_and_no_double_while_tasks_come_change_and_go(
    index: sqlite3.Connection, narrow: None, found: Tasks, query: TaskQuery, limit: int, data: st.DataObject
) -> None:
    refill(index, found)
    before, listed, changed = dict(found), [], set()
    after: Key | None = None
    while True:
        page = find_page(index, query, limit, after)
        assert len(page.keys) <= limit
        whole = wanted_page(query, found, 1_000, after).keys
        assert page.keys == whole[: len(page.keys)]
        if page.cursor is None:
            assert page.keys == whole
            break
        assert query.descending == (after is None or page.cursor < after) or not query.descending
        between = [key for key in whole if (key >= page.cursor if query.descending else key <= page.cursor)]
        assert page.keys == between
        listed += page.keys
        after = page.cursor
        new = data.draw(tasks(4))
        numbers = {view.created_sequence: ref for ref, view in found.items()}
        for ref, view in new.items():
            known = numbers.get(view.created_sequence, ref)
            changed.add(view.created_sequence)
            found[known] = view
        refill(index, found)
    listed += page.keys
    unchanged = [
        key
        for ref, view in before.items()
        if view.created_sequence not in changed and query.matches(ref, view) and (key := query.key_of(view))
    ]
    assert [key for key in listed if key[-1] not in changed] == sorted(unchanged, reverse=query.descending)


FIELDS: dict[By, str] = {
    "status": "status", "type": "task_type", "pool": "pool", "server": "server_id", "kind": "failure",
}  # fmt: skip


@few
@given(tasks(), queries(), st.sampled_from([*FIELDS, "owner"]))
def test_counts_by_a_column_are_those_of_the_filter(
    index: sqlite3.Connection, found: Tasks, query: TaskQuery, by: By
) -> None:
    refill(index, found)
    matching = [(ref, view) for ref, view in found.items() if query.matches(ref, view)]
    wanted = Counter(ref.owner if by == "owner" else getattr(view, FIELDS[by]) or "" for ref, view in matching)
    wanted.pop("", None)

    assert count_by(index, query, by) == ({value: (number, False) for value, number in wanted.items()}, False)


@few
@given(tasks(), queries())
def test_a_count_is_exact_or_says_that_there_may_be_more(
    index: sqlite3.Connection, narrow: None, found: Tasks, query: TaskQuery
) -> None:
    refill(index, found)
    number = sum(query.matches(ref, view) for ref, view in found.items())

    assert count(index, query) == (number, False)


@given(queries(), st.integers(0, 2**63 - 1), st.integers(-(10**18) + 1, 10**18 - 1))
def test_a_cursor_is_the_place_it_was_written_for(query: TaskQuery, sequence: int, value: int) -> None:
    key = (sequence,) if query.sort == "created" else (value, sequence)

    assert read_cursor(query, write_cursor(query, key)) == key


def test_a_number_is_a_cursor_of_the_default_order_and_no_other_text_is_one() -> None:
    assert read_cursor(TaskQuery(), "4711") == (4711,)
    assert read_cursor(TaskQuery(), "9" * 19) == (2**63 - 1,)
    by_end = TaskQuery(sort="ended")
    for query, text in [
        (TaskQuery(), ""), (TaskQuery(), "-1"), (TaskQuery(), "9" * 20), (TaskQuery(), "٣"), (TaskQuery(), "1\n"),
        (TaskQuery(), "created.1"), (TaskQuery(descending=False), "1"), (by_end, "1"), (by_end, "-ended.1"),
        (by_end, "ended.1.1"), (by_end, "-duration.1.1"), (by_end, "-ended.1.-1"), (by_end, "-ended.1.1.1"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="not a cursor"):
            read_cursor(query, text)


HELD = TaskView(
    owner="alice", task_type="t", pool="p", priority="normal", status="WAITING", created_at=START, updated_at=START,
    created_sequence=1, sequence=1, attempts=3, held=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("view", "hold"),
    [
        (HELD, "limit"),
        (replace(HELD, plan=Plan(not_before=NOW)), "time"),
        (replace(HELD, plan=Plan(not_before=NOW, depends_on=("x~alice",))), "parents"),
        (replace(HELD, plan=Plan(not_before=NOW, depends_on=("x~alice",)), released=True), "limit"),
        (replace(HELD, held=False, retry_at=NOW), "retry"),
        (replace(HELD, held=False, busy_until=NOW), "server-busy"),
        (replace(HELD, held=False), ""),
        (replace(HELD, status="PROCESSING", held=False, busy_until=NOW), ""),
    ],
)
def test_a_hold_is_what_the_history_says(view: TaskView, hold: str) -> None:
    assert hold_of(view) == hold
    assert hold in HOLDS


def test_two_labels_never_are_one_attribute() -> None:
    labels = [("a", "b=c"), ("a=b", "c"), ("a%3Db", "c"), ("a", "b%3Dc"), ("a%", "3Db")]
    assert len({label(*each) for each in labels}) == len(labels)
    plan = Plan(require={"region": "eu"}, prefer={"zone": "b"})
    assert attributes_of(replace(HELD, plan=plan, indexed={"order.id": "7"})) == {
        "label.region=eu",
        "label.zone=b",
        "payload.order.id=7",
    }
