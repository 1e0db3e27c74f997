"""Routes of statistics: numbers of tasks, what happened to them in a window, and their errors in groups."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple, TypeVar, get_args

from litestar.params import QueryParameter

from ...clock import utc_now
from ...container import Container
from ...errors import Forbidden, IndexNotReady, InvalidInput
from ...events.ids import owner_token
from ...events.task import FailureKind
from ...index import statistics
from ...index.figures import HOUR, HOURS_KEPT, MINUTE
from ...index.shapes import FINGERPRINT_PATTERN
from ...index.statistics import LENGTH, MOST_POINTS, Dimension, StatisticsScope, Window
from ...instants import DURATION_PATTERN, EPOCH, iso, parse_duration
from ...wire.fields import filter_instant
from ..auth.access import READERS_OF_ALL, ApiRequest
from ..parameters import Cursor, Owner, choice, read_choices, selected_owner, split_names
from ..routing import RouteHandler, Routes
from ..schemas.statistics import (
    ErrorPage,
    StatsAnswer,
    error_page,
    groups_of,
    happened,
    points,
    seconds_of,
    summaries,
    total_numbers,
)
from ..task_filter import Kinds, Pools, Servers, Types, instant_parameter

T = TypeVar("T")

MOST_ROWS = 20_000
"""Minutes or hours of a window in a cursor."""
KINDS: frozenset[FailureKind] = frozenset(get_args(FailureKind))
ERRORS_SHOWN = 10
DEFAULT_WINDOW = timedelta(hours=1)
DEFAULT_ERROR_WINDOW = timedelta(hours=24)
MOST_TREND = 60
"""Steps of a trend, unless `step` says more."""
MOST_STEPS_BY = 75
"""Steps of a window with groups: about 20 series share the points."""
LONGEST_DETAILED = timedelta(hours=3)
"""Window of everybody's tasks up to which groups and filters read minutes."""
STEPS = tuple(
    timedelta(minutes=each)
    for each in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 2_880, 10_080, 20_160, 40_320)
)

From = Annotated[str | None, instant_parameter("from", "Start of the window; default: an hour ago")]
To = Annotated[str | None, instant_parameter("to", "End of the window; default: now")]
Since = Annotated[str | None, instant_parameter("since", "Failed at or after this; default: 24 hours ago")]
Before = Annotated[str | None, instant_parameter("before", "Failed before this; default: now")]
Step = Annotated[
    str | None,
    QueryParameter(
        description="Length of a step: seconds, or as in `5m`, `1h`, `1d`; whole minutes, or whole hours where the "
        "figures are hourly. Default: a minute, or the shortest that gives few enough steps",
        schema_extra={"pattern": DURATION_PATTERN, "examples": ["5m", "60", "1h"]},
    ),
]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
By = Annotated[
    str | None,
    QueryParameter(
        description="Return what happened by type, pool or server as well, or by owner (admins and auditors)",
        schema_extra={"enum": list(DIMENSIONS)},
    ),
]
ErrorLimit = Annotated[int, QueryParameter(ge=1, le=200, description="Largest number of groups on a page")]


class ErrorCursor(NamedTuple):
    """Where a page of errors ended, and the window of its list."""

    window: Window
    after: tuple[int, str]

    def text(self) -> str:
        first, last = ((at - EPOCH) // LENGTH[MINUTE] for at in (self.window.start, self.window.end))
        step = self.window.step // LENGTH[MINUTE]
        return f"{first}.{last}.{step}.{self.window.unit}.{-self.after[0]}.{self.after[1]}"


_CURSOR = re.compile(
    rf"([0-9]{{1,9}})\.([0-9]{{1,9}})\.([0-9]{{1,6}})\.([01])\.([0-9]{{1,15}})\.({FINGERPRINT_PATTERN[1:-7]})", re.ASCII
)


def read_error_cursor(cursor: str) -> ErrorCursor:
    """Return a cursor of a list of errors. Raises InvalidInput."""
    found = _CURSOR.fullmatch(cursor)
    if found is not None:
        first, last, step, unit, count = map(int, found.groups()[:5])
        length = 60 if unit else 1
        is_whole = step > 0 and not (first % step or last % step or step % length)
        if is_whole and 0 < (last - first) // step <= MOST_POINTS and last - first <= MOST_ROWS * length:
            start, end, each = (number * LENGTH[MINUTE] for number in (first, last, step))
            return ErrorCursor(Window(EPOCH + start, EPOCH + end, each, HOUR if unit else MINUTE), (-count, found[6]))
    raise InvalidInput("not a cursor; pass `nextCursor` of the previous page unchanged", "cursor")


def read_step(given: str | None) -> timedelta | None:
    """Return a step of whole minutes. Raises InvalidInput."""
    if given is None:
        return None
    try:
        step = parse_duration(given)
    except ValueError:
        step = timedelta()
    if step % LENGTH[MINUTE] or not LENGTH[MINUTE] <= step <= HOURS_KEPT:
        raise InvalidInput("must be whole minutes, in seconds or as in `5m`, `1h`, `1d`; up to 400 days", "step")
    return step


def window(
    now: datetime,
    start: datetime,
    end: datetime,
    step: timedelta | None,
    *,
    most: int,
    hourly: bool = False,
    names: tuple[str, str] = ("from", "to"),
) -> Window:
    """Return the window of a request. `hourly`: never read minutes. Raises InvalidInput for one of too many steps."""
    end = min(end, now)
    start = max(start, now - HOURS_KEPT)
    if start >= end:
        raise InvalidInput(f"must be before `{names[1]}` and before now, within the last 400 days", names[0])
    for length in [step] if step else STEPS:
        found = statistics.window_of(start, end, length, now, hourly=hourly)
        if step is not None and length % LENGTH[found.unit]:
            raise InvalidInput("must be whole hours here: the figures of this window are hourly", "step")
        if step is not None and found.steps > most:
            raise InvalidInput(f"gives {found.steps:,} steps, and {most:,} are allowed; use a longer step", "step")
        if found.steps <= most and not length % LENGTH[found.unit]:
            return found
    raise AssertionError("400 days have fewer steps of 28 days")


def listed(wanted: StatisticsScope, owner: str | None) -> list[tuple[str, str]]:
    """Return the filters of a request as parameters of `GET /api/tasks`."""
    found = [] if wanted.owner is None or owner is None else [("owner", owner)]
    found += [("type", each) for each in sorted(wanted.types)]
    return found + [("server", each) for each in sorted(wanted.servers)]


def statistics_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Statistics")

    def scope(
        request: ApiRequest,
        owner: str | None,
        types: Sequence[str] | None,
        servers: Sequence[str] | None,
        pools: Sequence[str] | None = None,
    ) -> StatisticsScope:
        return StatisticsScope(
            owner=selected_owner(request.user, owner, "list"),
            types=split_names(types),
            pools=split_names(pools),
            servers=frozenset(servers or ()),
            deleted=request.user.has(*READERS_OF_ALL),
        )

    async def ask(request: ApiRequest, question: Callable[[sqlite3.Connection], T]) -> tuple[T, int]:
        """Return what the index says, and how many events it lacks: 0, unless it is far behind. Raises StoreError.

        The answer is made in the thread of the query: a large one takes tens of milliseconds.
        """
        user = owner_token(request.user.subject)
        try:
            return await container.index.run(question, user), 0
        except IndexNotReady:
            status = await container.indexer.status()
            if status.state != "behind":
                raise
            return await container.index.run(question, user, current=False), status.lag_events

    @routes.get("/stats", "Read statistics", "Numbers of tasks now, and what happened in the window")
    async def get_stats(
        request: ApiRequest,
        start: From = None,
        to: To = None,
        step: Step = None,
        by: By = None,
        type_: Types = None,
        pool: Pools = None,
        server: Servers = None,
        owner: Owner = None,
    ) -> StatsAnswer:
        """Return numbers of tasks, what happened to them per step of a window, and their most frequent errors.

        All figures are kept as events happen; nothing is counted for this request. Admins and auditors see everybody's
        by default, others their own. A window that began more than 25 hours ago is read in hours; so is one of
        everybody's tasks with `by` or a filter if it is longer than 3 hours, and one by owner. A series has at most
        1,500 steps, with `by` 75.
        """
        wanted = scope(request, owner, type_, server, pool)
        dimension = choice(by, DIMENSIONS, "by")
        everybody = wanted.owner is None
        if dimension == "owner" and not everybody:
            raise Forbidden("only admins and auditors see figures by owner, and only of all owners")
        now = utc_now()
        first = filter_instant(start, now, "from") or now - DEFAULT_WINDOW
        last = filter_instant(to, now, "to") or now
        is_detailed = everybody and (dimension is not None or wanted.is_filtered)
        shown = window(
            now,
            first,
            last,
            read_step(step),
            most=MOST_POINTS if dimension is None else MOST_STEPS_BY,
            hourly=dimension == "owner" or (is_detailed and last - first > LONGEST_DETAILED),
        )

        def answer(connection: sqlite3.Connection) -> StatsAnswer:
            totals = statistics.totals(connection, wanted, by_owner=everybody)
            flows = statistics.flows(connection, wanted, shown, now, dimension)
            errors = None if wanted.pools else statistics.errors(connection, wanted, shown, now, ERRORS_SHOWN)
            owners = {value for value, _ in totals.by.get("owner", ())}
            owners |= {value for value, _ in flows.groups} if dimension == "owner" else set()
            subjects = statistics.subjects_of(connection, owners)
            instants = [iso(at) for at in shown.instants]
            return StatsAnswer(
                from_=iso(shown.start),
                to=iso(shown.end),
                step=seconds_of(shown),
                read_at=iso(now),
                as_of=statistics.position_of(connection),
                lag_events=0,
                complete=flows.complete,
                totals=total_numbers(totals, subjects),
                window=happened(flows.total.whole),
                series=points(flows.total, instants),
                by=dimension,
                groups=groups_of(flows, instants, subjects if dimension == "owner" else {}),
                errors=summaries(errors.groups, listed(wanted, owner)) if errors else None,
                error_count=errors.total if errors else None,
            )

        read, lag = await ask(request, answer)
        read.lag_events = lag
        return read

    @routes.get("/errors", "List errors in groups", "A page of groups, the most frequent first")
    async def list_errors(
        request: ApiRequest,
        since: Since = None,
        before: Before = None,
        step: Step = None,
        type_: Types = None,
        server: Servers = None,
        kind: Kinds = None,
        owner: Owner = None,
        limit: ErrorLimit = 50,
        cursor: Cursor = None,
    ) -> ErrorPage:
        """List the failed attempts of a window in groups of the same kind and shape.

        Texts that differ only in numbers, ids, addresses, paths, quoted parts and durations have the same shape. All
        pages of a list are of the window of its first one. Windows are rounded to whole steps.
        """
        wanted = scope(request, owner, type_, server)
        kinds = read_choices(kind, KINDS, "kind")
        now = utc_now()
        if cursor:
            shown, after = read_error_cursor(cursor)
        else:
            after = None
            shown = window(
                now,
                filter_instant(since, now, "since") or now - DEFAULT_ERROR_WINDOW,
                filter_instant(before, now, "before") or now,
                read_step(step),
                most=MOST_TREND if step is None else MOST_POINTS,
                names=("since", "before"),
            )

        def answer(connection: sqlite3.Connection) -> ErrorPage:
            found = statistics.errors(connection, wanted, shown, now, limit, kinds=kinds, after=after)
            following = ErrorCursor(shown, found.groups[-1].order).text() if found.more else None
            sequence = statistics.position_of(connection)
            links = listed(wanted, owner)
            return error_page(found, links, shown, following, now=now, sequence=sequence, lag_events=0)

        read, lag = await ask(request, answer)
        read.lag_events = lag
        return read

    return routes.handlers
