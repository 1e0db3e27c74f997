"""One reason why a task waits, in words and data."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

HoldKind: TypeAlias = Literal[
    "time",  # not before its `runAt`
    "parents",  # tasks it depends on have not ended
    "owner-limit",  # its owner has reached a limit
    "type-limit",  # its type has reached a limit
    "concurrency-key",  # its concurrency key has reached its limit
    "window",  # its owner has enough tasks in this queue for now
    "turn",  # nothing: the scheduler is about to queue it
    "no-keeper",  # only the scheduler knows, and it does not answer
    "retry",  # its next attempt is not due yet
    "pool-paused",
    "type-paused",
    "no-server",  # no server could take it
    "server-busy",  # servers that could take it have no free slot
    "queued-behind",  # other tasks come first
    "not-queued",  # it is in no queue yet
]


class Hold(Struct, frozen=True, kw_only=True):
    """Something that keeps a task from starting."""

    kind: HoldKind
    since: datetime | None
    """UTC; None: not known."""
    text: str
    """The reason; continues "It waits: "."""
    release: str
    """What ends it; continues "until "."""
    data: dict[str, Any]
    """The same as data, with the names of the wire format; instants are datetimes."""


def summary(holds: list[Hold]) -> str:
    """Return one sentence on why a task waits."""
    if not holds:
        return "It waits: nothing holds it, and a server has a free slot; it is about to start."
    first, *others = holds
    more = f" There {'is' if len(others) == 1 else 'are'} {len(others)} more in `holds`." if others else ""
    return f"It waits: {first.text}, until {first.release}.{more}"
