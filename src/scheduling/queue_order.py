"""Whose turn it is among the queues of ready tasks: strict order of priority, with ageing.

Within a pool, a queue waits until those of higher priority are known to be empty. Where what they bring cannot start,
as its servers are full, away or paused, so many are looked at for each turn of the others: a slot does not stay idle
beside a task that could have it, and what could start is still found behind those that cannot.

A queue whose oldest task has waited for too long comes first, for one task. In the round after that, strict order has
its turn in the pools whose room that took: so what has aged gets at most every other slot, however much of it there is,
and neither can starve the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ..events.task import PRIORITIES, Priority

LOOKED_THROUGH = 32
"""Tasks of a queue that are looked at before those of lower priority have a turn, if none of them can start. With more,
slots are idle for longer beside what could have them; with fewer, what could start behind them is passed over sooner.
"""


class Ahead(NamedTuple):
    """A queue of higher priority in the same pool."""

    may_have_more: bool
    in_vain: int
    """Tasks of it that were given back, as no server could take them, since any of the pool has started."""


class ReadyQueue(NamedTuple):
    """A queue, as far as its turn goes."""

    pool: str
    priority: Priority
    waited: float
    """Seconds that its oldest task has waited; 0: it has none, or it is not known."""


class QueueTurn(NamedTuple):
    place: int
    """Of the line, in the sequence given."""
    by_age: bool
    """It gets one task only; if not, as many as there is room for."""


def in_queue_order(lines: Sequence[ReadyQueue], ageing_seconds: float, owed: Collection[str] = ()) -> list[QueueTurn]:
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
    return [*(QueueTurn(place, by_age=True) for place in aged), *(QueueTurn(place, by_age=False) for place in strict)]


def must_wait(ahead: Iterable[Ahead]) -> bool:
    """Tell whether a queue must wait for those of higher priority in its pool."""
    return any(each.may_have_more and each.in_vain < LOOKED_THROUGH for each in ahead)


def to_take(room: int, in_vain: int) -> int:
    """Return how many tasks to take out at once: as many as there is room for.

    After some in vain as many again, so that what could start is soon found; what is then too much goes back at once.
    """
    return max(room, min(in_vain, LOOKED_THROUGH)) if room > 0 else 0
