"""Operations: one command for all the tasks that a filter finds, carried out by the service. Times are ISO 8601."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from ...commands.operation import Operation
from ...events.operation import OperationAction
from ...instants import iso
from ...submission.body import TaskIdText
from .bulk import MOST_IDS, DeadLettersFilter
from .shared import Page

OperationStatus = Literal["running", "pausing", "paused", "stopping", "stopped", "done", "failed"]


class OperationBody(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """An operation to start, on tasks by ids or by a filter: exactly one of the two."""

    action: OperationAction
    """`discard` deletes dead letters, and nothing else."""
    filter: DeadLettersFilter | None = None
    """At least one field besides `owner`, unless only dead letters are meant."""
    ids: Annotated[list[TaskIdText], Meta(min_length=1, max_length=MOST_IDS)] | None = None
    dead_letters: bool = False
    """Only dead letters. With them `since` and `before` of the filter are those of the failure."""
    reason: Annotated[str, Meta(max_length=300)] = ""
    """Recorded in the history of each task."""
    dry_run: bool = False
    """Change nothing: the counts are of what would change."""


class RefusedCount(Struct, kw_only=True):
    """How many tasks refused the command for one reason."""

    reason: str
    count: int


class OperationTally(Struct, kw_only=True):
    """What came of the command so far. `matched` is the sum of the others."""

    matched: int
    done: int
    unchanged: int
    """Tasks that were already so."""
    refused: list[RefusedCount]
    """At most 20 reasons; the rest are `other reasons`."""


class OperationTotal(Struct, kw_only=True):
    """How many tasks matched at the start."""

    count: int
    capped: bool
    """True: there were more."""


class OperationSummary(Struct, kw_only=True, rename="camel"):
    """An operation and what has come of it."""

    id: str
    by: str
    """The `sub` of the user who started it, and in whose name it acts."""
    action: OperationAction
    dead_letters: bool
    dry_run: bool
    """True: nothing changes, and the counts are of what would."""
    state: OperationStatus
    """`pausing`, `stopping`: a page of up to 250 tasks that had begun is finished."""
    state_reason: str | None
    """Why it is paused or stopped, or has failed."""
    filter: dict[str, Any] | None
    """With the times as they were fixed at the start; null: it is on tasks by ids."""
    ids: int | None
    """Number of ids; null: it has a filter."""
    reason: str | None
    as_of: int | None
    """Sequence of the log at the start: tasks submitted later are left alone. Null: it is on tasks by ids."""
    started_at: str
    updated_at: str
    ended_at: str | None
    counts: OperationTally
    in_progress: int
    """Tasks of the page that is being commanded; not yet counted."""
    total: OperationTotal
    progress: float | None
    """From 0 to 1; null: the total is not known."""


class OperationPage(Page, kw_only=True, rename="camel"):
    """Operations, newest first."""

    operations: list[OperationSummary]


def operation_summary(operation: Operation, *, bodies: bool = True) -> OperationSummary:
    """Return an operation as clients see it. Without `bodies`, values of payloads in its filter are withheld."""
    started, counts = operation.started, operation.counts
    refused = sum(each.count for each in counts.refused)
    matched = counts.done + counts.unchanged + refused
    by_filter = not started.ids
    return OperationSummary(
        id=started.operation_id,
        by=started.owner,
        action=started.action,
        dead_letters=started.dead_letters,
        dry_run=started.dry_run,
        state=_status(operation),
        state_reason=operation.reason or None,
        filter=_shown_filter(started.filter, bodies=bodies) if by_filter else None,
        ids=None if by_filter else len(started.ids),
        reason=started.reason or None,
        as_of=started.as_of if by_filter else None,
        started_at=iso(operation.started_at),
        updated_at=iso(operation.changed_at),
        ended_at=iso(operation.ended_at) if operation.ended_at is not None else None,
        counts=OperationTally(
            matched=matched,
            done=counts.done,
            unchanged=counts.unchanged,
            refused=[RefusedCount(reason=each.reason, count=each.count) for each in counts.refused],
        ),
        in_progress=len(operation.ids),
        total=OperationTotal(count=started.total, capped=started.total_capped),
        progress=_progress(operation, matched),
    )


def _status(operation: Operation) -> OperationStatus:
    if operation.ending is not None:
        return operation.ending if operation.is_over else "stopping"
    if operation.paused:
        return "paused" if operation.is_settled else "pausing"
    return "running"


def _progress(operation: Operation, matched: int) -> float | None:
    """Return the part of the tasks that are counted; below 1 until the end, as tasks begin and cease to match."""
    started = operation.started
    if operation.ending == "done":
        return 1.0
    if started.total_capped:
        return None
    return min(matched / started.total, 0.999) if started.total else 0.0


def _shown_filter(text: Raw, *, bodies: bool) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(text)
    if not bodies and found.get("payload"):
        found["payload"] = dict.fromkeys(found["payload"])
    return found
