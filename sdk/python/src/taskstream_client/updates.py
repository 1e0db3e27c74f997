"""Updates of a task, as a stream brings them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .models import Instant, RecordedEvent, Task, TaskResult, convert

ENDINGS = {"TaskSucceeded": "FINISHED", "TaskFailed": "FAILED", "TaskCancelled": "CANCELLED"}


class _Update(Struct, frozen=True, kw_only=True):
    task_id: str
    id: str = ""
    """The position after this update; empty: that of the update before. `stream(after=…)` goes on after it."""


class State(_Update, frozen=True, kw_only=True):
    """The start of a stream: a task as it is now."""

    task: Task


class Happened(_Update, frozen=True, kw_only=True):
    """An event of a task's history."""

    type: str
    """Its name, such as `TaskQueued`."""
    sequence: int | None = None
    """Its place in the log. None for progress that the log does not have yet."""
    at: Instant
    by: dict[str, str] = {}
    """Who did it: `kind` and `id`."""
    event: dict[str, Any] = {}
    """All fields of the event."""


class Started(Happened, frozen=True, kw_only=True):
    """An attempt was given to a server."""

    attempt: int
    server_id: str


class Progress(Happened, frozen=True, kw_only=True):
    """A report of the server that runs the task."""

    progress: float | None = None
    """Percent."""
    message: str | None = None
    output: str = ""
    """Text produced since the last report."""
    lines: list[str] = []
    """Log lines since the last report."""
    custom_data: Any = None
    data: Any = None


class AttemptFailed(Happened, frozen=True, kw_only=True):
    """An attempt failed, and another follows."""

    attempt: int
    kind: str
    error: str
    retry_at: Instant | None = None


class Ended(Happened, frozen=True, kw_only=True):
    """The end of the task, and of its stream."""

    status: str
    """`FINISHED`, `FAILED` or `CANCELLED`."""
    error: str | None = None
    failure_kind: str | None = None
    result: TaskResult | None = None
    """None if there is none, or if it is too large for a stream: then `results.get` returns it."""


class Gap(_Update, frozen=True, kw_only=True):
    """Events that are past their retention and cannot be sent. Read the task again."""

    first: int
    last: int


class Reset(_Update, frozen=True, kw_only=True):
    """The service was restored from a backup: what came before no longer holds. A State follows."""


Update = State | Started | Progress | AttemptFailed | Ended | Happened | Gap | Reset


def read_update(message: dict[str, Any], position: str, task_id: str = "") -> Update | None:
    """Return a message of a stream as an update; None for a message that says nothing about a task."""
    kind = message.get("type")
    about = {"id": position, "task_id": message.get("taskId", task_id)}
    if kind == "state":
        return State(**about, task=convert(message.get("task"), Task))
    if kind == "gap":
        return Gap(**about, first=int(message["from"]), last=int(message["to"]))
    if kind == "reset":
        return Reset(**about)
    event = message.get("event")
    return (
        convert(about | _event_fields(str(kind), message, event), _CLASS.get(str(kind), Happened))
        if (isinstance(event, dict))
        else None
    )


_CLASS: dict[str, type[Any]] = {
    "AttemptStarted": Started,
    "ProgressReported": Progress,
    "AttemptFailed": AttemptFailed,
    **dict.fromkeys(ENDINGS, Ended),
}
_OWN_FIELDS = {
    "AttemptStarted": ("attempt", "server_id"),
    "ProgressReported": ("progress", "message", "output", "lines", "custom_data"),
    "AttemptFailed": ("attempt", "kind", "error", "retry_at"),
}


def _event_fields(kind: str, message: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    fields = {name: message.get(name) for name in ("at", "sequence")}
    fields |= {"type": kind, "event": event, "by": message.get("by") or {}}
    fields |= {name: event[name] for name in _OWN_FIELDS.get(kind, ()) if name in event}
    if kind == "ProgressReported" and isinstance(event.get("data"), dict):
        fields["data"] = event["data"].get("inline")
    if kind in ENDINGS:
        stored = event.get("result")
        fields |= {
            "status": ENDINGS[kind],
            "error": event.get("error") or event.get("reason") or None,
            "failure_kind": event.get("kind"),
            "result": stored.get("inline") if isinstance(stored, dict) else None,
        }
    return fields


def of_history(task_id: str, recorded: RecordedEvent) -> Update | None:
    """Return an event of a history as the update that a stream would bring."""
    message = {
        "type": recorded.type,
        "taskId": task_id,
        "sequence": recorded.sequence,
        "at": recorded.at.isoformat(),
        "by": recorded.by,
        "event": recorded.event,
    }
    return read_update(message, str(recorded.sequence))
