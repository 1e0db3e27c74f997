"""The comparison of two index files, task by task: names and numbers are the same whatever order they came in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

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


class IndexDifference(NamedTuple):
    """The tasks in which a file differs from a fold of the log."""

    tasks: int
    """Tasks in the fold."""
    changed: int
    missing: int
    extra: int

    @property
    def any(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


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
