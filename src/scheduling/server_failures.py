"""The attempts on one server, and the judgement whether their failures are the server's fault.

An attempt *succeeds*, *fails*, or ends *neutrally*: its end says nothing about the server. Judged are the failures of
attempts that started after the last successful attempt had started, so the order in which attempts end does not matter.
They are the server's fault if

* there are enough of them, twice as many if the first started soon after a success, and they come from more than one
  task;
* owners fail in more than half of their attempts, averaged over owners with equal weight. An owner with a recent
  success and no failure since fails in none. So one owner's payloads never outweigh another owner's successes.

An attempt still running counts as not failed if it started after the first of these failures did, and has lasted as
long as the quickest of them: it has survived what the others did not. Without it, quick failures would outrun slow
successes; with every running attempt, a server that hangs would never be found failing.

A failure that no payload can cause (connection refused, name not resolved, no trust in a certificate) is the same for
all owners, so the average over owners does not apply to it.

See ADR 14.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from ..events.ids import TaskRef

Verdict: TypeAlias = Literal[
    "success",
    "failure",  # the server failed with this payload
    "unreached",  # it failed, and no payload can be the cause
    "neutral",
]

RECENT_SECONDS = 60.0
"""How long a success is recent: as long as it took, and at least this."""
REMEMBERED = 256
"""Failures, owners and tasks remembered per server, of each the latest."""


class Evidence(NamedTuple):
    """Why failures are the server's fault."""

    failures: int
    owner: str
    """The only owner whose tasks failed; empty: there are several, or no task can be the cause."""


class _Attempt(NamedTuple):
    number: int
    """Attempts are numbered as they start, from 1."""
    since: float


class _Failure(NamedTuple):
    attempt: _Attempt
    task: TaskRef
    seconds: float
    """How long the attempt took."""
    unreached: bool


class ServerFailures:
    """Remembers the attempts of one worker on one server. Times are monotonic, in seconds."""

    def __init__(self, most_failures: int) -> None:
        """`most_failures`: how many failures are enough; twice as many if the first started soon after a success."""
        self._most_failures = most_failures
        self._started = 0
        self._running: dict[TaskRef, _Attempt] = {}
        self._counts_from = 0
        """Failures of attempts with this number or a lower one do not count."""
        self._failures: deque[_Failure] = deque()
        self._failed: Counter[str] = Counter()
        """How many of them each owner has."""
        self._first_failure: _Attempt | None = None
        """The first of these attempts that started. None: there is none."""
        self._successes: OrderedDict[str, float] = OrderedDict()
        """By owner, until when the last success is recent; the owner of the latest at the end."""
        self._failed_tasks: OrderedDict[TaskRef, None] = OrderedDict()
        """Tasks whose last attempt here failed; the latest at the end."""
        self._failed_owners: OrderedDict[str, None] = OrderedDict()
        """The same for owners."""

    def start(self, task: TaskRef, now: float) -> None:
        """Record that an attempt of a task starts."""
        self._started += 1
        self._running[task] = _Attempt(self._started, now)

    def end(self, task: TaskRef, verdict: Verdict, now: float) -> None:
        """Record the end of a task's running attempt. Does nothing if none is known."""
        attempt = self._running.pop(task, None)
        if attempt is None:
            return
        match verdict:
            case "success":
                self._succeed(task, attempt, now)
            case "failure" | "unreached":
                self._fail(task, attempt, now, unreached=verdict == "unreached")
            case "neutral":
                pass

    def forget_failures(self) -> None:
        """Start anew: the circuit has opened or closed. Failures of running attempts will not count either."""
        self._counts_from = self._started
        self._failures.clear()
        self._failed.clear()
        self._first_failure = None

    def judge(self, now: float) -> Evidence | None:
        """Return why the failures are the server's fault; None if they are not."""
        first, failures = self._first_failure, self._failures
        if first is None or len(failures) < self._most_failures:
            return None
        if all(failure.task == failures[0].task for failure in failures):
            return None
        was_well = any(until >= first.since for until in self._successes.values())
        if was_well and len(failures) < 2 * self._most_failures:
            return None
        successful = {owner for owner, until in self._successes.items() if until >= now}
        unreached = [failure.task for failure in failures if failure.unreached]
        failed = self._failed
        if 2 * len(failed) <= len(failed.keys() | successful) and 2 * len(unreached) <= len(failures):
            return None  # whatever survives
        surviving = self._surviving(first, now)
        if 2 * len(unreached) > len(failures) + surviving.total() and len(set(unreached)) > 1:
            return Evidence(len(failures), owner="")
        rates = [count / (count + surviving[owner]) for owner, count in failed.items()]
        owners = len(failed.keys() | surviving.keys() | successful)
        if 2 * sum(rates) <= owners:
            return None
        return Evidence(len(failures), owner=next(iter(failed)) if len(failed) == 1 else "")

    def doubt(self, task: TaskRef) -> int:
        """Return how much speaks against a task as a trial: 0 nothing, 1 its owner's tasks failed here, 2 it did."""
        if task in self._failed_tasks:
            return 2
        return 1 if task.owner in self._failed_owners else 0

    def _succeed(self, task: TaskRef, attempt: _Attempt, now: float) -> None:
        self._counts_from = max(self._counts_from, attempt.number)
        if self._failures:
            self._failures = deque(each for each in self._failures if each.attempt.number > self._counts_from)
            self._failed = Counter(each.task.owner for each in self._failures)
            self._first_failure = min((each.attempt for each in self._failures), default=None)
        _put_last(self._successes, task.owner, now + max(RECENT_SECONDS, now - attempt.since))
        self._failed_tasks.pop(task, None)
        self._failed_owners.pop(task.owner, None)

    def _fail(self, task: TaskRef, attempt: _Attempt, now: float, *, unreached: bool) -> None:
        if not unreached:
            _put_last(self._failed_tasks, task, None)
            _put_last(self._failed_owners, task.owner, None)
        if attempt.number > self._counts_from:
            self._failures.append(_Failure(attempt, task, now - attempt.since, unreached))
            self._failed[task.owner] += 1
            self._first_failure = min(self._first_failure or attempt, attempt)
            if len(self._failures) > REMEMBERED + 2 * len(self._running):  # else they could never be most
                self._failed -= Counter([self._failures.popleft().task.owner])

    def _surviving(self, first: _Attempt, now: float) -> Counter[str]:
        """Return by owner how many running attempts count as not failed."""
        quickest = min(failure.seconds for failure in self._failures)
        return Counter(
            task.owner
            for task, attempt in self._running.items()
            if attempt.number > first.number and now - attempt.since >= quickest
        )


K = TypeVar("K")
V = TypeVar("V")


def _put_last(remembered: OrderedDict[K, V], key: K, value: V) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
