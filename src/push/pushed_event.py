"""The JSON of a pushed event: the same for server-sent events, WebSockets, streams of tasks and webhooks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from ..events.envelope import Recorded
from ..events.ids import TaskRef
from ..events.task import ProgressReported, StoredResult, TaskEvent, TaskFailed, TaskSucceeded
from ..instants import iso
from ..vault.result_links import ResultLinks
from .live import LiveReport
from .updates import LiveEvent, LoggedEvent


class PushedEvent(Struct, kw_only=True, rename="camel"):
    """Something that happened to a task: an event of its history."""

    type: str
    """What happened, as in `event.type`."""
    task_id: str
    sequence: int | None
    """Place in the log; the id to resume after. Null for a report that is sent before the log has it."""
    at: str
    """ISO 8601, UTC."""
    by: dict[str, str]
    """Who did it: `kind` (user, server, worker, timer, system) and `id`."""
    event: Any
    """Its `type`, and the fields of the type. A `result` that is too large for an event is `{"$ref": URL, "bytes": n}`:
    fetch it there with a token of the API."""


_encode = msgspec.json.Encoder().encode


def shown(event: TaskEvent, ref: TaskRef, sequence: int, links: ResultLinks) -> Any:
    """Return an event as clients see it: with links in the place of results and files in the object store."""
    match event:
        case TaskSucceeded(result=StoredResult() as stored) | TaskFailed(result=StoredResult() as stored):
            name = "result"
        case ProgressReported(data=StoredResult() as stored):
            name = "data"
        case _:
            return event
    if not stored.object_names:
        return event
    fields = msgspec.json.decode(_encode(event), type=dict[str, Raw])
    return fields | {name: links.shown(ref, sequence, stored)}


def encoded(update: LoggedEvent | LiveEvent, links: ResultLinks) -> bytes:
    """Return the JSON of an event; encoded once for all subscribers."""
    if update.encoded is None:
        if isinstance(update, LoggedEvent):
            about: Recorded[TaskEvent] | LiveReport = update.stored.recorded
            event = shown(about.event, update.ref, update.sequence, links)
        else:
            about = update.report
            event = about.event
        update.encoded = _encode(
            PushedEvent(
                type=type(about.event).__name__,
                task_id=update.ref.id,
                sequence=update.sequence if isinstance(update, LoggedEvent) else None,
                at=iso(about.at),
                by={"kind": about.by.kind, "id": about.by.id},
                event=event,
            )
        )
    return update.encoded
