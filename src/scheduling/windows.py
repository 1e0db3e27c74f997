"""Windows: how many tasks of one owner may be in a queue at a time, so that other owners' tasks are served soon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from ..events.task import Plan, Priority

SMALLEST_WINDOW = 4
"""Size for a pool without servers, or with very few."""
SHORTEST_ROUND_SECONDS = 0.01
LONGEST_ROUND_SECONDS = 0.075
"""Upper bound of a measured round trip. If it takes longer, slots may be idle for a moment, but no owner waits."""
ROUND_KEEPS = 0.8
"""Weight of earlier round trips at each measurement."""
HANDOVER_SECONDS = 0.005
"""Time from a stored release until a worker has the task."""
FORGOTTEN_PACE = 0.001
"""Starts per second below which a pool is forgotten: its pace makes no difference to its window."""
PACE_HALF_LIFE_SECONDS = 1.0
WINDOWS_KEPT = 1_024
"""Names of windows kept in memory."""


def window(pool: str, priority: Priority, task_type: str, plan: Plan | None) -> str:
    """Return the name of a task's window: one for all tasks that the same servers can take.

    Tasks that no server can take so never keep their owner's other tasks out of the queue.
    """
    if plan is None or not (plan.require or plan.model):
        return _plain_window(pool, priority, task_type)
    return f"{priority} {pool} {task_type} {','.join(labels(plan))}"


@lru_cache(WINDOWS_KEPT)
def _plain_window(pool: str, priority: Priority, task_type: str) -> str:
    return f"{priority} {pool} {task_type} "


def lane(pool: str, priority: str) -> str:
    """Return the name of the two queues, first and bulk, of a pool and priority."""
    return f"{priority} {pool}"


def lane_of(name: str) -> str:
    """Return the name of the lane of a window, from the window's."""
    return " ".join(name.split(" ", 2)[:2])


def labels(plan: Plan | None) -> list[str]:
    """Return the labels that a task requires, and its model, as `name=value`, in a fixed order."""
    return [f"{name}={value}" for name, value in sorted(plan.requirements.items())] if plan else []


class Pace:
    """Moving average of the tasks a pool starts per second."""

    def __init__(self) -> None:
        self.per_second = 0.0

    def update(self, started: int, seconds: float) -> None:
        """Record that `started` tasks started in the last `seconds`."""
        keeps: float = 0.5 ** (seconds / PACE_HALF_LIFE_SECONDS)
        self.per_second = self.per_second * keeps + (1 - keeps) * started / seconds


class Windows:
    """Window sizes by pool: as small as possible without idle slots.

    A started task is replaced in the queue after a round trip: the start is stored and read, the release is stored,
    copied and fetched. A window is refilled when half of it is free. So its size is twice the starts of a round trip,
    plus one task for each slot, as all slots may become free together. A larger window would only make other owners
    wait.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        """How many tasks may be in one window, by pool."""
        self._paces: dict[str, Pace] = {}
        self._round_seconds = SHORTEST_ROUND_SECONDS

    def paces(self) -> dict[str, float]:
        """Return the starts per second of each pool; without pools that start none."""
        return {pool: round(pace.per_second, 1) for pool, pace in self._paces.items() if pace.per_second >= 1}

    def stored(self, seconds: float) -> None:
        """Record how long a batch of releases took to store. Storing a start takes about as long."""
        sample = min(max(2 * seconds + HANDOVER_SECONDS, SHORTEST_ROUND_SECONDS), LONGEST_ROUND_SECONDS)
        self._round_seconds = ROUND_KEEPS * self._round_seconds + (1 - ROUND_KEEPS) * sample

    def observe(self, slots: Mapping[str, int], started: Mapping[str, int], seconds: float) -> None:
        """Record the slots of each pool, and how many tasks it started in the last `seconds`."""
        for pool in started.keys() - self._paces.keys():
            self._paces[pool] = Pace()
        for pool, pace in self._paces.items():
            pace.update(started.get(pool, 0), seconds)
        for pool in [pool for pool, pace in self._paces.items() if pace.per_second < FORGOTTEN_PACE]:
            del self._paces[pool]
        self.sizes = {
            pool: self._size(slots.get(pool, 0), self._paces.get(pool)) for pool in slots.keys() | self._paces.keys()
        }

    def _size(self, slots: int, pace: Pace | None) -> int:
        in_a_round = pace.per_second * self._round_seconds if pace else 0.0
        return max(SMALLEST_WINDOW, slots + math.ceil(2 * in_a_round))
