"""Questions to the figures: how many tasks there are, what happened in a window, which errors there were.

A window is read in minutes or in hours, row by row of one owner, or of everybody. Nothing here looks at tasks, but for
the ids of the examples of errors.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct, field

from ..instants import EPOCH
from .figures import (
    ALL,
    HOUR,
    MINUTE,
    MINUTES_KEPT,
    OTHER,
    OTHER_KEY,
    RUNNING,
    WAITING,
    Failures,
    Flow,
    Key,
    Unit,
    add,
    unpack_failures,
    unpack_flow,
    unpack_flows,
)
from .schema import SLOTS
from .shapes import OTHER_SHAPE

Dimension: TypeAlias = Literal["type", "pool", "server", "owner"]
_PLACE: Mapping[Dimension, int] = {"type": 0, "pool": 1, "server": 2}
LENGTH: Mapping[Unit, timedelta] = {MINUTE: timedelta(minutes=1), HOUR: timedelta(hours=1)}
MOST_POINTS = 1_500
"""Points of a series; of several ones, all points together."""
MOST_VALUES = 100
"""Values of a dimension in the totals: those with the most tasks."""
MOST_GROUPS = 20
"""Groups of a window: those in which most happened. The others are one more, OTHER."""
MOST_OWNER_ROWS = 200_000
"""Rows that a window by owner reads, the newest ones."""
AHEAD = timedelta(hours=1)
"""How far the clocks of other processes may be ahead: figures up to there count as those of now."""


class StatisticsScope(Struct, frozen=True, kw_only=True):
    """Whose tasks, and which of them; an empty set: all."""

    owner: str | None = None
    """Owner token; None: everybody's."""
    types: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()
    deleted: bool = False
    """True: tasks that their owners deleted are counted as well, as auditors' lists have them."""

    @property
    def is_filtered(self) -> bool:
        return bool(self.types or self.pools or self.servers)

    def has(self, key: Key) -> bool:
        """Return True for a type, pool and server of the scope."""
        return (
            (not self.types or key[0] in self.types)
            and (not self.pools or key[1] in self.pools)
            and (not self.servers or key[2] in self.servers)
        )


# Totals


class Numbers(Struct, frozen=True):
    """Numbers of tasks now."""

    waiting: int = 0
    held: int = 0
    processing: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def tasks(self) -> int:
        return self.waiting + self.processing + self.finished + self.failed + self.cancelled


class Totals(Struct, frozen=True):
    numbers: Numbers
    by: Mapping[Dimension, Sequence[tuple[str, Numbers]]]
    """The values with the most tasks first, MOST_VALUES at most."""
    more: frozenset[Dimension]
    """Dimensions that have more values."""


def totals(connection: sqlite3.Connection, scope: StatisticsScope, *, by_owner: bool) -> Totals:
    """Return the numbers of tasks of a scope now."""
    dimensions: list[Dimension] = ["type", "pool", "server"]
    if by_owner:
        dimensions.append("owner")
    sums = {each: _by_value(connection, scope, each) for each in dimensions}
    numbers = _numbers(_whole(connection, scope), scope)
    shown = {each: [(value, _numbers(row, scope)) for value, *row in rows[:MOST_VALUES]] for each, rows in sums.items()}
    return Totals(numbers, shown, frozenset(each for each, rows in sums.items() if len(rows) > MOST_VALUES))


def _whole(connection: sqlite3.Connection, scope: StatisticsScope) -> Sequence[int]:
    if scope.owner is None and not scope.is_filtered:
        sql, parameters = "SELECT * FROM sums WHERE dimension = 'all'", ()
        found = connection.execute(sql, parameters).fetchone()
        return found[2:] if found else (0,) * len(SLOTS)
    where, values = _where(scope)
    found = connection.execute(f"SELECT {_SUMS} FROM counts WHERE {where}", values).fetchone()
    return [number or 0 for number in found]


def _by_value(
    connection: sqlite3.Connection, scope: StatisticsScope, dimension: Dimension, values: Sequence[str] | None = None
) -> list[tuple[str, *tuple[int, ...]]]:
    """Return the rows of some values, or of those with the most tasks: one more than MOST_VALUES."""
    counted = _COUNTED if scope.deleted else _NOT_DELETED
    among = "" if values is None else f" AND {{}} IN ({', '.join('?' * len(values))})"
    if scope.owner is None and not scope.is_filtered:
        sql = (
            f"SELECT value, {', '.join(SLOTS)} FROM sums WHERE dimension = ?{among.format('value')}"
            f" AND {counted} > 0 ORDER BY {counted} DESC, value LIMIT ?"
        )
        parameters: tuple[object, ...] = (dimension, *(values or ()), MOST_VALUES + 1)
        return connection.execute(sql, parameters).fetchall()
    where, conditions = _where(scope, of_all=dimension == "owner")
    sql = (
        f"SELECT {dimension}, {_SUMS} FROM counts WHERE {where}{among.format(dimension)} GROUP BY {dimension}"
        f" HAVING sum({counted}) > 0 ORDER BY sum({counted}) DESC, {dimension} LIMIT ?"
    )
    return connection.execute(sql, (*conditions, *(values or ()), MOST_VALUES + 1)).fetchall()


_SUMS = ", ".join(f"sum({slot})" for slot in SLOTS)
_NOT_DELETED = "(waiting + processing + finished + failed + cancelled)"
_COUNTED = f"({' + '.join(slot for slot in SLOTS if slot != 'held')})"


def _where(scope: StatisticsScope, *, of_all: bool = False) -> tuple[str, tuple[str, ...]]:
    """Return a condition on `counts`. `of_all`: on the rows of all owners, instead of those of everybody."""
    is_split = of_all and scope.owner is None
    conditions = ["owner <> ''"] if is_split else []
    parameters: list[str] = []
    owners = frozenset() if is_split else frozenset([ALL if scope.owner is None else scope.owner])
    for column, values in (
        ("owner", owners),
        ("type", scope.types),
        ("pool", scope.pools),
        ("server", scope.servers),
    ):
        if values:
            conditions.append(f"{column} IN ({', '.join('?' * len(values))})")
            parameters += sorted(values)
    return " AND ".join(conditions), tuple(parameters)


def _numbers(row: Sequence[int], scope: StatisticsScope) -> Numbers:
    slots = dict(zip(SLOTS, row, strict=True))
    ended = {
        each: slots[each] + (slots[f"deleted_{each}"] if scope.deleted else 0)
        for each in ("finished", "failed", "cancelled")
    }
    return Numbers(slots["waiting"], slots["held"], slots["processing"], **ended)


# Windows


class Window(NamedTuple):
    """A time range in steps. `start` and `end` are whole steps since the epoch."""

    start: datetime
    end: datetime
    step: timedelta
    unit: Unit

    @property
    def steps(self) -> int:
        return -((self.start - self.end) // self.step)

    @property
    def instants(self) -> list[datetime]:
        """Return the start of each step."""
        return [self.start + number * self.step for number in range(self.steps)]

    def step_of(self, row: int) -> int:
        """Return the number of the step that a minute or hour is in; it may be outside the window."""
        return (EPOCH + row * LENGTH[self.unit] - self.start) // self.step


def window_of(start: datetime, end: datetime, step: timedelta, now: datetime, *, hourly: bool = False) -> Window:
    """Return the window of whole steps that has all of a time range.

    It is read in minutes if these are kept, unless it is to be `hourly`: the minute MINUTES_KEPT before the present one
    is the first that is.
    """
    first = EPOCH + (start - EPOCH) // step * step
    last = EPOCH - (EPOCH - end) // step * step
    this_minute = now - (now - EPOCH) % LENGTH[MINUTE]
    unit = HOUR if hourly or first < this_minute - MINUTES_KEPT else MINUTE
    return Window(first, max(last, first + step), step, unit)


class Series(Struct):
    """What happened in a window."""

    whole: Flow
    steps: dict[int, Flow]
    """By number of the step; one in which nothing happened may be missing."""
    after: Flow
    """What happened after the window."""
    waiting: list[int] = field(default_factory=list)
    """Tasks that wait at the end of each step."""
    running: list[int] = field(default_factory=list)


Column: TypeAlias = Literal["total", "flows", "failures"]


class Flows(Struct):
    """What happened in a window: to all tasks of the scope, and by the values of a dimension."""

    total: Series
    groups: list[tuple[str, Series]]
    """Those in which most happened first; OTHER, if there are more, last."""
    complete: bool
    """False: a part could not be told apart, or was too much to read."""


def flows(
    connection: sqlite3.Connection, scope: StatisticsScope, window: Window, now: datetime, by: Dimension | None = None
) -> Flows:
    """Return what happened to the tasks of a scope. By owner: only for everybody's."""
    total = Series({}, {}, {})
    groups: dict[str, Series] = {}
    complete = True
    if by == "owner":
        complete = _by_owner(connection, scope, window, now, total, groups)
    else:
        is_split = by is not None or scope.is_filtered
        is_whole = not is_split and (scope.owner is None or window.unit == HOUR)
        for row, blob in _rows(connection, scope, window, now, "total" if is_whole else "flows"):
            step = window.step_of(row)
            if is_whole:
                _add(total, window, step, unpack_flow(blob))
                continue
            for key, flow in unpack_flows(blob).items():
                if key == OTHER_KEY and is_split:
                    complete = False
                elif not scope.has(key):
                    continue
                _add(total, window, step, flow)
                if by is not None:
                    _add(groups.setdefault(key[_PLACE[by]], Series({}, {}, {})), window, step, flow)
    _set_levels(total, window, _numbers(_whole(connection, scope), scope))
    chosen = _chosen(groups)
    if by is not None and chosen:
        values = [value for value, _ in chosen if value != OTHER]
        present = {value: _numbers(row, scope) for value, *row in _by_value(connection, scope, by, values)}
        for value, series in chosen:
            _set_levels(series, window, present.get(value, Numbers()))
    return Flows(total, chosen, complete)


def _by_owner(
    connection: sqlite3.Connection,
    scope: StatisticsScope,
    window: Window,
    now: datetime,
    total: Series,
    groups: dict[str, Series],
) -> bool:
    """Add the figures of all owners. Return False if some were too many to read."""
    length = LENGTH[window.unit]
    first, last = (window.start - EPOCH) // length, (now + AHEAD - EPOCH) // length
    column = "flows" if scope.is_filtered else "total"
    rows = connection.execute(
        f"SELECT start, owner, {column} FROM figures WHERE unit = ? AND start >= ? AND start <= ? AND owner <> ''"
        " ORDER BY start DESC LIMIT ?",
        (window.unit, first, last, MOST_OWNER_ROWS),
    )
    count = 0
    for row, owner, blob in rows:
        count += 1
        step = window.step_of(row)
        series = groups.get(owner)
        if series is None:
            series = groups[owner] = Series({}, {}, {})
        for flow in _matching(scope, blob) if scope.is_filtered else (unpack_flow(blob),):
            _add(total, window, step, flow)
            _add(series, window, step, flow)
    return count < MOST_OWNER_ROWS


def _matching(scope: StatisticsScope, blob: bytes) -> Iterator[Flow]:
    return (flow for key, flow in unpack_flows(blob).items() if scope.has(key))


def _rows(
    connection: sqlite3.Connection,
    scope: StatisticsScope,
    window: Window,
    now: datetime,
    column: Literal["total", "flows", "failures"],
) -> Iterable[tuple[int, bytes]]:
    """Return the rows of a scope's owner from the start of a window: failures until its end, flows until now."""
    length = LENGTH[window.unit]
    end = min(window.end, now + AHEAD) if column == "failures" else now + AHEAD
    places = ((window.start - EPOCH) // length, -((EPOCH - end) // length))
    return connection.execute(
        "WITH RECURSIVE places (start) AS (SELECT ?1 UNION ALL SELECT start + 1 FROM places WHERE start + 1 < ?2)"
        f" SELECT f.start, f.{column} FROM places CROSS JOIN figures f"
        f" ON f.unit = ?3 AND f.start = places.start AND f.owner = ?4 AND f.{column} IS NOT NULL",
        (*places, window.unit, ALL if scope.owner is None else scope.owner),
    )


def _add(series: Series, window: Window, step: int, flow: Flow) -> None:
    if step >= window.steps:
        add(series.after, flow)
        return
    add(series.whole, flow)
    found = series.steps.get(step)
    if found is None:
        series.steps[step] = dict(flow)
    else:
        add(found, flow)


def _set_levels(series: Series, window: Window, now: Numbers) -> None:
    """Count back from the present numbers of waiting and running tasks."""
    series.waiting = _levels(series, window, WAITING, now.waiting)
    series.running = _levels(series, window, RUNNING, now.processing)


def _levels(series: Series, window: Window, key: int, now: int) -> list[int]:
    """Return a number at the end of each step. Figures of tasks that aged out may be missing: it is never negative."""
    level = now - series.after.get(key, 0)
    found: list[int] = []
    for step in reversed(range(window.steps)):
        found.append(max(0, level))
        level -= series.steps.get(step, {}).get(key, 0)
    return found[::-1]


def _chosen(groups: Mapping[str, Series]) -> list[tuple[str, Series]]:
    """Return the groups in which most happened, and the others as one."""

    def happened(value: str) -> int:
        return sum(count for key, count in groups[value].whole.items() if key < WAITING)

    names = sorted((value for value in groups if value != OTHER), key=lambda value: (-happened(value), value))
    rest = [groups[value] for value in names[MOST_GROUPS:]]
    if OTHER in groups:
        rest.append(groups[OTHER])
    chosen = [(value, groups[value]) for value in names[:MOST_GROUPS]]
    if rest:
        merged = Series({}, {}, {})
        for series in rest:
            add(merged.whole, series.whole)
            add(merged.after, series.after)
            for step, flow in series.steps.items():
                add(merged.steps.setdefault(step, {}), flow)
        chosen.append((OTHER, merged))
    return chosen


# Errors


class ErrorGroup(Struct):
    """Failures with one fingerprint in a window."""

    shape: str
    count: int = 0
    final: int = 0
    first: int = 0
    last: int = 0
    types: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    trend: list[int] = field(default_factory=list)
    """Failures in each step."""
    kind: str = ""
    text: str = ""
    example_task: str | None = None
    """None: the task is gone, or the reader may not see it."""
    example_text: str = ""

    @property
    def order(self) -> tuple[int, str]:
        """Return the place in the list of errors, the most frequent first."""
        return (-self.count, self.shape)


class Errors(Struct):
    groups: list[ErrorGroup]
    total: int
    """Failures of all groups."""
    shapes: int
    """Number of all groups."""
    more: bool
    """True: there are further groups after these."""


def errors(
    connection: sqlite3.Connection,
    scope: StatisticsScope,
    window: Window,
    now: datetime,
    limit: int,
    *,
    kinds: frozenset[str] = frozenset(),
    after: tuple[int, str] | None = None,
) -> Errors:
    """Return the groups of errors of a scope, the most frequent first. Pools are not told apart.

    `after`: `order` of the last group of the page before.
    """
    groups: dict[str, ErrorGroup] = {}
    for row, blob in _rows(connection, scope, window, now, "failures"):
        step = window.step_of(row)
        for (shape, type_, server), failures in unpack_failures(blob).items():
            if (not scope.types or type_ in scope.types) and (not scope.servers or server in scope.servers):
                group = groups.get(shape)
                if group is None:
                    group = groups[shape] = ErrorGroup(shape, trend=[0] * window.steps)
                _add_failures(group, step, type_, server, failures)
    owner = ALL if scope.owner is None else scope.owner
    if kinds:
        groups = {shape: group for shape, group in groups.items() if _kind(connection, owner, shape) in kinds}
    found = sorted(groups.values(), key=lambda group: group.order)
    following = [group for group in found if after is None or group.order > after]
    shown = following[:limit]
    for group in shown:
        _describe(connection, owner, group, deleted=scope.deleted)
    return Errors(shown, sum(group.count for group in found), len(found), len(following) > limit)


def _add_failures(group: ErrorGroup, step: int, type_: str, server: str, failures: Failures) -> None:
    group.first = min(group.first or failures.first, failures.first)
    group.last = max(group.last, failures.last)
    group.count += failures.count
    group.final += failures.final
    group.types[type_] += failures.count
    group.servers[server] += failures.count
    group.trend[step] += failures.count


def _kind(connection: sqlite3.Connection, owner: str, shape: str) -> str:
    found = connection.execute("SELECT kind FROM shapes WHERE owner = ? AND shape = ?", (owner, shape)).fetchone()
    return found[0] if found else ""


def _describe(connection: sqlite3.Connection, owner: str, group: ErrorGroup, *, deleted: bool) -> None:
    """Add what is known of the shape, and its example."""
    found = connection.execute(
        "SELECT kind, text, example_sequence, example_text FROM shapes WHERE owner = ? AND shape = ?",
        (owner, group.shape),
    ).fetchone()
    if found is None:
        group.text = "errors of further shapes" if group.shape == OTHER_SHAPE else ""
        return
    group.kind, group.text, sequence, group.example_text = found
    task = connection.execute(
        "SELECT unique_token || '~' || n.text, deleted FROM tasks JOIN names n ON n.id = owner"
        " WHERE created_sequence = ?",
        (sequence,),
    ).fetchone()
    if task is not None and (deleted or not task[1]):
        group.example_task = task[0]


def subjects_of(connection: sqlite3.Connection, owners: Iterable[str]) -> dict[str, str]:
    """Return the subjects of owner tokens."""
    found: dict[str, str] = {}
    for owner in owners:
        row = connection.execute("SELECT subject FROM owners WHERE owner = ?", (owner,)).fetchone()
        found[owner] = row[0] if row else owner
    return found


def position_of(connection: sqlite3.Connection) -> int:
    """Return the sequence of the last event that the figures reflect."""
    row = connection.execute("SELECT sequence FROM checkpoint").fetchone()
    return row[0] if row else 0
