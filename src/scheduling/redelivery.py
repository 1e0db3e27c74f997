"""Redelivery of tasks that no server could take: when they return, and which slots are reserved meanwhile."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import timedelta
from typing import NamedTuple, TypeVar

from ..events.task import PRIORITIES, Priority

K = TypeVar("K")

LONGEST_RETURN = timedelta(seconds=60)
FIRST_RETURN = timedelta(milliseconds=50)
LONGEST_GROWN_RETURN = timedelta(seconds=8)
"""Longest pause: how long a server may be there before a task that waited for one is tried on it."""
RETURNS_PER_SECOND = 200
"""Tasks of one kind that return per second, shared among their groups. More would only cost CPU."""
KINDS_REMEMBERED = 1_000
KEPT_SECONDS = 2 * FIRST_RETURN.total_seconds()
"""How long slots stay reserved for a kind after one of its tasks was last seen; its return takes most of that."""


class TaskKind(NamedTuple):
    """Tasks that the same servers can take."""

    task_type: str
    require: frozenset[tuple[str, str]]

    @staticmethod
    def of(task_type: str, require: Mapping[str, str]) -> TaskKind:
        return TaskKind(task_type, frozenset(require.items()))


class RedeliveryDelays:
    """Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._back_at: dict[TaskKind, dict[Hashable, float]] = {}
        """By kind and group: when the last task that was returned is redelivered."""
        self._kept_until: dict[tuple[str, Priority], dict[TaskKind, float]] = {}
        """By pool and priority."""

    def spread(self, kind: TaskKind, group: Hashable, pause: timedelta, now: float) -> timedelta:
        """Return the pause, made longer so that about RETURNS_PER_SECOND tasks of a kind are redelivered.

        `group`: tasks that share the delay, such as those of an owner. Many tasks of a group make only its own pauses
        longer.
        """
        if len(self._back_at) > KINDS_REMEMBERED:
            self._back_at = {each: back_at for each, back_at in self._back_at.items() if max(back_at.values()) > now}
        back_at = self._back_at.setdefault(kind, {})
        _forget_past(back_at, now)
        last = back_at.get(group)
        at = now + pause.total_seconds()
        if last is not None:
            at = max(at, last + len(back_at) / RETURNS_PER_SECOND)
        at = min(at, now + LONGEST_RETURN.total_seconds())
        back_at[group] = at
        return timedelta(seconds=at - now)

    def keep(self, pool: str, priority: Priority, kind: TaskKind, now: float) -> None:
        """Reserve slots for a kind: one of its tasks found its servers full and returns in a moment."""
        kept = self._kept_until.setdefault((pool, priority), {})
        kept[kind] = now + KEPT_SECONDS
        if len(kept) > KINDS_REMEMBERED:
            _forget_past(kept, now)

    def keep_on(self, pool: str, priority: Priority, kind: TaskKind, now: float) -> None:
        """Extend the reservation for a kind of which a task starts, if more of its tasks are on their way."""
        kept = self._kept_until.get((pool, priority))
        if kept and kind in kept and max(self._back_at.get(kind, {}).values(), default=0.0) > now:
            kept[kind] = now + KEPT_SECONDS

    def keeps_any(self, pool: str, priority: Priority) -> bool:
        """Return True if slots are or were reserved for any kind of a pool at a priority."""
        return bool(self._kept_until.get((pool, priority)))

    def kept_from(self, pool: str, priority: Priority, now: float) -> Mapping[TaskKind, float]:
        """Return the kinds of higher priority in a pool that have slots reserved, and until when."""
        found: dict[TaskKind, float] = {}
        for higher in PRIORITIES[: PRIORITIES.index(priority)]:
            if kept := self._kept_until.get((pool, higher)):
                _forget_past(kept, now)
                found |= kept
        return found


def growing(delivered: int) -> timedelta:
    """Return the pause before the next delivery of a message: 0.05, 0.1, 0.2, … 6.4, 8 s."""
    factor: int = 2 ** min(delivered - 1, 10)
    return min(FIRST_RETURN * factor, LONGEST_GROWN_RETURN)


def _forget_past(until: dict[K, float], now: float) -> None:
    for key in [key for key, at in until.items() if at <= now]:
        del until[key]
