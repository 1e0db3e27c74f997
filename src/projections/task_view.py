"""The view of a task: a fold of its events, without the payload and the result."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, assert_never

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..events import task as events
from ..events.chapters import NO_CHAPTERS, Chapters, read_chapter, reported
from ..events.envelope import NULL, Recorded, Stored
from ..events.ids import TaskRef
from ..events.subjects import server_token
from ..events.task import (
    BUSY_FOR,
    NO_PLAN,
    CancelOutcome,
    FailureKind,
    ModelChoice,
    Plan,
    Priority,
    StoredResult,
    TaskEvent,
    TaskSubmitted,
)

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"]
ACTIVE: frozenset[Status] = frozenset({"WAITING", "PROCESSING"})


class TaskView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as of `sequence`."""

    owner: str
    task_type: str
    pool: str
    priority: Priority
    status: Status
    created_at: datetime
    updated_at: datetime
    created_sequence: int
    """Place of the submission in the log: the order of lists."""
    sequence: int
    """Last event of the log that this view reflects."""
    attempts: int
    """Ordinal of the last attempt it may get."""
    budget: int = 0
    """Attempts it gets, and gets again at each retry on request."""
    attempt: int = 0
    """Ordinal of the last attempt; 0 before the first."""
    server_id: str = ""
    worker_id: str = ""
    accepted: bool = False
    """The server reports by callback."""
    deadline: datetime | None = None
    retry_at: datetime | None = None
    """UTC. When the next attempt is due; None: it waits for none."""
    error: str = ""
    progress: float | None = None
    message: str | None = None
    started_at: datetime | None = None
    """Start of the first attempt."""
    attempt_started_at: datetime | None = None
    """Start of the attempt that runs; None: none does, or the view is from before this field."""
    ended_at: datetime | None = None
    project: str = ""
    model: ModelChoice | None = None
    """The model that a task of a project was submitted with; its key is never here."""
    chapters: Chapters = NO_CHAPTERS
    """The chapters that the server of a project's task reported, since its submission or its last retry by hand."""
    params: Raw = NULL
    """The payload of a task that belongs to a project; null for others, whose payloads may be large."""
    deleted: bool = False
    """Its owner deleted it: it is in no list."""
    held: bool = False
    """It waits for the scheduler to queue it."""
    granted: bool = False
    """The scheduler counted it towards its limits."""
    released: bool = False
    """It has been queued before: its time had come, and its parents had ended."""
    renewed_after: int = 0
    """Sequence of its end, while it is held after a retry; ends of parents before that do not matter. 0: not so."""
    plan: Plan | None = None
    batch: str = ""
    schedule: str = ""
    busy_until: datetime | None = None
    """UTC. When it fails if every server stays busy; None: its last attempt was not returned by a busy server."""
    busy_for: timedelta = BUSY_FOR
    failure: FailureKind | None = None
    """Kind of the failure that ended it, or of its last attempt's failure."""
    ended_sequence: int = 0
    """Sequence of the event that ended it; 0: it has not ended, or the view is from before this field."""
    result_bytes: int = 0
    """Size of the result in that event; 0: it has none."""
    cancel_outcome: CancelOutcome | None = None
    """What became of the attempt that ran when the task was cancelled; None: none ran, or it is not known (yet)."""
    indexed: dict[str, str] = {}
    """Values of the payload that lists may be filtered by, as text, by path."""

    @property
    def occupied_server_id(self) -> str:
        """Return the server that it takes a slot of; empty if it does not run, or no worker started it."""
        return self.server_id if self.worker_id and self.status == "PROCESSING" else ""


class Listed(NamedTuple):
    """A task and its view."""

    ref: TaskRef
    view: TaskView


def fold(view: TaskView | None, stored: Stored[TaskEvent]) -> TaskView | None:
    """Return the view after one more event; the same view for an event it already reflects.

    Return None until there is a submission: the beginning may be past its retention.
    """
    sequence, recorded = stored
    if view is None:
        event = recorded.event
        return _submitted(event, recorded, sequence) if isinstance(event, TaskSubmitted) else None
    if sequence <= view.sequence:
        return view
    return replace(view, **_changes(view, recorded, sequence), updated_at=recorded.at, sequence=sequence)


def _submitted(event: TaskSubmitted, recorded: Recorded[TaskEvent], sequence: int) -> TaskView:
    return TaskView(
        owner=event.owner,
        task_type=event.task_type,
        pool=event.pool,
        priority=event.priority,
        status="WAITING",
        created_at=recorded.at,
        updated_at=recorded.at,
        created_sequence=sequence,
        sequence=sequence,
        attempts=event.policy.attempts,
        budget=event.policy.attempts,
        project=event.project,
        model=event.model,
        params=event.payload if event.project else NULL,
        held=event.held,
        plan=event.plan,
        batch=event.batch,
        schedule=event.schedule,
        busy_for=event.policy.busy_for,
        indexed=event.indexed,
    )


def _changes(view: TaskView, recorded: Recorded[TaskEvent], sequence: int) -> dict[str, Any]:
    """Return the fields that an event changes, with their new values: a copy of a view for each step costs more."""
    event = recorded.event
    match event:
        case TaskSubmitted():
            return {}
        case events.TaskHeld():
            return {
                **(_renewed(view) if event.renewed else {}),
                **_waiting(busy_until=None),
                "held": True,
                "granted": False,
                "renewed_after": view.sequence if event.renewed else 0,
            }
        case events.TaskQueued():
            return {
                **(_renewed(view) if event.renewed else {}),
                **_waiting(),
                "held": False,
                "granted": event.granted,
                "renewed_after": 0,
                "released": True,
            }
        case events.AttemptStarted():
            return {
                "status": "PROCESSING",
                "held": False,
                "attempt": event.attempt,
                "server_id": event.server_id,
                "worker_id": event.worker_id,
                "accepted": not event.worker_id,
                "deadline": event.deadline,
                "retry_at": None,
                "started_at": view.started_at or recorded.at,
                "attempt_started_at": recorded.at,
            }
        case events.AttemptAccepted():
            return {"accepted": True}
        case events.ProgressReported():
            return _reported(view, event)
        case events.AttemptFailed():
            failed = _waiting(retry_at=event.retry_at, progress=None, message=None, busy_until=None)
            return {**failed, "granted": False, "error": event.error, "failure": event.kind}
        case events.AttemptReturned():
            until = None if event.kind == "shutdown" else view.busy_until or recorded.at + view.busy_for
            # It does not count, so there may be one more.
            return _waiting(progress=None, message=None, busy_until=until, attempts=view.attempts + 1)
        case events.TaskSucceeded():
            ended = _ended("FINISHED", recorded, sequence, event.server_id, event.result)
            return {**ended, "error": "", "failure": None, "progress": 100.0}
        case events.TaskFailed():
            ended = _ended("FAILED", recorded, sequence, event.server_id, event.result)
            return {**ended, "error": event.error, "failure": event.kind}
        case events.TaskCancelled():
            return {**_ended("CANCELLED", recorded, sequence, view.server_id, None), "error": event.reason}
        case events.CancelReported():
            is_of_it = view.status == "CANCELLED" and view.attempt == event.attempt
            return {"cancel_outcome": event.outcome} if is_of_it else {}
        case events.TaskDeleted():
            return {"deleted": True}
        case _:
            assert_never(event)


def after_report(view: TaskView, event: events.ProgressReported) -> TaskView:
    return replace(view, **_reported(view, event))


def awaited(view: TaskView) -> Plan:
    """Return the plan of a task without the time and the parents that no longer hold it."""
    plan = view.plan or NO_PLAN
    if view.renewed_after:
        return replace(plan, not_before=None)
    if view.released or view.attempt > 0:
        return replace(plan, not_before=None, depends_on=())
    return plan


def _reported(view: TaskView, event: events.ProgressReported) -> dict[str, Any]:
    progress = view.progress if event.progress is None else event.progress
    return {"progress": progress, "message": event.message, "chapters": _chapters(view, event)}


def _waiting(*, retry_at: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """Return the changes of a task that waits for its next attempt from now on."""
    waiting = {"status": "WAITING", "accepted": False, "deadline": None, "ended_at": None}
    return {**waiting, "attempt_started_at": None, "retry_at": retry_at, **changes}


def _chapters(view: TaskView, event: events.ProgressReported) -> Chapters:
    chapters = view.chapters
    for custom_data in reported(event) if view.project else ():
        if (chapter := read_chapter(custom_data)) is not None:
            chapters = chapters.after(chapter)
    return chapters


def _renewed(view: TaskView) -> dict[str, Any]:
    return {
        "chapters": NO_CHAPTERS,
        "progress": None,
        "message": None,
        "error": "",
        "failure": None,
        "busy_until": None,
        "attempts": view.attempt + view.budget,
        "ended_sequence": 0,
        "result_bytes": 0,
        "cancel_outcome": None,
    }


def _ended(
    status: Status, recorded: Recorded[TaskEvent], sequence: int, server_id: str, result: StoredResult | None
) -> dict[str, Any]:
    return {
        "status": status,
        "ended_sequence": sequence,
        "result_bytes": result.size_bytes if result else 0,
        "server_id": server_id,
        "held": False,
        "granted": False,
        "attempt_started_at": None,
        "ended_at": recorded.at,
        "retry_at": None,
        "accepted": False,
        "deadline": None,
        "busy_until": None,
    }


def view_key(ref: TaskRef) -> str:
    return f"task.{ref.owner}.{ref.unique}"


def active_key(ref: TaskRef, view: TaskView) -> str | None:
    """Return the key of an active task, which names the server it takes a slot of; None once it has ended."""
    if view.status not in ACTIVE:
        return None
    return f"active.{server_token(view.occupied_server_id)}.{ref.owner}.{ref.unique}"


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(TaskView).decode
