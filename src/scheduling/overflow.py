"""When a server that is there for overflow helps out."""

from __future__ import annotations

from datetime import timedelta

from ..events.server import Overflow


def helps_out(overflow: Overflow, waiting: int, oldest: timedelta, *, helping: bool) -> bool:
    """Tell whether an overflow server is to take work, by how many tasks wait and for how long the oldest has.

    One that helps goes on until half of what it began at: at the bound itself it would start and stop with each task.
    """
    part = 2 if helping else 1
    many = overflow.waiting is not None and waiting > overflow.waiting // part
    long = overflow.oldest is not None and waiting > 0 and oldest >= overflow.oldest / part
    return many or long
