"""Tasks as clients of the queue surface see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...events.ids import token
from ...instants import milliseconds, optional_milliseconds
from ...projections.task_view import Listed, Status

QueueType = Literal["chapter", "outline"]
QueueStatus = Literal["pending", "processing", "completed", "failed"]
STATUS: dict[Status, QueueStatus] = {
    "WAITING": "pending",
    "PROCESSING": "processing",
    "FINISHED": "completed",
    "FAILED": "failed",
    "CANCELLED": "failed",
}
MOST_CHAPTERS = 10_000
LONGEST_PROMPT = 20_000


class ChaptersBody(Struct, kw_only=True, rename="camel"):
    """How many chapters to write."""

    chapters_to_generate: Annotated[int, Meta(ge=1, le=MOST_CHAPTERS)] = 1


class OutlineBody(Struct, kw_only=True, rename="camel"):
    """The outline to write."""

    target_chapters: Annotated[int, Meta(ge=1, le=MOST_CHAPTERS)] = 400
    target_word_count: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """In the unit of the servers of type `outline`."""
    custom_prompt: Annotated[str, Meta(max_length=LONGEST_PROMPT)] | None = None


class QueuedTask(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A task of a project."""

    id: str
    type: str
    project_id: str
    """An id made from the project name; the same name has the same id."""
    project_name: str
    user_id: str
    """The `sub` of the submitter's token."""
    params: Any
    """The fields of the body as sent."""
    status: QueueStatus
    progress: float
    """Percent."""
    message: str | None = None
    """From the last report of the server."""
    error: str | None = None
    created_at: int
    """Milliseconds since the epoch, as are all times."""
    updated_at: int
    started_at: int | None = None
    completed_at: int | None = None


class Done(Struct, kw_only=True):
    """Done."""

    success: bool = True


class QueueSubmitted(Done, kw_only=True, rename="camel"):
    """An accepted task: it is on disk."""

    task_id: str


class QueueTaskAnswer(Done, kw_only=True):
    """One task."""

    task: QueuedTask


class QueueTasksAnswer(Done, kw_only=True, rename="camel"):
    """Tasks of projects."""

    tasks: list[QueuedTask]
    next_cursor: str | None = None
    """Pass as `cursor` to get older tasks that have not ended; null after the last page."""


def queued_task(listed: Listed) -> QueuedTask:
    ref, view = listed
    params = msgspec.json.decode(view.params)
    project = params.pop("projectName", view.project) if isinstance(params, dict) else view.project
    return QueuedTask(
        id=ref.id,
        type=view.task_type,
        project_id=token(view.project),
        project_name=project,
        user_id=view.owner,
        params=params,
        status=STATUS[view.status],
        progress=view.progress or 0.0,
        message=view.message,
        error=view.error or None,
        created_at=milliseconds(view.created_at),
        updated_at=milliseconds(view.updated_at),
        started_at=optional_milliseconds(view.started_at),
        completed_at=optional_milliseconds(view.ended_at),
    )
