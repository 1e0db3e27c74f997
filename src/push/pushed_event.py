"""The JSON of a pushed event: the same for server-sent events, WebSockets, streams of tasks and webhooks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..instants import iso
from .hub import LiveEvent, LoggedEvent


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


_encode = msgspec.json.Encoder().encode


def encoded(update: LoggedEvent | LiveEvent) -> bytes:
    """Return the JSON of an event; encoded once for all subscribers."""
    if update.encoded is None:
        about = update.stored.recorded if isinstance(update, LoggedEvent) else update.report
        update.encoded = _encode(
            PushedEvent(
                type=type(about.event).__name__,
                task_id=update.ref.id,
                sequence=update.sequence if isinstance(update, LoggedEvent) else None,
                at=iso(about.at),
                by={"kind": about.by.kind, "id": about.by.id},
                event=about.event,
            )
        )
    return update.encoded
