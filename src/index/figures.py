"""Figures of tasks, kept as events come: how many there are now, what happened in each minute and hour, which errors.

`Figures.observe` adds an event to what is pending, in memory; `Figures.write` adds all that to the tables, in the
transaction of the rows of the same events. The tables are a fold of the events: how these were split into transactions
makes no difference.

`counts` and `sums` say how many tasks there are now: by owner, type, pool and server, and for everybody's by one of
these. `figures` has a row for each owner and minute, and each owner and hour, in which something happened; owner `""`
stands for everybody. A row has what happened to all tasks, and the same by type, pool and server. What happened is a
`Flow`: numbers by their key. Times are counted in buckets, eight to a factor of two: a quantile is at most 6.3 % off.
Two sums of these save readers most of the work: everybody's rows have `parts`, by one of type, pool and server, and
`activity` has how much happened to each owner in each hour.

Bounds, whatever owners do: per row MOST_KEYS combinations of type, pool and server (MOST_KEYS_OF_ALL for everybody),
and as many of shape, type and server; per owner MOST_SHAPES shapes of errors (MOST_SHAPES_OF_ALL). The first ones in
the log are kept; further ones count together as OTHER.
"""

from __future__ import annotations

import operator
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping
from copy import copy
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

from ..clock import utc_now
from ..events import task as events
from ..events.envelope import Event, Stored
from ..events.ids import owner_token
from ..events.task import TaskEvent
from ..instants import EPOCH
from ..projections.task_view import TaskView
from .facts import HELD, HOLDS
from .schema import SLOTS, STATUSES
from .shapes import OTHER_SHAPE, shape_and_fingerprint

K = TypeVar("K", bound=Hashable)
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
MOST_CACHED = 30_000
"""Flows and failures kept in memory after their rows were written. These are read again if they are needed again."""
MOST_SHAPES_CACHED = 100
"""Owners whose fingerprints are kept in memory, likewise."""

# Keys of a flow. Append only: a file has them.
SUBMITTED, STARTED, ATTEMPTS, ATTEMPTS_FAILED, RETURNED, FINISHED, FAILED, CANCELLED, RETRIED, WAITING, RUNNING = range(
    11
)
"""STARTED: first attempts; ATTEMPTS: all. RETRIED: by hand. WAITING, RUNNING: how many more are so than before."""
WAIT, RUN = 1_000, 2_000
"""First keys of the buckets of a task's time from its creation to its first start, and of its last attempt's time: from
the attempt's start to the task's end."""

Flow: TypeAlias = dict[int, int]
Key: TypeAlias = tuple[str, str, str]
"""Type, pool and server; of an error: fingerprint, type and server."""
OTHER_KEY: Key = (OTHER, OTHER, OTHER)
Parts: TypeAlias = tuple[dict[str, Flow], dict[str, Flow], dict[str, Flow]]


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
    """All flows together; empty in a minute of one owner."""
    flows: dict[Key, Flow]
    failures: dict[Key, Failures]
    parts: Parts = field(default_factory=lambda: ({}, {}, {}))
    """Everybody's flows by type, by pool and by server; empty in a row of one owner."""


class Shape(Struct):
    """An error's shape, and the newest task that failed with it."""

    kind: str
    text: str
    first: int
    last: int
    example_sequence: int
    """Place of that task's submission in the log."""
    example_text: str


_SLOT = {"WAITING": 0, "PROCESSING": 2, "FINISHED": 3, "FAILED": 4, "CANCELLED": 5}
_HELD = 1
_DELETED = 3
"""From the slot of an end to that of a deleted task that ended so."""

LONGEST_SHAPE = 500
"""Characters of a shape that are stored."""
LONGEST_EXAMPLE = 1_000
_LEVEL = {"WAITING": WAITING, "PROCESSING": RUNNING}
_MICROSECOND = timedelta(microseconds=1)
_ONE_MINUTE = timedelta(minutes=1)
_MINUTE = 60_000_000

_UPSERT = ", ".join(f"{slot} = {slot} + excluded.{slot}" for slot in SLOTS)
_EMPTY = " AND ".join(f"{slot} = 0" for slot in SLOTS)
_MARKS = ", ".join("?" * len(SLOTS))
ADD_COUNTS = f"INSERT INTO counts VALUES (?, ?, ?, ?, {_MARKS}) ON CONFLICT DO UPDATE SET {_UPSERT}"
ADD_SUMS = f"INSERT INTO sums VALUES (?, ?, {_MARKS}) ON CONFLICT DO UPDATE SET {_UPSERT}"
DELETE_COUNTS = f"DELETE FROM counts WHERE owner = ? AND type = ? AND pool = ? AND server = ? AND {_EMPTY}"
DELETE_SUMS = f"DELETE FROM sums WHERE dimension = ? AND value = ? AND {_EMPTY}"
DELETE_OWNERS = """DELETE FROM owners WHERE NOT EXISTS (SELECT 1 FROM counts WHERE counts.owner = owners.owner)
 AND owner NOT IN (SELECT owner FROM figures)"""
STORE_FIGURES = """INSERT INTO figures (unit, start, owner, total, parts, failures, flows) VALUES (?, ?, ?, ?, ?, ?, ?)
 ON CONFLICT (unit, start, owner) DO UPDATE SET total = excluded.total, parts = excluded.parts,
 failures = excluded.failures, flows = excluded.flows"""
STORE_ACTIVITY = """INSERT INTO activity (owner, hour, events) VALUES (?, ?, ?)
 ON CONFLICT (owner, hour) DO UPDATE SET events = excluded.events"""
STORE_SHAPE = """INSERT INTO shapes (owner, shape, kind, text, first, last, example_sequence, example_text)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, shape) DO UPDATE SET first = min(first, excluded.first),
 last = max(last, excluded.last), example_sequence = max(example_sequence, excluded.example_sequence),
 example_text = iif(excluded.example_sequence >= example_sequence, excluded.example_text, example_text)"""

_pack = msgspec.msgpack.Encoder().encode
unpack_flow = msgspec.msgpack.Decoder(Flow).decode
unpack_flows = msgspec.msgpack.Decoder(dict[Key, Flow]).decode
unpack_failures = msgspec.msgpack.Decoder(dict[Key, Failures]).decode
_unpack_parts = msgspec.msgpack.Decoder(Parts).decode


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


def quantiles(flow: Flow, first: int, *shares: float) -> list[float | None]:
    """Return quantiles of the times whose buckets begin at a key, in seconds; None: there are none."""
    keys = sorted(flow)
    keys = keys[bisect_left(keys, first) : bisect_left(keys, first + 1_000)]
    sums = list(accumulate(map(flow.__getitem__, keys)))
    if not sums:
        return [None] * len(shares)
    return [bucket_seconds(keys[bisect_left(sums, -(-share * sums[-1] // 1))] - first) for share in shares]


def add(flow: Flow, more: Flow) -> None:
    """Add a flow to another."""
    for key, count in more.items():
        flow[key] = flow.get(key, 0) + count


def happened(flow: Flow) -> int:
    """Return how many events a flow counts."""
    return sum(flow.get(key, 0) for key in range(WAITING))


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


State: TypeAlias = tuple[str, bool, bool, str]
"""Of a task: status, held, deleted, server."""


class Move(NamedTuple):
    """An event as far as the figures tell events apart. Many events are the same move."""

    owner: str
    minute: int
    task_type: str
    pool: str
    kind: type[TaskEvent]
    is_special: bool
    """A first attempt, or a retry by hand."""
    before: State | None
    after: State


class Pending(Struct):
    """What was observed and is not in the tables, each in the order in which it first came."""

    moves: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """Number of events by their `Move`."""
    times: dict[tuple[str, int, str, str, str, int], int] = field(default_factory=dict)
    """Number of times by owner, minute, type, pool, server and key of a flow."""
    failures: dict[FlowPlace, Failures] = field(default_factory=dict)
    shapes: dict[tuple[str, str], Shape] = field(default_factory=dict)
    """By owner and fingerprint."""
    owners: dict[str, str] = field(default_factory=dict)
    """Subjects by token."""


COUNTED: Mapping[type[Event], tuple[int, ...]] = {
    events.TaskSubmitted: (SUBMITTED,),
    events.TaskHeld: (),
    events.TaskQueued: (),
    events.AttemptStarted: (ATTEMPTS,),
    events.AttemptAccepted: (),
    events.ProgressReported: (),
    events.AttemptFailed: (ATTEMPTS_FAILED,),
    events.AttemptReturned: (RETURNED,),
    events.TaskSucceeded: (FINISHED,),
    events.TaskFailed: (FAILED,),
    events.TaskCancelled: (CANCELLED,),
    events.CancelReported: (),
    events.TaskDeleted: (),
}
"""Keys of a flow that an event adds one to."""
SPECIAL: Mapping[type[Event], int] = {
    events.AttemptStarted: STARTED,
    events.TaskHeld: RETRIED,
    events.TaskQueued: RETRIED,
}
"""The key of a special move as well."""
_QUIET = frozenset({events.ProgressReported, events.AttemptAccepted, events.CancelReported})
_RENEWING = (events.TaskHeld, events.TaskQueued)
_ENDS = frozenset({events.TaskSucceeded, events.TaskFailed, events.TaskCancelled})
_FAILURES = frozenset({events.AttemptFailed, events.TaskFailed})


class Figures:
    """An observer of the fold of tasks. `observe` and `take` belong to one thread, what `take` returns to another.

    `observe` only counts: what the events mean for the tables is worked out once for all that are the same move.
    """

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._pending = Pending()
        self._tokens: dict[str, str] = {}
        self._tables = Tables()

    def observe(self, before: TaskView | None, stored: Stored[TaskEvent], after: TaskView) -> None:
        """Count an event of a task; `before` and `after` are its views. Events of a task come in order, each once."""
        recorded = stored.recorded
        event = recorded.event
        kind = type(event)
        if kind in _QUIET:
            return
        owner = self._tokens.get(after.owner) or self._token(after.owner)
        at = recorded.at
        minute = (at - EPOCH) // _ONE_MINUTE
        type_, pool, server = after.task_type, after.pool, after.server_id
        is_special = False
        since: datetime | None = None
        first = RUN
        if kind is events.AttemptStarted:
            if before is None or before.started_at is None:
                is_special, since, first = True, after.created_at, WAIT
        elif kind in _ENDS:
            since = None if before is None else before.attempt_started_at
        elif isinstance(event, _RENEWING):
            is_special = event.renewed
        was = None if before is None else (before.status, before.held, before.deleted, before.server_id)
        now = (after.status, after.held, after.deleted, server)
        move = (owner, minute, type_, pool, kind, is_special, was, now)  # a Move; making one costs a third more
        moves = self._pending.moves
        moves[move] = moves.get(move, 0) + 1
        if since is not None:
            times = self._pending.times
            time = (owner, minute, type_, pool, server, first + bucket_of((at - since) // _MICROSECOND))
            times[time] = times.get(time, 0) + 1
        if kind in _FAILURES:
            self._fail(owner, minute, after, at, is_final=kind is events.TaskFailed)

    def take(self) -> Callable[[sqlite3.Connection, object], None]:
        """Return a function that adds all that was observed since the last call to the tables, within a transaction.

        If the transaction fails, this object must be replaced by a new one. The second argument is ignored.
        """
        pending, self._pending = self._pending, Pending()
        self._tokens = {}  # so the owners of all that is stored are in `pending`: an owner's row may have been deleted
        now = self._now()
        return lambda connection, _: self._tables.store(connection, pending, now)

    def _token(self, subject: str) -> str:
        found = self._tokens[subject] = owner_token(subject)
        self._pending.owners[found] = subject
        return found

    def _fail(self, owner: str, minute: int, view: TaskView, instant: datetime, *, is_final: bool) -> None:
        kind = view.failure or ""
        at = (instant - EPOCH) // _MICROSECOND
        text, shape = shape_and_fingerprint(kind, view.error)
        place = (owner, minute, shape, view.task_type, view.server_id)
        failures = Failures(1, int(is_final), at, at)
        if (found := self._pending.failures.get(place)) is not None:
            add_failures(found, failures)
        else:
            self._pending.failures[place] = failures
        shapes = self._pending.shapes
        known = shapes.get((owner, shape))
        first, last = (at, at) if known is None else (min(known.first, at), max(known.last, at))
        example = view.created_sequence, view.error[:LONGEST_EXAMPLE]
        if known is not None and known.example_sequence > view.created_sequence:
            example = known.example_sequence, known.example_text
        shapes[owner, shape] = Shape(kind, text[:LONGEST_SHAPE], first, last, *example)


def changes_of(pending: Pending) -> tuple[dict[Counted, list[int]], dict[FlowPlace, Flow]]:
    """Return how the numbers of tasks change, and what happened, each in the order of the events."""
    counts: dict[Counted, list[int]] = {}
    flows: dict[FlowPlace, Flow] = {}
    for fields, number in pending.moves.items():
        owner, minute, type_, pool, kind, is_special, before, after = fields  # a Move
        if before != after:
            if before is not None:
                _change(counts, (owner, type_, pool, before[3]), before, -number)
            _change(counts, (owner, type_, pool, after[3]), after, number)
        counters = COUNTED[kind]
        is_moved = before is None or before[0] != after[0] or before[3] != after[3]
        if is_moved and before is not None and (level := _LEVEL.get(before[0])) is not None:
            flow = flows.setdefault((owner, minute, type_, pool, before[3]), {})
            flow[level] = flow.get(level, 0) - number
        if counters or is_special or is_moved:
            flow = flows.setdefault((owner, minute, type_, pool, after[3]), {})
            for counter in counters:
                flow[counter] = flow.get(counter, 0) + number
            if is_special:
                flow[SPECIAL[kind]] = flow.get(SPECIAL[kind], 0) + number
            if is_moved and (level := _LEVEL.get(after[0])) is not None:
                flow[level] = flow.get(level, 0) + number
    for (owner, minute, type_, pool, server, bucket), number in pending.times.items():
        flow = flows[owner, minute, type_, pool, server]  # of the event that the time ends with
        flow[bucket] = flow.get(bucket, 0) + number
    return counts, flows


def _change(counts: dict[Counted, list[int]], key: Counted, state: State, number: int) -> None:
    slots = counts.get(key)
    if slots is None:
        slots = counts[key] = [0] * len(SLOTS)
    status, held, deleted, _ = state
    slots[_SLOT[status] + (_DELETED if deleted else 0)] += number
    if held:
        slots[_HELD] += number


# The tables


RowPlace: TypeAlias = tuple[Unit, int, str]
"""Minutes or hours, the number of one since the epoch, and the owner."""


class Tables:
    """The tables as their one writer sees them."""

    def __init__(self) -> None:
        self._rows: dict[RowPlace, Row] = {}
        self._weight = 0
        """Number of flows and failures in these."""
        """What was written last, to add to."""
        self._shapes: dict[str, set[str]] = {}
        """Fingerprints by owner, likewise."""
        self._pruned = 0

    def store(self, connection: sqlite3.Connection, pending: Pending, now: datetime) -> None:
        """Add what was observed, and delete figures that are too old. Raises sqlite3.Error."""
        connection.executemany("INSERT OR IGNORE INTO owners VALUES (?, ?)", pending.owners.items())
        counts, flows = changes_of(pending)
        store_counts(connection, counts)
        if self._weight > MOST_CACHED:
            self._forget_rows()
        if len(self._shapes) > MOST_SHAPES_CACHED:
            self._shapes.clear()
        minute = (now - EPOCH) // _ONE_MINUTE
        oldest = minute - MINUTES_KEPT // _ONE_MINUTE
        changed = self._add_flows(connection, flows, oldest)
        changed.update(self._add_failures(connection, pending, oldest))
        connection.executemany(STORE_FIGURES, [(*place, *_packed(row)) for place, row in changed.items()])
        activity = [
            (owner, start, happened(row.total))
            for (unit, start, owner), row in changed.items()
            if unit == HOUR and owner != ALL
        ]
        connection.executemany(STORE_ACTIVITY, activity)
        self._store_shapes(connection, pending)
        if minute != self._pruned:
            self._prune(connection, oldest)
            self._pruned = minute
            self._forget_rows()

    def _forget_rows(self) -> None:
        self._rows.clear()
        self._weight = 0

    def _add_flows(
        self, connection: sqlite3.Connection, flows: Mapping[FlowPlace, Flow], oldest: int
    ) -> dict[RowPlace, Row]:
        changed: dict[RowPlace, Row] = {}
        everybody: dict[tuple[int, Key], Flow] = {}
        for (owner, minute, type_, pool, server), flow in flows.items():
            key: Key = (type_, pool, server)
            if minute >= oldest:
                self._add_flow(self._changed(connection, changed, (MINUTE, minute, owner)), key, flow, MOST_KEYS)
            row = self._changed(connection, changed, (HOUR, minute // 60, owner))
            key = self._add_flow(row, key, flow, MOST_KEYS)
            add(row.total, flow)
            shared = everybody.get((minute, key))
            if shared is None:
                everybody[minute, key] = flow.copy()
            else:
                add(shared, flow)
        for (minute, key), flow in everybody.items():
            for unit, start in _units(minute, oldest):
                row = self._changed(connection, changed, (unit, start, ALL))
                for part, value in zip(row.parts, self._add_flow(row, key, flow, MOST_KEYS_OF_ALL), strict=True):
                    if (found := part.get(value)) is None:
                        part[value] = flow.copy()
                    else:
                        add(found, flow)
                add(row.total, flow)
        return changed

    def _changed(self, connection: sqlite3.Connection, changed: dict[RowPlace, Row], place: RowPlace) -> Row:
        row = changed.get(place)
        if row is None:
            row = changed[place] = self._row(connection, place)
        return row

    def _add_flow(self, row: Row, key: Key, flow: Flow, most: int) -> Key:
        """Add a flow to a row. Return the key that it has there."""
        found = row.flows.get(key)
        if found is None:
            if len(row.flows) >= most and (found := row.flows.get(key := OTHER_KEY)) is not None:
                add(found, flow)
                return key
            row.flows[key] = flow.copy()
            self._weight += 1
        else:
            add(found, flow)
        return key

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
                "SELECT total, flows, failures, parts FROM figures WHERE unit = ? AND start = ? AND owner = ?", place
            ).fetchone()
            row = self._rows[place] = unpacked(*found) if found else Row({}, {}, {})
            self._weight += 1 + len(row.flows) + len(row.failures)
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
        """Store the shapes that owners have; what everybody has comes from these alone."""
        rows = [
            (who, shape, *astuple(found))
            for (owner, shape), found in pending.shapes.items()
            if shape in self._shapes.get(owner, ())
            for who in (owner, ALL)
            if shape in self._shapes.get(who, ())
        ]
        connection.executemany(STORE_SHAPE, rows)

    def _prune(self, connection: sqlite3.Connection, oldest_minute: int) -> None:
        """Delete minutes before the oldest one, and hours, shapes and owners that are older than all tasks."""
        connection.execute("DELETE FROM figures WHERE unit = ? AND start < ?", (MINUTE, oldest_minute))
        oldest = oldest_minute * _MINUTE
        found = connection.execute("SELECT created_at FROM tasks ORDER BY created_sequence LIMIT 1").fetchone()
        oldest = max(min(oldest, found[0]) if found else oldest, oldest - HOURS_KEPT // _MICROSECOND)
        older = (HOUR, oldest // (60 * _MINUTE))
        gone = connection.execute("SELECT owner, start FROM figures WHERE unit = ? AND start < ?", older).fetchall()
        connection.executemany("DELETE FROM activity WHERE owner = ? AND hour = ?", gone)
        if connection.execute("DELETE FROM figures WHERE unit = ? AND start < ?", older).rowcount:
            connection.execute(DELETE_OWNERS)
        if connection.execute("DELETE FROM shapes WHERE last < ?", (oldest,)).rowcount:
            self._shapes.clear()


def _units(minute: int, oldest: int) -> Iterable[tuple[Unit, int]]:
    """Return the rows that a minute is in: that of its hour alone if the minute is before the oldest that is kept."""
    hour = (HOUR, minute // 60)
    return (hour,) if minute < oldest else ((MINUTE, minute), hour)


def store_counts(connection: sqlite3.Connection, counts: dict[Counted, list[int]]) -> None:
    """Add to the numbers of tasks now, by owner, type, pool and server. Raises sqlite3.Error."""
    added = {key: changes for key, changes in counts.items() if any(changes)}
    everybody: dict[Key, list[int]] = {}
    sums: dict[tuple[str, str], list[int]] = {}
    for (owner, *key), changes in added.items():
        _add_slots(sums, ("owner", owner), changes)
        _add_slots(everybody, (key[0], key[1], key[2]), changes)
    for (type_, pool, server), changes in everybody.items():
        for place in (("all", ""), ("type", type_), ("pool", pool), ("server", server)):
            _add_slots(sums, place, changes)
    summed = {place: changes for place, changes in sums.items() if any(changes)}
    added |= {(ALL, *key): changes for key, changes in everybody.items() if any(changes)}
    connection.executemany(ADD_COUNTS, [(*key, *changes) for key, changes in added.items()])
    connection.executemany(ADD_SUMS, [(*place, *changes) for place, changes in summed.items()])
    # A number of tasks can become zero only where it falls.
    connection.executemany(DELETE_COUNTS, [key for key, changes in added.items() if _tasks(changes) < 0])
    connection.executemany(DELETE_SUMS, [place for place, changes in summed.items() if _tasks(changes) < 0])


def _add_slots(sums: dict[K, list[int]], place: K, changes: list[int]) -> None:
    found = sums.get(place)
    sums[place] = changes if found is None else list(map(operator.add, found, changes))


def _tasks(slots: list[int]) -> int:
    return sum(slots) - slots[_HELD]


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


def _packed(row: Row) -> tuple[bytes, bytes | None, bytes | None, bytes]:
    return (
        _pack(row.total) if row.total else b"",
        _pack(row.parts) if row.parts[0] else None,
        _pack(row.failures) if row.failures else None,
        _pack(row.flows),
    )


def unpacked(total: bytes, flows: bytes, failures: bytes | None, parts: bytes | None) -> Row:
    """Return a row from the columns of `figures`. Raises msgspec.MsgspecError."""
    return Row(
        unpack_flow(total) if total else {},
        unpack_flows(flows),
        unpack_failures(failures) if failures else {},
        _unpack_parts(parts) if parts else ({}, {}, {}),
    )
