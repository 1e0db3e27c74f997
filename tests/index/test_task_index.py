"""The fold of the log into an index file: the same rows, however the events came and whatever was killed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.codec import task_codec
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import SCHEDULER_FENCE, event_subject, task_root
from taskstream.events.task import TaskSubmitted
from taskstream.index import task_index
from taskstream.index.facts import HELD, HOLDS
from taskstream.index.figures import Figures
from taskstream.index.files import claim
from taskstream.index.schema import SLOTS, STATUSES
from taskstream.index.task_index import TaskIndex, read_checkpoint
from taskstream.index.views import decode, encode
from taskstream.projections.task_view import TaskView, fold
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.log import decode as decode_event

from ..deciders.support import NOW, attempt_failed, failed, started, stored, submitted, succeeded
from ..deciders.test_histories import histories, history, play
from .test_figures import content as figures

TABLES = ("tasks", "views", "attributes", "children", "batches")


@contextmanager
def index_file() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def opened(folder: Path) -> sqlite3.Connection:
    """Return a connection as the one process that holds the file has it."""
    file = claim(folder)
    file.release()
    return file.open()


def content(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return all rows, with the texts of names instead of their numbers."""
    names = {0: "", **dict(connection.execute("SELECT id, text FROM names"))}
    found = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}
    found |= figures(connection)
    columns = [column[1] for column in connection.execute("PRAGMA table_info(tasks)")]
    named = ("owner", "type", "pool", "server", "slot", "shape")
    found["tasks"] = [
        {name: names[value or 0] if name in named else value for name, value in zip(columns, row, strict=True)}
        for row in found["tasks"]
    ]
    found["batches"] = [(key, names[owner], *rest) for key, owner, *rest in found["batches"]]
    return found


def merged(logs: list[list[Any]], order: list[int]) -> list[Position]:
    """Return the histories of several tasks as one log, which also has fences."""
    positions: list[Position] = []
    left = {TaskRef("alice", f"{number:026d}"): list(entries) for number, entries in enumerate(logs)}
    refs = list(left)
    for choice in order:
        ref = refs[choice % len(refs)]
        if choice == 7:
            positions.append(Position(len(positions) + 1, SCHEDULER_FENCE, b"{}"))
        elif left[ref]:
            recorded = left[ref].pop(0).recorded
            subject = event_subject(task_root(ref), recorded.event)
            positions.append(Position(len(positions) + 1, subject, task_codec.encode(recorded)))
    return positions


logs = st.tuples(st.lists(histories, min_size=1, max_size=3), st.lists(st.integers(0, 7), max_size=60))


batches = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20), st.booleans()), max_size=4)
"""What happens before a crash: how many events come again, how many new ones, and whether they are stored."""


@settings(max_examples=25)
@given(logs, st.lists(batches, max_size=4))
def test_rows_are_the_fold_of_the_log_after_any_batches_and_crashes(log: Any, crashes: Any) -> None:
    played, order = log
    positions = merged([history(play(*asked)) for asked in played], order)
    with index_file() as once, index_file() as often:
        with closing(opened(once)) as connection:
            index = indexed(connection)
            index.apply(positions)
            index.flush()
            wanted = content(connection)

        for batches in crashes:
            with closing(opened(often)) as connection:
                index = indexed(connection)
                for redelivered, length, is_flushed in batches:
                    start = max(0, index.position - redelivered)
                    index.apply(positions[start : index.position + length])
                    if is_flushed:
                        index.flush()
        with closing(opened(often)) as connection:
            index = indexed(connection)
            index.apply(positions)
            index.flush()
            assert content(connection) == wanted

    views: dict[TaskRef, TaskView] = {}
    for position in positions:
        if position.subject != SCHEDULER_FENCE:
            _, owner, unique, _ = position.subject.split(".", 3)
            ref = TaskRef(owner, unique)
            view = fold(views.get(ref), decode_event(task_codec, position))
            if view is not None:
                views[ref] = view
    by_sequence = sorted(views.values(), key=lambda view: view.created_sequence)
    assert [decode(blob) for _, blob in wanted["views"]] == by_sequence
    assert [row["sequence"] for row in wanted["tasks"]] == [view.sequence for view in by_sequence]


@given(histories)
def test_a_view_is_the_same_after_it_was_stored(asked: Any) -> None:
    view: TaskView | None = None
    for entry in history(play(*asked)):
        view = fold(view, entry)
        assert view is None or decode(encode(view)) == view


def indexed(connection: sqlite3.Connection) -> TaskIndex:
    """Return an index whose figures are of the time of the events."""
    index = TaskIndex(connection)
    index.observers = [Figures(lambda: NOW)]
    return index


def check_totals(connection: sqlite3.Connection) -> None:
    """Assert that the numbers of tasks now are those of the rows, and that each row has its view."""
    rows = content(connection)["tasks"]
    counted: Counter[Any] = Counter()
    for row in rows:
        status = STATUSES[row["status"]].lower()
        slot = f"deleted_{status}" if row["deleted"] else status
        key = (row["owner"], row["type"], row["pool"], row["server"])
        counted[key, slot] += 1
        counted[key, "held"] += HOLDS[row["hold"]] in HELD
    found = {
        (place, slot): number
        for (*key,) in connection.execute("SELECT * FROM counts WHERE owner <> ''")
        for place, slot, number in zip(9 * [tuple(key[:4])], SLOTS, key[4:], strict=True)
        if number
    }
    assert found == dict(+counted)
    views = dict(connection.execute("SELECT created_sequence, view FROM views"))
    assert {row["created_sequence"]: row["sequence"] for row in rows} == {
        key: decode(view).sequence for key, view in views.items()
    }


def log_of(ref: TaskRef, *events: Any, first: int = 1, at: datetime = NOW) -> list[Position]:
    return [
        Position(sequence, event_subject(task_root(ref), recorded.event), task_codec.encode(recorded))
        for sequence, recorded in stored(*events, at=at, first=first)
    ]


def test_rows_go_once_the_log_has_no_event_of_the_task(tmp_path: Path) -> None:
    old, lasting, new = (TaskRef("alice", f"{number:026d}") for number in range(3))
    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        index.apply(log_of(old, submitted(), started(1), succeeded()))
        index.apply(log_of(lasting, submitted(), first=4))
        index.apply(log_of(new, submitted(), first=5))
        index.apply(log_of(lasting, started(1), first=6))
        index.flush(5)

        assert index.prune() == 1
        assert index.prune() == 0

        assert [row["created_sequence"] for row in content(connection)["tasks"]] == [4, 5]
        assert [key for key, _ in content(connection)["views"]] == [4, 5]
        assert index.rows == 2


def test_tasks_that_have_aged_out_are_in_no_total(tmp_path: Path) -> None:
    done, held, waiting = (TaskRef(owner, "0" * 26) for owner in ("alice", "bob", "carol"))
    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        index.apply(log_of(done, submitted(), started(1), succeeded()))
        index.apply(log_of(held, submitted(owner="bob", held=True), first=4))
        index.apply(log_of(waiting, submitted(owner="carol"), first=5))
        index.flush(5)
        before = content(connection)
        index.prune()

        found = content(connection)
        key = ("chapter", "text", "")
        assert found["counts"] == [("", *key, 1, *8 * [0]), ("carol", *key, 1, *8 * [0])]
        assert [row[:2] for row in found["sums"]] == [
            ("all", ""), ("owner", "carol"), ("pool", "text"), ("server", ""), ("type", "chapter")
        ]  # fmt: skip
        assert found["figures"] == before["figures"], "what happened remains"


def test_names_go_with_the_last_task_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_index, "NAMES_AT_ONCE", 3)
    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        for number in range(6):
            ref = TaskRef(f"owner{number}", "0" * 26)
            failure = failed(server_id=f"s{number}", error=f"no {'abcdef'[number]}")
            events = (submitted(owner=ref.owner, task_type=f"type{number}"), started(1, f"s{number}"), failure)
            index.apply(log_of(ref, *events, first=1 + 3 * number))
        index.flush(13)
        while index.prune():
            pass
        for _ in range(10):  # a call looks at three names
            index.prune()

        def names() -> set[str]:
            return {text for (text,) in connection.execute("SELECT text FROM names")}

        kept = {f"{word}{number}" for word in ("owner", "type", "s") for number in (4, 5)}
        shapes = {row["shape"] for row in content(connection)["tasks"]}
        assert names() == kept | shapes | {"text"}

        index.apply(log_of(TaskRef("owner0", "1" * 26), submitted(owner="owner0", task_type="type0"), first=19))
        index.flush()
        assert content(connection)["tasks"][-1]["owner"] == "owner0"
        assert names() == kept | shapes | {"text", "owner0", "type0"}
        check_totals(connection)


@pytest.mark.parametrize("newer", ["changed", "being written", "to come"])
def test_a_task_with_newer_events_is_never_half_removed(tmp_path: Path, newer: str) -> None:
    ref = TaskRef("alice", "0" * 26)
    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        index.apply(log_of(ref, submitted()))
        index.flush()
        if newer != "to come":
            index.apply(log_of(ref, started(1), first=7))
        if newer == "being written":
            changes = index.take(5)
            index.prune()
            index.write(changes)
        else:
            index.flush(5)
        index.prune()
        index.apply(log_of(ref, started(1), first=8))
        index.flush(5)

        is_gone = newer == "to come"  # then a new fold has no submission of it, either
        assert [row["sequence"] for row in content(connection)["tasks"]] == ([] if is_gone else [8])
        check_totals(connection)


lives = st.lists(st.lists(st.sampled_from(["start", "end", "fail"]), max_size=5), min_size=1, max_size=3)
"""Histories of one task, each after the one before has aged out."""
turns = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 5)),
        st.tuples(st.just("age"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["load", "fold", "take", "write", "prune"]), st.just(0)),
    ),
    min_size=30,
    max_size=60,
)


@settings(max_examples=30)
@given(st.lists(lives, min_size=1, max_size=2), turns)
def test_rows_and_totals_agree_while_tasks_age_out_at_any_moment(tasks: Any, turns: Any) -> None:
    with index_file() as folder, closing(opened(folder)) as connection:
        aging = Aging(indexed(connection), tasks)
        for turn, number in [*turns, *(4 * [("append", 0), ("append", 1), ("append", 2), ("age", 0)])]:
            getattr(aging, turn)(number)
        aging.finish()

        check_totals(connection)
        assert aging.index.rows == len(content(connection)["tasks"])
        views = {key: decode(view) for key, view in connection.execute("SELECT * FROM views")}
        assert views == {view.created_sequence: view for view in aging.expected().values()}


class Aging:
    """A log whose events age out, and the index of a process that reads it: its two threads, step by step."""

    def __init__(self, index: TaskIndex, tasks: list[list[list[str]]]) -> None:
        self.index = index
        self.first = 1
        self.log: list[Position] = []
        self._left = {TaskRef("alice", f"{number:026d}"): list(lives) for number, lives in enumerate(tasks)}
        self._events: dict[TaskRef, list[str]] = {}
        self._last: dict[TaskRef, int] = {}
        self._piece: Sequence[Position] = []
        self._loaded: dict[TaskRef, TaskView | None] = {}
        self._changes: Any = None
        self._firsts: list[tuple[int, int]] = []
        """Where the fold was when it heard of a beginning of the log, and of which."""

    def append(self, number: int) -> None:
        """Append the next event of a task; its next history begins once the log has none of the last one.

        Above 2, a history goes on even if the log has none of it any more.
        """
        ref = list(self._left)[number % len(self._left)]
        if self._events.get(ref) and (number > 2 or self._last[ref] >= self.first):
            kind = self._events[ref].pop(0)
            event = {"start": started(1), "end": succeeded(), "fail": attempt_failed()}[kind]
        elif self._left[ref] and self._last.get(ref, 0) < self.first:
            self._events[ref], event = self._left[ref].pop(0), submitted()
        else:
            return
        self._last[ref] = len(self.log) + 1
        self.log += log_of(ref, event, first=self._last[ref])

    def age(self, number: int) -> None:
        """Have all events but the last few age out."""
        self.first = max(self.first, len(self.log) + 1 - number)

    def load(self, _: int) -> None:
        self._piece = self._piece or self.log[self.index.position :][:4]
        self._loaded = self.index.load(self.index.missing(self._piece))

    def fold(self, _: int) -> None:
        self._piece = self.index.fold(self._piece, self._loaded)
        self._loaded = {}

    def take(self, _: int) -> None:
        if self._changes is None:
            self._firsts.append((self.index.position, self.first))
            self._changes = self.index.take(self.first)

    def write(self, _: int) -> None:
        if self._changes is not None:
            self.index.write(self._changes)
            self._changes = None

    def prune(self, _: int) -> None:
        self.index.prune()

    def finish(self) -> None:
        self.fold(0)
        while self._piece or self.index.position < len(self.log):
            self.load(0)
            self.fold(0)
        self.write(0)
        self.take(0)
        self.write(0)
        self.prune(0)

    def expected(self) -> dict[TaskRef, TaskView]:
        """Return the tasks that must be left: the fold, without tasks whose last event the log no longer had."""
        views: dict[TaskRef, TaskView] = {}
        heard = list(self._firsts)
        for position in [*self.log, None]:
            while heard and (position is None or heard[0][0] < position.sequence):
                _, first = heard.pop(0)
                views = {ref: view for ref, view in views.items() if view.sequence >= first}
            if position is not None:
                _, owner, unique, _ = position.subject.split(".", 3)
                ref = TaskRef(owner, unique)
                stored = decode_event(task_codec, position)
                before = None if isinstance(stored.recorded.event, TaskSubmitted) else views.get(ref)
                if (view := fold(before, stored)) is not None:
                    views[ref] = view
        return views


def test_a_task_submitted_again_after_its_retention_replaces_the_old_row(tmp_path: Path) -> None:
    ref = TaskRef("alice", "0" * 26)
    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        index.apply(log_of(ref, submitted(), started(1), succeeded()))
        index.flush()

        index.apply(log_of(ref, submitted(priority="high"), first=10))
        index.flush()

        (row,) = content(connection)["tasks"]
        assert (row["created_sequence"], row["status"]) == (10, 0)
        assert [key for key, _ in content(connection)["views"]] == [10]


def test_nothing_is_stored_of_a_flush_that_fails(tmp_path: Path) -> None:
    ref = TaskRef("alice", "0" * 26)

    class Failing:
        def observe(self, *_: object) -> None: ...

        def take(self) -> Any:
            def write(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            return write

    with closing(opened(tmp_path)) as connection:
        index = indexed(connection)
        index.observers.append(Failing())
        index.apply(log_of(ref, submitted()))
        with suppress(sqlite3.OperationalError):
            index.flush()
        assert content(connection)["tasks"] == []
        assert read_checkpoint(connection).sequence == 0


def test_the_fold_decodes_each_event_once_and_keeps_none_in_memory(tmp_path: Path) -> None:
    before = task_codec._decode_once.cache_info()
    with closing(opened(tmp_path)) as connection:
        index = TaskIndex(connection)
        index.apply(log_of(TaskRef("alice", f"{7:026d}"), submitted(), started(1), succeeded()))
        index.flush()
    assert task_codec._decode_once.cache_info() == before
