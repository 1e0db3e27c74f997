"""The tables of the index: one SQLite file per API process, derived from the TASKS log.

A row of `tasks` has what lists filter and sort by; `views` has the rest of the view, and neither has a payload or a
result. All tables and the checkpoint change in one transaction, so a file is always a fold of the log up to its
checkpoint.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import get_args

from ..events.task import FailureKind

FORMAT = 6
"""Number of the tables and of what is folded into them. A file with another number is discarded, so raise it with every
change to either: `tests/index/test_format.py` fails until it is."""

SCHEMA = """
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
);
CREATE TABLE tasks (
    created_sequence INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL,
    unique_token TEXT NOT NULL,
    status INTEGER NOT NULL,
    type INTEGER NOT NULL,
    pool INTEGER NOT NULL,
    server INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    hold INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    duration INTEGER,
    failure INTEGER,
    shape INTEGER,
    error TEXT,
    batch TEXT,
    schedule TEXT,
    project TEXT,
    concurrency_key TEXT,
    sequence INTEGER NOT NULL
);
CREATE TABLE views (
    created_sequence INTEGER PRIMARY KEY,
    view BLOB NOT NULL
);
CREATE TABLE attributes (
    attribute TEXT NOT NULL,
    created_sequence INTEGER NOT NULL,
    PRIMARY KEY (attribute, created_sequence)
) WITHOUT ROWID;
CREATE TABLE children (
    parent TEXT NOT NULL,
    created_sequence INTEGER NOT NULL,
    PRIMARY KEY (parent, created_sequence)
) WITHOUT ROWID;
CREATE TABLE batches (
    created_sequence INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL
);
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    event TEXT NOT NULL,
    boot TEXT NOT NULL
);
CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    subject TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE counts (
    owner TEXT NOT NULL,
    type TEXT NOT NULL,
    pool TEXT NOT NULL,
    server TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    held INTEGER NOT NULL,
    processing INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    deleted_finished INTEGER NOT NULL,
    deleted_failed INTEGER NOT NULL,
    deleted_cancelled INTEGER NOT NULL,
    PRIMARY KEY (owner, type, pool, server)
) WITHOUT ROWID;
CREATE TABLE sums (
    dimension TEXT NOT NULL,
    value TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    held INTEGER NOT NULL,
    processing INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    deleted_finished INTEGER NOT NULL,
    deleted_failed INTEGER NOT NULL,
    deleted_cancelled INTEGER NOT NULL,
    PRIMARY KEY (dimension, value)
) WITHOUT ROWID;
CREATE TABLE figures (
    unit INTEGER NOT NULL,
    start INTEGER NOT NULL,
    owner TEXT NOT NULL,
    total BLOB NOT NULL,
    parts BLOB,
    failures BLOB,
    flows BLOB NOT NULL,
    PRIMARY KEY (unit, start, owner)
);
CREATE TABLE activity (
    owner TEXT NOT NULL,
    hour INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (owner, hour)
) WITHOUT ROWID;
CREATE TABLE shapes (
    owner TEXT NOT NULL,
    shape TEXT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    example_sequence INTEGER NOT NULL,
    example_text TEXT NOT NULL,
    PRIMARY KEY (owner, shape)
) WITHOUT ROWID;
CREATE UNIQUE INDEX task_id ON tasks (owner, unique_token);
CREATE INDEX task_owner ON tasks (owner);
CREATE INDEX task_type ON tasks (type);
CREATE INDEX task_pool ON tasks (pool);
CREATE INDEX task_server ON tasks (server);
CREATE INDEX task_status ON tasks (status) WHERE status <> 2;
CREATE INDEX task_owner_status ON tasks (owner, status) WHERE status <> 2;
CREATE INDEX task_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX task_owner_ended ON tasks (owner, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX task_failed ON tasks (ended_at) WHERE status = 3;
CREATE INDEX task_owner_failed ON tasks (owner, ended_at) WHERE status = 3;
CREATE INDEX task_slot ON tasks (slot) WHERE slot <> 0;
CREATE INDEX task_duration ON tasks (duration) WHERE duration IS NOT NULL;
CREATE INDEX task_failure ON tasks (failure) WHERE failure IS NOT NULL;
CREATE INDEX task_shape ON tasks (shape) WHERE shape IS NOT NULL;
CREATE INDEX task_error ON tasks (created_sequence) WHERE error IS NOT NULL;
CREATE INDEX task_batch ON tasks (batch) WHERE batch IS NOT NULL;
CREATE INDEX task_schedule ON tasks (schedule) WHERE schedule IS NOT NULL;
CREATE INDEX task_project ON tasks (project, owner) WHERE project IS NOT NULL;
CREATE INDEX task_key ON tasks (concurrency_key, owner) WHERE concurrency_key IS NOT NULL;
CREATE INDEX task_priority ON tasks (priority) WHERE priority <> 1;
CREATE INDEX task_attempt ON tasks (attempt) WHERE attempt > 1;
CREATE INDEX task_hold ON tasks (hold) WHERE hold <> 0;
CREATE INDEX batch_owner ON batches (owner);
CREATE INDEX attribute_task ON attributes (created_sequence);
CREATE INDEX child_task ON children (created_sequence);
"""
"""Every index of a table with an integer key ends with that key, so tasks with the same value are in order of
submission. `names` has owner tokens, types, pools, server ids and shapes of errors; 0 stands for none. `slot`: the
server whose slot the task takes now. Instants are microseconds since the epoch, `duration` microseconds from start
to end. `status`: place in STATUSES, `priority`: in PRIORITIES (1 is `normal`), `failure`: in FAILURE_KINDS, `hold`:
in HOLDS (0: none). `attributes`: see facts.py. `checkpoint`: the last event that the tables reflect, a digest of it,
and the boot of the machine that wrote it. The tables from `owners` to `shapes` are those of figures.py, with texts
instead of numbers of names; SQLite reads a long row from its left, so `flows` is the last column."""

STATUSES = ("WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED")
"""2 is FINISHED: two indexes leave these tasks out, as nearly all tasks end so."""

FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
"""Append only: a file has their places."""

SLOTS = (
    "waiting",
    "held",
    "processing",
    "finished",
    "failed",
    "cancelled",
    "deleted_finished",
    "deleted_failed",
    "deleted_cancelled",
)
"""Columns of the numbers of tasks now. `held` tasks are among those that wait, deleted ones in no other column."""


def has_schema(connection: sqlite3.Connection) -> bool:
    """Return True if a file has these tables and indexes, and nothing else. Raises sqlite3.Error."""
    tables = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name"
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(SCHEMA)
        return model.execute(tables).fetchall() == connection.execute(tables).fetchall()


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open an index file; transactions are explicit. Any thread may use the connection. Raises sqlite3.Error."""
    mode = "ro" if read_only else "rwc"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
    return connection
