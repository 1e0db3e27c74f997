"""Dead letters in groups: how many failed for good with the same error, of the same type or on the same server."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from ..instants import EPOCH, microseconds
from .query import TaskQuery
from .schema import FAILURE_KINDS
from .search import COUNTED, find_page
from .shapes import shape_of
from .statistics import position_of

By: TypeAlias = Literal["error", "type", "server"]

STEPS = 24
"""Steps of the trends, from the earliest failure to now."""
AT_ONCE = 500
"""Rows of one query."""
SHORTEST_STEP = timedelta(minutes=1)


class DeadLetterGroup(Struct):
    """Dead letters with the same value."""

    value: str
    """A fingerprint, a type or a server; an empty server: it was on none."""
    count: int = 0
    first: int = 0
    """Microseconds since the epoch."""
    last: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    trend: list[int] = field(default_factory=lambda: [0] * STEPS)
    example_task: str = ""
    """The one that failed last."""
    example_text: str = ""

    @property
    def shape(self) -> str:
        """Return the text of its errors, with placeholders for what differs."""
        return shape_of(self.example_text)


class DeadLetterGroups(Struct, kw_only=True):
    groups: list[DeadLetterGroup]
    """The largest first."""
    count: int
    capped: bool
    """True: there are more dead letters; the last `count` of them are counted."""
    start: datetime
    """Of the first step of the trends."""
    step: timedelta
    sequence: int
    """Of the log, up to which this counts."""


class _Row(NamedTuple):
    ended_at: int
    value: str
    kind: str
    type: str
    server: str
    task: str
    error: str


def group_dead_letters(connection: sqlite3.Connection, query: TaskQuery, by: By, now: datetime) -> DeadLetterGroups:
    """Return the dead letters that match, the last 10,000 at most, in groups."""
    page = find_page(connection, replace(query, sort="ended", descending=True), COUNTED, None)
    start, step = _trend(page.keys[-1][0] if page.keys else microseconds(now), microseconds(now))
    groups: dict[str, DeadLetterGroup] = {}
    for row in _rows(connection, [key[-1] for key in page.keys], by):
        if (group := groups.get(row.value)) is None:
            group = groups[row.value] = DeadLetterGroup(row.value)
        if row.ended_at >= group.last:
            group.last, group.example_task, group.example_text = row.ended_at, row.task, row.error
        group.first = min(group.first or row.ended_at, row.ended_at)
        group.count += 1
        group.kinds[row.kind] += 1
        group.types[row.type] += 1
        group.servers[row.server] += 1
        group.trend[max(0, min(STEPS - 1, (row.ended_at - start) // step))] += 1
    return DeadLetterGroups(
        groups=sorted(groups.values(), key=lambda group: (-group.count, group.value)),
        count=len(page.keys),
        capped=page.cursor is not None,
        start=EPOCH + timedelta(microseconds=start),
        step=timedelta(microseconds=step),
        sequence=position_of(connection),
    )


def _trend(first: int, now: int) -> tuple[int, int]:
    """Return where trends begin that end now, and their step: whole minutes."""
    minute = SHORTEST_STEP // timedelta(microseconds=1)
    step = max(1, -(-(now - first) // (STEPS * minute))) * minute
    end = -(-now // minute) * minute
    return min(end - STEPS * step, first), step


def _rows(connection: sqlite3.Connection, sequences: list[int], by: By) -> Iterator[_Row]:
    value = {"error": "shape", "type": "type", "server": "server"}[by]
    for place in range(0, len(sequences), AT_ONCE):
        some = sequences[place : place + AT_ONCE]
        yield from (
            _Row(ended_at, named or "", FAILURE_KINDS[failure], type_ or "", server or "", task, error or "")
            for ended_at, named, failure, type_, server, task, error in connection.execute(
                "SELECT t.ended_at, v.text, t.failure, ty.text, s.text, t.unique_token || '~' || o.text, t.error"
                f" FROM tasks t LEFT JOIN names v ON v.id = t.{value} LEFT JOIN names ty ON ty.id = t.type"
                " LEFT JOIN names s ON s.id = t.server LEFT JOIN names o ON o.id = t.owner"
                f" WHERE t.created_sequence IN ({', '.join('?' * len(some))})",
                some,
            )
        )
