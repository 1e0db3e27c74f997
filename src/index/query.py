"""Queries of tasks: the filter of every list, count and bulk command as a value, and what it matches."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import FailureKind, Priority
from ..instants import microseconds
from ..projections.task_view import Status, TaskView
from .facts import Hold, attributes_of, hold_of, searchable
from .rows import shape_of

Sort: TypeAlias = Literal["created", "ended", "duration"]
Key: TypeAlias = tuple[int, ...]
"""Place in a list: the value that it is sorted by and the sequence of the submission; by `created` the latter alone."""

MICROSECOND = timedelta(microseconds=1)


class Span(NamedTuple):
    """Instants from `since` to before `before`; None: no bound."""

    since: datetime | None = None
    before: datetime | None = None

    def has(self, at: datetime | None) -> bool:
        if at is None:
            return self == ANY_TIME
        return (self.since is None or at >= self.since) and (self.before is None or at < self.before)


ANY_TIME = Span()


class TaskQuery(Struct, frozen=True, kw_only=True):
    """Which tasks, and in which order. Every condition must hold; an empty one always does."""

    owner: str | None = None
    """Owner token; None: everybody's."""
    statuses: frozenset[Status] = frozenset()
    types: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()
    """Ids of servers that run the task, or ran it last."""
    priorities: frozenset[Priority] = frozenset()
    failures: frozenset[FailureKind] = frozenset()
    """Kinds of the failure that ended the task, or of its last attempt's."""
    holds: frozenset[Hold] = frozenset()
    batch: str = ""
    schedule: str = ""
    project: str = ""
    in_project: bool = False
    """True: only tasks of a project, whichever it is."""
    concurrency_key: str = ""
    attributes: frozenset[str] = frozenset()
    """Labels and values of searchable fields, as in `facts.attributes_of`. A task must have all of them."""
    error: str = ""
    """A part of the error. Upper and lower case of ASCII letters are the same."""
    shape: str = ""
    """Fingerprint of the error."""
    attempts: int = 0
    """The last attempt has this number or a higher one."""
    id_prefix: str = ""
    """Beginning of the id."""
    created: Span = ANY_TIME
    started: Span = ANY_TIME
    ended: Span = ANY_TIME
    updated: Span = ANY_TIME
    min_run: timedelta | None = None
    """From the first start to the end, of a running task to `now`."""
    now: datetime | None = None
    """UTC; needed with `min_run`."""
    deleted: bool = False
    """True: include tasks that their owners deleted."""
    sort: Sort = "created"
    """A list in the order of ends or durations has only the tasks that have ended."""
    descending: bool = True

    def matches(self, ref: TaskRef, view: TaskView) -> bool:
        """Return True for a task of the list: what the pages are made of."""
        plan = view.plan
        return (
            self.owner in (None, ref.owner)
            and (not self.statuses or view.status in self.statuses)
            and (not self.types or view.task_type in self.types)
            and (not self.pools or view.pool in self.pools)
            and (not self.servers or view.server_id in self.servers)
            and (not self.priorities or view.priority in self.priorities)
            and (not self.failures or view.failure in self.failures)
            and (not self.holds or hold_of(view) in self.holds)
            and self.batch in ("", view.batch)
            and self.schedule in ("", view.schedule)
            and self.project in ("", view.project)
            and (not self.in_project or bool(view.project))
            and (not self.concurrency_key or (plan is not None and plan.concurrency_key == self.concurrency_key))
            and self.attributes <= attributes_of(view)
            and _lower(searchable(self.error)) in _lower(searchable(view.error))
            and self.shape in ("", shape_of(view))
            and view.attempt >= self.attempts
            and ref.id.startswith(self.id_prefix)
            and self.created.has(view.created_at)
            and self.started.has(view.started_at)
            and self.ended.has(view.ended_at)
            and self.updated.has(view.updated_at)
            and self._runs_long_enough(view)
            and (self.deleted or not view.deleted)
            and self.key_of(view) is not None
        )

    def key_of(self, view: TaskView) -> Key | None:
        """Return the place of a task in the list; None: it has none."""
        match self.sort:
            case "created":
                return (view.created_sequence,)
            case "ended":
                return None if view.ended_at is None else (microseconds(view.ended_at), view.created_sequence)
            case "duration":
                run = duration_of(view)
                return None if run is None else (run, view.created_sequence)

    def _runs_long_enough(self, view: TaskView) -> bool:
        if self.min_run is None:
            return True
        run = duration_of(view)
        if run is not None:
            return run >= self.min_run // MICROSECOND
        assert self.now is not None
        is_running = view.status == "PROCESSING" and view.started_at is not None
        return is_running and view.started_at is not None and view.started_at <= self.now - self.min_run


def duration_of(view: TaskView) -> int | None:
    """Return the microseconds from a task's first start to its end; None: it has not ended, or never started."""
    if view.started_at is None or view.ended_at is None:
        return None
    return (view.ended_at - view.started_at) // MICROSECOND


def _lower(text: str) -> str:
    """Return the text with small ASCII letters; LIKE of SQLite knows no others."""
    return text.translate(_SMALL)


_SMALL = {letter: letter + 32 for letter in range(ord("A"), ord("Z") + 1)}


def write_cursor(query: TaskQuery, key: Key) -> str:
    """Return a place in a list as text. In the order of a list without `sort` it is a number."""
    return str(key[0]) if _has_plain_cursor(query) else ".".join([_order_of(query), *map(str, key)])


def read_cursor(query: TaskQuery, text: str) -> Key:
    """Return the place that was written. Raises ValueError for another text, and for a place in another order."""
    found = _CURSOR.fullmatch(text)
    order = None if _has_plain_cursor(query) else _order_of(query)
    if found is None or found["order"] != order or (found["value"] is None) != (query.sort == "created"):
        raise ValueError("not a cursor of this list")
    numbers = [found["value"], found["sequence"]] if found["value"] is not None else [found["sequence"]]
    return tuple(min(int(number), LARGEST) for number in numbers)


def _has_plain_cursor(query: TaskQuery) -> bool:
    return query.sort == "created" and query.descending


def _order_of(query: TaskQuery) -> str:
    return f"{'-' if query.descending else ''}{query.sort}"


LARGEST = 2**63 - 1
"""The largest number that SQLite takes."""
_CURSOR = re.compile(r"(?:(?P<order>-?[a-z]+)\.(?:(?P<value>-?[0-9]{1,18})\.)?)?(?P<sequence>[0-9]{1,19})", re.ASCII)
