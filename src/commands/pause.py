"""A pause of a pool or a type: tasks wait, running tasks continue."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from ..events.envelope import Actor, Recorded


class Pause(Struct, frozen=True, kw_only=True):
    since: datetime
    """UTC."""
    by: Actor
    reason: str = ""


def begun(recorded: Recorded[Any]) -> Pause:
    """Return the pause that an event with a reason starts."""
    return Pause(since=recorded.at, by=recorded.by, reason=recorded.event.reason)
