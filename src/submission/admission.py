"""Whether a task is queued as it is submitted, or held: decided where it is submitted, by what the keeper last said."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from ..commands.task import SubmitTask
from ..errors import InvalidInput, QuotaExceeded
from ..events.ids import TaskRef
from ..projections.fleet import Fleet
from ..scheduling.backlog_report import BacklogReport, OwnerBacklog
from ..scheduling.rules import needs_grant
from ..scheduling.windows import window

FIRST_WINDOW = 16
"""How many tasks of one owner and priority are queued in a pool of which the keeper has not spoken: it does so within a
second. What goes beyond is held, and a few of lower priority may run before it."""
LONGEST_SILENCE = timedelta(seconds=0.2)
"""For how long a pool is taken to start tasks as the keeper's last word said: longer, and a window would never be full
while there is no keeper."""
RETRY_AFTER_SECONDS = 5
N = TypeVar("N")

NOBODY = OwnerBacklog(0, {})


class Admission:
    """What this process knows of who has much waiting: the keeper's last word, and what was submitted here since."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._word = BacklogReport(as_of=0, windows={}, owners={})
        self._heard_at = datetime.min.replace(tzinfo=UTC)
        self._waiting: dict[str, deque[int]] = {}
        """By owner token: the sequences of the tasks submitted here that the word does not reflect."""
        self._queued: dict[tuple[str, str], deque[int]] = {}
        """Likewise of those that were not held, by owner token and window."""
        self._storing: dict[tuple[str, str], int] = {}
        """Likewise how many are on their way into the log."""

    def on_report(self, word: BacklogReport, now: datetime) -> None:
        """Take the keeper's word in."""
        self._word, self._heard_at = word, now
        _forget(self._waiting, word.as_of)
        _forget(self._queued, word.as_of)

    def held_back(self, pool: str) -> int:
        """Return how many tasks of a pool wait for room in their owner's window, as the keeper has last said."""
        return self._word.held_back.get(pool, 0)

    def check_quota(self, owner: str, count: int) -> None:
        """Raise QuotaExceeded where an owner may not have so many more tasks waiting."""
        limit = self._fleet.allowance(owner).waiting
        if limit is None:
            return
        waiting = self._waits(owner).waiting + len(self._waiting.get(owner, ()))
        if count > limit:
            raise InvalidInput(f"{count} tasks are more than the {limit} you may have waiting; submit fewer at a time")
        if waiting + count > limit:
            raise QuotaExceeded(limit, waiting, RETRY_AFTER_SECONDS)

    def holds(self, ref: TaskRef, command: SubmitTask, now: datetime, ahead: int = 0) -> bool:
        """Tell whether something holds a task; `ahead`: how many of the same window are submitted with it, before."""
        plan = command.plan
        if plan is not None and (plan.depends_on or (plan.not_before is not None and plan.not_before > now)):
            return True
        return needs_grant(self._fleet, ref, command.task_type, plan) or self._is_full(ref.owner, command, ahead, now)

    @contextlib.contextmanager
    def storing(self, submissions: Sequence[tuple[TaskRef, SubmitTask]]) -> Iterator[None]:
        """Count those that are not held as in the queue while they are on their way into the log."""
        names = [(ref.owner, _window(command)) for ref, command in submissions if not command.held]
        for name in names:
            self._storing[name] = self._storing.get(name, 0) + 1
        try:
            yield
        finally:
            for name in names:
                self._storing[name] -= 1
                if not self._storing[name]:
                    del self._storing[name]

    def note(self, ref: TaskRef, command: SubmitTask, sequence: int) -> None:
        """Note that a task is in the log."""
        if sequence <= self._word.as_of:
            return
        self._waiting.setdefault(ref.owner, deque()).append(sequence)
        if not command.held:
            self._queued.setdefault((ref.owner, _window(command)), deque()).append(sequence)

    def _is_full(self, owner: str, command: SubmitTask, ahead: int, now: datetime) -> bool:
        name, pool = _window(command), command.pool
        started = self._word.paces.get(pool, 0.0) * self._silence(now).total_seconds()
        since = max(0.0, len(self._queued.get((owner, name), ())) - started) + self._storing.get((owner, name), 0)
        queued = self._waits(owner).queued.get(name, 0) + since
        return queued + ahead >= self._word.windows.get(pool, FIRST_WINDOW)

    def _silence(self, now: datetime) -> timedelta:
        """Return since when the keeper has said nothing, as far as that counts."""
        return min(max(now - self._heard_at, timedelta(0)), LONGEST_SILENCE)

    def _waits(self, owner: str) -> OwnerBacklog:
        return self._word.owners.get(owner, NOBODY)


def _window(command: SubmitTask) -> str:
    return window(command.pool, command.priority, command.task_type, command.plan)


def _forget(since: dict[N, deque[int]], as_of: int) -> None:
    """Forget what is reflected by now."""
    for name, sequences in list(since.items()):
        while sequences and sequences[0] <= as_of:
            sequences.popleft()
        if not sequences:
            del since[name]
