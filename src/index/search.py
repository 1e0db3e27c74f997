"""Pages and counts of tasks, found in the index.

Of the ways to the tasks of a query, the one is chosen that leaves the fewest tasks to look at. A source whose index has
the order of the page is read piece by piece until the page is full; another one is read whole and sorted, so it must be
short. Several sources are read one after another, no further than a page each, and merged.

The tasks that one page looks at are bounded: a page that matches few of many tasks ends early, with a cursor. A count
by status, type, pool, server and owner alone looks at no task: the figures have it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from .facts import HOLDS
from .plan import EVERYTHING, MOST_SOURCES, UNBOUNDED, Condition, Impossible, QueryPlan, Source, Way, ends
from .query import Key, Sort, TaskQuery
from .schema import FAILURE_KINDS, SLOTS, STATUSES

PROBED = 2_000
"""Tasks up to which a source is counted before a way is chosen. A source with fewer may be read whole and sorted."""
EXAMINED = 20_000
"""Tasks that one page looks at. A source whose tasks are stored side by side may be read whole if it has fewer."""
EXAMINED_BY_DURATION = 8_000
"""Likewise in the order of durations, where each task is on another page of the file; up to so many are sorted."""
COUNTED = 10_000
"""Highest number that is counted."""
EXAMINED_TO_COUNT = 100_000
"""Tasks that one request for counts looks at."""
COUNTED_AT_ONCE = 20_000
"""Tasks of a source that are looked at before the count is compared with its bounds."""
MOST_GROUPS = 200
"""Values of a column that are counted."""
UNKNOWN_LENGTH = 10
"""How many times as long as PROBED a source is taken to be whose tasks are not in the order of submission."""


class FoundPage(NamedTuple):
    keys: list[Key]
    """In the order of the list."""
    cursor: Key | None
    """The next page begins after it; None after the last page."""


class Count(NamedTuple):
    number: int
    capped: bool
    """True: there may be more."""


class FirstLook(NamedTuple):
    """A first look at a source."""

    number: int
    """As many as were to be counted, or fewer."""
    furthest: int
    """Sequence of the last task counted."""


class _Order:
    """The order of a list, in SQL."""

    def __init__(self, sort: Sort, *, descending: bool) -> None:
        self.sort: Sort = sort
        self.descending = descending
        self._value = {"created": None, "ended": "t.ended_at", "duration": "t.duration"}[sort]

    def columns(self, source: Source) -> str:
        return source.sequence if self._value is None else f"{self._value}, {source.sequence}"

    def order_by(self, source: Source) -> str:
        direction = "DESC" if self.descending else "ASC"
        columns = [source.sequence] if self._value is None else [self._value, source.sequence]
        return ", ".join(f"{column} {direction}" for column in columns)

    def after(self, source: Source, key: Key | None, *, inclusive: bool = False) -> Condition:
        """Return the condition on what comes after a place."""
        return self._beside(source, key, "<" if self.descending else ">", inclusive=inclusive)

    def up_to(self, source: Source, key: Key | None) -> Condition:
        """Return the condition on a place and what comes before it."""
        return self._beside(source, key, ">" if self.descending else "<", inclusive=True)

    def _beside(self, source: Source, key: Key | None, sign: str, *, inclusive: bool) -> Condition:
        if key is None:
            return Condition("1")
        last = f"{source.sequence} {sign}{'=' if inclusive else ''} ?"
        if self._value is None:
            return Condition(last, key)
        return Condition(f"{self._value} {sign}= ? AND ({self._value} {sign} ? OR {last})", (key[0], key[0], key[1]))

    def sorted(self, keys: Iterable[Key]) -> list[Key]:
        return sorted(keys, reverse=self.descending)

    def first(self, keys: Iterable[Key]) -> Key:
        return max(keys) if self.descending else min(keys)

    def is_up_to(self, key: Key, edge: Key) -> bool:
        return key >= edge if self.descending else key <= edge


def find_page(connection: sqlite3.Connection, query: TaskQuery, limit: int, after: Key | None) -> FoundPage:
    """Return up to `limit` tasks after a place; fewer, with a cursor, if it has looked at EXAMINED tasks."""
    try:
        plan = QueryPlan(connection, query)
    except Impossible:
        return FoundPage([], None)
    return _Search(connection, plan, query).page(limit, after)


def count(connection: sqlite3.Connection, query: TaskQuery, most: int = COUNTED) -> Count:
    """Return how many tasks match, `most` at most."""
    tallied = _tallied(connection, query, "status")
    if tallied is not None:
        number = sum(tallied.values())
        return Count(min(number, most), capped=number > most)
    return _counted(connection, query, most, EXAMINED_TO_COUNT)[0]


def _counted(connection: sqlite3.Connection, query: TaskQuery, most: int, budget: int) -> tuple[Count, int]:
    """Return a count, and how many tasks may still be looked at of `budget`."""
    try:
        plan = QueryPlan(connection, query)
    except Impossible:
        return Count(0, capped=False), budget
    return _Search(connection, plan, query).count(most, budget)


class _Search:
    def __init__(self, connection: sqlite3.Connection, plan: QueryPlan, query: TaskQuery) -> None:
        self._connection = connection
        self._plan = plan
        self._few = False
        """The way chosen last is short."""
        self._order = _Order(query.sort, descending=query.descending)
        self._conditions = " AND ".join(sql for sql, _ in plan.conditions) or "1"
        self._parameters = tuple(value for _, parameters in plan.conditions for value in parameters)

    def page(self, limit: int, after: Key | None) -> FoundPage:
        after = self._within_reach(after)
        way = self._chosen(after)
        wanted = limit + 1
        found: set[Key] = set()
        edges: list[Key] = []
        most = EXAMINED_BY_DURATION if self._order.sort == "duration" else EXAMINED
        for source in way:
            keys, edge = self._read(source, wanted, after, max(most // len(way), PROBED))
            found.update(keys)
            if edge is not None:
                edges.append(edge)
        edge = self._order.first(edges) if edges else None
        keys = self._order.sorted(key for key in found if edge is None or self._order.is_up_to(key, edge))
        if len(keys) > limit:
            return FoundPage(keys[:limit], keys[limit - 1])
        return FoundPage(keys, edge)

    def count(self, most: int, budget: int) -> tuple[Count, int]:
        """Return how many tasks match, and how many may still be looked at of `budget`."""
        total = 0
        for source in self._chosen(None, to_count=True):
            order = None if source.order is None else _Order(source.order, descending=True)
            edge: Key | None = None
            while True:
                size, upper = min(budget, COUNTED_AT_ONCE), edge
                if order is not None:
                    edge = self._edge(source, order, upper, size)
                rows = self._rows("1", source, order or self._order, upper, edge)
                sql = f"SELECT count(*) FROM ({rows.sql} LIMIT ?)"
                [(number,)] = self._connection.execute(sql, (*rows.parameters, most + 1 - total))
                total += number
                budget = max(budget - size, 1) if edge is not None else budget
                if total > most or (edge is not None and budget == 1):
                    return Count(min(total, most), capped=True), budget
                if edge is None:
                    break
        return Count(total, capped=False), budget

    def short_way(self) -> Way | None:
        """Return the way to count by, if it has few tasks; None: it may have many."""
        way = self._chosen(None, to_count=True)
        return way if self._few else None

    def grouped(self, way: Way, column: str) -> dict[int, int]:
        """Return how many tasks of a way match, by the value of a column."""
        counts: Counter[int] = Counter()
        for source in way:
            rows = self._rows(f"t.{column} AS value", source, self._order, None, None)
            sql = f"SELECT value, count(*) FROM ({rows.sql}) WHERE value IS NOT NULL GROUP BY value"
            counts.update(dict(self._connection.execute(sql, rows.parameters).fetchall()))
        return counts

    def _chosen(self, after: Key | None, *, to_count: bool = False) -> Way:
        """Return the way that leaves the fewest tasks to look at."""
        self._few = False
        best: Way = [EVERYTHING[self._order.sort]]
        lowest = float("inf")
        ways = [way for way in self._plan.ways if len(way) <= MOST_SOURCES]
        top = after[0] if after is not None and self._order.sort == "created" else None
        for way in ways:
            is_usable, is_few, expected, scattered = True, True, 0.0, 0
            for source in way:
                most = self._most_probed(source)
                probe = self._probe(source, after, most)
                is_short = probe.number < most
                is_few = is_few and is_short
                if source.order != self._order.sort and not to_count:
                    is_usable = is_usable and is_short
                    scattered += 0 if source.is_dense else probe.number
                expected += probe.number if is_short else self._estimate(source, probe, top)
            if is_usable and scattered <= EXAMINED_BY_DURATION and expected < lowest:
                best, lowest, self._few = way, expected, is_few
        return best

    def _estimate(self, source: Source, probe: FirstLook, top: int | None) -> float:
        """Return about how many tasks a long source has: as dense as its first ones."""
        low, high = ends(self._connection)
        if source.order != "created" or low is None or high is None:
            return probe.number * UNKNOWN_LENGTH
        if self._order.descending:
            searched, rest = (top or high) - probe.furthest, probe.furthest - max(low, self._plan.lowest)
        else:
            searched, rest = probe.furthest - (top or low), min(high, self._plan.highest) - probe.furthest
        return probe.number * (1 + max(rest, 0) / max(searched, 1))

    def _most_probed(self, source: Source) -> int:
        """Return the number of tasks below which a source may be read whole."""
        if source.order == self._order.sort:
            return PROBED
        if source.is_dense:
            return EXAMINED
        return EXAMINED_BY_DURATION if self._order.sort == "duration" else PROBED

    def _probe(self, source: Source, after: Key | None, most: int) -> FirstLook:
        """Count the tasks of a source, up to a number, in the order of submissions if it has that order."""
        by_sequence = _Order("created", descending=self._order.descending)
        start = after if self._order.sort == "created" else None
        bounds = self._range(source, by_sequence, start, None)
        where = " AND ".join([source.where, *(bound.sql for bound in bounds)])
        parameters = (*source.parameters, *(value for bound in bounds for value in bound.parameters))
        order = f"ORDER BY {by_sequence.order_by(source)}" if source.order == "created" else ""
        furthest = "min" if self._order.descending else "max"
        [(number, last)] = self._connection.execute(
            f"SELECT count(*), {furthest}(k) FROM"
            f" (SELECT {source.sequence} AS k FROM {source.tables} WHERE {where} {order} LIMIT {most})",
            parameters,
        )
        return FirstLook(number, last or 0)

    def _read(self, source: Source, wanted: int, after: Key | None, budget: int) -> tuple[list[Key], Key | None]:
        """Return up to `wanted` keys of a source after a place, and up to where it was read; None: to its end."""
        order = self._order
        if source.order != order.sort:
            keys = self._keys(source, after, None, wanted)
            return keys, keys[-1] if len(keys) == wanted else None
        keys = []
        examined, size = 0, PROBED
        while True:
            edge = self._edge(source, order, after, size)
            keys += self._keys(source, after, edge, wanted - len(keys))
            if len(keys) == wanted:
                return keys, keys[-1]
            examined += size
            if edge is None or examined >= budget:
                return keys, edge
            after, size = edge, min(4 * size, budget - examined)

    def _keys(self, source: Source, after: Key | None, edge: Key | None, limit: int) -> list[Key]:
        rows = self._rows(self._order.columns(source), source, self._order, after, edge)
        sql = f"{rows.sql} ORDER BY {self._order.order_by(source)} LIMIT ?"
        return self._connection.execute(sql, (*rows.parameters, limit)).fetchall()

    def _rows(self, columns: str, source: Source, order: _Order, after: Key | None, edge: Key | None) -> Condition:
        """Return the query of the matching tasks of a source after a place, up to an edge."""
        bounds = self._range(source, order, after, edge)
        where = " AND ".join([source.where, *(bound.sql for bound in bounds), self._conditions])
        parameters = (*source.parameters, *(value for bound in bounds for value in bound.parameters), *self._parameters)
        return Condition(f"SELECT {columns} FROM {source.tables} WHERE {where}", parameters)

    def _within_reach(self, after: Key | None) -> Key | None:
        """Return a place at or after which the page begins, no further from the first task than it must be."""
        if after is None or self._order.sort != "created":
            return after
        plan = self._plan
        return (min(after[0], plan.highest) if self._order.descending else max(after[0], plan.lowest - 1),)

    def _range(self, source: Source, order: _Order, after: Key | None, edge: Key | None) -> list[Condition]:
        """Return the conditions on the part of a source after a place, up to an edge, both within the plan's bounds.

        Of two lower or two upper bounds of the sequence, SQLite begins or ends with either, so there is one at most.
        """
        plan = self._plan
        upper, lower = (after, edge) if order.descending else (edge, after)
        by_sequence = order.sort == "created"
        found = [order.after(source, after), order.up_to(source, edge)]
        if plan.lowest and not (by_sequence and lower):
            found.append(Condition(f"{source.sequence} >= ?", (plan.lowest,)))
        if plan.highest < UNBOUNDED and not (by_sequence and upper):
            found.append(Condition(f"{source.sequence} < ?", (plan.highest,)))
        return found

    def _edge(self, source: Source, order: _Order, after: Key | None, size: int) -> Key | None:
        """Return the place of the `size`th task of a source after a place, matching or not; None: it has fewer."""
        bounds = [order.after(source, after)]
        if order.sort == "created":
            bounds = self._range(source, order, after, None)
        where = " AND ".join([source.where, *(bound.sql for bound in bounds)])
        parameters = (*source.parameters, *(value for bound in bounds for value in bound.parameters))
        found: Key | None = self._connection.execute(
            f"SELECT {order.columns(source)} FROM {source.tables} WHERE {where}"
            f" ORDER BY {order.order_by(source)} LIMIT 1 OFFSET ?",
            (*parameters, size - 1),
        ).fetchone()
        return found


# Counts by the values of a column

By: TypeAlias = Literal["status", "type", "pool", "server", "owner", "kind", "hold"]


class Groups(NamedTuple):
    counts: dict[str, Count]
    """By value; without values that no task has."""
    more: bool
    """True: there are more values than MOST_GROUPS."""


class _Dimension(NamedTuple):
    column: str
    field: str
    """Of TaskQuery."""
    values: tuple[str, ...] = ()
    """All there are, by their numbers; empty: `names` has them."""


_DIMENSIONS: dict[By, _Dimension] = {
    "status": _Dimension("status", "statuses", STATUSES),
    "kind": _Dimension("failure", "failures", FAILURE_KINDS),
    "hold": _Dimension("hold", "holds", HOLDS),
    "type": _Dimension("type", "types"),
    "pool": _Dimension("pool", "pools"),
    "server": _Dimension("server", "servers"),
    "owner": _Dimension("owner", "owner"),
}


def count_by(connection: sqlite3.Connection, query: TaskQuery, by: By, most: int = COUNTED) -> Groups:
    """Return how many tasks match for each value of a column, `most` at most of each."""
    dimension = _DIMENSIONS[by]
    tallied = _tallied(connection, query, by)
    if tallied is not None:
        return _largest({text: Count(min(n, most), capped=n > most) for text, n in tallied.items()}, tallied)
    try:
        search = _Search(connection, QueryPlan(connection, query), query)
    except Impossible:
        return Groups({}, more=False)
    way = search.short_way()
    if way is not None:
        grouped = search.grouped(way, dimension.column)
        found = {_text(connection, dimension, number): Count(count, capped=False) for number, count in grouped.items()}
        return _largest(found, {text: count.number for text, count in found.items()})
    counts: dict[str, Count] = {}
    budget = EXAMINED_TO_COUNT
    values, more = _values(connection, query, by)
    for text in values:
        of_one = replace(query, **{dimension.field: text if by == "owner" else frozenset({text})})
        number, budget = _counted(connection, of_one, most, budget)
        if number.number or number.capped:
            counts[text] = number
    return Groups(counts, more)


def _largest(counts: dict[str, Count], numbers: dict[str, int]) -> Groups:
    """Return the groups with the most tasks first, without tasks that have no value."""
    shown = sorted((text for text in counts if text), key=lambda text: (-numbers[text], text))
    return Groups({text: counts[text] for text in shown[:MOST_GROUPS]}, more=len(shown) > MOST_GROUPS)


def _tallied(connection: sqlite3.Connection, query: TaskQuery, by: By) -> dict[str, int] | None:
    """Return how many tasks match for each value of a column, as the figures have it; None if these cannot tell."""
    rest = replace(
        query, owner=None, statuses=_ANY, types=_ANY, pools=_ANY, servers=_ANY, deleted=False, descending=True
    )
    if rest != TaskQuery() or by not in ("status", "type", "pool", "server", "owner"):
        return None
    slots = {status: [status.lower()] for status in STATUSES if not query.statuses or status in query.statuses}
    for status in slots.keys() & _ENDS if query.deleted else ():
        slots[status].append(f"deleted_{status.lower()}")
    conditions, parameters = ["owner <> ''"], []
    if query.owner is not None or by != "owner":
        conditions, parameters = ["owner = ?"], [query.owner or ""]
    for column, values in (("type", query.types), ("pool", query.pools), ("server", query.servers)):
        if values:
            conditions.append(f"{column} IN ({', '.join('?' * len(values))})")
            parameters += sorted(values)
    where = " AND ".join(conditions)
    if by == "status":
        sums = ", ".join(f"sum({' + '.join(columns)})" for columns in slots.values())
        row = connection.execute(f"SELECT {sums} FROM counts WHERE {where}", parameters).fetchone()
        return {status: number for status, number in zip(slots, row, strict=True) if number}
    total = " + ".join(column for columns in slots.values() for column in columns)
    sql = f"SELECT {by}, sum({total}) AS number FROM counts WHERE {where} GROUP BY {by} HAVING number > 0"
    return dict(connection.execute(sql, parameters).fetchall())


_ANY: frozenset[Any] = frozenset()
_ENDS = frozenset({"FINISHED", "FAILED", "CANCELLED"})


def _values(connection: sqlite3.Connection, query: TaskQuery, by: By) -> tuple[list[str], bool]:
    """Return the values of a column that may match, and whether there are more.

    They are those with the most tasks, of the owner alone if the query names one: others' values are none of a user's.
    """
    dimension = _DIMENSIONS[by]
    chosen = getattr(query, dimension.field)
    if chosen:
        return [chosen] if isinstance(chosen, str) else sorted(chosen), False
    if dimension.values:
        return [text for text in dimension.values if text], False
    if query.owner is None:
        sql = f"SELECT value FROM sums WHERE dimension = ? AND value <> '' ORDER BY {_TASKS} DESC, value LIMIT ?"
    else:
        sql = (
            f"SELECT {by} FROM counts WHERE owner = ? AND {by} <> '' GROUP BY {by}"
            f" ORDER BY sum({_TASKS}) DESC, {by} LIMIT ?"
        )
    found = [text for (text,) in connection.execute(sql, (query.owner or by, MOST_GROUPS + 1))]
    return found[:MOST_GROUPS], len(found) > MOST_GROUPS


_TASKS = " + ".join(slot for slot in SLOTS if slot != "held")


def _text(connection: sqlite3.Connection, dimension: _Dimension, number: int) -> str:
    if dimension.values:
        return dimension.values[number]
    found = connection.execute("SELECT text FROM names WHERE id = ?", (number,)).fetchone()
    return str(found[0]) if found is not None else ""
