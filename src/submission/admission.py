"""Admission: whether a new task is queued or held, in which queue, and whether its owner has quota for it.

The API decides this itself, from the scheduler's last backlog report and what this process submitted since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from ..errors import InvalidInput, QuotaExceeded
from ..events.ids import TaskRef
from ..events.task import TaskSubmitted
from ..instants import from_seconds
from ..projections.fleet import Fleet
from ..scheduling.backlog_report import BacklogReport, OwnerBacklog
from ..scheduling.depth import Depth
from ..scheduling.rules import Served, needs_grant
from ..scheduling.windows import labels, lane, lane_of, window

FIRST_WINDOW = 16
"""Tasks per owner and priority that are queued in a pool the scheduler has not reported on yet, which lasts a second.
More are held, so a few of lower priority may run before them."""
FIRST_OF_AN_OWNER = 4
"""Tasks of a window in the first queue; further ones go to the bulk queue. More would make other owners' tasks wait
longer behind them; fewer would send owners with a task or two into the bulk queue, behind another's backlog.
"""
FIRST_OF_ALL_WINDOWS = 16
"""Likewise, of all windows of an owner in a pool and priority together: a type of its own for each task brings no owner
more of the first queue."""
LARGEST_IN_BULK_BYTES = 4 * 1024
"""Largest payload in the bulk queue. A queued task is copied, and a held one is not: a backlog of large payloads would
take twice its space. Beside the payload, the event that releases a task costs little."""
LONGEST_BELIEVED = timedelta(seconds=3)
"""Age of the last report at which nobody gets into the bulk queue. Reports come once a second at least."""
LONGEST_SILENCE = timedelta(seconds=0.2)
"""How long the paces of the last report are believed. With a longer time no window would fill up while the scheduler is
down."""
RETRY_AFTER_SECONDS = 5
N = TypeVar("N")

EMPTY_BACKLOG = OwnerBacklog(0, {})


class QueueDepth(NamedTuple):
    """All waiting tasks, as a scheduler last counted them."""

    depths: Sequence[Depth]
    oldest: Mapping[str, float]
    """By pool: since when the oldest task waits that could start, seconds since the epoch."""
    held: int
    counted_at: datetime | None
    """None: no scheduler has reported to this process."""


class _InFlight:
    """Context in which tasks count as queued."""

    __slots__ = ("_counts", "_names")

    def __init__(self, counts: dict[tuple[str, str], int], names: Sequence[tuple[str, str]]) -> None:
        self._counts = counts
        self._names = names

    def __enter__(self) -> None:
        for name in self._names:
            self._counts[name] = self._counts.get(name, 0) + 1

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]


class Admission:
    """The backlog of each owner: the scheduler's last report, and the tasks submitted in this process since."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._report = BacklogReport(as_of=0, windows={}, owners={})
        self._reported_at = datetime.min.replace(tzinfo=UTC)
        self._waiting: dict[str, deque[int]] = {}
        """By owner token: sequences of tasks submitted here that the report does not include."""
        self._queued: dict[tuple[str, str], deque[int]] = {}
        """By owner token and window, and by owner token and lane: the same, without the held ones."""
        self._in_flight: dict[tuple[str, str], int] = {}
        """Likewise: tasks being appended now, without the held ones."""
        self._reported: dict[tuple[str, str], int] = {}
        """By owner token and lane: queued tasks of all windows, as last reported."""
        self._over: dict[str, dict[str, int]] = {}
        """By lane and owner token: sequence of the last task queued beyond its window here, unless reported since."""
        self._served = Served(fleet)
        fleet.watch(lambda _: self._served.forget())

    def on_report(self, report: BacklogReport, now: datetime) -> None:
        """Replace the last backlog report, and drop what it includes."""
        self._report, self._reported_at = report, now
        self._reported = {}
        for owner, backlog in report.owners.items():
            for name, count in backlog.queued.items():
                of_lane = (owner, lane_of(name))
                self._reported[of_lane] = self._reported.get(of_lane, 0) + count
        _drop_reported(self._waiting, report.as_of)
        _drop_reported(self._queued, report.as_of)
        over = {
            name: {owner: sequence for owner, sequence in owners.items() if sequence > report.as_of}
            for name, owners in self._over.items()
        }
        self._over = {name: owners for name, owners in over.items() if owners}

    def depth(self) -> QueueDepth:
        """Return how many tasks wait, as last reported."""
        report = self._report
        counted_at = from_seconds(report.counted_at) if report.counted_at else None
        return QueueDepth(report.depths, report.oldest, report.held, counted_at)

    @property
    def reflected(self) -> int:
        """Sequence of the last event that the last report reflects; 0: there was no report."""
        return self._report.seen or self._report.as_of

    @property
    def reported_at(self) -> datetime | None:
        """When the last report came; None: none has."""
        return self._reported_at if self._reported_at.year > 1 else None

    def held_back(self, pool: str) -> int:
        """Return how many tasks of a pool wait for space in their owner's window, as last reported."""
        return self._report.held_back.get(pool, 0)

    def waiting(self, owner: str) -> int:
        """Return how many tasks of an owner wait, as last reported, with those submitted here since."""
        return self._backlog(owner).waiting + len(self._waiting.get(owner, ()))

    def check_quota(self, owner: str, count: int) -> None:
        """Raise QuotaExceeded unless an owner may have `count` more tasks waiting, InvalidInput if it never may."""
        limit = self._fleet.allowance(owner).waiting
        if limit is None:
            return
        waiting = self.waiting(owner)
        if count > limit:
            raise InvalidInput(f"{count} tasks exceed your quota of {limit} waiting tasks; submit fewer at a time")
        if waiting + count > limit:
            raise QuotaExceeded(limit, waiting, RETRY_AFTER_SECONDS)

    def placed(
        self, ref: TaskRef, submitted: TaskSubmitted, now: datetime, ahead: Mapping[str, int] | None = None
    ) -> TaskSubmitted:
        """Return a new task as it is to be stored: held, or in the first or the bulk queue.

        `ahead`: queued tasks earlier in the same batch, by each of their `places`.
        """
        plan = submitted.plan
        waits = plan is not None and (plan.depends_on or (plan.not_before is not None and plan.not_before > now))
        if waits or needs_grant(self._fleet, ref, submitted.task_type, plan):
            return replace(submitted, held=True)
        name, of_lane = places(submitted)
        before, before_in_lane = (ahead.get(name, 0), ahead.get(of_lane, 0)) if ahead else (0, 0)
        in_lane = self._count_in_lane(ref.owner, of_lane) + before_in_lane
        if self._count(ref.owner, name) + before < FIRST_OF_AN_OWNER and in_lane < FIRST_OF_ALL_WINDOWS:
            return submitted
        if self._may_be_bulk(ref.owner, submitted, name, now):
            return replace(submitted, bulk=True)
        if self._is_full(ref.owner, submitted.pool, name, before, now):
            return replace(submitted, held=True)
        if in_lane < max(FIRST_OF_ALL_WINDOWS, self._size(submitted.pool)) or not self._has_bulk(now):
            return submitted
        is_served = self._is_served(submitted)
        return replace(submitted, bulk=is_served, held=not is_served)

    def in_flight(self, submissions: Sequence[tuple[TaskRef, TaskSubmitted]]) -> _InFlight:
        """Count the tasks that are not held as queued while they are being appended."""
        names = [(ref.owner, name) for ref, task in submissions if not task.held for name in places(task)]
        return _InFlight(self._in_flight, names)

    def record(self, ref: TaskRef, submitted: TaskSubmitted, sequence: int) -> None:
        """Count a task that was appended at `sequence`, unless the last report includes it."""
        if sequence <= self._report.as_of:
            return
        self._waiting.setdefault(ref.owner, deque()).append(sequence)
        if submitted.held:
            return
        name, of_lane = places(submitted)
        self._queued.setdefault((ref.owner, name), deque()).append(sequence)
        self._queued.setdefault((ref.owner, of_lane), deque()).append(sequence)
        if submitted.bulk and self._count(ref.owner, name) > self._size(submitted.pool):
            self._over.setdefault(of_lane, {})[ref.owner] = sequence

    def _count(self, owner: str, name: str) -> int:
        """Return how many tasks of a window are queued or being appended, without regard to those that have started."""
        since = len(self._queued.get((owner, name), ())) + self._in_flight.get((owner, name), 0)
        return self._backlog(owner).queued.get(name, 0) + since

    def _count_in_lane(self, owner: str, name: str) -> int:
        """Return the same of all windows of a lane."""
        since = len(self._queued.get((owner, name), ())) + self._in_flight.get((owner, name), 0)
        return self._reported.get((owner, name), 0) + since

    def _has_bulk(self, now: datetime) -> bool:
        """Return True if a scheduler that knows of bulk queues has reported lately."""
        return self._report.over is not None and now - self._reported_at <= LONGEST_BELIEVED

    def _may_be_bulk(self, owner: str, submitted: TaskSubmitted, name: str, now: datetime) -> bool:
        """Return True if a task may be queued beyond its owner's window: no other owner has tasks beyond its own.

        False if its owner has held tasks, which come first, and if no server takes such tasks now: they would be tried
        in vain, all of them.
        """
        over = self._report.over
        if over is None or not self._has_bulk(now) or name in self._backlog(owner).blocked:
            return False
        of_lane = lane(submitted.pool, submitted.priority)
        return (
            len(submitted.payload) <= LARGEST_IN_BULK_BYTES
            and all(other == owner for other in over.get(of_lane, ()))
            and all(other == owner for other in self._over.get(of_lane, ()))
            and self._is_served(submitted)
        )

    def _is_served(self, submitted: TaskSubmitted) -> bool:
        return self._served(submitted.pool, submitted.task_type, *labels(submitted.plan))

    def _size(self, pool: str) -> int:
        return self._report.windows.get(pool, FIRST_WINDOW)

    def _is_full(self, owner: str, pool: str, name: str, ahead: int, now: datetime) -> bool:
        silence = min(max(now - self._reported_at, timedelta(0)), LONGEST_SILENCE)
        started = self._report.paces.get(pool, 0.0) * silence.total_seconds()
        since = max(0.0, len(self._queued.get((owner, name), ())) - started) + self._in_flight.get((owner, name), 0)
        queued = self._backlog(owner).queued.get(name, 0) + since
        return queued + ahead >= self._size(pool)

    def _backlog(self, owner: str) -> OwnerBacklog:
        return self._report.owners.get(owner, EMPTY_BACKLOG)


def places(submitted: TaskSubmitted) -> tuple[str, str]:
    """Return the names of a task's window and of its lane. No window has the name of a lane."""
    pool, priority = submitted.pool, submitted.priority
    return window(pool, priority, submitted.task_type, submitted.plan), lane(pool, priority)


def _drop_reported(since: dict[N, deque[int]], as_of: int) -> None:
    for name, sequences in list(since.items()):
        while sequences and sequences[0] <= as_of:
            sequences.popleft()
        if not sequences:
            del since[name]
