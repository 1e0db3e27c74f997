"""Tasks as clients of the queue surface see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...errors import InvalidInput
from ...events.chapters import count, numbers
from ...events.ids import token
from ...events.task import ModelChoice
from ...instants import milliseconds, optional_milliseconds
from ...projections.task_view import Listed, Status, TaskView

QUEUE_TYPES: frozenset[str] = frozenset({"chapter", "outline"})
QueueStatus = Literal["pending", "processing", "completed", "failed"]
ActiveStatus = Literal["running", "paused"]
STATUS: dict[Status, QueueStatus] = {
    "WAITING": "pending",
    "PROCESSING": "processing",
    "FINISHED": "completed",
    "FAILED": "failed",
    "CANCELLED": "failed",
}
COMPLETED = "Task completed successfully"
"""The last message of a task, which older clients show."""
MOST_CHAPTERS = 10_000
MOST_WORDS = 1_000_000
LONGEST_PROMPT = 20_000

Count = Annotated[int, Meta(ge=1, le=MOST_CHAPTERS)] | Annotated[str, Meta(pattern="^[0-9]{1,9}$")] | None
Words = Annotated[int, Meta(ge=1, le=MOST_WORDS)] | Annotated[str, Meta(pattern="^[0-9]{1,9}$")] | None


class ChaptersBody(Struct, kw_only=True, rename="camel"):
    """How many chapters to write."""

    chapters_to_generate: Count = None
    """A number, or its digits as text; by default 1."""


class OutlineBody(Struct, kw_only=True, rename="camel"):
    """The outline to write."""

    target_chapters: Count = None
    """A number, or its digits as text; by default 400."""
    target_word_count: Words = None
    """In the unit of the servers of type `outline`; by default 100."""
    custom_prompt: Annotated[str, Meta(max_length=LONGEST_PROMPT)] | None = None


def chapters_asked(body: ChaptersBody) -> int:
    """Return the number of chapters. Raises InvalidInput."""
    return _count(body.chapters_to_generate, 1, MOST_CHAPTERS, "$.chaptersToGenerate")


def params_of(body: ChaptersBody | OutlineBody) -> dict[str, Any]:
    """Return the fields of a body, with numbers as numbers and with defaults. Raises InvalidInput."""
    if isinstance(body, ChaptersBody):
        return {"chaptersToGenerate": chapters_asked(body)}
    prompt = {} if body.custom_prompt is None else {"customPrompt": body.custom_prompt}
    return {
        "targetChapters": _count(body.target_chapters, 400, MOST_CHAPTERS, "$.targetChapters"),
        "targetWordCount": _count(body.target_word_count, 100, MOST_WORDS, "$.targetWordCount"),
        **prompt,
    }


def _count(given: int | str | None, default: int, most: int, path: str) -> int:
    number = default if given is None else int(given)
    if not 1 <= number <= most:
        raise InvalidInput(f"must be a number from 1 to {most}", path)
    return number


class AiConfig(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """The model that the submitter chose, never its key."""

    provider: str
    model: str
    base_url: str | None = None


class QueuedTask(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A task of a project."""

    id: str
    type: str
    """`chapter` or `outline`."""
    project_id: str
    """An id made from the project name; the same name has the same id."""
    project_name: str
    user_id: str
    """The `sub` of the submitter's token."""
    params: Any
    """The fields of the body, with defaults."""
    ai_config: AiConfig
    status: QueueStatus
    progress: int
    """Whole percent."""
    message: str | None = None
    """From the last report of the server; at the end `Task completed successfully`."""
    error: str | None = None
    created_at: int
    """Milliseconds since the epoch, as are all times."""
    updated_at: int
    started_at: int | None = None
    completed_at: int | None = None


class ActiveTask(Struct, kw_only=True, rename="camel"):
    """A task of a project that has not ended. Every field is always there."""

    id: str
    type: str
    project_id: str
    project_name: str
    user_id: str
    params: Any
    ai_config: AiConfig
    status: ActiveStatus
    """`running`, also while it waits."""
    progress: int
    message: str | None
    error: str | None
    """Why the last attempt failed, until the next one ends."""
    created_at: int
    updated_at: int
    started_at: int | None
    completed_at: int | None
    """Null: it has not ended."""
    target_count: int
    """Chapters that were asked for."""
    start_chapter: int
    """The lowest number of a chapter that was reported; 1 before the first report."""
    completed_chapters: list[int]
    """Numbers of chapters, as the server reported them; empty if it reports none."""
    failed_chapters: list[int]
    current_progress: int
    """Whole percent."""
    current_message: str | None
    error_message: str | None
    updated_at_ms: int


class Done(Struct, kw_only=True):
    """Done."""

    success: bool = True


class QueueHealth(Done, kw_only=True):
    """The service answers."""

    status: Literal["ok"] = "ok"


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


class ActiveTaskAnswer(Done, kw_only=True):
    """One task, or none."""

    task: ActiveTask | None


class ActiveTasksAnswer(Done, kw_only=True, rename="camel"):
    """Tasks of projects that have not ended."""

    tasks: list[ActiveTask]
    next_cursor: str | None = None
    """Pass as `cursor` to get older tasks; null after the last page."""


def queued_task(listed: Listed) -> QueuedTask:
    view = listed.view
    return QueuedTask(
        **_common(listed),
        status=STATUS[view.status],
        message=COMPLETED if view.status == "FINISHED" else view.message,
        error=view.error or None,
        started_at=optional_milliseconds(view.started_at),
        completed_at=optional_milliseconds(view.ended_at),
    )


def active_task(listed: Listed) -> ActiveTask:
    view = listed.view
    updated_at = milliseconds(view.updated_at)
    return ActiveTask(
        **_common(listed),
        status="running",
        message=view.message,
        error=view.error or None,
        started_at=optional_milliseconds(view.started_at),
        completed_at=optional_milliseconds(view.ended_at),
        target_count=target_count(view),
        start_chapter=1 if view.chapters.first is None else view.chapters.first,
        completed_chapters=numbers(view.chapters.completed),
        failed_chapters=numbers(view.chapters.failed),
        current_progress=percent(view),
        current_message=view.message,
        error_message=view.error or None,
        updated_at_ms=updated_at,
    )


def _common(listed: Listed) -> dict[str, Any]:
    ref, view = listed
    params = _params(view)
    return {
        "id": ref.id,
        "type": view.task_type,
        "project_id": token(view.project),
        "project_name": view.project,
        "user_id": view.owner,
        "params": params,
        "ai_config": _ai_config(view.model or ModelChoice()),
        "progress": percent(view),
        "created_at": milliseconds(view.created_at),
        "updated_at": milliseconds(view.updated_at),
    }


def _params(view: TaskView) -> Any:
    params = msgspec.json.decode(view.params)
    if isinstance(params, dict):
        params.pop("projectName", None)
    return params


def _ai_config(model: ModelChoice) -> AiConfig:
    return AiConfig(provider=model.provider, model=model.model, base_url=model.base_url or None)


def target_count(view: TaskView) -> int:
    """Return the number of chapters that a task was asked for."""
    params = _params(view)
    asked = params.get("chaptersToGenerate") or params.get("targetChapters") if isinstance(params, dict) else None
    return asked if isinstance(asked, int) else 1


def percent(view: TaskView) -> int:
    """Return the progress in whole percent: 100 only when all is done."""
    return int(view.progress or 0)


def ended_count(view: TaskView) -> int:
    """Return the number of chapters that have ended."""
    return count(view.chapters.completed) + count(view.chapters.failed)
