"""The progress of Cog's predictions: from the events of a stream, from snapshots, or all at the end. Pure."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ...events.envelope import NULL
from .cog_prediction import Prediction, Verdict, is_data_uri
from .dialect import Answer, Final, Update
from .reasons import shortened
from .task_update import LONGEST_LINE, LONGEST_MESSAGE

MOST_LINES = 500
"""Lines of a log that comes whole."""
LONGEST_LOG = 128 * 1024
"""Characters of a log that comes whole: one report may have 256 KiB."""
MOST_METRICS = 64
MOST_APPENDED = 100
"""Values of one metric that is appended to."""
LARGEST_METRIC = 1_000
"""Bytes of JSON of one value."""
LARGEST_NUMBER = 1e300
"""That is added to: integers of JSON have no bound, and no float is larger than 1.8e308."""
LARGEST_EVENT = 200 * 1024
"""Bytes. The piece of output or the log in a larger event is not shown as progress."""
NOT_SHOWN = "output or a log line of more than 200 KiB was not shown as progress"

_LINE_ENDS = re.compile(r"[\r\n]+")
_encode = msgspec.json.Encoder().encode


def whole(verdict: Verdict, prediction: Prediction, elapsed_ms: int) -> Answer | Final:
    """Return the answer of a prediction whose log and metrics were not reported before. Raises BadAnswer."""
    answer = verdict.of(prediction, elapsed_ms)
    update = last_update(prediction)
    return answer if update is None else Final(update=update, answer=answer)


def last_update(prediction: Prediction) -> Update | None:
    """Return the log and the metrics of a prediction as progress; None without either."""
    logs = prediction.logs if isinstance(prediction.logs, str) else ""
    lines, notes = log_lines(logs)
    metrics = prediction.metrics if bytes(prediction.metrics).strip() not in (b"null", b"{}") else NULL
    if not lines and metrics == NULL:
        return None
    return Update(lines=lines, custom_data=metrics, notes=notes)


class Snapshots:
    """The snapshots of a running prediction: each has all of its log and its output so far."""

    def __init__(self) -> None:
        self._message = ""
        self._metrics = NULL
        self._pieces = 0

    def update(self, snapshot: Prediction) -> Update | None:
        """Return what is new in a snapshot: the last line of the log, the metrics, pieces of output; None for nothing.

        The lines of the log come with the end of the prediction.
        """
        log = snapshot.logs if isinstance(snapshot.logs, str) else ""
        lines = split_lines(log[-LONGEST_MESSAGE:])
        message = lines[-1] if lines and lines[-1] != self._message else None
        metrics = snapshot.metrics if snapshot.metrics != self._metrics else NULL
        output = self._new_output(snapshot)
        if not message and metrics == NULL and not output:
            return None
        self._message, self._metrics = message or self._message, snapshot.metrics
        return Update(message=message, custom_data=metrics, output=output)

    def _new_output(self, snapshot: Prediction) -> str:
        pieces = msgspec.json.decode(snapshot.output)
        if not isinstance(pieces, list):
            return ""
        new, self._pieces = pieces[self._pieces :], max(self._pieces, len(pieces))
        return "".join(map(piece_of_output, new))


def log_lines(log: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the last lines of a log, and a note if some are left out."""
    lines = split_lines(log[-LONGEST_LOG:])
    kept = tuple(lines[-MOST_LINES:])
    is_cut = len(log) > LONGEST_LOG or len(lines) > MOST_LINES
    return kept, ("the first lines of the log were left out",) if is_cut else ()


def split_lines(log: str) -> list[str]:
    """Return the lines of a log that are not empty. A progress bar ends its lines with a carriage return."""
    return [shortened(line, LONGEST_LINE) for line in _LINE_ENDS.split(log) if line.strip()]


def piece_of_output(chunk: Any) -> str:
    """Return a piece of output as text: other JSON on a line of its own. A file is not shown: the result has it."""
    if isinstance(chunk, str):
        return "" if is_data_uri(chunk) else chunk
    return "" if chunk is None or _has_file(chunk) else f"{_encode(chunk).decode()}\n"


def _has_file(content: Any) -> bool:
    match content:
        case str():
            return is_data_uri(content)
        case list():
            return any(map(_has_file, content))
        case dict():
            return any(map(_has_file, content.values()))
        case _:
            return False


class Metrics:
    """The metrics of a prediction as its events change them. What is too large for progress comes with the result."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def change(self, name: Any, value: Any, mode: Any) -> Raw | None:
        """Change a metric; return all of them, None if nothing changed."""
        if not isinstance(name, str) or len(name) > LARGEST_METRIC or len(_encode(value)) > LARGEST_METRIC:
            return None
        known = self._values.get(name)
        if name not in self._values and len(self._values) >= MOST_METRICS:
            return None
        match mode:
            case "increment" if _is_number(value) and (known is None or _is_number(known)):
                self._values[name] = (known or 0) + value
            case "append" if known is None or isinstance(known, list):
                self._values[name] = [*(known or []), value][-MOST_APPENDED:]
            case "replace" if value is None:
                self._values.pop(name, None)
            case "replace":
                self._values[name] = value
            case _:
                return None
        return Raw(_encode(self._values))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


class Events:
    """The events of a prediction's stream that have been read. A stream that is opened again repeats them."""

    def __init__(self) -> None:
        self.count = 0
        self._metrics = Metrics()
        self._line = ""
        """The end of the log, without a line end so far."""
        self._is_incomplete = False

    def update(self, event: str, content: dict[str, Any], size: int) -> Update | None:
        """Return what a new event reports; None if it is no progress."""
        if size > LARGEST_EVENT:
            self._is_incomplete = True
            return None
        match event:
            case "output":
                output = piece_of_output(content.get("chunk"))
                return self._noted(Update(output=output)) if output else None
            case "log":
                lines = self._lines(content.get("data"))
                return self._noted(Update(lines=lines)) if lines else None
            case "metric":
                changed = self._metrics.change(content.get("name"), content.get("value"), content.get("mode"))
                return self._noted(Update(custom_data=changed)) if changed is not None else None
            case _:
                return None

    def rest(self, last: Update | None) -> Update | None:
        """Return what was not reported when the prediction ended. Its log has been seen, but for the last line."""
        lines = tuple(split_lines(self._line))
        self._line = ""
        if last is None and not lines and not self._is_incomplete:
            return None
        return self._noted(Update(lines=lines, custom_data=(last or Update()).custom_data))

    def _noted(self, update: Update) -> Update:
        if not self._is_incomplete:
            return update
        self._is_incomplete = False
        return replace(update, notes=(NOT_SHOWN,))

    def _lines(self, data: Any) -> tuple[str, ...]:
        """Return the lines that a piece of the log completes."""
        if not isinstance(data, str):
            return ()
        text = self._line + data
        end = max(text.rfind("\n"), text.rfind("\r"), len(text) - 1 if len(text) > LARGEST_EVENT else -1) + 1
        self._line = text[end:]
        return tuple(split_lines(text[:end]))
