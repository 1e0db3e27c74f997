"""The fold of the log of tasks into one index file.

Events are folded in memory, and the rows of all tasks that changed are written at once, with the checkpoint. Whatever
was folded and not written is folded again after a crash: an event at or before the checkpoint changes nothing.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
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
SUBMITTED = word_of(TaskSubmitted)


class Observer(Protocol):
    """Figures that are folded from the same events, and stored in the same transaction."""

    def observe(self, before: TaskView | None, stored: Stored[TaskEvent], after: TaskView) -> None:
        """Count an event; `before` and `after` are the views of its task. Called once per event, in order per task."""

    def take(self) -> Callable[[sqlite3.Connection, Names], None]:
        """Return a function that stores all that was observed since the last call; it may run in another thread."""


class Changes(NamedTuple):
    """What a flush stores."""

    rows: dict[TaskRef, TaskRow]
    last: Position | None
    """The last event folded; None: none was."""
    observed: Sequence[Callable[[sqlite3.Connection, Names], None]]


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

    `fold` and `take` belong to one thread, `load`, `write` and `prune` to another or the same.
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
        self._writing: dict[TaskRef, TaskRow] = {}
        """The changes that are being stored."""
        self._active: dict[TaskRef, TaskView] = {}

    @property
    def changed(self) -> int:
        """Tasks that changed since the last `take`."""
        return len(self._changed)

    def missing(self, positions: Iterable[Position]) -> set[TaskRef]:
        """Return the tasks whose views `fold` needs and `load` must read first."""
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

    def load(self, refs: Iterable[TaskRef]) -> dict[TaskRef, TaskView]:
        """Return the views in the file. Raises sqlite3.Error."""
        found: dict[TaskRef, TaskView] = {}
        for ref in refs:
            row = self._connection.execute(
                "SELECT view FROM views WHERE created_sequence = (SELECT created_sequence FROM tasks"
                " WHERE owner = (SELECT id FROM names WHERE text = ?) AND unique_token = ?)",
                ref,
            ).fetchone()
            if row is not None:
                found[ref] = decode_view(row[0])
        return found

    def fold(self, positions: Iterable[Position], loaded: dict[TaskRef, TaskView]) -> None:
        """Fold events. `loaded`: what `load` returned for what is `missing`. Raises UnreadableEvent."""
        for position in positions:
            if position.sequence <= self.position:
                continue
            if position.subject != SCHEDULER_FENCE:
                self._fold(position, loaded)
            self.position = position.sequence
            self._last = position

    def _fold(self, position: Position, loaded: dict[TaskRef, TaskView]) -> None:
        ref, _ = _ref_and_word(position)
        stored = decode(task_codec, position)
        event = stored.recorded.event
        extras: Extras | None = None
        before: TaskView | None = None
        is_new = isinstance(event, TaskSubmitted)
        if is_new:
            pass  # if the task has rows, its first history has aged out
        elif (row := self._changed.get(ref)) is not None:
            before, is_new, extras = row.view, row.is_new, row.extras
        elif (row := self._writing.get(ref)) is not None:
            before = row.view
        else:
            before = self._active.get(ref) or loaded.get(ref)
        view = fold(before, stored)
        if view is None:
            return  # its submission is past the retention
        if isinstance(event, TaskSubmitted):
            extras = extras_of(event, view)
        self._changed[ref] = TaskRow(ref, view, is_new, extras)
        for observer in self.observers:
            observer.observe(before, stored, view)

    def take(self) -> Changes:
        """Return what changed since the last call; `write` must be called with it before the next one."""
        rows, self._changed = self._changed, {}
        self._writing = rows
        active = self._active
        for ref, row in rows.items():
            active.pop(ref, None)
            if row.view.status in ACTIVE:
                active[ref] = row.view
        while len(active) > MOST_ACTIVE:
            del active[next(iter(active))]
        return Changes(rows, self._last, [observer.take() for observer in self.observers])

    def write(self, changes: Changes) -> None:
        """Store changes and the checkpoint in one transaction.

        Raises sqlite3.Error: nothing is stored then, and the fold must begin again with a new TaskIndex.
        """
        if changes.last is None:
            return
        if not changes.rows:
            self.stored = changes.last.sequence  # fences only: a transaction would store nothing that anybody reads
            return
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = list(changes.rows.values())
            for start in range(0, len(rows), ROWS_AT_ONCE):
                write_rows(connection, rows[start : start + ROWS_AT_ONCE], self._names)
            for write in changes.observed:
                write(connection, self._names)
            checkpoint = Checkpoint(changes.last.sequence, self._epoch, digest(changes.last), self._boot)
            store_checkpoint(connection, checkpoint)
            connection.execute("COMMIT")
        except BaseException:
            self._names.forget()
            connection.rollback()
            raise
        self.stored = changes.last.sequence
        self.rows += sum(row.is_new for row in rows)

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, with the views that the file has. Raises UnreadableEvent and sqlite3.Error."""
        self.fold(positions, self.load(self.missing(positions)))

    def flush(self) -> None:
        """Store all changes. Raises sqlite3.Error."""
        self.write(self.take())

    def prune(self, first_sequence: int) -> int:
        """Remove up to PRUNED_AT_ONCE tasks of which the log has no event any more; return how many."""
        connection = self._connection
        found = connection.execute(
            "SELECT created_sequence FROM tasks WHERE created_sequence < ? AND sequence < ?"
            " ORDER BY created_sequence LIMIT ?",
            (first_sequence, first_sequence, PRUNED_AT_ONCE),
        ).fetchall()
        if found:
            connection.execute("BEGIN IMMEDIATE")
            try:
                delete_rows(connection, [key for (key,) in found])
                connection.execute("COMMIT")
            except BaseException:
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
