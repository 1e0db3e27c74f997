"""The JSON of a pushed event: the same for server-sent events, WebSockets, streams of tasks and webhooks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from ..events.envelope import NULL, Recorded
from ..events.ids import TaskRef
from ..events.task import (
    ErrorAnswer,
    ProgressReported,
    StoredResult,
    TaskEvent,
    TaskFailed,
    TaskSubmitted,
    TaskSucceeded,
)
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
    """Who did it: `kind` (user, server, worker, timer, system), `id`, and `key` if an API key was used."""
    event: Any
    """Its `type`, and the fields of the type. A `result` that is too large for an event is `{"$ref": URL, "bytes": n}`:
    fetch it there with a token of the API."""
    sizes: dict[str, int] | UnsetType = UNSET
    """For callers from whom bodies are withheld: the fields left out of `event`, and their sizes in bytes."""


_encode = msgspec.json.Encoder().encode
DIGESTS = ("fingerprint", "update_digest")
"""Fields of events that show which of a few known bodies it was."""


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
    """Return the JSON of an event, without parts of a stream, whose text is its `output`; encoded once for all."""
    if update.encoded is None:
        event: Any = update.event
        if isinstance(event, ProgressReported) and event.parts is not None:
            event = replace(event, parts=None)
        if isinstance(update, LoggedEvent):
            event = shown(event, update.ref, update.sequence, links)
        update.encoded = _encode(_pushed(update, event))
    return update.encoded


def encoded_without_bodies(update: LoggedEvent | LiveEvent) -> bytes:
    """Return the JSON of an event without what `body_sizes` names; encoded once for all who may not read that."""
    if update.encoded_without_bodies is None:
        event, sizes = without_bodies(update.event)
        update.encoded_without_bodies = _encode(_pushed(update, event, sizes))
    return update.encoded_without_bodies


def _pushed(update: LoggedEvent | LiveEvent, event: Any, sizes: dict[str, int] | UnsetType = UNSET) -> PushedEvent:
    about: Recorded[TaskEvent] | LiveReport = (
        update.stored.recorded if isinstance(update, LoggedEvent) else update.report
    )
    return PushedEvent(
        type=type(about.event).__name__,
        task_id=update.ref.id,
        sequence=update.sequence if isinstance(update, LoggedEvent) else None,
        at=iso(about.at),
        by=about.by.shown(),
        event=event,
        sizes=sizes,
    )


def without_bodies(event: TaskEvent) -> tuple[Any, dict[str, int]]:
    """Return an event without the fields that `body_sizes` names and digests of them, and the sizes of the former."""
    sizes = body_sizes(event)
    fields = msgspec.json.decode(_encode(event), type=dict[str, Raw])
    return {name: value for name, value in fields.items() if name not in sizes and name not in DIGESTS}, sizes


def body_sizes(event: TaskEvent) -> dict[str, int]:
    """Return the size in bytes of each field of an event that is as large as a user or a server makes it.

    A field that is null or empty is left out.
    """
    match event:
        case TaskSubmitted(payload=payload, indexed=indexed):
            values = {"indexed": sum(len(value.encode()) for value in indexed.values())} if indexed else {}
            return {"payload": len(bytes(payload)), **values}
        case TaskSucceeded(result=StoredResult() as result) | TaskFailed(result=StoredResult() as result):
            return {"result": result.size_bytes}
        case TaskFailed(answer=ErrorAnswer() as answer):
            return {"answer": len(bytes(answer.body))}
        case ProgressReported():
            sizes = {
                "custom_data": len(bytes(event.custom_data)) if event.custom_data != NULL else 0,
                "lines": sum(len(line.encode()) for line in event.lines),
                "output": len(event.output.encode()),
                "parts": event.parts.characters if event.parts is not None else 0,
                "merged": sum(len(bytes(report.custom_data)) for report in event.merged),
                "data": event.data.size_bytes if event.data is not None else 0,
            }
            return {name: size for name, size in sizes.items() if size}
        case _:
            return {}
