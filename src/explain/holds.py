"""Why a waiting task has not started, in words and data: what holds it, or what comes before it in its queue. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from ..events.task import NO_PLAN, ParentFailure, Plan
from ..instants import from_seconds, iso
from ..projections.task_view import ACTIVE, TaskView, awaited
from ..scheduling.depth import LIMIT_REASONS
from ..scheduling.eligibility import MODELS_NAMED, Considered, Stop, Verdict, served_models
from ..scheduling.limit import LimitKind
from .explanation import BlockingLimit, Explanation

HoldKind: TypeAlias = Literal[
    "time",  # not before its `runAt`
    "parents",  # tasks it depends on have not ended
    "owner-limit",  # its owner has reached a limit
    "type-limit",  # its type has reached a limit
    "concurrency-key",  # its concurrency key has reached its limit
    "project",  # another task of its project has not ended
    "window",  # its owner has enough tasks in this queue for now
    "turn",  # nothing: the scheduler is about to queue it
    "no-keeper",  # only the scheduler knows, and it does not answer
    "retry",  # its next attempt is not due yet
    "pool-paused",
    "type-paused",
    "no-server",  # no server could take it
    "store-full",  # the rest of the store's space is reserved for running tasks
    "server-busy",  # servers that could take it have no free slot
    "queued-behind",  # other tasks come first
    "not-queued",  # it is in no queue yet
    "key-unreadable",  # the model key that came with it cannot be decrypted
]


class Hold(Struct, frozen=True, kw_only=True):
    """Something that keeps a task from starting."""

    kind: HoldKind
    since: datetime | None
    """UTC; None: not known."""
    text: str
    """The reason; continues "It waits: "."""
    release: str
    """What ends it; continues "until "."""
    data: dict[str, Any]
    """The same as data, with the names of the wire format; instants are datetimes."""


def summary(holds: list[Hold]) -> str:
    """Return one sentence on why a task waits."""
    if not holds:
        return "It waits: nothing holds it, and a server has a free slot; it is about to start."
    first, *others = holds
    more = f" There {'is' if len(others) == 1 else 'are'} {len(others)} more in `holds`." if others else ""
    return f"It waits: {first.text}, until {first.release}.{more}"


# Held tasks

NAMED_PARENTS = 5
"""Parents named in the text; the data list up to LISTED_PARENTS."""
LISTED_PARENTS = 100
_KINDS: Mapping[LimitKind, HoldKind] = LIMIT_REASONS
_UNLESS: dict[ParentFailure, str] = {
    "fail": "; it fails if one of them does not succeed",
    "skip": "; it is cancelled if one of them does not succeed",
    "run": ", however they end",
}


class ParentState(NamedTuple):
    """The present state of a parent."""

    id: str
    status: str
    ended_at: datetime | None = None


def held_by(
    view: TaskView,
    since: datetime,
    explanation: Explanation | None,
    parents: Mapping[str, ParentState],
    unserved: Sequence[Hold],
    now: datetime,
) -> list[Hold]:
    """Return what holds a task, in the order in which it waits.

    `since`: when it was held. `explanation`: by the scheduler; None: it does not answer.
    `parents`: those it depends on that are in the log, by id. `unserved`: what keeps every server from taking it.
    """
    plan = awaited(view)
    holds = [
        *_by_parents(plan, since, explanation, parents),
        *_by_time(plan, since, now),
    ]
    if explanation is None:
        return holds or [_no_scheduler(since)]
    needs_since = max([since, *_ends(parents), *([plan.not_before] if plan.not_before else [])])
    for limit in explanation.limits:
        holds += unserved if limit.kind == "servers" else [_by_limit(limit, explanation.ahead or 0, view, needs_since)]
    return holds or [_turn(explanation, needs_since)]


def _by_parents(
    plan: Plan, since: datetime, explanation: Explanation | None, parents: Mapping[str, ParentState]
) -> list[Hold]:
    if explanation is not None and explanation.known == "held":
        awaited = list(explanation.parents)
    else:
        awaited = [parent for parent in plan.depends_on if parent in parents and parents[parent].status in ACTIVE]
    if not awaited:
        return []
    known = [parents.get(parent, ParentState(parent, "UNKNOWN")) for parent in awaited]
    named = ", ".join(f"{parent.id} ({parent.status})" for parent in known[:NAMED_PARENTS])
    others = f" and {len(known) - NAMED_PARENTS} more" if len(known) > NAMED_PARENTS else ""
    return [
        Hold(
            kind="parents",
            since=since,
            text=f"{_count(len(known), 'task')} that it depends on {_have(len(known))} not ended: {named}{others}",
            release=f"all of these have ended{_UNLESS[plan.on_parent_failure]}",
            data={
                "count": len(known),
                "of": len(plan.depends_on),
                "parents": [{"id": parent.id, "status": parent.status} for parent in known[:LISTED_PARENTS]],
                "onParentFailure": plan.on_parent_failure,
            },
        )
    ]


def _by_time(plan: Plan, since: datetime, now: datetime) -> list[Hold]:
    if plan.not_before is None or plan.not_before <= now:
        return []
    return [
        Hold(
            kind="time",
            since=since,
            text="it may not start yet (`runAt` or `delay`)",
            release=iso(plan.not_before),
            data={"runAt": plan.not_before},
        )
    ]


def _by_limit(limit: BlockingLimit, ahead: int, view: TaskView, since: datetime) -> Hold:
    data: dict[str, Any] = {
        "counted": limit.counted,
        "concurrency": limit.concurrency,
        "perSecond": limit.per_second,
        "burst": limit.burst,
        "opensAt": from_seconds(limit.opens_at) if limit.opens_at is not None else None,
        "ahead": ahead,
    }
    what = _whose(limit, view)
    if limit.kind == "window":
        text = (
            f"{limit.counted} of {what} are in the queue, the most at a time, so that other owners' tasks come between"
        )
        return Hold(kind="window", since=since, text=text, release="one of those starts" + _behind(ahead), data=data)
    if limit.kind == "key":
        data["concurrencyKey"] = (view.plan or NO_PLAN).concurrency_key
    if limit.is_full:
        text = f"{limit.counted} of {what} run or are about to, and the limit is {limit.concurrency}"
        release = "one of those ends"
    else:
        text = f"{what} have reached their rate limit, {limit.per_second:g} a second"
        release = iso(data["opensAt"]) if data["opensAt"] else "those that are about to start have started"
    return Hold(kind=_KINDS[limit.kind], since=since, text=text, release=release + _behind(ahead), data=data)


def _whose(limit: BlockingLimit, view: TaskView) -> str:
    match limit.kind:
        case "owner":
            return "its owner's tasks"
        case "window":
            return "its owner's tasks of this kind"
        case "servers":
            return "all tasks of this kind"
        case "type":
            return f"all tasks of type {view.task_type!r}"
        case "key":
            return f"the tasks of type {view.task_type!r} with its concurrency key"
        case "project":
            return f"the tasks of type {view.task_type!r} in its project"


def _behind(ahead: int) -> str:
    return f", and {_count(ahead, 'task')} before it {_have(ahead)} had {'its' if ahead == 1 else 'their'} turn" * (
        ahead > 0
    )


def _turn(explanation: Explanation, since: datetime) -> Hold:
    ahead = explanation.ahead or 0
    text = (
        f"nothing holds it any more; {_count(ahead, 'task')} of its owner's come first" if ahead else "its turn comes"
    )
    return Hold(
        kind="turn", since=since, text=text, release="the scheduler has queued it, in a moment", data={"ahead": ahead}
    )


def _no_scheduler(since: datetime) -> Hold:
    return Hold(
        kind="no-keeper",
        since=since,
        text="its time has come and its parents have ended; only the scheduler knows which limit has no capacity",
        release="a scheduler runs and finds capacity for it: one of the workers takes over within seconds",
        data={},
    )


def _ends(parents: Mapping[str, ParentState]) -> list[datetime]:
    return [parent.ended_at for parent in parents.values() if parent.ended_at is not None]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


# Queued tasks

VERDICTS: dict[Verdict, tuple[str, str]] = {
    "able": ("has a free slot", "have free slots"),
    "unasked": ("has no puller that asks now", "have no pullers that ask now"),
    "standby": ("is on standby for a larger backlog", "are on standby for a larger backlog"),
    "at-limit": ("runs as many tasks as it takes", "run as many tasks as they take"),
    "busy": ("has said that it is busy", "have said that they are busy"),
    "circuit-half-open": ("runs one trial task after failures", "run one trial task after failures"),
    "circuit-open": ("gets no tasks for a while after failures", "get no tasks for a while after failures"),
    "maintenance": ("is in maintenance", "are in maintenance"),
    "offline": ("is offline", "are offline"),
    "removed": ("was removed for being offline", "were removed for being offline"),
    "model-missing": ("does not serve its model", "do not serve its model"),
    "label-missing": ("lacks a label that it requires", "lack a label that it requires"),
    "other-types": ("does not serve its type", "do not serve its type"),
}
"""Each verdict in words, for one server and for several; those closest to a start first."""
BUSY: frozenset[Verdict] = frozenset({"standby", "unasked", "at-limit", "busy", "circuit-half-open"})
"""Verdicts that end when other tasks end, or without anyone's action."""
UNFIT: frozenset[Verdict] = frozenset({"model-missing", "label-missing", "other-types"})
"""Verdicts that only another registration or another model ends."""
REASONS_GIVEN = 3
"""Reasons of offline and removed servers in a text."""


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
        holds.append(_busy(view, since, servers, now))
    if not holds or holds[-1].kind == "server-busy":
        holds += _place(since, queue)
    return holds


def by_full_store(since: datetime) -> Hold:
    """Return the hold of a queued task while not even waiting tasks are started."""
    return Hold(
        kind="store-full",
        since=since,
        text="the task store is nearly full, and the space left is reserved for running tasks",
        release="an administrator frees or adds space (`storage` of /health/ready says where)",
        data={},
    )


def unserved_by(
    view: TaskView, since: datetime, stops: Sequence[Stop], servers: Sequence[Considered], *, in_full: bool
) -> list[Hold]:
    """Return what keeps every server from taking a task, whatever its free slots."""
    holds = [_pause(stop, in_full=in_full) for stop in stops]
    if not any(server.verdict == "able" or server.verdict in BUSY for server in servers):
        holds.append(_no_server(view, since, servers, in_full=in_full))
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
        text="it is not in its queue: it has not arrived yet, or a worker has just taken it",
        release="it is in its queue; the reconciler requeues a lost task",
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


def _no_server(view: TaskView, since: datetime, servers: Sequence[Considered], *, in_full: bool) -> Hold:
    require = (view.plan or NO_PLAN).require
    labels = " with the labels " + ", ".join(f"{key}={value}" for key, value in require.items()) if require else ""
    model = (view.plan or NO_PLAN).model
    served = f" that serves the model {model!r}" if model else ""
    until = min((server.until for server in servers if server.until is not None), default=None)
    counts = Counter(server.verdict for server in servers)
    data: dict[str, Any] = {"type": view.task_type, "require": require, "verdicts": dict(counts), "until": until}
    if model:
        data |= {"model": model, "models": sorted(set(_models(servers)))[:MODELS_NAMED]}
    return Hold(
        kind="no-server",
        since=since,
        text=(_unserved_model(model, servers) or f"no server can take it: {in_words(counts)}")
        + _away(servers, in_full=in_full),
        release=f"a server for the type {view.task_type!r}{served}{labels} is available"
        + (f"; one whose circuit is open gets its next trial at {iso(until)} at the earliest" if until else ""),
        data=data,
    )


def _unserved_model(model: str, servers: Sequence[Considered]) -> str:
    """Return that no server of the type serves a model, and which models they serve; empty if one serves it."""
    lacking = [server for server in servers if server.verdict == "model-missing"]
    if not lacking or any(server.verdict not in UNFIT for server in servers):
        return ""
    return f"no server of its type serves the model {model!r}; {served_models(_models(lacking))}"


def _models(servers: Sequence[Considered]) -> list[str]:
    return [model for server in servers for model in server.models]


def _away(servers: Sequence[Considered], *, in_full: bool) -> str:
    """Return why servers are offline or removed, the first REASONS_GIVEN: " (gpu-1: …)"; empty if none is.

    `in_full`: with the ids of the servers. Where other servers lack something else, it is said whose reasons these are.
    """
    away = [server for server in servers if server.reason]
    reasons = sorted({f"{server.server_id}: {server.reason}" if in_full else server.reason for server in away})
    if not reasons:
        return ""
    more = f"; and {len(reasons) - REASONS_GIVEN} more" if len(reasons) > REASONS_GIVEN else ""
    verdicts = sorted({server.verdict for server in away})
    of = f"{' or '.join(verdicts)}: " if len({server.verdict for server in servers}) > 1 else ""
    return f" ({of}{'; '.join(reasons[:REASONS_GIVEN])}{more})"


def _busy(view: TaskView, since: datetime, servers: Sequence[Considered], now: datetime) -> Hold:
    counts = Counter(server.verdict for server in servers)
    busy = Counter({verdict: count for verdict, count in counts.items() if verdict in BUSY})
    data: dict[str, Any] = {"verdicts": dict(counts), "until": None, "busySince": None, "failsAt": view.busy_until}
    text = f"no server that could take it has a free slot: {in_words(busy)}"
    said_so = [server for server in servers if server.verdict == "busy"]
    if said_so:
        data["busySince"] = min(server.since for server in said_so if server.since is not None)
        data["until"] = min((server.until for server in said_so if server.until is not None), default=None)
        at = f"busy since {data['busySince']:%H:%M:%S} UTC"
        if busy.keys() == {"busy"}:
            servers_text = f"{len(said_so)} servers" if len(said_so) > 1 else "1 server"
            all_of_them = {1: "", 2: "both "}.get(len(said_so), "all ")
            text = f"{servers_text} could take it, {all_of_them}{at}"
        else:
            text += f" ({at})"
    unasked = [server for server in servers if server.verdict == "unasked"]
    if busy.keys() == {"unasked"}:
        text = unasked[0].text.replace(" of it ", " ", 1) if len(unasked) == 1 else in_words(busy)
    if said_so and not counts["at-limit"]:
        release = "a busy server takes tasks again; " + _next_try(data["until"], now)
        if view.busy_until is not None:
            release += f"; it fails at {iso(view.busy_until)} if none does"
    elif counts["at-limit"]:
        release = "one of those ends a task"
    elif counts["circuit-half-open"]:
        release = "the trial has succeeded"
    elif counts["unasked"]:
        release = "a puller asks for a task"
    else:
        release = "more tasks wait, or one has waited for long enough"
    return Hold(kind="server-busy", since=since, text=text, release=release, data=data)


def _next_try(at: datetime | None, now: datetime) -> str:
    if at is None or at <= now:
        return "the next try is due"
    return f"next try in {math.ceil((at - now).total_seconds())} s"


def key_unreadable(since: datetime) -> Hold:
    """Return the hold of a queued task whose model key does not open."""
    return Hold(
        kind="key-unreadable",
        since=since,
        text="the model key that came with it cannot be decrypted",
        release="an admin has put the old seal key back; or cancel it and submit it again with the key",
        data={},
    )


def _place(since: datetime, queue: QueueState) -> list[Hold]:
    if queue.missing or queue.handed_out or not (queue.ahead or queue.higher):
        return []
    ahead = _count(queue.ahead, "task")
    higher = f", and {queue.higher} of a higher priority" if queue.higher else ""
    return [
        Hold(
            kind="queued-behind",
            since=since,
            text=f"before it in its queue {'is' if queue.ahead == 1 else 'are'} {ahead} of its priority{higher}",
            release="a worker has taken those out",
            data={"ahead": queue.ahead, "higherPriority": queue.higher},
        )
    ]
