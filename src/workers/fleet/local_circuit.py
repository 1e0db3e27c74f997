"""The circuit of one server as its worker sees it: which tasks may be trials, and how the ends of attempts change it.

The log is ahead of this in the decisions of other workers, and behind in the latest decision of this worker.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

from ...events.ids import TaskRef
from ...scheduling.server_failures import Evidence, ServerFailures, Verdict

KEPT_SECONDS = 0.5
"""How long a trial is kept for tasks of other owners than those whose tasks failed; for twice as long it is kept for
other tasks than those that failed. Longer, and a server with a single user recovers later."""

SETTLED_SECONDS = 1.0
"""How long the log may take to say that a circuit is closed. If it takes longer, that was perhaps not stored: another
trial is made."""

CircuitChange: TypeAlias = Evidence | Literal["closes"] | None
"""How the end of an attempt changes the circuit: it opens, closes, or stays as it is (None)."""


class Shut(NamedTuple):
    """A circuit that is not closed."""

    until: float
    """Monotonic. From then on a trial is made; before it only one for another owner than `owner`."""
    owner: str = ""
    """The only owner whose tasks failed; empty: all owners wait until then."""


class LocalCircuit:
    """Times are monotonic, in seconds."""

    def __init__(self, most_failures: int, cooldown_seconds: float) -> None:
        self._failures = ServerFailures(most_failures)
        self._cooldown_seconds = cooldown_seconds
        self._recorded: Shut | None = None
        """The state in the log; None: closed."""
        self._decided: Shut | None = None
        """Decided here; the log follows."""
        self._trials: dict[TaskRef, float] = {}
        """Running attempts that began while the circuit was not closed, and when."""
        self._tried_at = 0.0
        """When the last trial ended."""
        self._closed_until = 0.0
        """Until then the state in the log is ignored: the circuit was closed here."""

    def record(self, shut: Shut | None) -> None:
        """Set the state that the log has."""
        self._recorded = shut

    def shut(self, now: float) -> Shut | None:
        """Return how the circuit is not closed; None if it is closed."""
        decided = self._decided
        if decided is None or decided.until <= now:
            return self._recorded if self._closed_until <= now else None
        if self._recorded is None:
            return decided
        return Shut(max(decided.until, self._recorded.until), decided.owner)

    # Attempts

    def start(self, task: TaskRef, now: float) -> None:
        """Record that an attempt of a task starts."""
        self._failures.start(task, now)
        if self.shut(now) is not None:
            self._trials[task] = now

    def end(self, task: TaskRef, verdict: Verdict, now: float) -> CircuitChange:
        """Record the end of a task's running attempt; return how the circuit changes. Safe to repeat.

        A trial decides alone. A neutral end of one changes nothing: the next may begin at once.
        """
        is_trial = self._trials.pop(task, None) is not None
        if is_trial:
            self._tried_at = now
        self._failures.end(task, verdict, now)
        match verdict:
            case "neutral":
                return None
            case "success":
                return self._close(now) if is_trial else None
            case "failure" | "unreached":
                shut = self.shut(now)
                if is_trial:
                    return self._open(Evidence(1, "" if verdict == "unreached" else task.owner), shut, now)
                if shut is None and (evidence := self._failures.judge(now)) is not None:
                    return self._open(evidence, None, now)
                return None  # an attempt that began before the circuit opened, or too few have failed

    def _open(self, evidence: Evidence, shut: Shut | None, now: float) -> Evidence:
        self._failures.forget_failures()
        self._closed_until = 0.0
        if shut is not None and shut.until > now:  # the trial of another owner: now all wait, for no longer
            self._decided = Shut(shut.until, shut.owner if shut.owner == evidence.owner else "")
        else:
            self._decided = Shut(now + self._cooldown_seconds, evidence.owner)
        return evidence

    def _close(self, now: float) -> Literal["closes"]:
        self._failures.forget_failures()
        self._trials.clear()
        self._decided = None
        self._closed_until = now + SETTLED_SECONDS
        return "closes"

    # Capacity

    def capacity(self, running: int, most: int, now: float) -> int:
        """Return how many attempts may run on the server; `most`: while its circuit is closed.

        While its circuit is not closed, there may be one trial more than what runs. A trial that takes longer than the
        cool-down keeps no other from being made.
        """
        shut = self.shut(now)
        if shut is None:
            return most
        if shut.until > now and not shut.owner:
            return 0
        is_tried = any(now - since < self._cooldown_seconds for since in self._trials.values())
        return min(most, running if is_tried else running + 1)

    def changes_at(self, now: float) -> float | None:
        """Return when the capacity may change next without any event; None if it will not."""
        shut = self.shut(now)
        if shut is None:
            return self._closed_until if self._closed_until > now else None
        ahead = [shut.until, *(since + self._cooldown_seconds for since in self._trials.values())]
        return min((at for at in ahead if at > now), default=None)

    def doubt(self, task: TaskRef, now: float) -> int:
        """Return how much speaks against a task as a trial, from 0 to 2."""
        shut = self.shut(now)
        return max(self._failures.doubt(task), 1 if shut is not None and shut.owner == task.owner else 0)

    def admits_at(self, task: TaskRef, now: float) -> float:
        """Return from when on a task may run on the server, as far as its circuit is concerned.

        A task that may be the cause of the failures is no good trial: others come first, for a while.
        """
        shut = self.shut(now)
        if shut is None:
            return now
        doubt = self.doubt(task, now)
        if not doubt:
            return now if shut.owner or shut.until <= now else shut.until
        started = max(self._trials.values(), default=-math.inf)
        possible_at = max(shut.until, self._tried_at, started + self._cooldown_seconds)
        return possible_at + doubt * KEPT_SECONDS
