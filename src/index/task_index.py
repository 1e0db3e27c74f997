"""The fold of the log of tasks into one index file.

Events are folded in memory, and the rows of all tasks that changed are written at once, with the checkpoint. Whatever
was folded and not written is folded again after a crash: an event at or before the checkpoint changes nothing.

A task of which the log has no event any more is gone. The fold decides that, in `take`, and ignores the task's later
events. `prune` removes rows after `write` has stored what was folded before the decision, so no row is removed that has
events in memory, and none is changed that was removed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import UnreadableEvent
from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.subjects import SCHEDULER_FENCE
from ..events.task import TaskEvent, TaskSubmitted
from ..projections.task_view import ACTIVE, TaskView, fold
from ..streams.jetstream.messages import Position
from ..streams.log import decode
from .figures import Figures
from .rows import Extras, Names, TaskRow, delete_rows, extras_of, write_rows
from .views import decode as decode_view

MOST_ACTIVE = 10_000
"""Views of active tasks in memory; those of further ones are read from the file when an event comes."""
ROWS_AT_ONCE = 128
"""Rows that are made before SQLite stores them: Python's lock is held meanwhile, so other threads wait."""
PRUNED_AT_ONCE = 500
"""Tasks that one call removes."""
NAMES_AT_ONCE = 2_000
"""Names that one call looks at: more than the names of PRUNED_AT_ONCE tasks, so unused ones do not pile up."""
SUBMITTED = word_of(TaskSubmitted)


class Observer(Protocol):
    """Figures that are folded from the same events, and stored in the same transaction."""

    def observe(self, before: TaskView | None, stored: Stored[TaskEvent], after: TaskView) -> None:
        """Count an event; `before` and `after` are the views of its task. Called once per event, in order per task."""

    def take(self) -> Callable[[sqlite3.Connection, Names], None]:
        """Return a function that stores all that was observed since the last call; it may run in another thread."""


class ChangedRows(NamedTuple):
    """Changes in which each task has one history."""

    rows: dict[TaskRef, TaskRow]
    observed: Sequence[Callable[[sqlite3.Connection, Names], None]]


class Changes(NamedTuple):
    """What a flush stores."""

    parts: Sequence[ChangedRows]
    """In the order of the log. More than one only if a task was submitted again after its history had aged out."""
    last: Position | None
    """The last event folded; None: none was."""
    first_sequence: int
    """Tasks whose last event is before it are gone."""


class Checkpoint(NamedTuple):
    sequence: int
    epoch: str
    """Id of the log's epoch."""
    event: str
    """Digest of the event at the sequence; empty at the beginning."""
    boot: str
    """The boot of the machine that wrote it; empty: it was synced to disk."""


class TaskIndex:
    """One index file as its writer sees it.

    `fold` and `take` belong to one thread; `load`, `write` and `prune` to another or the same, one call at a time.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str = "", boot: str = "") -> None:
        self.observers: list[Observer] = [Figures()]
        self._connection = connection
        self._epoch = epoch
        self._boot = boot
        self._names = Names()
        checkpoint = read_checkpoint(connection)
        self.position = checkpoint.sequence
        """Sequence of the last event that was folded."""
        self.stored = checkpoint.sequence
        """Sequence of the last event that the file reflects."""
        self.rows: int = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
        """Tasks in the file."""
        self._last: Position | None = None
        self._changed: dict[TaskRef, TaskRow] = {}
        self._parts: list[ChangedRows] = []
        """Changes before those."""
        self._writing: dict[TaskRef, TaskRow] = {}
        """The changes in `_parts`, and those that are being stored."""
        self._active: dict[TaskRef, TaskView] = {}
        self.first_sequence = 0
        """Tasks whose last event is before it are gone: for the fold."""
        self._pruned_before = 0
        """Likewise, for `prune`: the file has all that was folded before the fold's number was set."""
        self._name = 0
        """The name that `prune` looked at last."""

    @property
    def changed(self) -> int:
        """Tasks that changed since the last `take`."""
        return len(self._changed) + sum(len(part.rows) for part in self._parts)

    def missing(self, positions: Iterable[Position]) -> set[TaskRef]:
        """Return the tasks whose views `fold` needs and `load` must read."""
        found: set[TaskRef] = set()
        submitted: set[TaskRef] = set()
        for position in positions:
            if position.sequence <= self.position or position.subject == SCHEDULER_FENCE:
                continue
            ref, word = _ref_and_word(position)
            if word == SUBMITTED:
                submitted.add(ref)
            elif ref not in self._changed and ref not in submitted and not self._knows(ref):
                found.add(ref)
        return found

    def _knows(self, ref: TaskRef) -> bool:
        return ref in self._active or ref in self._writing

    def load(self, refs: Iterable[TaskRef]) -> dict[TaskRef, TaskView | None]:
        """Return the views in the file, None for a task that is not in it. Raises sqlite3.Error."""
        found: dict[TaskRef, TaskView | None] = {}
        for ref in refs:
            row = self._connection.execute(
                "SELECT view FROM views WHERE created_sequence = (SELECT created_sequence FROM tasks"
                " WHERE owner = (SELECT id FROM names WHERE text = ?) AND unique_token = ?)",
                ref,
            ).fetchone()
            found[ref] = decode_view(row[0]) if row is not None else None
        return found

    def fold(self, positions: Sequence[Position], loaded: Mapping[TaskRef, TaskView | None]) -> Sequence[Position]:
        """Fold events. Return those that are left: the first one needs a view that is neither in memory nor `loaded`.

        Then fold these with what `load` returns for what is `missing`. A flush that ends meanwhile may take further
        views out of memory, so some may be left again. Raises UnreadableEvent.
        """
        for number, position in enumerate(positions):
            if position.sequence <= self.position:
                continue
            if position.subject != SCHEDULER_FENCE and not self._fold(position, loaded):
                return positions[number:]
            self.position = position.sequence
            self._last = position
        return ()

    def _fold(self, position: Position, loaded: Mapping[TaskRef, TaskView | None]) -> bool:
        """Fold an event. Return False if the view of its task is missing."""
        ref, word = _ref_and_word(position)
        extras: Extras | None = None
        before: TaskView | None = None
        is_new = word == SUBMITTED
        if is_new:  # if the task has rows, its first history has aged out
            if ref in self._changed:
                self._end_part()
        elif (row := self._changed.get(ref)) is not None:
            ref, before, is_new, extras = row
        elif (row := self._writing.get(ref)) is not None:
            before = row.view
        elif (active := self._active.get(ref)) is not None:
            before = active
        elif ref in loaded:
            before = loaded[ref]
        else:
            return False
        stored = decode(task_codec, position, alone=True)
        event = stored.recorded.event
        if before is not None and before.sequence < self.first_sequence:
            before = None
        view = fold(before, stored)
        if view is None:
            return True  # its submission is past the retention
        if isinstance(event, TaskSubmitted):
            extras = extras_of(event, view)
        self._changed[ref] = TaskRow(ref, view, is_new, extras)
        for observer in self.observers:
            observer.observe(before, stored, view)
        return True

    def _end_part(self) -> None:
        if self._changed:
            self._parts.append(ChangedRows(self._changed, [observer.take() for observer in self.observers]))
            self._writing |= self._changed
            self._changed = {}

    def take(self, first_sequence: int = 0) -> Changes:
        """Return what changed since the last call; `write` must be called with it before the next one.

        `first_sequence`: of the log now. Tasks whose last event is before it are gone.
        """
        self.first_sequence = max(self.first_sequence, first_sequence)
        self._end_part()
        parts, self._parts = self._parts, []
        self._writing = {ref: row for part in parts for ref, row in part.rows.items()}
        active = self._active
        for ref, row in self._writing.items():
            active.pop(ref, None)
            if row.view.status in ACTIVE:
                active[ref] = row.view
        while len(active) > MOST_ACTIVE:
            del active[next(iter(active))]
        return Changes(parts, self._last, self.first_sequence)

    def write(self, changes: Changes) -> None:
        """Store changes and the checkpoint in one transaction.

        Raises sqlite3.Error: nothing is stored then, and the fold must begin again with a new TaskIndex.
        """
        if changes.last is not None and changes.parts:
            self._store(changes.parts, changes.last)
        if changes.last is not None:  # fences only: a transaction would store nothing that anybody reads
            self.stored = changes.last.sequence
        self._pruned_before = changes.first_sequence

    def _store(self, parts: Sequence[ChangedRows], last: Position) -> None:
        connection = self._connection
        added = 0
        connection.execute("BEGIN IMMEDIATE")
        try:
            for part in parts:
                rows = list(part.rows.values())
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    added += write_rows(connection, rows[start : start + ROWS_AT_ONCE], self._names)
                for write in part.observed:
                    write(connection, self._names)
            store_checkpoint(connection, Checkpoint(last.sequence, self._epoch, digest(last), self._boot))
            connection.execute("COMMIT")
        except BaseException:
            self._names.forget()
            connection.rollback()
            raise
        self.rows += added

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, with the views that the file has. Raises UnreadableEvent and sqlite3.Error."""
        left = self.fold(positions, {})
        while left:
            left = self.fold(left, self.load(self.missing(left)))

    def flush(self, first_sequence: int = 0) -> None:
        """Store all changes. Raises sqlite3.Error. `first_sequence`: as for `take`."""
        self.write(self.take(first_sequence))

    def prune(self) -> int:
        """Remove up to PRUNED_AT_ONCE tasks that are gone, and names without a task; return how many tasks.

        Raises sqlite3.Error; nothing is removed then.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = connection.execute(
                "SELECT created_sequence FROM tasks WHERE created_sequence < ? AND sequence < ?"
                " ORDER BY created_sequence LIMIT ?",
                (self._pruned_before, self._pruned_before, PRUNED_AT_ONCE),
            ).fetchall()
            delete_rows(connection, [key for (key,) in found])
            self._name = self._names.remove_unused(connection, self._name, NAMES_AT_ONCE)
            connection.execute("COMMIT")
        except BaseException:
            self._names.forget()
            connection.rollback()
            raise
        self.rows -= len(found)
        return len(found)


def _ref_and_word(position: Position) -> tuple[TaskRef, str]:
    """Return the task and the kind of an event, from its subject. Raises UnreadableEvent."""
    tokens = position.subject.split(".", 4)
    if len(tokens) < 4:
        raise UnreadableEvent(position.subject, position.sequence, "the subject names no task")
    return TaskRef(tokens[1], tokens[2]), tokens[3]


def read_checkpoint(connection: sqlite3.Connection) -> Checkpoint:
    """Return the checkpoint of a file. Raises sqlite3.Error."""
    found = connection.execute("SELECT sequence, epoch, event, boot FROM checkpoint").fetchone()
    return Checkpoint(*found) if found else Checkpoint(0, "", "", "")


def store_checkpoint(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    connection.execute(
        "INSERT INTO checkpoint (id, sequence, epoch, event, boot) VALUES (1, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET sequence = excluded.sequence, epoch = excluded.epoch, event = excluded.event, boot = excluded.boot",
        checkpoint,
    )


def digest(position: Position) -> str:
    """Return what recognises an event of the log."""
    return hashlib.sha256(b"%s\n%s" % (position.subject.encode(), position.data)).hexdigest()[:32]
