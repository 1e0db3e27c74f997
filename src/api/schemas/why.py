"""Why a task is where it is, as clients see it. Times are milliseconds since the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...commands.task_holds import last_start, late_kind, option
from ...events.envelope import Recorded
from ...events.task import NO_PLAN, FailureKind, TaskEvent
from ...explain.hold import Hold, HoldKind
from ...explain.queued import VERDICTS
from ...projections.task_view import Status, TaskView
from ...scheduling.eligibility import Considered, Verdict
from ...wire.fields import milliseconds, optional_milliseconds


class HoldInfo(Struct, kw_only=True):
    """Something that keeps a task from starting."""

    kind: HoldKind
    since: int | None
    """Null: not known."""
    text: str
    """What it is, in words."""
    release: str
    """What would end it, in words."""
    data: dict[str, Any]
    """The same as data; what is in it depends on the kind."""


class ServerVerdict(Struct, kw_only=True, rename="camel"):
    """A server as a place for the task."""

    server_id: str
    verdict: Verdict
    text: str
    """The verdict in words, with its particulars."""
    until: int | None
    """When that is over by itself; null: not known."""


class VerdictCount(Struct, kw_only=True):
    """How many servers are the same as a place for the task."""

    verdict: Verdict
    text: str
    count: int


class RunningInfo(Struct, kw_only=True, rename="camel"):
    """An attempt under way."""

    attempt: int
    server_id: str
    since: int
    deadline: int | None
    """When the attempt is given up."""
    reports_by_itself: bool
    """The server took it (202) and sends its updates; if not, it answers when it is done."""
    progress: float | None
    """Percent, as the server last reported it."""
    message: str | None


class EndedInfo(Struct, kw_only=True, rename="camel"):
    """How a task ended."""

    at: int
    by: dict[str, str]
    """Who ended it: `kind` (user, server, worker, timer, system) and `id`; the system's `scheduler` acts on holds."""
    reason: str | None
    """Why it failed or was cancelled; null: it succeeded."""
    failure_kind: FailureKind | None
    parent_id: str | None
    """The parent whose failure ended it; null: none did."""
    release: str
    """What can still be done."""


class WhyAnswer(Struct, kw_only=True, rename="camel"):
    """Why a task is where it is."""

    task_id: str
    status: Status
    held: bool
    """Something holds it: it is in no queue."""
    since: int
    """Since when it is so: held, queued, running or ended."""
    summary: str
    """One sentence."""
    holds: list[HoldInfo]
    """What it waits for, in the order in which it does; what comes later may not be known yet."""
    verdicts: list[VerdictCount]
    """What the servers are as places for it, counted; empty: it does not wait."""
    servers: list[ServerVerdict] | None
    """Each of them, by id, the first 200; null for those who are no admin and no auditor."""
    running: RunningInfo | None
    ended: EndedInfo | None
    attempt: int
    """Ordinal of the last try; 0 before the first."""
    attempts: int
    """Tries it gets in all."""
    last_error: str | None
    """Why the last attempt that failed did."""
    scheduler: Literal["answered", "silent", "not asked"] = msgspec.field(name="keeper")
    """Whether the scheduler, which counts what the limits count, answered; it is asked about held tasks only."""


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
    return f"It runs on {view.server_id}: attempt {view.attempt} of {view.attempts}{how_far}."


def ended_info(view: TaskView, ending: Recorded[TaskEvent], now: datetime) -> EndedInfo:
    error = view.error or None
    parents = (view.plan or NO_PLAN).depends_on
    return EndedInfo(
        at=milliseconds(ending.at),
        by={"kind": ending.by.kind, "id": ending.by.id},
        reason=error,
        failure_kind=view.failure if view.status == "FAILED" else None,
        # What ends a child by its parent says the parent's id, and nothing else does.
        parent_id=next(
            (parent for parent in parents if error and ending.by.kind == "system" and parent in error), None
        ),
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
        case "FAILED" if view.failure in ("expired", "deadline"):
            return f"It failed: {error}."
        case "FAILED":
            return f"It failed for good, on attempt {view.attempt} of {view.attempts}: {error}."
        case _:
            return f"It was cancelled by {by['id']}: {error}."
