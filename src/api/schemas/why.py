"""Why a task waits, runs or ended, as clients see it. Times are milliseconds since the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...commands.task_holds import last_start, late_kind, option
from ...events.envelope import Recorded
from ...events.task import NO_PLAN, CancelOutcome, FailureKind, TaskEvent
from ...explain.holds import VERDICTS, Hold, HoldKind
from ...instants import milliseconds, optional_milliseconds
from ...projections.task_view import Status, TaskView
from ...scheduling.eligibility import Considered, Verdict


class HoldInfo(Struct, kw_only=True):
    """Something that keeps a task from starting."""

    kind: HoldKind
    since: int | None
    """Null if unknown."""
    text: str
    """The reason in words."""
    release: str
    """What ends it, in words."""
    data: dict[str, Any]
    """The same as data; the fields depend on `kind`."""


class ServerVerdict(Struct, kw_only=True, rename="camel"):
    """Whether a server could run the task."""

    server_id: str
    verdict: Verdict
    text: str
    """The verdict in words, with details."""
    until: int | None
    """When the verdict ends without action, or a busy server is tried again; null if unknown."""
    since: int | None
    """Since when it has said that it is busy, is offline for this reason, or was removed; null: none of these."""


class VerdictCount(Struct, kw_only=True):
    """How many servers have the same verdict."""

    verdict: Verdict
    text: str
    count: int


class RunningInfo(Struct, kw_only=True, rename="camel"):
    """The running attempt."""

    attempt: int
    server_id: str
    since: int
    deadline: int | None
    """When the attempt times out."""
    reports_by_itself: bool
    """True if the server accepted the task (202) and sends updates; false if it answers with the result."""
    progress: float | None
    """Percent, from the last report of the server."""
    message: str | None


class EndedInfo(Struct, kw_only=True, rename="camel"):
    """How a task ended."""

    at: int
    by: dict[str, str]
    """Who ended it: `kind` (user, server, worker, timer, system) and `id`."""
    reason: str | None
    """Why it failed or was cancelled; null if it succeeded."""
    failure_kind: FailureKind | None
    parent_id: str | None
    """The parent whose failure ended it; null if none did."""
    cancel_outcome: CancelOutcome | None
    """As of the task."""
    cancel_detail: str | None
    """Why, in words."""
    release: str
    """What can be done now."""


class WhyAnswer(Struct, kw_only=True, rename="camel"):
    """Why a task waits, runs or ended."""

    task_id: str
    status: Status
    held: bool
    """True while the task must wait before it is queued."""
    since: int
    """When it was held or queued, started or ended."""
    summary: str
    """One sentence."""
    holds: list[HoldInfo]
    """What it waits for, in order; later ones may be unknown yet."""
    verdicts: list[VerdictCount]
    """Verdicts on the servers, counted; empty unless it waits."""
    servers: list[ServerVerdict] | None
    """The verdict on each server, by id, the first 200; null unless the caller is an admin or auditor."""
    running: RunningInfo | None
    ended: EndedInfo | None
    attempt: int
    """Number of the last attempt, from 1; 0 before the first."""
    attempts: int
    """Attempts it gets in all."""
    last_error: str | None
    scheduler: Literal["answered", "silent", "not asked"] = msgspec.field(name="keeper")
    """Whether the scheduler, which knows the limits, answered. It is asked only about held tasks."""


SERVERS_LISTED = 200


def hold_info(hold: Hold) -> HoldInfo:
    return HoldInfo(
        kind=hold.kind,
        since=optional_milliseconds(hold.since),
        text=hold.text,
        release=hold.release,
        data={name: milliseconds(value) if isinstance(value, datetime) else value for name, value in hold.data.items()},
    )


def verdict_counts(servers: Sequence[Considered]) -> list[VerdictCount]:
    counts = Counter(server.verdict for server in servers)
    return [
        VerdictCount(verdict=verdict, text=words[counts[verdict] != 1], count=counts[verdict])
        for verdict, words in VERDICTS.items()
        if counts[verdict]
    ]


def server_verdicts(servers: Sequence[Considered]) -> list[ServerVerdict]:
    return [
        ServerVerdict(
            server_id=server.server_id,
            verdict=server.verdict,
            text=server.text,
            until=optional_milliseconds(server.until),
            since=optional_milliseconds(server.since),
        )
        for server in sorted(servers, key=lambda server: server.server_id)[:SERVERS_LISTED]
    ]


def running_info(view: TaskView, since: datetime) -> RunningInfo:
    return RunningInfo(
        attempt=view.attempt,
        server_id=view.server_id,
        since=milliseconds(since),
        deadline=optional_milliseconds(view.deadline),
        reports_by_itself=view.accepted,
        progress=view.progress,
        message=view.message,
    )


def running_sentence(view: TaskView) -> str:
    how_far = f", at {view.progress:g} %" if view.progress is not None else ""
    if not view.worker_id:
        where = f" as {view.server_id}" if view.server_id else ""
        return f"A report took it{where}, attempt {view.attempt} of {view.attempts}{how_far}. It takes no slot."
    return f"It runs on {view.server_id}: attempt {view.attempt} of {view.attempts}{how_far}."


def ended_info(view: TaskView, ending: Recorded[TaskEvent], cancel_detail: str | None, now: datetime) -> EndedInfo:
    """Return how a task ended. `cancel_detail`: of what is known of its cancelled attempt."""
    error = view.error or None
    parents = (view.plan or NO_PLAN).depends_on
    return EndedInfo(
        at=milliseconds(ending.at),
        by=ending.by.shown(),
        reason=error,
        failure_kind=view.failure if view.status == "FAILED" else None,
        # Only a failure by a parent has the parent's id in its error.
        parent_id=next(
            (parent for parent in parents if error and ending.by.kind == "system" and parent in error), None
        ),
        cancel_outcome=view.cancel_outcome,
        cancel_detail=cancel_detail,
        release=_what_can_be_done(view, now),
    )


def _what_can_be_done(view: TaskView, now: datetime) -> str:
    plan = view.plan or NO_PLAN
    if view.status == "FINISHED":
        return "nothing: it is done"
    if (last := last_start(plan)) is not None and last <= now:
        return f"submit it again with a new `{option(late_kind(plan))}`: POST /api/task"
    return "retry it: POST /api/task/{id}/retry"


def ended_sentence(view: TaskView, by: dict[str, str]) -> str:
    error = view.error.rstrip(".")
    match view.status:
        case "FINISHED":
            return f"It succeeded, on attempt {view.attempt} of {view.attempts}."
        case "FAILED" if view.failure == "parent_failed":
            return f"It failed before it started: {error}."
        case "FAILED" if view.failure in ("expired", "deadline", "busy"):
            return f"It failed: {error}."
        case "FAILED":
            return f"It failed for good, on attempt {view.attempt} of {view.attempts}: {error}."
        case _:
            return f"It was cancelled by {by['id']}: {error}."
