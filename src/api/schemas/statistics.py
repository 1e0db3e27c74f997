"""Statistics and errors of tasks. Instants are ISO 8601 in UTC, durations in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct, field

from ...events.task import FailureKind
from ...index import figures
from ...index.figures import Flow, quantiles
from ...index.shapes import OTHER_SHAPE
from ...index.statistics import Dimension, ErrorGroup, Errors, Flows, Numbers, Series, Totals, Window
from ...instants import from_microseconds, iso
from .shared import Page


class TaskNumbers(Struct, kw_only=True, rename="camel"):
    """Numbers of tasks now: each is the length of the list of tasks with the same filter."""

    tasks: int
    """All of them."""
    waiting: int
    held: int
    """Those of `waiting` that are in no queue: they wait for parents, a time or a limit."""
    processing: int
    finished: int
    failed: int
    cancelled: int


class NumbersOfValue(TaskNumbers, kw_only=True, rename="camel"):
    """Numbers of the tasks with one value."""

    value: str
    """A type, a pool, a server or an owner. Empty for servers: tasks that have not started on any."""


class TotalNumbers(TaskNumbers, kw_only=True, rename="camel"):
    """Numbers of tasks now, and the same by type, pool, server and owner, the largest 100 of each."""

    by_type: list[NumbersOfValue]
    by_pool: list[NumbersOfValue]
    by_server: list[NumbersOfValue]
    """By the server that runs the task or ran it last."""
    by_owner: list[NumbersOfValue]
    """For admins and auditors who ask for everybody's tasks; else empty."""
    more: list[str]
    """Those of `type`, `pool`, `server` and `owner` that have more values."""


class Times(Struct, kw_only=True):
    """Quantiles of durations in seconds, at most 6.3 % off. Null: nothing to measure."""

    p50: float | None
    p95: float | None


class Happened(Struct, kw_only=True, rename="camel"):
    """What happened to tasks in a time."""

    submitted: int
    started: int
    """First attempts."""
    attempts: int
    """All attempts that started."""
    attempts_failed: int
    """Those that failed and were followed, or will be, by another."""
    returned: int
    """Those that did not count: the server was busy, or the worker ended."""
    finished: int
    failed: int
    cancelled: int
    retried: int
    """Tasks retried by hand."""
    wait: Times
    """From creation to the first start, of the tasks that started."""
    run: Times
    """Of the tasks that ended: the time of the last attempt, without pauses between attempts."""


class Point(Happened, kw_only=True, rename="camel"):
    """What happened in one step."""

    at: str
    """Start of the step."""
    waiting: int
    """Tasks that waited at the end of the step."""
    running: int


class SeriesOfValue(Happened, kw_only=True, rename="camel"):
    """What happened to the tasks with one value in the window, and in each step of it."""

    value: str
    """`*` for all further values together."""
    series: list[Point]


class ErrorExample(Struct, kw_only=True, rename="camel"):
    """The last failure of a group."""

    task_id: str | None
    """Null: the task is gone."""
    error: str


class ErrorSummary(Struct, kw_only=True, rename="camel"):
    """Failures of one kind whose texts differ only in numbers, ids, addresses, paths, quoted parts and durations."""

    fingerprint: str
    """Made of the kind and the shape. It begins with the version of the rules, so its meaning never changes."""
    kind: FailureKind | None
    """Null: further groups together."""
    shape: str
    """The text, with placeholders such as `<n>` for what differs."""
    count: int
    """Failed attempts."""
    final: int
    """Those after which the task had failed."""
    first: str
    """The first one in the window."""
    last: str
    types: dict[str, int]
    """Failures by type."""
    servers: dict[str, int]
    """Failures by server; empty: it was on none."""
    trend: list[int]
    """Failures in each step."""
    example: ErrorExample | None
    tasks: str | None
    """Path of the list of tasks whose last failure is of this group, of the owner, types and servers asked for."""


class StatsAnswer(Struct, kw_only=True, rename="camel"):
    """Numbers of tasks now, what happened in a window, and its most frequent errors."""

    from_: str = field(name="from")
    """Start of the first step."""
    to: str
    """End of the last step; the last one may not be over."""
    step: int
    """Seconds."""
    read_at: str
    as_of: int
    """Sequence of the log that the figures reflect."""
    lag_events: int
    """Later events of the log that are not counted yet."""
    complete: bool
    """False: some of what happened is counted in the totals of the window only with `*`, or not at all, because
    it has too many types, or too many owners."""
    totals: TotalNumbers
    window: Happened
    series: list[Point]
    by: Dimension | None
    groups: list[SeriesOfValue]
    """With `by`: the 20 values with which most happened."""
    errors: list[ErrorSummary] | None
    """The ten most frequent ones. Null with `pool`: errors are not counted by pool."""
    error_count: int | None
    """Failed attempts of all errors."""


class ErrorPage(Page, kw_only=True, rename="camel"):
    """Groups of errors, the most frequent first."""

    errors: list[ErrorSummary]
    since: str
    before: str
    step: int
    """Seconds of a step of the trends."""
    groups: int
    """Number of all groups."""
    count: int
    """Failed attempts of all groups."""
    read_at: str
    as_of: int
    """Sequence of the log that the figures reflect."""
    lag_events: int
    """Later events of the log that are not counted yet."""


def _of(numbers: Numbers) -> dict[str, int]:
    return {
        "tasks": numbers.tasks,
        "waiting": numbers.waiting,
        "held": numbers.held,
        "processing": numbers.processing,
        "finished": numbers.finished,
        "failed": numbers.failed,
        "cancelled": numbers.cancelled,
    }


def total_numbers(totals: Totals, subjects: Mapping[str, str]) -> TotalNumbers:
    """Return the totals. `subjects`: of owner tokens."""

    def of(dimension: Dimension) -> list[NumbersOfValue]:
        rows = totals.by.get(dimension, ())
        named = subjects if dimension == "owner" else {}
        return [NumbersOfValue(value=named.get(value, value), **_of(numbers)) for value, numbers in rows]

    return TotalNumbers(
        **_of(totals.numbers),
        by_type=of("type"),
        by_pool=of("pool"),
        by_server=of("server"),
        by_owner=of("owner"),
        more=sorted(totals.more),
    )


def _happened(flow: Flow) -> dict[str, Any]:
    get = flow.get
    return {
        "submitted": get(figures.SUBMITTED, 0),
        "started": get(figures.STARTED, 0),
        "attempts": get(figures.ATTEMPTS, 0),
        "attempts_failed": get(figures.ATTEMPTS_FAILED, 0),
        "returned": get(figures.RETURNED, 0),
        "finished": get(figures.FINISHED, 0),
        "failed": get(figures.FAILED, 0),
        "cancelled": get(figures.CANCELLED, 0),
        "retried": get(figures.RETRIED, 0),
        "wait": _times(flow, figures.WAIT),
        "run": _times(flow, figures.RUN),
    }


def _times(flow: Flow, first: int) -> Times:
    p50, p95 = quantiles(flow, first, 0.5, 0.95)
    return Times(p50=p50, p95=p95)


_NOTHING = _happened({})


def happened(flow: Flow) -> Happened:
    return Happened(**_happened(flow))


def points(series: Series, instants: Sequence[str]) -> list[Point]:
    """Return the steps of a series. `instants`: their starts."""
    return [
        Point(
            at=at,
            waiting=series.waiting[step],
            running=series.running[step],
            **(_happened(flow) if (flow := series.steps.get(step)) else _NOTHING),
        )
        for step, at in enumerate(instants)
    ]


def groups_of(flows: Flows, instants: Sequence[str], subjects: Mapping[str, str]) -> list[SeriesOfValue]:
    return [
        SeriesOfValue(value=subjects.get(value, value), series=points(series, instants), **_happened(series.whole))
        for value, series in flows.groups
    ]


def error_summary(group: ErrorGroup, filters: Sequence[tuple[str, str]]) -> ErrorSummary:
    """`filters`: the parameters that its list of tasks has besides the shape."""
    is_rest = group.shape == OTHER_SHAPE
    return ErrorSummary(
        fingerprint=group.shape,
        kind=group.kind or None,  # type: ignore[arg-type]
        shape=group.text,
        count=group.count,
        final=group.final,
        first=iso(from_microseconds(group.first)),
        last=iso(from_microseconds(group.last)),
        types=_most_common(group.types),
        servers=_most_common(group.servers),
        trend=group.trend,
        example=None if is_rest else ErrorExample(task_id=group.example_task, error=group.example_text),
        tasks=None if is_rest else f"/api/tasks?{urlencode([('shape', group.shape), *filters])}",
    )


MOST_NAMES = 20
"""Types and servers of an error: those with the most failures."""


def _most_common(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common(MOST_NAMES))


def error_page(
    errors: Errors,
    filters: Sequence[tuple[str, str]],
    window: Window,
    following: str | None,
    *,
    now: datetime,
    sequence: int,
    lag_events: int,
) -> ErrorPage:
    return ErrorPage(
        errors=[error_summary(group, filters) for group in errors.groups],
        since=iso(window.start),
        before=iso(window.end),
        step=seconds_of(window),
        groups=errors.shapes,
        count=errors.total,
        read_at=iso(now),
        as_of=sequence,
        lag_events=lag_events,
        next_cursor=following,
    )


def seconds_of(window: Window) -> int:
    return int(window.step.total_seconds())


def summaries(groups: Sequence[ErrorGroup], filters: Sequence[tuple[str, str]]) -> list[ErrorSummary]:
    return [error_summary(group, filters) for group in groups]
