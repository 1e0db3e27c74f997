"""`taskstream tasks follow`: events as they happen."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from ..runtime.failures import EXIT_FAILED
from .client import decode, path
from .commands import OperatorSession
from .event_lines import event_line, state_line
from .streams import followed

ENDS = {"TaskSucceeded": "FINISHED", "TaskFailed": "FAILED", "TaskCancelled": "CANCELLED"}


async def follow_tasks(session: OperatorSession) -> int:
    """Print events until the task has ended; return 1 unless it succeeded. Of all tasks: until Ctrl-C."""
    options = session.options
    if options.id:
        return await follow_task(session, options.id, options.after)
    query = [(name, value) for name in ("type", "event") for value in getattr(options, name) or []]
    query += [(name, value) for name in ("owner", "after") if (value := getattr(options, name)) is not None]
    async for data in followed(session.client, session.output, "/api/tasks/stream", query):
        _show(session, data, named=True)
    return 0


async def follow_task(session: OperatorSession, task_id: str, after: str | None = None) -> int:
    """Print a task's events to its end; return 0 if it succeeded, else 1."""
    status = ""
    query = [("after", after)] if after is not None else []
    async for data in followed(session.client, session.output, path("task", task_id, "stream"), query):
        message = _show(session, data, named=False)
        kind = message.get("type")
        status = message["task"]["status"] if kind == "state" else ENDS.get(str(kind), status)
    if not status:
        status = (await session.client.get(path("task", task_id), [("bodies", "false")])).body["taskDetails"]["status"]
    return 0 if status == "FINISHED" else EXIT_FAILED


def _show(session: OperatorSession, data: Raw, *, named: bool) -> dict[str, Any]:
    """Print one message of a stream and return it."""
    output = session.output
    message: dict[str, Any] = decode(data)
    kind = message.get("type")
    if output.json:
        if kind != "reached":
            output.raw(data)
    elif kind == "state":
        output.text(state_line(message))
    elif kind == "gap":
        output.warn(f"events {message['from']} to {message['to']} are past the retention")
    elif kind == "reset":
        output.warn("the log was replaced: the state is read again")
    elif "event" in message:
        output.text(event_line(message, task=named))
    return message
