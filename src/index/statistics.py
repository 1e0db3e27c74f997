"""Questions to the figures: how many tasks there are, what happened in a window, which errors there were.

A window is read in minutes or in hours, row by row of one owner, or of everybody. Rows are unpacked no further than a
question needs. Nothing here looks at tasks, but for the ids of the examples of errors.
"""

from __future__ import annotations

import sqlite3
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import replace

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
    happened,
    unpack_failures,
    unpack_flow,
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
MOST_OWNER_HOURS = 3_000
"""Hours of owners that a window by owner reads with a filter."""
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

    def values_of(self, dimension: Dimension) -> frozenset[str]:
        match dimension:
            case "type":
                return self.types
            case "pool":
                return self.pools
            case "server":
                return self.servers
            case "owner":
                return frozenset()

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


Column: TypeAlias = Literal["total", "parts", "failures", "flows"]


class Series(Struct):
    """What happened in a window."""

    steps: dict[int, Flow] = field(default_factory=dict)
    """By number of the step; one in which nothing happened may be missing."""
    after: Flow = field(default_factory=dict)
    """What happened after the window."""
    waiting: list[int] = field(default_factory=list)
    """Tasks that wait at the end of each step."""
    running: list[int] = field(default_factory=list)

    @property
    def whole(self) -> Flow:
        """Return the sum of all steps."""
        flow: Flow = {}
        for each in self.steps.values():
            add(flow, each)
        return flow

    @property
    def happened(self) -> int:
        """Return the number of events in all steps."""
        return sum(map(happened, self.steps.values()))

    def add(self, window: Window, step: int, flow: Flow) -> None:
        """Add what happened in a step, or after the window. The flow belongs to the series then."""
        if step >= window.steps:
            add(self.after, flow)
        elif (found := self.steps.get(step)) is None:
            self.steps[step] = flow
        else:
            add(found, flow)

    def without(self, parts: Iterable[Series]) -> Series:
        """Return what is left of a series without parts of it."""
        steps, after = {step: flow.copy() for step, flow in self.steps.items()}, self.after.copy()
        for part in parts:
            for step, flow in part.steps.items():
                _subtract(steps[step], flow)
            _subtract(after, part.after)
        return Series({step: flow for step, flow in steps.items() if flow}, after)


def _subtract(flow: Flow, part: Flow) -> None:
    for key, count in part.items():
        left = flow.get(key, 0) - count
        if left:
            flow[key] = left
        else:
            flow.pop(key, None)


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
    """Return what happened to the tasks of a scope. By owner it needs everybody's tasks and an hourly window."""
    total, complete = Series(), True
    values: dict[str, Series] = {}
    has_totals = not scope.is_filtered and (scope.owner is None or window.unit == HOUR)
    if has_totals:
        _add_totals(connection, scope, window, now, total)
    if not has_totals or by not in (None, "owner"):
        for step, value, flow in _parts(connection, scope, window, now, by):
            complete = complete and value != OTHER
            if not has_totals:
                total.add(window, step, flow.copy())
            values.setdefault(value, Series()).add(window, step, flow)
    if by == "owner":
        groups, is_all = _owners(connection, scope, window, now)
        complete = complete and is_all
    elif by is not None:
        groups = _most_active((value, series) for value, series in values.items() if value != OTHER)
    else:
        groups, complete = [], complete or not scope.is_filtered
    _set_levels(total, window, _numbers(_whole(connection, scope), scope))
    if groups:
        present = _by_value(connection, scope, by or "type", [value for value, _ in groups])
        numbers = {value: _numbers(row, scope) for value, *row in present}
        for value, series in groups:
            _set_levels(series, window, numbers.get(value, Numbers()))
    rest = total.without(series for _, series in groups)
    if by is not None and (rest.steps or rest.after):
        _set_levels(rest, window, Numbers())
        groups.append((OTHER, rest))
    return Flows(total, groups, complete)


def _most_active(groups: Iterable[tuple[str, Series]]) -> list[tuple[str, Series]]:
    ranked = sorted((-series.happened, value, series) for value, series in groups)
    return [(value, series) for _, value, series in ranked[:MOST_GROUPS]]


def _owners(
    connection: sqlite3.Connection, scope: StatisticsScope, window: Window, now: datetime
) -> tuple[list[tuple[str, Series]], bool]:
    """Return the owners to whose tasks most happened; False if there may be others, as too many had to be read.

    Owners are read in the order of all that happened to them: with a filter, until no further one can be among these.
    """
    assert window.unit == HOUR, "how much happened to an owner is known by the hour"
    first, end = _places(window, window.end)
    rows = connection.execute(_ACTIVITY, (first, end))
    ranked = sorted((-events, owner) for owner, events in rows if events)
    if not scope.is_filtered:
        found = []
        for _, owner in ranked[:MOST_GROUPS]:
            series = Series()
            _add_totals(connection, replace(scope, owner=owner), window, now, series)
            found.append((owner, series))
        return found, True
    best: list[tuple[int, str, Series]] = []
    complete = True
    most = max(MOST_OWNER_HOURS // (end - first), MOST_GROUPS)
    for number, (events, owner) in enumerate(ranked):
        if len(best) == MOST_GROUPS and best[-1][0] < events:
            break
        if number >= most:
            complete = False
            break
        series = Series()
        for step, _, flow in _parts(connection, replace(scope, owner=owner), window, now, None):
            series.add(window, step, flow)
        if count := series.happened:
            insort(best, (-count, owner, series))
            del best[MOST_GROUPS:]
    return [(owner, series) for _, owner, series in best], complete


_ACTIVITY = """SELECT owner, (SELECT sum(events) FROM activity WHERE activity.owner = owners.owner AND hour >= ?
 AND hour < ?) FROM owners"""


def _add_totals(
    connection: sqlite3.Connection, scope: StatisticsScope, window: Window, now: datetime, series: Series
) -> None:
    for row, blob in _rows(connection, scope, window, now, "total"):
        series.add(window, window.step_of(row), unpack_flow(blob))


def _parts(
    connection: sqlite3.Connection, scope: StatisticsScope, window: Window, now: datetime, by: Dimension | None
) -> Iterator[tuple[int, str, Flow]]:
    """Yield what happened in each step to the tasks of a scope, by the values of a dimension, and as OTHER."""
    dimensions = {each for each in _PLACE if each == by or scope.values_of(each)}
    if scope.owner is None and len(dimensions) == 1:
        [dimension] = dimensions
        wanted, place = scope.values_of(dimension), _PLACE[dimension]
        for row, blob in _rows(connection, scope, window, now, "parts"):
            step = window.step_of(row)
            for value, packed in _unpack_values(_unpack_dimensions(blob)[place]).items():
                if not wanted or value in wanted or value == OTHER:
                    yield step, value, unpack_flow(packed)
        return
    place = _PLACE.get(by or "type", 0)
    for row, blob in _rows(connection, scope, window, now, "flows"):
        step = window.step_of(row)
        for key, packed in _unpack_keys(blob).items():
            if key == OTHER_KEY or scope.has(key):
                yield step, key[place], unpack_flow(packed)


_unpack_dimensions = msgspec.msgpack.Decoder(tuple[Raw, Raw, Raw]).decode
_unpack_values = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_unpack_keys = msgspec.msgpack.Decoder(dict[Key, Raw]).decode
"""With flows that are unpacked only if they are needed."""


def _places(window: Window, end: datetime) -> tuple[int, int]:
    """Return the first minute or hour of a window, and the one after those before an end."""
    length = LENGTH[window.unit]
    return (window.start - EPOCH) // length, -((EPOCH - end) // length)


def _rows(
    connection: sqlite3.Connection, scope: StatisticsScope, window: Window, now: datetime, column: Column
) -> Iterable[tuple[int, bytes]]:
    """Return the rows of a scope's owner from the start of a window: failures until its end, flows until now."""
    end = min(window.end, now + AHEAD) if column == "failures" else now + AHEAD
    return connection.execute(
        "WITH RECURSIVE places (start) AS (SELECT ?1 UNION ALL SELECT start + 1 FROM places WHERE start + 1 < ?2)"
        f" SELECT f.start, f.{column} FROM places CROSS JOIN figures f"
        f" ON f.unit = ?3 AND f.start = places.start AND f.owner = ?4 AND f.{column} IS NOT NULL",
        (*_places(window, end), window.unit, ALL if scope.owner is None else scope.owner),
    )


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
    sums: dict[Key, Failures] = {}
    trends: dict[str, list[int]] = {}
    for row, blob in _rows(connection, scope, window, now, "failures"):
        step = window.step_of(row)
        for key, failures in unpack_failures(blob).items():
            if (scope.types and key[1] not in scope.types) or (scope.servers and key[2] not in scope.servers):
                continue
            if (found := sums.get(key)) is None:
                sums[key] = failures
            else:  # as `add_failures`; a week has tens of thousands
                found.count += failures.count
                found.final += failures.final
                found.first = min(found.first, failures.first)
                found.last = max(found.last, failures.last)
            if (trend := trends.get(key[0])) is None:
                trend = trends[key[0]] = [0] * window.steps
            trend[step] += failures.count
    groups = {shape: ErrorGroup(shape, trend=trend) for shape, trend in trends.items()}
    for (shape, type_, server), failures in sums.items():
        _add_failures(groups[shape], type_, server, failures)
    owner = ALL if scope.owner is None else scope.owner
    if kinds:
        groups = {shape: group for shape, group in groups.items() if _kind(connection, owner, shape) in kinds}
    found_groups = sorted(groups.values(), key=lambda group: group.order)
    following = [group for group in found_groups if after is None or group.order > after]
    shown = following[:limit]
    for group in shown:
        _describe(connection, owner, group, deleted=scope.deleted)
    return Errors(shown, sum(group.count for group in found_groups), len(groups), len(following) > limit)


def _add_failures(group: ErrorGroup, type_: str, server: str, failures: Failures) -> None:
    group.first = min(group.first or failures.first, failures.first)
    group.last = max(group.last, failures.last)
    group.count += failures.count
    group.final += failures.final
    group.types[type_] += failures.count
    group.servers[server] += failures.count


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
