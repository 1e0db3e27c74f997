"""The index of each API, from its file, beside the fold of the log."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from taskstream.clock import utc_now
from taskstream.index.comparison import compared_figures, compared_tasks
from taskstream.index.files import claim
from taskstream.index.schema import connect
from taskstream.index.task_index import TaskIndex, read_checkpoint
from taskstream.index.views import decode
from taskstream.projections.task_view import encode as encode_view
from taskstream.streams.jetstream.messages import Position

from .evidence import Bucket


def index_file(folder: Path) -> Path:
    """Return the file of the one process that has a folder."""
    return folder / "index-0.sqlite"


def reflected(folder: Path) -> int:
    """Return the sequence that the index in a folder reflects; 0: there is no index now."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(index_file(folder), read_only=True)) as found:
        return read_checkpoint(found).sequence
    return 0


def index_bucket(name: str, folder: Path, log: Sequence[Position], views: Mapping[str, bytes]) -> Bucket:
    """Return what the index in a folder has of each task, and what the log says it should have.

    `views`: the fold of the log that the projection is compared with. Rows and figures are compared with a new index.
    """
    now = utc_now()
    with TemporaryDirectory() as fresh:
        file = claim(Path(fresh))
        with contextlib.closing(file.open()) as connection:
            index = TaskIndex(connection)
            index.apply(log)
            index.flush()
            wanted = _rows(connection, now)
        file.release()
    found: dict[str, bytes] = {}
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(index_file(folder), read_only=True)) as own:
        found = _rows(own, now)
    of_tasks = {key: value for key, value in views.items() if key.startswith("task.")}
    return Bucket(name, found, wanted | of_tasks)


def _rows(connection: sqlite3.Connection, now: datetime) -> dict[str, bytes]:
    """Return the rows of a file as text.

    By `row.<owner>.<unique>` those of each task, by `task.…` its view as the projection has it, by
    `figure.<table>.<key>` the figures.
    """
    rows = {f"row.{task.owner}.{task.unique}": repr(task).encode() for task in compared_tasks(connection)}
    views = connection.execute(
        "SELECT text, unique_token, view FROM tasks JOIN names ON id = owner JOIN views USING (created_sequence)"
    )
    figures = {
        "figure." + ".".join(map(str, key)): repr(figure).encode()
        for key, figure in compared_figures(connection, now).items()
    }
    return rows | figures | {f"task.{owner}.{unique}": encode_view(decode(view)) for owner, unique, view in views}
