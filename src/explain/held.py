"""Reasons why a held task is not queued, from the log and the scheduler's explanation. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..events.task import NO_PLAN, ParentFailure, Plan
from ..projections.task_view import ACTIVE, TaskView, awaited
from ..scheduling.limit import LimitKind
from ..wire.fields import iso
from .explanation import BlockingLimit, Explanation
from .hold import Hold, HoldKind

NAMED_PARENTS = 5
"""Parents named in the text; the data list up to LISTED_PARENTS."""
LISTED_PARENTS = 100
_KINDS: dict[LimitKind, HoldKind] = {
    "servers": "no-server",
    "window": "window",
    "owner": "owner-limit",
    "type": "type-limit",
    "key": "concurrency-key",
}
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
            text="it may not start before its `runAt`",
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
        "opensAt": datetime.fromtimestamp(limit.opens_at, UTC) if limit.opens_at is not None else None,
        "ahead": ahead,
    }
    what = _whose(limit, view)
    if limit.kind == "window":
        text = f"{limit.counted} of {what} are in the queue, the most at a time, so that others' come between"
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
