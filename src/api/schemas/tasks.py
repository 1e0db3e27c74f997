"""Tasks as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ...backends.dialects.task_update import UpdateMetadata
from ...events.envelope import Stored
from ...events.ids import TaskRef
from ...events.task import (
    NO_PLAN,
    CancelOutcome,
    FailureKind,
    ParentFailure,
    Priority,
    StoredResult,
    TaskEvent,
)
from ...index.lists import CountedTasks
from ...instants import iso, milliseconds
from ...projections.task_reader import LastReport, TaskDetail
from ...projections.task_view import Listed, Status, TaskView
from ...push.pushed_event import shown, without_bodies
from ...settings import Settings
from ...vault.result_links import ResultLinks
from ..auth.access import WITHHELD
from ..bodies import LargeResult
from ..large_bodies import StoredPart
from .shared import Page


class TaskSummary(Struct, kw_only=True, rename="camel"):
    """A task in a list."""

    id: str
    status: Status
    type: str
    priority: Priority
    owner: str
    """The `sub` of the submitter's token."""
    server_id: str | None
    """The server that runs it, or ran it last; null before the first attempt."""
    error: str | None
    """Why the task or its last attempt failed; null if nothing failed."""
    progress: float | None
    """Percent, from the last report of the server."""
    message: str | None
    """From the last report of the server."""
    attempt: int
    """Number of the last attempt, from 1; 0 before the first."""
    attempts: int
    """Attempts it gets in all."""
    created_at: int
    """Milliseconds since the epoch, as are all times of a task."""
    updated_at: int
    started_at: int | None
    """When the first attempt began."""
    ended_at: int | None
    next_attempt_at: int | None
    """When the next attempt is due; null unless the task waits for one."""
    callback_url: str
    """Where a server sends updates (PUT)."""
    held: bool
    """True while the task must wait before it is queued. `GET /api/task/{id}/why` says for what."""
    failure_kind: FailureKind | None
    """The kind of failure in `error`; null if nothing failed."""
    run_at: int | None
    """The earliest start."""
    expires_at: int | None
    """The latest start."""
    deadline: int | None
    """The latest end. A task that has not ended by then fails."""
    concurrency_key: str | None
    batch_id: str | None
    """The batch it was submitted with."""
    schedule_id: str | None
    """The recurring schedule that submitted it."""
    cancel_outcome: CancelOutcome | None
    """What became of the attempt that ran when the task was cancelled: the server `confirmed` that it stopped; it was
    told so (`requested`); it did not say so (`unconfirmed`); it cannot be told (`impossible`). Null: none ran, or it is
    not known, or not yet."""


class TaskDetails(TaskSummary, kw_only=True, rename="camel"):
    """A task with its payload and its result."""

    request: Any
    """The payload as submitted."""
    depends_on: list[str]
    """Ids of the tasks that must end first."""
    on_parent_failure: ParentFailure
    """What happens to this task when one of them does not succeed."""
    prefer: dict[str, str]
    """Labels of the servers that should run it if one is free."""
    require: dict[str, str]
    """Labels a server must have to run it."""
    result: Any
    """A TaskResult, or null."""
    withheld: str | UnsetType = UNSET
    """Why `request` and `result` are null although the task has them: the caller may not read them. Else missing."""


class TaskOutline(TaskSummary, kw_only=True, rename="camel"):
    """A task without its payload and its result: their sizes."""

    request_bytes: int
    """Size of the payload. `GET /api/task/{id}/payload` returns it."""
    result_bytes: int | None
    """Size of the result; while the task runs, of the data of its last report. Null: there is none."""
    depends_on: list[str]
    """Ids of the tasks that must end first."""
    on_parent_failure: ParentFailure
    """What happens to this task when one of them does not succeed."""
    prefer: dict[str, str]
    """Labels of the servers that should run it if one is free."""
    require: dict[str, str]
    """Labels a server must have to run it."""


class TaskOutlineAnswer(Struct, kw_only=True, rename="camel"):
    """A task without its payload and its result."""

    task_id: str
    task_details: TaskOutline


class TaskAnswer(Struct, kw_only=True, rename="camel"):
    """A task, with its id again where older clients look for it."""

    task_id: str
    task_details: TaskDetails


class TaskCount(Struct, kw_only=True, rename="camel"):
    """A number of tasks."""

    count: int
    """Exact up to 10,000, unless `capped`."""
    capped: bool
    """True: there are, or may be, more."""


class TaskPage(Page, kw_only=True, rename="camel"):
    """Tasks, newest first."""

    tasks: list[TaskSummary]
    as_of: int
    """Sequence of the log that the page reflects."""
    total: TaskCount | None = None
    """With `count`: all tasks that match."""


class TaskGroup(TaskCount, kw_only=True, rename="camel"):
    """The tasks with one value."""

    value: str


class TaskCounts(TaskCount, kw_only=True, rename="camel"):
    """How many tasks match a filter."""

    by: list[TaskGroup] | None
    """By value of what `by` names, the largest number first; null without it."""
    more: bool
    """True if there are more values: at most 200 are counted."""
    as_of: int
    """Sequence of the log that the counts reflect."""


class RecordedEvent(Struct, kw_only=True):
    """An event of a task's history, as recorded."""

    sequence: int
    """Sequence in the log: it grows, with gaps."""
    id: str
    at: str
    """ISO 8601, UTC."""
    by: dict[str, str]
    """Who did it: `kind` (user, server, worker, timer, system) and `id`."""
    cause: str
    """The request id, or the sequence of the event, that caused it."""
    event: Any
    """Its `type`, and the fields of the type. A `result` that is too large for an event is `{"$ref": URL, "bytes": n}`:
    fetch it there with a token of the API."""
    sizes: dict[str, int] | None
    """With `bodies=false`: the fields that are left out of `event`, and their sizes in bytes; else null."""


class EventPage(Struct, kw_only=True, rename="camel"):
    """Events of a task, oldest first; with `before`, newest first."""

    task_id: str
    events: list[RecordedEvent]
    next_after: int | None
    """Pass as `after` to get the next page; null after the last page, and with `before`."""
    next_before: int | None
    """Pass as `before` to get the next page, of older events; null after the last page, and without `before`."""
    total: int
    """Events of the task, of all kinds."""
    reset: bool = False
    """True: `after` is not in this log, so the page starts with the oldest event."""


class UpdateBody(Struct, kw_only=True):
    """A TaskResult without its id, from the server that runs the task or from the owner."""

    metadata: UpdateMetadata
    data: Any = None
    """The result of the task, or a part of it."""
    backend_task_id: str | None = None
    """The server's own id for the task."""
    task_id: str | None = None
    """Optional; the id of another task is refused."""


class _PushedState(Struct, kw_only=True, rename="camel", tag="state"):
    """A task as it is when a stream begins."""

    task_id: str
    sequence: int
    """Sequence in the log that this reflects."""
    task: TaskSummary | TaskDetails


_encode = msgspec.json.Encoder().encode


def encoded_state(task_id: str, sequence: int, task: TaskSummary | TaskDetails) -> bytes:
    return _encode(_PushedState(task_id=task_id, sequence=sequence, task=task))


def _summary_fields(ref: TaskRef, view: TaskView, settings: Settings) -> dict[str, Any]:
    plan = view.plan or NO_PLAN
    return {
        "id": ref.id,
        "status": view.status,
        "type": view.task_type,
        "priority": view.priority,
        "owner": view.owner,
        "server_id": view.server_id or None,
        "error": view.error or None,
        "progress": view.progress,
        "message": view.message,
        "attempt": view.attempt,
        "attempts": view.attempts,
        "created_at": milliseconds(view.created_at),
        "updated_at": milliseconds(view.updated_at),
        "started_at": view.started_at and milliseconds(view.started_at),
        "ended_at": view.ended_at and milliseconds(view.ended_at),
        "next_attempt_at": view.retry_at and milliseconds(view.retry_at),
        "callback_url": f"{settings.callback_base}/api/task/{ref.id}",
        "held": view.held,
        "failure_kind": view.failure,
        "run_at": plan.not_before and milliseconds(plan.not_before),
        "expires_at": plan.expires_at and milliseconds(plan.expires_at),
        "deadline": plan.ends_by and milliseconds(plan.ends_by),
        "concurrency_key": plan.concurrency_key or None,
        "batch_id": view.batch or None,
        "schedule_id": view.schedule or None,
        "cancel_outcome": view.cancel_outcome,
    }


def result_part(ref: TaskRef, stored: StoredResult) -> bytes | StoredPart:
    """Return a result as a part of a large answer."""
    if stored.object_name is None:
        return bytes(stored.inline)
    return StoredPart(stored.object_name, stored.size_bytes, ref.owner)


def result_in_place(ref: TaskRef, stored: StoredResult | None) -> Any:
    """Return a result as a field of an answer, None without one."""
    if stored is None or stored.object_name is None:
        return stored and stored.inline
    return LargeResult(StoredPart(stored.object_name, stored.size_bytes, ref.owner))


class _LastTaskResult(Struct, kw_only=True):
    """The TaskResult of the last report of a task that runs."""

    task_id: str
    data: Any
    metadata: dict[str, Any]


def _reported(detail: TaskDetail, report: LastReport, data: Any) -> _LastTaskResult:
    """Return the TaskResult of the last report. `data`: as it is shown."""
    view = detail.view
    metadata = {
        "server_id": view.server_id,
        "status": view.status,
        "progress": view.progress,
        "message": view.message,
        "custom_data": report.custom_data,
    }
    return _LastTaskResult(task_id=detail.ref.id, data=data, metadata=metadata)


def task_answer(detail: TaskDetail, settings: Settings, *, bodies: bool = True) -> TaskAnswer:
    """Return a task as it is read; without `bodies`, its payload and its result are withheld from the caller."""
    if not bodies:
        return TaskAnswer(task_id=detail.ref.id, task_details=_details(detail, settings, None, bodies=False))
    result = result_in_place(detail.ref, detail.result)
    if (report := detail.report) is not None:
        result = _reported(detail, report, result_in_place(detail.ref, report.data))
    return TaskAnswer(task_id=detail.ref.id, task_details=_details(detail, settings, result))


def task_outline(detail: TaskDetail, settings: Settings) -> TaskOutlineAnswer:
    plan = detail.view.plan or NO_PLAN
    stored = detail.result if detail.report is None else detail.report.data
    outline = TaskOutline(
        **_summary_fields(detail.ref, detail.view, settings),
        request_bytes=len(bytes(detail.payload)),
        result_bytes=None if stored is None else stored.size_bytes,
        depends_on=list(plan.depends_on),
        on_parent_failure=plan.on_parent_failure,
        prefer=plan.prefer,
        require=plan.require,
    )
    return TaskOutlineAnswer(task_id=detail.ref.id, task_details=outline)


def pushed_details(detail: TaskDetail, settings: Settings, links: ResultLinks, *, bodies: bool = True) -> TaskDetails:
    """Return a task as a stream starts with it: with a link in the place of a large result.

    Without `bodies`, its payload and its result are withheld from the caller.
    """
    if not bodies:
        return _details(detail, settings, None, bodies=False)

    def shown(stored: StoredResult | None, sequence: int) -> Any:
        is_large = stored is not None and stored.object_name is not None
        return links.shown(detail.ref, sequence, stored) if stored and is_large else stored and stored.inline

    if (report := detail.report) is not None:
        return _details(detail, settings, _reported(detail, report, shown(report.data, report.data_sequence)))
    return _details(detail, settings, shown(detail.result, detail.result_sequence))


def _details(detail: TaskDetail, settings: Settings, result: Any, *, bodies: bool = True) -> TaskDetails:
    fields = _summary_fields(detail.ref, detail.view, settings)
    plan = detail.view.plan or NO_PLAN
    return TaskDetails(
        **fields,
        request=detail.payload if bodies else None,
        result=result,
        withheld=UNSET if bodies else WITHHELD,
        depends_on=list(plan.depends_on),
        on_parent_failure=plan.on_parent_failure,
        prefer=plan.prefer,
        require=plan.require,
    )


def task_summary(listed: Listed, settings: Settings) -> TaskSummary:
    return TaskSummary(**_summary_fields(listed.ref, listed.view, settings))


def task_counts(found: CountedTasks) -> TaskCounts:
    groups = None
    if found.groups is not None:
        by_number = sorted(found.groups.counts.items(), key=lambda each: -each[1].number)
        groups = [TaskGroup(value=value, count=count.number, capped=count.capped) for value, count in by_number]
    return TaskCounts(
        count=found.total.number,
        capped=found.total.capped,
        by=groups,
        more=found.groups is not None and found.groups.more,
        as_of=found.as_of,
    )


def recorded_event(
    ref: TaskRef, stored: Stored[TaskEvent], links: ResultLinks, *, bodies: bool = True
) -> RecordedEvent:
    recorded = stored.recorded
    if bodies:
        sizes, event = None, shown(recorded.event, ref, stored.sequence, links)
    else:
        event, sizes = without_bodies(recorded.event)
    return RecordedEvent(
        sequence=stored.sequence,
        id=recorded.id,
        at=iso(recorded.at),
        by=recorded.by.shown(),
        cause=recorded.cause,
        event=event,
        sizes=sizes,
    )
