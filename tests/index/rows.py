"""Rows of the index, written without a log."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from taskstream.events.ids import TaskRef
from taskstream.index.facts import attributes_of
from taskstream.index.figures import Counted, store_counts
from taskstream.index.rows import Extras, Names, TaskRow, write_rows
from taskstream.index.schema import SLOTS
from taskstream.projections.task_view import TaskView


def put(connection: sqlite3.Connection, tasks: Mapping[TaskRef, TaskView]) -> None:
    """Insert tasks, with their attributes, and count them."""
    rows = [TaskRow(ref, view, True, Extras(attributes=tuple(attributes_of(view)))) for ref, view in tasks.items()]
    connection.execute("BEGIN")
    write_rows(connection, rows, Names())
    counts: dict[Counted, list[int]] = {}
    for ref, view in tasks.items():
        slots = counts.setdefault((ref.owner, view.task_type, view.pool, view.server_id), [0] * len(SLOTS))
        slots[SLOTS.index(f"{'deleted_' if view.deleted else ''}{view.status.lower()}")] += 1
        slots[SLOTS.index("held")] += view.held
    store_counts(connection, counts)
    connection.execute("COMMIT")
