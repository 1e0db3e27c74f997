"""Progress of a job, from its polls or the parts of its stream: what is new in each. Pure."""

from __future__ import annotations

from typing import Any

from ...events.exchange import Poll, StreamedParts
from .answer_tests import TestedAnswer
from .dialect import Update
from .reasons import shortened
from .task_update import LONGEST_LINE, READERS

MOST_LINES = 200
"""Of a log in one update."""
LARGEST_NUMBER = 1e15
"""That is scaled: integers of JSON have no bound, floats have."""
LONGEST_LINES = 64 * 1024
"""Characters of a log in one update: it is part of a message of NATS."""


class JobProgress:
    """What was already reported of one job."""

    def __init__(self, places: Poll | StreamedParts) -> None:
        self._places = places
        self._progress: float | None = None
        self._message: str | None = None
        self._lines = 0
        """Of the log."""

    def read(self, answer: TestedAnswer, *, is_last: bool) -> Update | None:
        """Return what is new; None for nothing. Raises BadAnswer. `is_last`: the log has ended."""
        places, notes = self._places, []
        progress, note = self._percent(answer.at(places.progress))
        notes += [f"progress: {note}"] if note else []
        message, note = READERS["message"](came) if (came := answer.at(places.message)) is not None else (None, "")
        notes += [f"message: {note}"] if note else []
        lines, left_out = self._new_lines(answer.at(getattr(places, "logs", "")), is_last)
        notes += [f"log: {left_out:,} lines left out"] if left_out else []
        if progress in (None, self._progress) and message in (None, self._message) and not lines:
            return None
        self._progress = self._progress if progress is None else progress
        self._message = self._message if message is None else message
        return Update(progress=progress, message=message, lines=lines, notes=tuple(notes))

    def _percent(self, came: Any) -> tuple[float | None, str]:
        if came is None:
            return None, ""
        if isinstance(came, int | float) and not isinstance(came, bool) and abs(came) <= LARGEST_NUMBER:
            came = came / self._places.progress_max * 100
        value, note = READERS["progress"](came)
        return value, note

    def _new_lines(self, log: Any, is_last: bool) -> tuple[tuple[str, ...], int]:
        """Return the lines that the log did not have before, the newest of many, and how many were left out."""
        lines = _lines_of(log, is_last)
        if len(lines) < self._lines:
            self._lines = 0  # it was begun anew
        new = lines[self._lines :]
        self._lines = len(lines)
        kept: list[str] = []
        size = 0
        for line in reversed(new[-MOST_LINES:]):
            short = shortened(line, LONGEST_LINE)
            size += len(short)
            if size > LONGEST_LINES:
                break
            kept.append(short)
        return tuple(reversed(kept)), len(new) - len(kept)


def _lines_of(log: Any, is_last: bool) -> list[str]:
    match log:
        case str():
            lines = log.splitlines()
            if lines and not is_last and not log.endswith(("\n", "\r")):
                lines.pop()
            return lines
        case list():
            return [line for line in log if isinstance(line, str)]
        case _:
            return []
