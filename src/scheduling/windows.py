"""Windows: how much of an owner's may be in a queue at a time, so that others' come soon after."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..events.task import Plan, Priority

SMALLEST_WINDOW = 4
"""Of a pool without servers, or with very few: another owner's task comes after no more than these."""
SHORTEST_ROUND_SECONDS = 0.01
LONGEST_ROUND_SECONDS = 0.075
"""What a round trip counts as at most: where it takes longer, slots may be idle for a moment rather than a task of
another owner wait."""
ROUND_KEEPS = 0.8
"""What the round trips before count for, at each that is measured."""
HANDOVER_SECONDS = 0.005
"""From a release in the log until the task is in a worker's hands."""
PACE_HALF_LIFE_SECONDS = 1.0


def window(pool: str, priority: Priority, task_type: str, plan: Plan | None) -> str:
    """Return the name of the window that a task passes into its queue: one for all that the same servers can take.

    So those that no server takes do not keep their owner's others out of the queue.
    """
    return f"{priority} {pool} {task_type} {','.join(labels(plan))}"


def labels(plan: Plan | None) -> list[str]:
    """Return the labels that a task requires of its server, as `name=value`, in a fixed order."""
    return [f"{name}={value}" for name, value in sorted(plan.require.items())] if plan else []


class Pace:
    """How many tasks a pool starts in a second, as of late."""

    def __init__(self) -> None:
        self.per_second = 0.0

    def update(self, started: int, seconds: float) -> None:
        """Learn that so many started in the last so many seconds."""
        keeps: float = 0.5 ** (seconds / PACE_HALF_LIFE_SECONDS)
        self.per_second = self.per_second * keeps + (1 - keeps) * started / seconds


class Windows:
    """How large the windows of each pool are: as small as they may be without its slots being idle.

    Between a start and the arrival of the task that takes its place in the queue lies a round trip: the start is stored
    and read, the release is stored, copied and fetched. A window is filled again when half of it is free, so twice what
    the pool starts in a round trip, and one task for each slot, as all slots may become free together. More would make
    others wait, and no slot less idle.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        """How many tasks may be in one of an owner's windows, by pool."""
        self._paces: dict[str, Pace] = {}
        self._round_seconds = SHORTEST_ROUND_SECONDS

    def paces(self) -> dict[str, float]:
        """Return how many tasks each pool starts in a second, as of late; without those that start none."""
        return {pool: round(pace.per_second, 1) for pool, pace in self._paces.items() if pace.per_second >= 1}

    def stored(self, seconds: float) -> None:
        """Learn how long it has just taken to store releases: storing a start takes about as long."""
        sample = min(max(2 * seconds + HANDOVER_SECONDS, SHORTEST_ROUND_SECONDS), LONGEST_ROUND_SECONDS)
        self._round_seconds = ROUND_KEEPS * self._round_seconds + (1 - ROUND_KEEPS) * sample

    def observe(self, slots: Mapping[str, int], started: Mapping[str, int], seconds: float) -> None:
        """Learn the slots of each pool, and how many tasks it has started in the last so many seconds."""
        for pool in started.keys() - self._paces.keys():
            self._paces[pool] = Pace()
        for pool, pace in self._paces.items():
            pace.update(started.get(pool, 0), seconds)
        self.sizes = {
            pool: self._size(slots.get(pool, 0), self._paces.get(pool)) for pool in slots.keys() | self._paces.keys()
        }

    def _size(self, slots: int, pace: Pace | None) -> int:
        in_a_round = pace.per_second * self._round_seconds if pace else 0.0
        return max(SMALLEST_WINDOW, slots + math.ceil(2 * in_a_round))
