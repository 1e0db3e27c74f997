"""A reason why a task waits, in words and data."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

HoldKind: TypeAlias = Literal[
    "time",  # not before its `runAt`
    "parents",  # tasks it depends on have not ended
    "owner-limit",  # its owner runs, or has started, as many as may
    "type-limit",  # so has its type
    "concurrency-key",  # so have those of its type with the same key
    "window",  # its owner has enough in this queue for now: others' come between
    "turn",  # nothing: the scheduler is about to queue it
    "no-keeper",  # only the scheduler knows, and it does not answer
    "retry",  # its next attempt is not due yet
    "pool-paused",
    "type-paused",
    "no-server",  # no server that is there could take it
    "server-busy",  # those that could have no room
    "queued-behind",  # others come first
    "not-queued",  # it is in no queue: about to be put there
]


class Hold(Struct, frozen=True, kw_only=True):
    """Something that keeps a task from starting."""

    kind: HoldKind
    since: datetime | None
    """UTC; None: not known."""
    text: str
    """What it is; goes on from "it waits: "."""
    release: str
    """What would end it; goes on from "until "."""
    data: dict[str, Any]
    """The same as data. Names as on the wire, instants as datetimes."""


def summary(holds: list[Hold]) -> str:
    """Return one sentence on why a task waits."""
    if not holds:
        return "It waits: nothing holds it, and a server has room; it is about to start."
    first, *others = holds
    more = f" There {'is' if len(others) == 1 else 'are'} {len(others)} more in `holds`." if others else ""
    return f"It waits: {first.text}, until {first.release}.{more}"
