"""Figures of tasks, kept as events come: how many there are now, what happened in each minute and hour, which errors.

`Figures.observe` adds an event to what is pending, in memory; `Figures.write` adds all that to the tables, in the
transaction of the rows of the same events. The tables are a fold of the events: how these were split into transactions
makes no difference.

`counts` and `sums` say how many tasks there are now: by owner, type, pool and server, and for everybody's by one of
these. `figures` has a row for each owner and minute, and each owner and hour, in which something happened; owner `""`
stands for everybody. A row has what happened to all tasks, and the same by type, pool and server. What happened is a
`Flow`: numbers by their key. Times are counted in buckets, eight to a factor of two: a quantile is at most 6.3 % off.

Bounds, whatever owners do: per row MOST_KEYS combinations of type, pool and server (MOST_KEYS_OF_ALL for everybody),
and as many of shape, type and server; per owner MOST_SHAPES shapes of errors (MOST_SHAPES_OF_ALL). The first ones in
the log are kept; further ones count together as OTHER.
"""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable, Iterable
from copy import copy
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, assert_never

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

from ..clock import utc_now
from ..events import task as events
from ..events.envelope import Stored
from ..events.ids import owner_token
from ..events.task import TaskEvent
from ..instants import EPOCH
from ..projections.task_view import TaskView
from .facts import HELD, HOLDS
from .schema import SLOTS, STATUSES
from .shapes import OTHER_SHAPE, shape_and_fingerprint

Unit = Literal[0, 1]
MINUTE: Unit = 0
HOUR: Unit = 1
MINUTES_KEPT = timedelta(hours=25)
"""A window of 24 hours that began in the middle of an hour, and the time to ask for it."""
HOURS_KEPT = timedelta(days=400)
"""At most: hours are kept as long as the oldest task."""
ALL = ""
"""Owner of the figures of everybody. No owner has an empty token."""
OTHER = "*"
"""Type, pool and server of what exceeds the bounds of a row. No name of a type or pool, and a server's is no matter."""
MOST_KEYS = 100
MOST_KEYS_OF_ALL = 1_000
MOST_SHAPES = 1_000
MOST_SHAPES_OF_ALL = 10_000
MOST_CACHED = 1_000
"""Rows kept in memory after they were written. They are read again if they are needed again."""

# Keys of a flow. Append only: a file has them.
SUBMITTED, STARTED, ATTEMPTS, ATTEMPTS_FAILED, RETURNED, FINISHED, FAILED, CANCELLED, RETRIED, WAITING, RUNNING = range(
    11
)
"""STARTED: first attempts; ATTEMPTS: all. RETRIED: by hand. WAITING, RUNNING: how many more are so than before."""
WAIT, RUN = 1_000, 2_000
"""First keys of the buckets of a task's time from its creation to its first start, and from there to its end."""

Flow: TypeAlias = dict[int, int]
Key: TypeAlias = tuple[str, str, str]
"""Type, pool and server; of an error: fingerprint, type and server."""
OTHER_KEY: Key = (OTHER, OTHER, OTHER)


class Failures(Struct, array_like=True):
    """Failures with one fingerprint, of one type on one server."""

    count: int
    """Failed attempts."""
    final: int
    """Those after which the task did not run again."""
    first: int
    """Microseconds since the epoch."""
    last: int


class Row(Struct):
    """What happened to an owner's tasks, or everybody's, in a minute or an hour."""

    total: Flow
    flows: dict[Key, Flow]
    failures: dict[Key, Failures]


class Shape(Struct):
    """An error's shape, and the last failure of it."""

    kind: str
    text: str
    first: int
    last: int
    example_sequence: int
    """Place in the log of the submission of the task that failed last."""
    example_text: str


_SLOT = {"WAITING": 0, "PROCESSING": 2, "FINISHED": 3, "FAILED": 4, "CANCELLED": 5}
_HELD = 1
_DELETED = 3
"""From the slot of an end to that of a deleted task that ended so."""
DIMENSIONS = ("type", "pool", "server", "owner")
"""Of `sums`, beside "all" for all tasks."""

LONGEST_SHAPE = 500
"""Characters of a shape that are stored."""
LONGEST_EXAMPLE = 1_000
_LEVEL = {"WAITING": WAITING, "PROCESSING": RUNNING}
_MICROSECOND = timedelta(microseconds=1)
_ONE_MINUTE = timedelta(minutes=1)
_MINUTE = 60_000_000
_QUIET = (events.ProgressReported, events.AttemptAccepted)

_UPSERT = ", ".join(f"{slot} = {slot} + excluded.{slot}" for slot in SLOTS)
_EMPTY = " AND ".join(f"{slot} = 0" for slot in SLOTS)
_MARKS = ", ".join("?" * len(SLOTS))
ADD_COUNTS = f"INSERT INTO counts VALUES (?, ?, ?, ?, {_MARKS}) ON CONFLICT DO UPDATE SET {_UPSERT}"
ADD_SUMS = f"INSERT INTO sums VALUES (?, ?, {_MARKS}) ON CONFLICT DO UPDATE SET {_UPSERT}"
DELETE_COUNTS = f"DELETE FROM counts WHERE owner = ? AND type = ? AND pool = ? AND server = ? AND {_EMPTY}"
DELETE_SUMS = f"DELETE FROM sums WHERE dimension = ? AND value = ? AND {_EMPTY}"
STORE_FIGURES = """INSERT INTO figures (unit, start, owner, total, flows, failures) VALUES (?, ?, ?, ?, ?, ?)
 ON CONFLICT (unit, start, owner) DO UPDATE SET total = excluded.total, flows = excluded.flows,
 failures = excluded.failures"""
STORE_SHAPE = """INSERT INTO shapes (owner, shape, kind, text, first, last, example_sequence, example_text)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, shape) DO UPDATE SET first = min(first, excluded.first),
 last = max(last, excluded.last), example_sequence = excluded.example_sequence, example_text = excluded.example_text"""

_pack = msgspec.msgpack.Encoder().encode
unpack_flow = msgspec.msgpack.Decoder(Flow).decode
unpack_flows = msgspec.msgpack.Decoder(dict[Key, Flow]).decode
unpack_failures = msgspec.msgpack.Decoder(dict[Key, Failures]).decode


# Times in buckets


def bucket_of(microseconds: int) -> int:
    """Return the bucket of a time: exact below 8 µs, then eight to a factor of two."""
    if microseconds < 8:
        return max(microseconds, 0)
    exponent = microseconds.bit_length() - 4
    return (exponent << 3) + (microseconds >> exponent)


def bucket_seconds(bucket: int) -> float:
    """Return the middle of a bucket in seconds: at most 6.3 % from every time in it."""
    if bucket < 16:
        return bucket / 1e6
    exponent = (bucket >> 3) - 1
    return (((bucket & 7) + 8 << exponent) + (1 << exponent) / 2) / 1e6


def quantile(flow: Flow, first: int, share: float) -> float | None:
    """Return a quantile of the times whose buckets begin at a key, in seconds; None: there are none."""
    buckets = sorted((key - first, count) for key, count in flow.items() if first <= key < first + 1_000)
    rank = -(-share * sum(count for _, count in buckets) // 1)
    for bucket, count in buckets:
        rank -= count
        if rank <= 0:
            return bucket_seconds(bucket)
    return None


def add(flow: Flow, more: Flow) -> None:
    """Add a flow to another."""
    for key, count in more.items():
        flow[key] = flow.get(key, 0) + count


def add_failures(failures: Failures, more: Failures) -> None:
    failures.count += more.count
    failures.final += more.final
    failures.first = min(failures.first, more.first)
    failures.last = max(failures.last, more.last)


# The fold


Counted: TypeAlias = tuple[str, str, str, str]
"""Owner, type, pool and server."""
FlowPlace: TypeAlias = tuple[str, int, str, str, str]
"""Owner, minute, type, pool and server; of failures: owner, minute, fingerprint, type and server."""


class Pending(Struct):
    """What was observed and is not in the tables, each in the order in which it first came."""

    counts: dict[Counted, list[int]] = field(default_factory=dict)
    """Changes of the SLOTS."""
    flows: dict[FlowPlace, Flow] = field(default_factory=dict)
    failures: dict[FlowPlace, Failures] = field(default_factory=dict)
    shapes: dict[tuple[str, str], Shape] = field(default_factory=dict)
    """By owner and fingerprint."""
    owners: dict[str, str] = field(default_factory=dict)
    """Subjects by token."""


class Figures:
    """An observer of the fold of tasks. `observe` and `take` belong to one thread, what `take` returns to another."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._pending = Pending()
        self._tokens: dict[str, str] = {}
        self._tables = Tables()

    def observe(self, before: TaskView | None, stored: Stored[TaskEvent], after: TaskView) -> None:
        """Count an event of a task; `before` and `after` are its views. Events of a task come in order, each once."""
        event = stored.recorded.event
        if isinstance(event, _QUIET):
            return
        owner = self._tokens.get(after.owner) or self._token(after.owner)
        at = (stored.recorded.at - EPOCH) // _MICROSECOND
        minute = at // _MINUTE
        is_moved = self._count(owner, minute, before, after)
        counters = _counters(event, before, after, at)
        if counters or is_moved:
            flow = self._flow(owner, minute, after)
            for counter in counters:
                flow[counter] = flow.get(counter, 0) + 1
            if is_moved and (level := _LEVEL.get(after.status)) is not None:
                flow[level] = flow.get(level, 0) + 1
        if isinstance(event, events.AttemptFailed | events.TaskFailed):
            self._fail(owner, minute, after, at, is_final=isinstance(event, events.TaskFailed))

    def take(self) -> Callable[[sqlite3.Connection, object], None]:
        """Return a function that adds all that was observed since the last call to the tables, within a transaction.

        If the transaction fails, this object must be replaced by a new one. The second argument is ignored.
        """
        pending, self._pending = self._pending, Pending()
        now = self._now()
        return lambda connection, _: self._tables.store(connection, pending, now)

    def _token(self, subject: str) -> str:
        if len(self._tokens) >= MOST_CACHED:
            self._tokens.clear()
        found = self._tokens[subject] = owner_token(subject)
        self._pending.owners[found] = subject
        return found

    def _count(self, owner: str, minute: int, before: TaskView | None, after: TaskView) -> bool:
        """Move a task between the slots. Return True if it begins to wait or to run, or ends."""
        if before is None:
            self._change(owner, after, 1)
            return True
        is_moved = before.status != after.status or before.server_id != after.server_id
        if is_moved or before.held != after.held or before.deleted != after.deleted:
            self._change(owner, before, -1)
            self._change(owner, after, 1)
        if is_moved and (level := _LEVEL.get(before.status)) is not None:
            flow = self._flow(owner, minute, before)
            flow[level] = flow.get(level, 0) - 1
        return is_moved

    def _change(self, owner: str, view: TaskView, by: int) -> None:
        key = (owner, view.task_type, view.pool, view.server_id)
        counts = self._pending.counts.get(key)
        if counts is None:
            counts = self._pending.counts[key] = [0] * len(SLOTS)
        counts[_SLOT[view.status] + (_DELETED if view.deleted else 0)] += by
        if view.held:
            counts[_HELD] += by

    def _flow(self, owner: str, minute: int, view: TaskView) -> Flow:
        place = (owner, minute, view.task_type, view.pool, view.server_id)
        flow = self._pending.flows.get(place)
        if flow is None:
            flow = self._pending.flows[place] = {}
        return flow

    def _fail(self, owner: str, minute: int, view: TaskView, at: int, *, is_final: bool) -> None:
        kind = view.failure or ""
        text, shape = shape_and_fingerprint(kind, view.error)
        place = (owner, minute, shape, view.task_type, view.server_id)
        failures = Failures(1, int(is_final), at, at)
        if (found := self._pending.failures.get(place)) is not None:
            add_failures(found, failures)
        else:
            self._pending.failures[place] = failures
        for who in (owner, ALL):
            shapes = self._pending.shapes
            known = shapes.get((who, shape))
            first, last = (at, at) if known is None else (min(known.first, at), max(known.last, at))
            example = view.created_sequence, view.error[:LONGEST_EXAMPLE]
            shapes[who, shape] = Shape(kind, text[:LONGEST_SHAPE], first, last, *example)


def _counters(event: TaskEvent, before: TaskView | None, after: TaskView, at: int) -> tuple[int, ...]:
    """Return the keys of a flow that an event adds one to."""
    match event:
        case events.TaskSubmitted():
            return (SUBMITTED,)
        case events.AttemptStarted():
            if before is not None and before.started_at is not None:
                return (ATTEMPTS,)
            return ATTEMPTS, STARTED, WAIT + bucket_of(at - (after.created_at - EPOCH) // _MICROSECOND)
        case events.TaskSucceeded():
            return (FINISHED, *_run(after, at))
        case events.TaskFailed():
            return (FAILED, *_run(after, at))
        case events.TaskCancelled():
            return (CANCELLED, *_run(after, at))
        case events.AttemptFailed():
            return (ATTEMPTS_FAILED,)
        case events.AttemptReturned():
            return (RETURNED,)
        case events.TaskQueued() | events.TaskHeld():
            return (RETRIED,) if event.renewed else ()
        case events.TaskDeleted() | events.AttemptAccepted() | events.ProgressReported():
            return ()
        case _:
            assert_never(event)


def _run(view: TaskView, at: int) -> tuple[int, ...]:
    return () if view.started_at is None else (RUN + bucket_of(at - (view.started_at - EPOCH) // _MICROSECOND),)


# The tables


RowPlace: TypeAlias = tuple[Unit, int, str]
"""Minutes or hours, the number of one since the epoch, and the owner."""


class Tables:
    """The tables as their one writer sees them."""

    def __init__(self) -> None:
        self._rows: dict[RowPlace, Row] = {}
        """What was written last, to add to."""
        self._shapes: dict[str, set[str]] = {}
        """Fingerprints by owner, likewise."""
        self._pruned = 0

    def store(self, connection: sqlite3.Connection, pending: Pending, now: datetime) -> None:
        """Add what was observed, and delete figures that are too old. Raises sqlite3.Error."""
        connection.executemany("INSERT OR IGNORE INTO owners VALUES (?, ?)", pending.owners.items())
        store_counts(connection, pending.counts)
        if len(self._rows) > MOST_CACHED:
            self._rows.clear()
        if len(self._shapes) > MOST_CACHED // 10:
            self._shapes.clear()
        minute = (now - EPOCH) // _ONE_MINUTE
        oldest = minute - MINUTES_KEPT // _ONE_MINUTE
        changed = self._add_flows(connection, pending, oldest)
        changed.update(self._add_failures(connection, pending, oldest))
        connection.executemany(STORE_FIGURES, [(*place, *_packed(row)) for place, row in changed.items()])
        self._store_shapes(connection, pending)
        if minute != self._pruned:
            self._prune(connection, oldest)
            self._pruned = minute
            self._rows.clear()

    def _add_flows(self, connection: sqlite3.Connection, pending: Pending, oldest: int) -> dict[RowPlace, Row]:
        changed: dict[RowPlace, Row] = {}
        for (owner, minute, type_, pool, server), flow in pending.flows.items():
            for unit, start in _units(minute, oldest):
                key: Key = (type_, pool, server)
                for who, most in ((owner, MOST_KEYS), (ALL, MOST_KEYS_OF_ALL)):
                    place = (unit, start, who)
                    row = changed.get(place)
                    if row is None:
                        row = changed[place] = self._row(connection, place)
                    add(row.total, flow)
                    if key not in row.flows and len(row.flows) >= most:
                        key = OTHER_KEY
                    add(row.flows.setdefault(key, {}), flow)
        return changed

    def _add_failures(self, connection: sqlite3.Connection, pending: Pending, oldest: int) -> dict[RowPlace, Row]:
        changed: dict[RowPlace, Row] = {}
        for (owner, minute, shape, type_, server), failures in pending.failures.items():
            for unit, start in _units(minute, oldest):
                key: Key = (shape, type_, server)
                for who, most, most_shapes in (
                    (owner, MOST_KEYS, MOST_SHAPES),
                    (ALL, MOST_KEYS_OF_ALL, MOST_SHAPES_OF_ALL),
                ):
                    if not self._has_shape(connection, who, key[0], most_shapes):
                        key = (OTHER_SHAPE, *key[1:])
                    row = changed.setdefault((unit, start, who), self._row(connection, (unit, start, who)))
                    if key not in row.failures and len(row.failures) >= most:
                        key = (OTHER_SHAPE, OTHER, OTHER)
                    found = row.failures.get(key)
                    if found is None:
                        row.failures[key] = copy(failures)
                    else:
                        add_failures(found, failures)
        return changed

    def _row(self, connection: sqlite3.Connection, place: RowPlace) -> Row:
        """Return the row of a place, from memory or the table; an empty one if there is none."""
        row = self._rows.get(place)
        if row is None:
            found = connection.execute(
                "SELECT total, flows, failures FROM figures WHERE unit = ? AND start = ? AND owner = ?", place
            ).fetchone()
            row = self._rows[place] = _unpacked(*found) if found else Row({}, {}, {})
        return row

    def _has_shape(self, connection: sqlite3.Connection, owner: str, shape: str, most: int) -> bool:
        """Return True if the shape is, or becomes, one of the owner's."""
        known = self._shapes.get(owner)
        if known is None:
            found = connection.execute("SELECT shape FROM shapes WHERE owner = ?", (owner,))
            known = self._shapes[owner] = {each for (each,) in found}
        if shape not in known:
            if len(known) >= most or shape == OTHER_SHAPE:
                return False
            known.add(shape)
        return True

    def _store_shapes(self, connection: sqlite3.Connection, pending: Pending) -> None:
        rows = [
            (owner, shape, *astuple(found))
            for (owner, shape), found in pending.shapes.items()
            if shape in self._shapes.get(owner, ())
        ]
        connection.executemany(STORE_SHAPE, rows)

    def _prune(self, connection: sqlite3.Connection, oldest_minute: int) -> None:
        """Delete minutes before the oldest one, and hours and shapes that are older than all tasks."""
        connection.execute("DELETE FROM figures WHERE unit = ? AND start < ?", (MINUTE, oldest_minute))
        oldest = oldest_minute * _MINUTE
        found = connection.execute("SELECT created_at FROM tasks ORDER BY created_sequence LIMIT 1").fetchone()
        oldest = max(min(oldest, found[0]) if found else oldest, oldest - HOURS_KEPT // _MICROSECOND)
        connection.execute("DELETE FROM figures WHERE unit = ? AND start < ?", (HOUR, oldest // (60 * _MINUTE)))
        if connection.execute("DELETE FROM shapes WHERE last < ?", (oldest,)).rowcount:
            self._shapes.clear()


def _units(minute: int, oldest: int) -> Iterable[tuple[Unit, int]]:
    """Return the rows that a minute is in: that of its hour alone if the minute is before the oldest that is kept."""
    hour = (HOUR, minute // 60)
    return (hour,) if minute < oldest else ((MINUTE, minute), hour)


def store_counts(connection: sqlite3.Connection, counts: dict[Counted, list[int]]) -> None:
    """Add to the numbers of tasks now, by owner, type, pool and server. Raises sqlite3.Error."""
    added = {key: changes for key, changes in counts.items() if any(changes)}
    sums: dict[tuple[str, str], list[int]] = {}
    for (owner, type_, pool, server), changes in added.items():
        for place in (("all", ""), ("owner", owner), ("type", type_), ("pool", pool), ("server", server)):
            found = sums.get(place)
            sums[place] = changes if found is None else list(map(operator.add, found, changes))
    summed = {place: changes for place, changes in sums.items() if any(changes)}
    connection.executemany(ADD_COUNTS, [(*key, *changes) for key, changes in added.items()])
    connection.executemany(ADD_SUMS, [(*place, *changes) for place, changes in summed.items()])
    connection.executemany(DELETE_COUNTS, [key for key, changes in added.items() if min(changes) < 0])
    connection.executemany(DELETE_SUMS, [place for place, changes in summed.items() if min(changes) < 0])


def uncount(connection: sqlite3.Connection, created_sequences: Iterable[tuple[int]]) -> None:
    """Take tasks out of the numbers of tasks now, just before their rows are deleted. Raises sqlite3.Error."""
    counts: dict[Counted, list[int]] = {}
    for sequence in created_sequences:
        found = connection.execute(_COUNTED, sequence).fetchone()
        if found is None:
            continue
        *key, status, hold, deleted = found
        owner, type_, pool, server = key
        changes = counts.setdefault((owner, type_, pool, server), [0] * len(SLOTS))
        changes[_SLOT[STATUSES[status]] + (_DELETED if deleted else 0)] -= 1
        changes[_HELD] -= HOLDS[hold] in HELD
    store_counts(connection, counts)


_COUNTED = """SELECT o.text, t.text, p.text, coalesce(s.text, ''), status, hold, deleted FROM tasks
 JOIN names o ON o.id = owner JOIN names t ON t.id = type JOIN names p ON p.id = pool
 LEFT JOIN names s ON s.id = server WHERE created_sequence = ?"""


def _packed(row: Row) -> tuple[bytes, bytes, bytes | None]:
    return _pack(row.total), _pack(row.flows), _pack(row.failures) if row.failures else None


def _unpacked(total: bytes, flows: bytes, failures: bytes | None) -> Row:
    return Row(unpack_flow(total), unpack_flows(flows), unpack_failures(failures) if failures else {})
