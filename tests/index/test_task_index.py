"""The fold of the log into an index file: the same rows, however the events came and whatever was killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.codec import task_codec
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import SCHEDULER_FENCE, event_subject, task_root
from taskstream.index.files import claim
from taskstream.index.task_index import TaskIndex, read_checkpoint
from taskstream.index.views import decode, encode
from taskstream.projections.task_view import TaskView, fold
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.log import decode as decode_event

from ..deciders.support import started, stored, submitted, succeeded
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
    named = ("owner", "type", "pool", "server", "shape")
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
            index = TaskIndex(connection)
            index.apply(positions)
            index.flush()
            wanted = content(connection)

        for batches in crashes:
            with closing(opened(often)) as connection:
                index = TaskIndex(connection)
                for redelivered, length, is_flushed in batches:
                    start = max(0, index.position - redelivered)
                    index.apply(positions[start : index.position + length])
                    if is_flushed:
                        index.flush()
        with closing(opened(often)) as connection:
            index = TaskIndex(connection)
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


def log_of(ref: TaskRef, *events: Any, first: int = 1) -> list[Position]:
    return [
        Position(sequence, event_subject(task_root(ref), recorded.event), task_codec.encode(recorded))
        for sequence, recorded in stored(*events, first=first)
    ]


def test_rows_go_once_the_log_has_no_event_of_the_task(tmp_path: Path) -> None:
    old, lasting, new = (TaskRef("alice", f"{number:026d}") for number in range(3))
    with closing(opened(tmp_path)) as connection:
        index = TaskIndex(connection)
        index.apply(log_of(old, submitted(), started(1), succeeded()))
        index.apply(log_of(lasting, submitted(), first=4))
        index.apply(log_of(new, submitted(), first=5))
        index.apply(log_of(lasting, started(1), first=6))
        index.flush()

        assert index.prune(5) == 1
        assert index.prune(5) == 0

        assert [row["created_sequence"] for row in content(connection)["tasks"]] == [4, 5]
        assert [key for key, _ in content(connection)["views"]] == [4, 5]


def test_a_task_submitted_again_after_its_retention_replaces_the_old_row(tmp_path: Path) -> None:
    ref = TaskRef("alice", "0" * 26)
    with closing(opened(tmp_path)) as connection:
        index = TaskIndex(connection)
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
        index = TaskIndex(connection)
        index.observers.append(Failing())
        index.apply(log_of(ref, submitted()))
        with suppress(sqlite3.OperationalError):
            index.flush()
        assert content(connection)["tasks"] == []
        assert read_checkpoint(connection).sequence == 0
