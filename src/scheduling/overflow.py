"""When a server that is there for overflow helps out."""

from __future__ import annotations

from datetime import timedelta

from ..events.server import Overflow


def allowance(overflow: Overflow, waiting: int, oldest: timedelta, at_once: int, *, helping: bool) -> int:
    """Return how many tasks an overflow server may take until somebody looks again; 0: it stands by.

    By how many tasks wait and for how long the oldest has. One that helps goes on until half of what it began at: at
    the bound itself it would start and stop with each task. `at_once`: tasks it runs side by side; what it takes
    because one has waited for long.
    """
    part = 2 if helping else 1
    if overflow.waiting is not None and waiting > overflow.waiting // part:
        return waiting - overflow.waiting // 2
    if overflow.oldest is not None and oldest >= overflow.oldest / part:
        return min(waiting, at_once)
    return 0
