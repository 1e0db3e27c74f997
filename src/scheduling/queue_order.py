"""Order in which the queues of ready tasks are served: strict priority within a pool, with ageing.

A queue waits until the queues of higher priority in its pool are known to be empty. If their tasks cannot start (their
servers are full, offline or paused), PASSED_OVER of them are tried for each turn of a lower queue: no slot stays idle
while a task could use it, and a task that can start is found behind those that cannot.

A queue whose oldest task has waited too long is served first, for one task. In the next round of that pool strict order
applies. So aged tasks get at most every other slot, and neither side can starve the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ..events.task import PRIORITIES, Priority

PASSED_OVER = 32
"""Tasks of a queue that are tried before a lower queue is served, if none of them can start. A higher number leaves
slots idle for longer; a lower one passes sooner over a task that could start.
"""


class Ahead(NamedTuple):
    """A queue of higher priority in the same pool."""

    may_have_more: bool
    in_vain: int
    """Its tasks that no server could take, since a task of the pool last started."""


class ReadyQueue(NamedTuple):
    """A queue and how long it has waited."""

    pool: str
    priority: Priority
    waited: float
    """Seconds its oldest task has waited; 0: none or not known."""


class QueueVisit(NamedTuple):
    queue_index: int
    """Index of the queue in the sequence given."""
    by_age: bool
    """True: it is served for its age, one task. False: as many as there are free slots."""


def in_queue_order(queues: Sequence[ReadyQueue], ageing_seconds: float, owed: Collection[str] = ()) -> list[QueueVisit]:
    """Return the order in which queues are served in a round: aged ones, oldest first; then all, by priority.

    Queues of one priority keep their order. The highest priority does not age. `ageing_seconds`: how long is too long;
    0: no ageing. `owed`: pools in which aged queues are not served first this round.
    """
    aged = [
        place
        for place, queue in enumerate(queues)
        if 0 < ageing_seconds < queue.waited and queue.priority != PRIORITIES[0] and queue.pool not in owed
    ]
    aged.sort(key=lambda place: -queues[place].waited)
    strict = sorted(range(len(queues)), key=lambda place: PRIORITIES.index(queues[place].priority))
    return [*(QueueVisit(place, by_age=True) for place in aged), *(QueueVisit(place, by_age=False) for place in strict)]


def must_wait(ahead: Iterable[Ahead]) -> bool:
    """Return True if a queue must wait for the queues of higher priority in its pool."""
    return any(each.may_have_more and each.in_vain < PASSED_OVER for each in ahead)


def tasks_to_take(free_slots: int, in_vain: int) -> int:
    """Return how many tasks to take from a queue: one for each free slot.

    After tasks that could not start, take as many again to find one that can; the surplus goes back at once.
    """
    return max(free_slots, min(in_vain, PASSED_OVER)) if free_slots > 0 else 0
