"""A pause, of a pool or of a type: tasks wait, what runs goes on."""

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
    """Return the pause that an event with a reason begins."""
    return Pause(since=recorded.at, by=recorded.by, reason=recorded.event.reason)
