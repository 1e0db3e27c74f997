"""Lists of tasks and batches, read from the index: current, in pages that have no gaps and no doubles."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from ..errors import IndexNotReady, NotFound
from ..events.ids import BatchRef, TaskRef, batch_index, parse_batch_id
from ..events.subjects import server_token
from ..projections.active import count_running
from ..projections.batches import Batch
from ..projections.task_view import Listed
from ..streams.buckets import Bucket
from . import search
from .query import Key, TaskQuery, write_cursor
from .reader import IndexReader
from .schema import FAILURE_KINDS, STATUSES
from .search import By, Count, Groups
from .statistics import subjects_of
from .task_index import read_checkpoint
from .views import decode

T = TypeVar("T")
LATE = frozenset(map(FAILURE_KINDS.index, ("deadline", "expired")))
BATCHES_AT_ONCE = 50
BATCHES_COUNTED = 100
"""Batches whose tasks one query counts."""
DELETED_BATCHES = 200
"""Batches without a task left that one page passes over before it ends, with a cursor."""
SERVICE = ""
"""Stands for the service in the place of a user."""


class ListedTasks(NamedTuple):
    tasks: list[Listed]
    cursor: str | None
    """Where the next page starts; None after the last. A page may be short, even empty, and still have one."""
    as_of: int
    """Sequence of the log that the page reflects."""


class CountedTasks(NamedTuple):
    total: Count
    groups: Groups | None
    as_of: int


class ListedBatches(NamedTuple):
    batches: list[Batch]
    cursor: int | None
    """The next page comes before this sequence; None after the last page."""


class BatchCounts(NamedTuple):
    """How many tasks of a batch are in each state, deleted ones included."""

    active: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    late: int = 0
    """Of the failed ones: those that had not started or ended in time."""


class TaskLists:
    """Reads lists for users, whose tokens are given as `user`. All methods raise as IndexReader.run does."""

    def __init__(self, index: IndexReader, views: Bucket) -> None:
        self._index = index
        self._views = views

    async def page(self, query: TaskQuery, limit: int, after: Key | None = None, *, user: str) -> ListedTasks:
        """Return up to `limit` tasks after a place."""
        return await self._index.run(partial(_page, query=query, limit=limit, after=after), user)

    async def count(self, query: TaskQuery, by: By | None = None, *, user: str) -> CountedTasks:
        """Return how many tasks match, also for each value of a column; owners by their subjects."""

        def read(connection: sqlite3.Connection) -> CountedTasks:
            groups = None if by is None else search.count_by(connection, query, by)
            if groups is not None and by == "owner":
                subjects = subjects_of(connection, groups.counts)
                groups = groups._replace(counts={subjects[each]: count for each, count in groups.counts.items()})
            return CountedTasks(search.count(connection, query), groups, read_checkpoint(connection).sequence)

        return await self._index.run(read, user)

    async def views(self, refs: Sequence[TaskRef], *, user: str) -> list[Listed]:
        """Return tasks in the order given, deleted ones too; missing ones are left out."""
        return await self._index.run(partial(_views, refs=refs), user) if refs else []

    async def of_batch(self, ref: BatchRef, *, deleted: bool, user: str) -> list[Listed]:
        """Return the tasks of a batch, in order of their index; without deleted ones, unless `deleted`.

        Raises NotFound if none is left.
        """
        tasks = await self._index.run(partial(_of_batch, batch_id=ref.id), user)
        found = [listed for listed in tasks if deleted or not listed.view.deleted]
        if not found:
            raise NotFound("batch", ref.id)
        return found

    async def batch_counts(self, refs: Sequence[BatchRef], *, user: str) -> dict[BatchRef, BatchCounts]:
        """Return the counts of batches; one without tasks is left out."""
        found: dict[BatchRef, BatchCounts] = {}
        for start in range(0, len(refs), BATCHES_COUNTED):
            part = {ref.id: ref for ref in refs[start : start + BATCHES_COUNTED]}
            counts = await self._index.run(partial(_batch_counts, batch_ids=list(part)), user)
            found |= {part[batch_id]: count for batch_id, count in counts.items()}
        return found

    async def batches(
        self, owner: str | None, limit: int, before: int | None, *, deleted: bool, user: str
    ) -> ListedBatches:
        """Return up to `limit` batches of an owner token (None: of everybody), newest first.

        They were submitted before the sequence `before`. Unless `deleted`, without batches whose tasks are all deleted.
        """
        return await self._index.run(partial(_batches, owner=owner, limit=limit, before=before, deleted=deleted), user)

    async def running_now(self, server_ids: Collection[str], *, user: str = SERVICE) -> dict[str, int]:
        """Return how many tasks take a slot of each server."""
        return await self._index.run(partial(_running, server_ids=server_ids), user)

    async def running(self, server_ids: Collection[str], *, user: str = SERVICE) -> dict[str, int]:
        """Return how many tasks take a slot of each server; without an index, as far as they are projected."""
        with contextlib.suppress(IndexNotReady):
            return await self.running_now(server_ids, user=user)
        names = {server_token(server_id): server_id for server_id in server_ids}
        counts = await count_running(self._views, list(names))
        return {server_id: counts[name] for name, server_id in names.items()}


def _page(connection: sqlite3.Connection, query: TaskQuery, limit: int, after: Key | None) -> ListedTasks:
    found = search.find_page(connection, query, limit, after)
    sequences = [key[-1] for key in found.keys]
    listed = dict(_listed(connection, "t.created_sequence", sequences))
    cursor = None if found.cursor is None else write_cursor(query, found.cursor)
    tasks = [listed[sequence] for sequence in sequences]
    return ListedTasks(tasks, cursor, read_checkpoint(connection).sequence)


def _listed(connection: sqlite3.Connection, column: str, values: Sequence[object]) -> Iterable[tuple[int, Listed]]:
    """Yield the tasks that have these values in a column, with their sequences."""
    rows = connection.execute(
        "SELECT t.created_sequence, n.text, t.unique_token, v.view FROM tasks t JOIN names n ON n.id = t.owner"
        " JOIN views v ON v.created_sequence = t.created_sequence"
        f" WHERE {column} IN ({', '.join('?' * len(values))})",
        tuple(values),
    )
    for sequence, owner, unique, view in rows:
        yield sequence, Listed(TaskRef(owner, unique), decode(view))


def _views(connection: sqlite3.Connection, refs: Sequence[TaskRef]) -> list[Listed]:
    found = []
    for ref in refs:
        row = connection.execute(
            "SELECT v.view FROM tasks t JOIN views v ON v.created_sequence = t.created_sequence"
            " WHERE t.owner = (SELECT id FROM names WHERE text = ?) AND t.unique_token = ?",
            ref,
        ).fetchone()
        if row is not None:
            found.append(Listed(ref, decode(row[0])))
    return found


def _of_batch(connection: sqlite3.Connection, batch_id: str) -> list[Listed]:
    found = [listed for _, listed in _listed(connection, "t.batch", [batch_id])]
    return sorted(found, key=lambda listed: batch_index(listed.ref))


def _batch_counts(connection: sqlite3.Connection, batch_ids: Sequence[str]) -> dict[str, BatchCounts]:
    rows = connection.execute(
        "SELECT t.batch, t.status, t.failure, count(*) FROM tasks t INDEXED BY task_batch"
        f" WHERE t.batch IN ({', '.join('?' * len(batch_ids))}) GROUP BY t.batch, t.status, t.failure",
        tuple(batch_ids),
    )
    found: dict[str, BatchCounts] = {}
    for batch_id, status, failure, count in rows:
        counts = found.get(batch_id, BatchCounts())
        match STATUSES[status]:
            case "FINISHED":
                counts = counts._replace(finished=counts.finished + count)
            case "FAILED":
                late = count if failure in LATE else 0
                counts = counts._replace(failed=counts.failed + count, late=counts.late + late)
            case "CANCELLED":
                counts = counts._replace(cancelled=counts.cancelled + count)
            case _:
                counts = counts._replace(active=counts.active + count)
        found[batch_id] = counts
    return found


def _batches(
    connection: sqlite3.Connection, owner: str | None, limit: int, before: int | None, *, deleted: bool
) -> ListedBatches:
    found: list[Batch] = []
    passed = 0
    while True:
        rows = connection.execute(
            "SELECT b.created_sequence, b.id, b.size, v.view FROM batches b"
            " JOIN views v ON v.created_sequence = b.created_sequence WHERE b.created_sequence < ?"
            + (" AND b.owner = (SELECT id FROM names WHERE text = ?)" if owner is not None else "")
            + " ORDER BY b.created_sequence DESC LIMIT ?",
            (min(before or 2**62, 2**62), *([] if owner is None else [owner]), BATCHES_AT_ONCE),
        ).fetchall()
        for sequence, batch_id, size, view in rows:
            if deleted or _has_any(connection, batch_id):
                if len(found) == limit:
                    return ListedBatches(found, found[-1].sequence)
                first = decode(view)
                ref = parse_batch_id(batch_id)
                found.append(
                    Batch(ref=ref, owner=first.owner, size=size, created_at=first.created_at, sequence=sequence)
                )
            else:
                passed += 1
            before = sequence
            if passed >= DELETED_BATCHES:
                return ListedBatches(found, sequence)
        if len(rows) < BATCHES_AT_ONCE:
            return ListedBatches(found, None)


def _has_any(connection: sqlite3.Connection, batch_id: str) -> bool:
    """Return True unless all tasks of a batch are deleted."""
    sql = "SELECT 1 FROM tasks t INDEXED BY task_batch WHERE t.batch = ? AND t.deleted = 0 LIMIT 1"
    return connection.execute(sql, (batch_id,)).fetchone() is not None


def _running(connection: sqlite3.Connection, server_ids: Collection[str]) -> dict[str, int]:
    sql = (
        "SELECT count(*) FROM tasks t INDEXED BY task_slot"
        " WHERE t.slot <> 0 AND t.slot = (SELECT id FROM names WHERE text = ?)"
    )
    counts = {}
    for server_id in server_ids:
        [(counts[server_id],)] = connection.execute(sql, (server_id,))
    return counts
