"""The rows of a task: what its view and its submission become in the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ..events.ids import TaskRef
from ..events.task import PRIORITIES, TaskSubmitted
from ..instants import microseconds
from ..projections.task_view import TaskView
from .facts import HOLDS, attributes_of, hold_of, searchable
from .figures import uncount
from .schema import FAILURE_KINDS, STATUSES
from .shapes import fingerprint
from .views import encode

_STATUS = {status: number for number, status in enumerate(STATUSES)}
_PRIORITY = {priority: number for number, priority in enumerate(PRIORITIES)}
_FAILURE = {kind: number for number, kind in enumerate(FAILURE_KINDS)}
_HOLD = {hold: number for number, hold in enumerate(HOLDS)}


class Extras(NamedTuple):
    """What only the submission says of a task."""

    attributes: tuple[str, ...] = ()
    """As the table `attributes` has them."""
    parents: tuple[str, ...] = ()
    batch: str = ""
    batch_size: int = 0


class TaskRow(NamedTuple):
    """A task whose row changes."""

    ref: TaskRef
    view: TaskView
    is_new: bool
    extras: Extras | None
    """None: the task is not new, or its submission says nothing more."""


def extras_of(event: TaskSubmitted, view: TaskView) -> Extras | None:
    """Return what the other tables have of a submission; None if there is nothing."""
    if event.plan is None and not event.indexed and not event.batch:
        return None
    attributes = tuple(attributes_of(view))
    parents = event.plan.depends_on if event.plan else ()
    if not (attributes or parents or event.batch):
        return None
    return Extras(attributes, tuple(dict.fromkeys(parents)), event.batch, event.batch_size)


def shape_of(view: TaskView) -> str:
    """Return the fingerprint of the failure that ended a task, or of its last attempt's; empty: there is none."""
    return "" if view.failure is None or view.status == "CANCELLED" else fingerprint(view.failure, view.error)


def _optional(instant: datetime | None) -> int | None:
    return None if instant is None else microseconds(instant)


INSERT_TASK = """INSERT INTO tasks (created_sequence, unique_token, owner, type, pool, priority, created_at, batch,
 schedule, project, concurrency_key, status, server, slot, attempt, hold, deleted, updated_at, started_at, ended_at,
 duration, failure, shape, error, sequence) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"""
UPDATE_TASK = """UPDATE tasks SET status=?, server=?, slot=?, attempt=?, hold=?, deleted=?, updated_at=?, started_at=?,
 ended_at=?, duration=?, failure=?, shape=?, error=?, sequence=? WHERE created_sequence=?"""
INSERT_VIEW = "INSERT INTO views (created_sequence, view) VALUES (?,?)"
DELETES = (
    "DELETE FROM tasks WHERE created_sequence=?",
    "DELETE FROM views WHERE created_sequence=?",
    "DELETE FROM attributes WHERE created_sequence=?",
    "DELETE FROM children WHERE created_sequence=?",
    "DELETE FROM batches WHERE created_sequence=?",
)
UPDATE_VIEW = "UPDATE views SET view=? WHERE created_sequence=?"


class Names:
    """The numbers of the texts in `names`."""

    MOST_KEPT = 50_000

    def __init__(self) -> None:
        self._known: dict[str, int] = {"": 0}

    def forget(self) -> None:
        self._known = {"": 0}

    def numbers(self, connection: sqlite3.Connection, texts: Iterable[str]) -> dict[str, int]:
        """Return the number of each text, with a new row for a text that has none; 0 for the empty text."""
        known = self._known
        if len(known) > self.MOST_KEPT:
            self.forget()
            known = self._known
        for text in set(texts).difference(known):
            found = connection.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()
            if found is None:
                connection.execute("INSERT INTO names (text) VALUES (?)", (text,))
                found = connection.execute("SELECT last_insert_rowid()").fetchone()
            known[text] = found[0]
        return known

    def remove_unused(self, connection: sqlite3.Connection, after: int, most: int) -> int:
        """Remove those of the next `most` names that nothing has, within the caller's transaction.

        Return the number of the last one looked at, to continue from; 0 after the last name. Raises sqlite3.Error.
        """
        looked_at = connection.execute(_NAMES, (after, most)).fetchall()
        unused = [(number, text) for number, text, is_used in looked_at if not is_used]
        connection.executemany("DELETE FROM names WHERE id = ?", [(number,) for number, _ in unused])
        for _, text in unused:
            self._known.pop(text, None)
        return int(looked_at[-1][0]) if len(looked_at) == most else 0


_NAMED = (("owner", ""), ("type", ""), ("pool", ""), ("server", ""), ("slot", "slot <> 0 AND "), ("shape", ""))
"""Columns with names, each with the condition of its index."""
_USES = " OR ".join(
    f"EXISTS (SELECT 1 FROM tasks INDEXED BY task_{column} WHERE {where}{column} = names.id)"
    for column, where in _NAMED
)
_NAMES = f"""SELECT id, text, {_USES} OR EXISTS (SELECT 1 FROM batches WHERE owner = names.id) FROM names
 WHERE id > ? ORDER BY id LIMIT ?"""


def write_rows(connection: sqlite3.Connection, rows: Sequence[TaskRow], names: Names) -> int:
    """Store rows, within the caller's transaction; return how many more tasks there are. Raises sqlite3.Error."""
    shapes = [shape_of(row.view) for row in rows]
    texts = {"", *shapes}
    for ref, view, is_new, _ in rows:
        texts.add(view.server_id)
        if is_new:
            texts.update((ref.owner, view.task_type, view.pool))
    numbers = names.numbers(connection, texts)
    inserted: list[tuple[object, ...]] = []
    new_views: list[tuple[int, bytes]] = []
    updated: list[tuple[object, ...]] = []
    changed_views: list[tuple[bytes, int]] = []
    for (ref, view, is_new, _), shape in zip(rows, shapes, strict=True):
        key = view.created_sequence
        changing = _changing(view, numbers, shape)
        if is_new:
            inserted.append((key, ref.unique, *_fixed(ref, view, numbers), *changing))
            new_views.append((key, encode(view)))
        else:
            updated.append((*changing, key))
            changed_views.append((encode(view), key))
    replaced = 0
    if inserted:
        replaced = _insert(connection, inserted)
        connection.executemany(INSERT_VIEW, new_views)
        _insert_extras(connection, rows, numbers)
    if updated:
        connection.executemany(UPDATE_TASK, updated)
        connection.executemany(UPDATE_VIEW, changed_views)
    return len(inserted) - replaced


def _insert(connection: sqlite3.Connection, inserted: Sequence[tuple[object, ...]]) -> int:
    """Insert tasks; one that was submitted again after its first history had aged out replaces the old row.

    Return how many were replaced.
    """
    replaced = 0
    connection.execute("SAVEPOINT inserted")
    try:
        connection.executemany(INSERT_TASK, inserted)
    except sqlite3.IntegrityError:
        connection.execute("ROLLBACK TO inserted")
        for row in inserted:
            unique, owner = row[1], row[2]
            found = connection.execute(
                "SELECT created_sequence FROM tasks WHERE owner = ? AND unique_token = ?", (owner, unique)
            ).fetchone()
            if found is not None:
                delete_rows(connection, [found[0]])
                replaced += 1
            connection.execute(INSERT_TASK, row)
    connection.execute("RELEASE inserted")
    return replaced


def _insert_extras(connection: sqlite3.Connection, rows: Sequence[TaskRow], numbers: Mapping[str, int]) -> None:
    attributes: list[tuple[str, int]] = []
    parents: list[tuple[str, int]] = []
    batches: list[tuple[int, int, str, int]] = []
    for ref, view, _, extras in rows:
        if extras is None:
            continue
        key = view.created_sequence
        attributes += [(attribute, key) for attribute in extras.attributes]
        parents += [(parent, key) for parent in extras.parents]
        if extras.batch:
            batches.append((key, numbers[ref.owner], extras.batch, extras.batch_size))
    connection.executemany("INSERT OR IGNORE INTO attributes (attribute, created_sequence) VALUES (?,?)", attributes)
    connection.executemany("INSERT OR IGNORE INTO children (parent, created_sequence) VALUES (?,?)", parents)
    connection.executemany(
        "INSERT OR IGNORE INTO batches (created_sequence, owner, id, size) VALUES (?,?,?,?)", batches
    )


def delete_rows(connection: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Remove tasks by their created_sequence, within the caller's transaction."""
    each = [(key,) for key in keys]
    uncount(connection, each)
    for delete in DELETES:
        connection.executemany(delete, each)


def _fixed(ref: TaskRef, view: TaskView, numbers: Mapping[str, int]) -> tuple[object, ...]:
    return (
        numbers[ref.owner],
        numbers[view.task_type],
        numbers[view.pool],
        _PRIORITY[view.priority],
        microseconds(view.created_at),
        view.batch or None,
        view.schedule or None,
        view.project or None,
        (view.plan.concurrency_key or None) if view.plan else None,
    )


def _changing(view: TaskView, numbers: Mapping[str, int], shape: str) -> tuple[object, ...]:
    started, ended = _optional(view.started_at), _optional(view.ended_at)
    return (
        _STATUS[view.status],
        numbers[view.server_id],
        numbers[view.occupied_server_id],
        view.attempt,
        _HOLD[hold_of(view)],
        view.deleted,
        microseconds(view.updated_at),
        started,
        ended,
        None if started is None or ended is None else ended - started,
        None if view.failure is None else _FAILURE[view.failure],
        numbers[shape] or None,
        searchable(view.error) or None,
        view.sequence,
    )
