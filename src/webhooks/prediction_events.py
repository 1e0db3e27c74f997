"""What the webhook of a prediction is told: Replicate's four events, decided from events of the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..events import task as events
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS
from ..push.updates import LoggedEvent

PREDICTION = "prediction."
"""Beginning of the types of such messages."""
PACE = timedelta(milliseconds=500)
"""Between two messages about output or logs of a prediction; what comes in between is in the next ones, or the last."""
MOST_PACED = 10_000
"""Predictions whose last message is remembered. Of a forgotten one, the next message may come early."""


class PredictionEvents:
    """Chooses the events of tasks that become messages. Events come in the order of the log."""

    def __init__(self) -> None:
        self._last: dict[TaskRef, datetime] = {}

    def word_of(self, update: LoggedEvent, wanted: Sequence[str]) -> str | None:
        """Return the event of a prediction that an event of its task is; None: none, or not wanted, or too soon.

        `wanted`: the words that its creator wants; empty: all.
        """
        if update.kind in ENDING_WORDS:
            self._last.pop(update.ref, None)
            return "completed" if not wanted or "completed" in wanted else None
        match update.event:
            case events.AttemptStarted(attempt=1):
                return "start" if not wanted or "start" in wanted else None
            case events.ProgressReported() as report:
                word = next((word for word in _words(report) if not wanted or word in wanted), None)
                return word if word is not None and self._is_due(update) else None
            case _:
                return None

    def _is_due(self, update: LoggedEvent) -> bool:
        at = update.stored.recorded.at
        last = self._last.get(update.ref)
        if last is not None and timedelta(0) <= at - last < PACE:
            return False
        if len(self._last) >= MOST_PACED:
            self._last.clear()
        self._last[update.ref] = at
        return True


def _words(report: events.ProgressReported) -> list[str]:
    has_output = bool(report.output) or report.data is not None
    has_logs = bool(report.lines) or report.progress is not None
    return [word for word, has in (("output", has_output), ("logs", has_logs)) if has]
