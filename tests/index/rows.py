"""Rows of the index, written without a log."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from taskstream.events.ids import TaskRef
from taskstream.index.facts import attributes_of
from taskstream.index.rows import Extras, Names, TaskRow, write_rows
from taskstream.projections.task_view import TaskView


def put(connection: sqlite3.Connection, tasks: Mapping[TaskRef, TaskView]) -> None:
    """Insert tasks, with their attributes."""
    rows = [TaskRow(ref, view, True, Extras(attributes=tuple(attributes_of(view)))) for ref, view in tasks.items()]
    connection.execute("BEGIN")
    write_rows(connection, rows, Names())
    connection.execute("COMMIT")
