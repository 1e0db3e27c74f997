"""Whose turn it is among the queues of ready tasks: strict order of priority, with ageing.

A queue whose oldest task has waited for too long comes first, for one task. In the round after that, strict order has
its turn in the pools whose room that took: so what has aged gets at most every other slot, however much of it there is,
and neither can starve the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..events.task import PRIORITIES, Priority


class Line(NamedTuple):
    """A queue, as far as its turn goes."""

    pool: str
    priority: Priority
    waited: float
    """Seconds that its oldest task has waited; 0: it has none, or it is not known."""


class Turn(NamedTuple):
    place: int
    """Of the line, in the sequence given."""
    by_age: bool
    """It gets one task only; if not, as many as there is room for."""


def turns(lines: Sequence[Line], ageing_seconds: float, owed: Collection[str] = ()) -> list[Turn]:
    """Return the order in which lines are served in a round: the aged ones, oldest first, then all, strictly.

    Lines of one priority keep the order they are given in. The highest priority does not age: it is first anyway.
    `ageing_seconds`: how long is too long; 0: nothing ages. `owed`: pools in which strict order has its turn.
    """
    aged = [
        place
        for place, line in enumerate(lines)
        if 0 < ageing_seconds < line.waited and line.priority != PRIORITIES[0] and line.pool not in owed
    ]
    aged.sort(key=lambda place: -lines[place].waited)
    strict = sorted(range(len(lines)), key=lambda place: PRIORITIES.index(lines[place].priority))
    return [*(Turn(place, by_age=True) for place in aged), *(Turn(place, by_age=False) for place in strict)]
