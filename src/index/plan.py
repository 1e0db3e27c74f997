"""A query as SQL: the conditions on a task, and the ways through the indexes that lead to the tasks.

Each *source* is a range of one index. A *way* is the sources of all values of one condition, so it leads to all tasks
that match; the other conditions are then checked task by task.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from ..events.task import PRIORITIES
from ..instants import microseconds
from .facts import HOLDS, searchable
from .query import ANY_TIME, MICROSECOND, Sort, Span, TaskQuery
from .schema import FAILURE_KINDS, STATUSES

CLOCK_TOLERANCE = timedelta(seconds=5)
"""Largest difference between the clocks that date submissions, so between the order of instants and of sequences."""
MOST_SOURCES = 24
"""Sources of a way. A condition with more values is checked task by task."""
UNBOUNDED = 2**62
"""More than any sequence."""
UNICODE_END = "\U0010ffff"


class Condition(NamedTuple):
    """A condition on `t`, a row of `tasks`. The `+` before a column keeps SQLite from choosing its index."""

    sql: str
    parameters: tuple[object, ...] = ()


class Source(NamedTuple):
    """A range of an index."""

    tables: str
    """With the index to use; `t` is `tasks`."""
    where: str
    parameters: tuple[object, ...] = ()
    order: Sort | None = None
    """The order of its tasks; None: none that a list has."""
    sequence: str = "t.created_sequence"
    is_dense: bool = False
    """Its tasks are stored side by side, as they were submitted or ended in one time: reading them costs a third."""


Way: TypeAlias = Sequence[Source]
"""The sources of the values of one condition. No task is in two of them."""

EVERYTHING: Mapping[Sort, Source] = {
    "created": Source("tasks t NOT INDEXED", "1", (), "created"),
    "ended": Source("tasks t INDEXED BY task_ended", "t.ended_at IS NOT NULL", (), "ended"),
    "duration": Source("tasks t INDEXED BY task_duration", "t.duration IS NOT NULL", (), "duration"),
}


class Impossible(Exception):
    """No task matches: a name in the query is not in the index."""


class QueryPlan:
    """A query as conditions and ways, for one state of the index."""

    def __init__(self, connection: sqlite3.Connection, query: TaskQuery) -> None:
        """Raises Impossible."""
        self._connection = connection
        self._query = query
        self.conditions: list[Condition] = []
        self.ways: list[Way] = []
        self.lowest, self.highest = self._sequences()
        self._build()

    def _build(self) -> None:
        query = self._query
        owner = None if query.owner is None else self._name(query.owner)
        if owner is not None:
            self._is("owner", [owner])
        self._failed(owner)
        if owner is not None:
            if query.sort == "ended" and query.ended == ANY_TIME:
                where = "t.owner = ? AND t.ended_at IS NOT NULL"
                self.ways.append([Source("tasks t INDEXED BY task_owner_ended", where, (owner,), "ended")])
            elif query.sort != "ended":
                self.ways.append([_equal("task_owner", "owner", owner)])
        self._statuses(owner)
        for column, texts in (("type", query.types), ("pool", query.pools), ("server", query.servers)):
            if texts:
                names = self._names(texts)
                self._is(column, names)
                self.ways.append([_equal(f"task_{column}", column, name) for name in names])
        self._places(owner)
        for column, text in (("batch", query.batch), ("schedule", query.schedule)):
            if text:
                self.conditions.append(Condition(f"+t.{column} = ?", (text,)))
                self.ways.append([_equal(f"task_{column}", column, text)])
        for index, column, text in (
            ("task_project", "project", query.project),
            ("task_key", "concurrency_key", query.concurrency_key),
        ):
            if text:
                self.conditions.append(Condition(f"+t.{column} = ?", (text,)))
                self.ways.append([_of_owner(index, column, text, owner)])
        if query.in_project:
            self.conditions.append(Condition("+t.project IS NOT NULL"))
        for attribute in sorted(query.attributes):
            has_it = "SELECT 1 FROM attributes x WHERE x.attribute = ? AND x.created_sequence = t.created_sequence"
            self.conditions.append(Condition(f"EXISTS ({has_it})", (attribute,)))
            self.ways.append([_with_attribute(attribute)])
        if query.shape:
            name = self._name(query.shape)
            self._is("shape", [name])
            self.ways.append([_equal("task_shape", "shape", name)])
        self._errors()
        self._attempts()
        self._id(owner)
        self._times(owner)
        if not query.deleted:
            self.conditions.append(Condition("+t.deleted = 0"))
        if query.sort != "created":
            column = "ended_at" if query.sort == "ended" else "duration"
            self.conditions.append(Condition(f"+t.{column} IS NOT NULL"))

    def _failed(self, owner: int | None) -> None:
        """Add the way to failed tasks in the order of their ends, which is that of dead letters."""
        query = self._query
        if query.sort != "ended" or query.statuses != frozenset({"FAILED"}):
            return
        bounds = _within("t.ended_at", query.ended)
        of_owner = [] if owner is None else [Condition("t.owner = ?", (owner,))]
        conditions = [Condition("t.status = 3"), *of_owner, *bounds]
        index = "task_failed" if owner is None else "task_owner_failed"
        where = " AND ".join(sql for sql, _ in conditions)
        parameters = tuple(value for _, values in conditions for value in values)
        self.ways.append([Source(f"tasks t INDEXED BY {index}", where, parameters, "ended")])

    def _statuses(self, owner: int | None) -> None:
        query = self._query
        if not query.statuses:
            return
        places = sorted(map(STATUSES.index, query.statuses))
        self._is("status", places)
        if STATUSES.index("FINISHED") not in places:
            self.ways.append([_of_status(place, owner) for place in places])

    def _places(self, owner: int | None) -> None:
        """Add the conditions on values whose places in a tuple the index has."""
        query = self._query
        if query.priorities:
            places = sorted(map(PRIORITIES.index, query.priorities))
            self._is("priority", places)
            if PRIORITIES.index("normal") not in places:
                self.ways.append([_rare("task_priority", "priority", place, "t.priority <> 1") for place in places])
        if query.failures:
            places = sorted(map(FAILURE_KINDS.index, query.failures))
            self._is("failure", places)
            self.ways.append([_equal("task_failure", "failure", place) for place in places])
        if query.holds:
            places = sorted(map(HOLDS.index, query.holds))
            self._is("hold", places)
            self.ways.append([_rare("task_hold", "hold", place, "t.hold <> 0") for place in places])
            self.ways.append([_of_status(STATUSES.index("WAITING"), owner)])

    def _errors(self) -> None:
        """Add the condition on the error, which few tasks have."""
        text = self._query.error
        if not text:
            return
        escaped = searchable(text).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        self.conditions.append(Condition("+t.error LIKE ? ESCAPE '\\'", (f"%{escaped}%",)))
        self.ways.append([Source("tasks t INDEXED BY task_error", "t.error IS NOT NULL", (), "created")])

    def _attempts(self) -> None:
        """Add the condition on the attempts; second attempts are rare."""
        least = self._query.attempts
        if not least:
            return
        self.conditions.append(Condition("+t.attempt >= ?", (least,)))
        if least > 1:
            found = []
            for number in self._distinct("attempt", "task_attempt", "t.attempt > 1", least - 1):
                found.append(_rare("task_attempt", "attempt", number, "t.attempt > 1"))
                if len(found) > MOST_SOURCES:
                    return
            self.ways.append(found)

    def _id(self, owner: int | None) -> None:
        prefix, _, of_owner = self._query.id_prefix.partition("~")
        if not self._query.id_prefix:
            return
        end = prefix + UNICODE_END
        self.conditions.append(Condition("+t.unique_token >= ? AND +t.unique_token < ?", (prefix, end)))
        if "~" in self._query.id_prefix:
            starts = "SELECT 1 FROM names n WHERE n.id = t.owner AND n.text >= ? AND n.text < ?"
            ends = of_owner + UNICODE_END
            self.conditions.append(Condition(f"+t.unique_token = ? AND EXISTS ({starts})", (prefix, of_owner, ends)))
        if owner is not None:
            where = "t.owner = ? AND t.unique_token >= ? AND t.unique_token < ?"
            self.ways.append([Source("tasks t INDEXED BY task_id", where, (owner, prefix, end))])
        else:
            where = "t.owner = o.id AND t.unique_token >= ? AND t.unique_token < ?"
            self.ways.append([Source("names o CROSS JOIN tasks t INDEXED BY task_id", where, (prefix, end))])

    def _times(self, owner: int | None) -> None:
        query = self._query
        for column, span in (
            ("created_at", query.created),
            ("started_at", query.started),
            ("ended_at", query.ended),
            ("updated_at", query.updated),
        ):
            self.conditions += [Condition(f"+{sql}", parameters) for sql, parameters in _within(f"t.{column}", span)]
        if query.ended != ANY_TIME:
            of_owner = "t.owner = ? AND " if owner is not None else ""
            bounds = _within("t.ended_at", query.ended)
            where = of_owner + " AND ".join(["t.ended_at IS NOT NULL", *(bound.sql for bound in bounds)])
            parameters = tuple(value for bound in bounds for value in bound.parameters)
            if owner is not None:
                parameters = (owner, *parameters)
            index = "task_owner_ended" if owner is not None else "task_ended"
            source = Source(f"tasks t INDEXED BY {index}", where, parameters, "ended", is_dense=owner is None)
            self.ways.append([source])
        self._created()
        if query.min_run is not None:
            assert query.now is not None
            least, latest = query.min_run // MICROSECOND, microseconds(query.now - query.min_run)
            running = STATUSES.index("PROCESSING")
            long_enough = f"(+t.duration >= ? OR (t.duration IS NULL AND +t.status = {running} AND t.started_at <= ?))"
            self.conditions.append(Condition(long_enough, (least, latest)))
            ended = Source("tasks t INDEXED BY task_duration", "t.duration >= ?", (least,), "duration")
            self.ways.append([ended] if query.sort != "created" else [ended, _of_status(running, owner)])

    def _created(self) -> None:
        """Add the ways by the time of creation to a list in another order."""
        query = self._query
        since, before = query.created
        if query.sort == "ended" and query.ended == ANY_TIME and query.owner is None and since is not None:
            bounds = _within("t.ended_at", Span(since - CLOCK_TOLERANCE))
            self.ways.append([Source("tasks t INDEXED BY task_ended", bounds[0].sql, bounds[0].parameters, "ended")])
        if since is not None and (query.sort == "duration" or (query.sort == "ended" and before is not None)):
            self.ways.append([Source("tasks t NOT INDEXED", "1", (), "created", is_dense=True)])

    def _sequences(self) -> tuple[int, int]:
        """Return the lowest sequence of a submission that may match, and the one that all are before."""
        query = self._query
        since = query.created.since
        # What started, ended or changed before an instant was submitted before it.
        times = (query.created, query.started, query.ended, query.updated)
        before = min((span.before for span in times if span.before is not None), default=None)
        lowest = 0 if since is None else self._sequence_at(since - CLOCK_TOLERANCE)
        highest = UNBOUNDED if before is None else self._sequence_at(before + CLOCK_TOLERANCE)
        return lowest, highest

    def _sequence_at(self, at: datetime) -> int:
        """Return a sequence before which all tasks were created before an instant, and after which at it or later.

        As far as clocks agree: `created_at` grows with the sequence, nearly, so a binary search finds it.
        """
        low, high = ends(self._connection)
        if low is None or high is None:
            return 0
        wanted, high = microseconds(at), high + 1
        while low < high:
            middle = (low + high) // 2
            found = self._connection.execute(
                "SELECT created_sequence, created_at FROM tasks WHERE created_sequence >= ? ORDER BY 1 LIMIT 1",
                (middle,),
            ).fetchone()
            if found is None or found[1] >= wanted:
                high = middle
            else:
                low = found[0] + 1
        return int(low)

    def _distinct(self, column: str, index: str, where: str, after: int) -> Iterator[int]:
        """Yield the values of a column above one, in order; each costs one search of the index."""
        sql = f"SELECT min(t.{column}) FROM tasks t INDEXED BY {index} WHERE {where} AND t.{column} > ?"
        while True:
            [(value,)] = self._connection.execute(sql, (after,))
            if value is None:
                return
            yield value
            after = value

    def _name(self, text: str) -> int:
        found = self._connection.execute("SELECT id FROM names WHERE text = ?", (text,)).fetchone()
        if found is None:
            raise Impossible
        return int(found[0])

    def _names(self, texts: Iterable[str]) -> list[int]:
        found: list[int] = []
        for text in texts:
            if not text:
                found.append(0)  # stands for none
            found += (row[0] for row in self._connection.execute("SELECT id FROM names WHERE text = ?", (text,)))
        if not found:
            raise Impossible
        return sorted(found)

    def _is(self, column: str, values: Sequence[int]) -> None:
        marks = ", ".join("?" * len(values))
        self.conditions.append(Condition(f"+t.{column} IN ({marks})", tuple(values)))


def ends(connection: sqlite3.Connection) -> tuple[int | None, int | None]:
    """Return the first and the last sequence of a submission. One query for both would read the whole table."""
    [(low,)] = connection.execute("SELECT min(created_sequence) FROM tasks")
    [(high,)] = connection.execute("SELECT max(created_sequence) FROM tasks")
    return low, high


def _within(column: str, span: Span) -> list[Condition]:
    found = []
    if span.since is not None:
        found.append(Condition(f"{column} >= ?", (microseconds(span.since),)))
    if span.before is not None:
        found.append(Condition(f"{column} < ?", (microseconds(span.before),)))
    return found


def _equal(index: str, column: str, value: int | str) -> Source:
    return Source(f"tasks t INDEXED BY {index}", f"t.{column} = ?", (value,), "created")


def _rare(index: str, column: str, value: int, partial: str) -> Source:
    """Return the source of a value in an index that leaves out the common one. `partial`: its condition."""
    return Source(f"tasks t INDEXED BY {index}", f"{partial} AND t.{column} = ?", (value,), "created")


def _of_status(place: int, owner: int | None) -> Source:
    if owner is None:
        return _rare("task_status", "status", place, "t.status <> 2")
    where = "t.status <> 2 AND t.owner = ? AND t.status = ?"
    return Source("tasks t INDEXED BY task_owner_status", where, (owner, place), "created")


def _of_owner(index: str, column: str, text: str, owner: int | None) -> Source:
    if owner is None:
        return Source(f"tasks t INDEXED BY {index}", f"t.{column} = ?", (text,))
    return Source(f"tasks t INDEXED BY {index}", f"t.{column} = ? AND t.owner = ?", (text, owner), "created")


def _with_attribute(attribute: str) -> Source:
    tables = "attributes a CROSS JOIN tasks t ON t.created_sequence = a.created_sequence"
    return Source(tables, "a.attribute = ?", (attribute,), "created", "a.created_sequence")
