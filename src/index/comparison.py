"""The comparison of two index files, row by row: names and numbers are the same whatever order they came in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import astuple

from ..instants import EPOCH, microseconds
from .figures import HOUR, HOURS_KEPT, MINUTE, MINUTES_KEPT, unpacked

_ONE_MINUTE, _ONE_HOUR = timedelta(minutes=1), timedelta(hours=1)
_HOUR_MICROSECONDS = 3_600_000_000

_FIXED = "task.created_sequence, owner.text, task.unique_token"
_NAMED = ("owner", "type", "pool", "server", "slot", "shape")
"""Columns with numbers of names."""
_NOT_COMPARED = {"created_sequence", "unique_token", *_NAMED}


class ComparedTask(NamedTuple):
    """All rows of a task."""

    created_sequence: int
    owner: str
    unique: str
    rest: tuple[object, ...]
    """The columns, the view, and what the other tables have."""


def compared_tasks(connection: sqlite3.Connection) -> Iterator[ComparedTask]:
    """Yield all tasks of a file, oldest first. Raises sqlite3.Error."""
    info = connection.execute("PRAGMA table_info(tasks)").fetchall()
    columns = ", ".join(f"task.{column[1]}" for column in info if column[1] not in _NOT_COMPARED)
    joined = " ".join(f"LEFT JOIN names AS {name} ON {name}.id = task.{name}" for name in _NAMED)
    lists = ", ".join(
        f"(SELECT group_concat(told, char(10)) FROM (SELECT {column} AS told FROM {table} AS one"
        f" WHERE one.created_sequence = task.created_sequence ORDER BY 1))"
        for table, column in (("attributes", "attribute"), ("children", "parent"), ("batches", "one.id || ' ' || size"))
    )
    names = ", ".join(f"{name}.text" for name in _NAMED)
    query = (
        f"SELECT {_FIXED}, {names}, {columns}, view.view, {lists} FROM tasks AS task {joined}"
        " LEFT JOIN views AS view ON view.created_sequence = task.created_sequence ORDER BY task.created_sequence"
    )
    for sequence, owner, unique, *rest in connection.execute(query):
        yield ComparedTask(sequence, owner, unique, tuple(rest))


def compared_figures(connection: sqlite3.Connection, now: datetime) -> dict[tuple[object, ...], object]:
    """Return the figures of a file that another fold of the same log must have as well. Raises sqlite3.Error.

    The log must have all events that the file reflects: those that have aged out remain in figures. Older minutes than
    MINUTES_KEPT and older hours than the first task are left out: it depends on the time of a flush whether they are
    kept.
    """
    first = connection.execute("SELECT created_at FROM tasks ORDER BY created_sequence LIMIT 1").fetchone()
    oldest = max(first[0] if first else 0, microseconds(now - HOURS_KEPT + _ONE_HOUR))
    hour = oldest // _HOUR_MICROSECONDS
    minute = (now - MINUTES_KEPT - EPOCH) // _ONE_MINUTE + 1
    found: dict[tuple[object, ...], object] = {}
    for table, keys in (("counts", 4), ("sums", 2)):
        for row in connection.execute(f"SELECT * FROM {table}"):
            found[table, *row[:keys]] = row[keys:]
    for *place, total, flows, failures, parts in connection.execute(
        "SELECT unit, start, owner, total, flows, failures, parts FROM figures"
        " WHERE (unit = ? AND start >= ?) OR (unit = ? AND start >= ?)",
        (MINUTE, minute, HOUR, hour),
    ):
        row = unpacked(total, flows, failures, parts)
        found["figures", *place] = (
            sorted(row.total.items()),
            sorted((key, sorted(flow.items())) for key, flow in row.flows.items()),
            sorted((key, astuple(failed)) for key, failed in row.failures.items()),
            [sorted((value, sorted(flow.items())) for value, flow in part.items()) for part in row.parts],
        )
    for owner, start, events in connection.execute("SELECT owner, hour, events FROM activity WHERE hour >= ?", (hour,)):
        found["activity", owner, start] = events
    for owner, shape, *rest in connection.execute("SELECT * FROM shapes WHERE last >= ?", (oldest,)):
        found["shapes", owner, shape] = rest
    return found


class IndexDifference(NamedTuple):
    """The rows in which a file differs from a fold of the log."""

    tasks: int
    """Tasks in the fold."""
    changed: int
    missing: int
    extra: int
    figures: int = 0
    """Rows of figures that are changed, missing or extra."""

    @property
    def any(self) -> bool:
        return bool(self.changed or self.missing or self.extra or self.figures)


def difference(found: Iterator[ComparedTask], wanted: Iterator[ComparedTask]) -> IndexDifference:
    """Return how two files differ, in one pass over both."""
    tasks = changed = missing = extra = 0
    one, other = next(found, None), next(wanted, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.created_sequence < other.created_sequence):
            extra += 1
            one = next(found, None)
            continue
        tasks += 1
        if one is None or one.created_sequence > other.created_sequence:
            missing += 1
        else:
            changed += one != other
            one = next(found, None)
        other = next(wanted, None)
    return IndexDifference(tasks, changed, missing, extra)


def differing(found: Mapping[tuple[object, ...], object], wanted: Mapping[tuple[object, ...], object]) -> int:
    """Return how many figures differ."""
    return sum(found.get(key) != wanted.get(key) for key in found.keys() | wanted.keys())
