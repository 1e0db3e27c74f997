"""The rules of every history, whatever was killed in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

FINAL = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})
OF_AN_ATTEMPT = frozenset(
    {"AttemptAccepted", "ProgressReported", "AttemptFailed", "AttemptReturned", "TaskSucceeded", "TaskFailed"}
)
OF_NO_ATTEMPT = frozenset({"expired", "deadline", "parent_failed", "busy"})
"""Failures of a task that waits."""
EARLY = timedelta(milliseconds=250)
"""How much before its time a retry may start (EARLIEST_START of the deciders)."""


class IllegalHistory(AssertionError):
    """A history that no sequence of allowed steps leads to; the message shows it with the place marked."""

    def __init__(self, reason: str, history: Sequence[dict[str, Any]], place: int) -> None:
        lines = [
            f"{'>>' if number == place else '  '} {entry['sequence']:>6} {entry['at']} {entry['by']} {entry['event']}"
            for number, entry in enumerate(history)
        ]
        super().__init__("\n".join([reason, *lines]))


def check_history(history: Sequence[dict[str, Any]], *, ended: bool = True) -> None:
    """Raise IllegalHistory unless the recorded events of a task (as the API gives them) are a legal history.

    One submission, first. Attempts numbered from 1 without a gap, each started while the task waits and not before its
    retry is due; what is said of an attempt is said of the one that runs, by the server it runs on. No more failures
    than the budget allows. One end, and nothing after it but a retry from outside. `ended`: the end must be there.
    """
    _Walk(history).run(ended=ended)


class _Walk:
    def __init__(self, history: Sequence[dict[str, Any]]) -> None:
        self._history = history
        self._place = 0
        self._state = "unknown"
        self._attempt = 0
        self._server = ""
        self._accepted = False
        self._failures = 0
        self._budget = 0
        self._due: datetime | None = None
        self._cancelled = 0

    def run(self, *, ended: bool) -> None:
        sequence = 0
        for place, entry in enumerate(self._history):
            self._place = place
            self._must(entry["sequence"] > sequence, "events are in the order of the log")
            sequence = entry["sequence"]
            self._step(entry["event"], datetime.fromisoformat(entry["at"]))
        if ended:
            self._must(self._state == "ended", f"the task has ended, not: {self._state}")

    def _step(self, event: dict[str, Any], at: datetime) -> None:
        kind = event["type"]
        if kind == "TaskSubmitted":
            self._must(self._state == "unknown", "a task is submitted once")
            self._state, self._budget = "held" if event.get("held") else "waiting", event["policy"]["attempts"]
            return
        self._must(self._state != "unknown", "a history begins with the submission")
        if kind == "TaskQueued":
            wanted = {"ended"} if event.get("renewed") else {"held", "waiting"}
            self._must(self._state in wanted, f"queued only while {' or '.join(sorted(wanted))}")
            if event.get("renewed"):
                self._failures = 0
            self._state, self._due = "waiting", None
            return
        if kind == "TaskDeleted":
            self._must(self._state == "ended", "a task is deleted after its end")
            return
        if kind == "CancelReported":
            is_of_it = self._state == "ended" and self._cancelled == event["attempt"] > 0
            self._must(is_of_it, "what became of the attempt that was cancelled is reported once")
            self._cancelled = 0
            return
        self._cancelled = event["attempt"] if kind == "TaskCancelled" else 0
        if kind == "TaskHeld":
            wanted = "ended" if event.get("renewed") else "waiting"
            self._must(self._state == wanted, f"held only while {wanted}")
            if event.get("renewed"):
                self._failures = 0
            self._state, self._due = "held", None
            return
        self._must(self._state != "ended", "nothing happens after the end")
        if kind == "TaskFailed" and self._state != "processing":
            self._must(event["kind"] in OF_NO_ATTEMPT, f"{event['kind']} is of an attempt")
            self._state = "ended"
            return
        if kind == "AttemptStarted":
            self._start(event, at)
        elif kind in OF_AN_ATTEMPT:
            self._of_attempt(kind, event)
        else:
            self._must(kind in FINAL, f"there is no rule for {kind}")
        if kind in FINAL:
            self._state = "ended"

    def _start(self, event: dict[str, Any], at: datetime) -> None:
        self._must(self._state == "waiting", "an attempt starts while the task waits")
        self._must(event["attempt"] == self._attempt + 1, f"after attempt {self._attempt} comes the next")
        self._must(self._due is None or at >= self._due - EARLY, "a retry does not start before it is due")
        self._state, self._attempt, self._server = "processing", event["attempt"], event["server_id"]
        self._accepted, self._due = False, None

    def _of_attempt(self, kind: str, event: dict[str, Any]) -> None:
        self._must(self._state == "processing", f"{kind} comes while an attempt runs")
        self._must(event["attempt"] == self._attempt, f"{kind} is of the attempt that runs, {self._attempt}")
        server = event.get("server_id", self._server)
        self._must(server == self._server, f"{kind} is of the server that has the attempt, {self._server}")
        if kind == "AttemptAccepted":
            self._must(not self._accepted, "an attempt is accepted once")
            self._accepted = True
        elif kind == "AttemptFailed":
            self._failures += 1
            self._must(self._failures < self._budget, f"the last of {self._budget} failures ends the task")
            self._state, self._due = "waiting", datetime.fromisoformat(event["retry_at"])
        elif kind == "AttemptReturned":
            self._state = "waiting"

    def _must(self, holds: bool, rule: str) -> None:
        if not holds:
            raise IllegalHistory(f"broken: {rule}", self._history, self._place)
