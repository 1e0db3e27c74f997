"""Why a queued task has not started: pauses, servers, and what comes before it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ..events.task import NO_PLAN
from ..projections.task_view import TaskView
from ..scheduling.eligibility import Considered, Stop, Verdict
from ..wire.fields import iso
from .hold import Hold

VERDICTS: dict[Verdict, tuple[str, str]] = {
    "able": ("has a free slot", "have free slots"),
    "standby": ("is there for overflow", "are there for overflow"),
    "at-limit": ("runs as many tasks as it takes", "run as many tasks as they take"),
    "circuit-half-open": ("is being tried again after failures", "are being tried again after failures"),
    "circuit-open": ("is left alone for a while after failures", "are left alone for a while after failures"),
    "maintenance": ("is in maintenance", "are in maintenance"),
    "offline": ("is offline", "are offline"),
    "label-missing": ("lacks a label that it requires", "lack a label that it requires"),
    "other-types": ("does not serve its type", "do not serve its type"),
}
"""Each verdict in words, for one server and for several; those closest to a start first."""
BUSY: frozenset[Verdict] = frozenset({"standby", "at-limit", "circuit-half-open"})
"""Verdicts that end when other tasks end."""


class QueueState(NamedTuple):
    """The place of a task in its queue."""

    ahead: int
    """Tasks of its pool and priority before it that no worker has taken yet."""
    higher: int
    """Waiting tasks of its pool with a higher priority."""
    handed_out: bool = False
    """A worker took it: it is about to start, or was given back with a delay."""
    missing: bool = False
    """True if it is in no queue."""


def queued_behind(
    view: TaskView,
    since: datetime,
    stops: Sequence[Stop],
    servers: Sequence[Considered],
    queue: QueueState,
    now: datetime,
    *,
    in_full: bool,
) -> list[Hold]:
    """Return what keeps a queued task from starting, the longest first; empty: it is about to start.

    `since`: when it was queued. `in_full`: include who paused a pool or type, and why.
    """
    if view.retry_at is not None and view.retry_at > now:
        holds = [_retry(view, since)]
    elif queue.missing:
        holds = [_not_queued(since)]
    else:
        holds = []
    holds += unserved_by(view, since, stops, servers, in_full=in_full)
    counts = Counter(server.verdict for server in servers)
    if not counts["able"] and counts.keys() & BUSY:
        holds.append(_busy(since, counts))
    if not holds or holds[-1].kind == "server-busy":
        holds += _place(since, queue)
    return holds


def unserved_by(
    view: TaskView, since: datetime, stops: Sequence[Stop], servers: Sequence[Considered], *, in_full: bool
) -> list[Hold]:
    """Return what keeps every server from taking a task, whatever its free slots."""
    holds = [_pause(stop, in_full=in_full) for stop in stops]
    if not any(server.verdict == "able" or server.verdict in BUSY for server in servers):
        holds.append(_no_server(view, since, servers))
    return holds


def in_words(counts: Counter[Verdict]) -> str:
    """Return the verdicts in words: "1 server is offline and 2 lack a label that it requires"."""
    parts = [(counts[verdict], words) for verdict, words in VERDICTS.items() if counts[verdict]]
    if not parts:
        return "no server is registered"
    said = [f"{count} {words[count != 1]}" for count, words in parts]
    said[0] = said[0].replace(" ", " server " if parts[0][0] == 1 else " servers ", 1)
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _retry(view: TaskView, since: datetime) -> Hold:
    assert view.retry_at is not None
    return Hold(
        kind="retry",
        since=since,
        text=f"attempt {view.attempt} of {view.attempts} failed ({view.error}) and the next is not due yet",
        release=iso(view.retry_at),
        data={"nextAttemptAt": view.retry_at, "attempt": view.attempt, "attempts": view.attempts},
    )


def _not_queued(since: datetime) -> Hold:
    return Hold(
        kind="not-queued",
        since=since,
        text="it is in no queue: it is about to come there, or a worker has just taken it out",
        release="it is there; if it was lost, the reconciler puts it back",
        data={},
    )


def _pause(stop: Stop, *, in_full: bool) -> Hold:
    what = stop.kind.removesuffix("-paused")
    data: dict[str, Any] = {"name": stop.name}
    if in_full:
        data |= {"by": stop.pause.by.id, "reason": stop.pause.reason}
    return Hold(
        kind=stop.kind,
        since=stop.pause.since,
        text=stop.text if in_full else f"the {what} {stop.name!r} is paused",
        release=f"an admin resumes the {what}",
        data=data,
    )


def _no_server(view: TaskView, since: datetime, servers: Sequence[Considered]) -> Hold:
    require = (view.plan or NO_PLAN).require
    labels = " with the labels " + ", ".join(f"{key}={value}" for key, value in require.items()) if require else ""
    until = min((server.until for server in servers if server.until is not None), default=None)
    counts = Counter(server.verdict for server in servers)
    return Hold(
        kind="no-server",
        since=since,
        text=f"no server can take it: {in_words(counts)}",
        release=f"a server for the type {view.task_type!r}{labels} is there"
        + (f"; the circuit of one closes at {iso(until)} at the earliest" if until else ""),
        data={"type": view.task_type, "require": require, "verdicts": dict(counts), "until": until},
    )


def _busy(since: datetime, counts: Counter[Verdict]) -> Hold:
    if counts["at-limit"]:
        release = "one of those ends a task"
    elif counts["circuit-half-open"]:
        release = "the trial has ended well"
    else:
        release = "more tasks wait, or one has waited for long enough"
    busy = Counter({verdict: count for verdict, count in counts.items() if verdict in BUSY})
    return Hold(
        kind="server-busy",
        since=since,
        text=f"no server that could take it has a free slot: {in_words(busy)}",
        release=release,
        data={"verdicts": dict(counts)},
    )


def _place(since: datetime, queue: QueueState) -> list[Hold]:
    if queue.missing or queue.handed_out or not (queue.ahead or queue.higher):
        return []
    count = f"{queue.ahead} task{'' if queue.ahead == 1 else 's'}"
    higher = f", and {queue.higher} of a higher priority" if queue.higher else ""
    return [
        Hold(
            kind="queued-behind",
            since=since,
            text=f"before it in its queue {'is' if queue.ahead == 1 else 'are'} {count} of its priority{higher}",
            release="a worker has taken those out",
            data={"ahead": queue.ahead, "higherPriority": queue.higher},
        )
    ]
