"""The format of log lines (text on a terminal, JSON lines elsewhere), and how many there are of one kind."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog

from ..clock import utc_now
from ..settings import Settings

log = structlog.get_logger(__name__)

BURST = 20
"""Lines of one kind at once."""
PAUSE_SECONDS = 5.0
"""Then one line each so many seconds."""
MOST_KINDS = 1_000
"""Kinds remembered; the code has fewer."""
LINE_BYTES = 4_096
"""A write of so many bytes to a pipe is never mixed with another process's (PIPE_BUF of Linux)."""
CUT = " […] "
SHORTEST_CUT = 100
"""Texts of fewer characters are not shortened."""
ESSENTIAL = frozenset({"process", "event", "level", "timestamp"})
"""Fields of a line that is too long however its texts are shortened."""
LIMITED = frozenset({"warning", "error", "critical"})


class Repeats:
    """Lets BURST lines of a kind through, then one each PAUSE_SECONDS, and counts those left out.

    Most warnings have a cause outside: a caller, a server or a receiver can repeat it without end. Their lines must
    not fill a disk, or hide others.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kinds: OrderedDict[object, tuple[float, float, int]] = OrderedDict()
        """Of each kind: how many lines may follow, since when, and how many were left out. Least recent first."""

    def admit(self, kind: object) -> int | None:
        """Return how many lines of a kind were left out since the last one; None if this one is left out, too."""
        now = self._now()
        left, since, omitted = self._kinds.pop(kind, (float(BURST), now, 0))
        left = min(float(BURST), left + (now - since) / PAUSE_SECONDS)
        is_admitted = left >= 1
        self._kinds[kind] = (left - 1, now, 0) if is_admitted else (left, now, omitted + 1)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return omitted if is_admitted else None


class _LimitRepeats:
    """Processor that leaves out lines of ours; a kind is the name of an event."""

    def __init__(self, repeats: Repeats) -> None:
        self._repeats = repeats

    def __call__(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if method in LIMITED:
            omitted = self._repeats.admit(event.get("event"))
            if omitted is None:
                raise structlog.DropEvent
            if omitted:
                event["suppressed"] = omitted
        return event


class _NameProcess:
    """Processor that adds the name of the process."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": self._process, **event}


class _JsonLine:
    """Renderer of a JSON line of at most LINE_BYTES; long texts lose their middle."""

    def __init__(self) -> None:
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        line = self._line(logger, method, event)
        while len(line) >= LINE_BYTES:
            texts = {name: value for name, value in event.items() if isinstance(value, str)}
            longest = max(texts, key=lambda name: len(texts[name]), default=None)
            if longest is None or len(texts[longest]) <= SHORTEST_CUT:
                event = {name: value for name, value in texts.items() if name in ESSENTIAL}
                return self._line(logger, method, event)
            event[longest] = _without_middle(texts[longest], len(line) - LINE_BYTES + 1)
            line = self._line(logger, method, event)
        return line

    def _line(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        return str(self._render(logger, method, dict(event)))


def _without_middle(text: str, excess: int) -> str:
    """Return a text whose JSON is shorter by about so many bytes. Its end is worth more: an error's is."""
    length = len(json.dumps(text))
    left = max(0, len(text) * (length - excess) // length - len(CUT))
    return text[: left // 4] + CUT + text[len(text) - (left - left // 4) :]


class _LimitLibraries(logging.Filter):
    """Leaves out lines of libraries; a kind is the line of code."""

    def __init__(self, repeats: Repeats) -> None:
        super().__init__()
        self._repeats = repeats

    def filter(self, record: logging.LogRecord) -> bool:
        omitted = self._repeats.admit((record.pathname, record.lineno))
        if omitted:
            record.msg, record.args = f"{record.getMessage()} (suppressed before: {omitted})", ()
        return omitted is not None


class _LogLines:
    """Where lines are written. One that cannot be written is dropped: nothing else may fail because of it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        # OSError: its reader has ended, or the disk is full. ValueError: it is closed.
        with contextlib.suppress(OSError, ValueError):
            return self._file.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


_json_lines: _LogLines | None = None
"""Where requests are written; None: through structlog."""
_process_field = ""
"""The field `process` of a request's line, if there is one."""
_quoted = functools.lru_cache(4_096)(json.dumps)


def log_request(*, id: str, caller: str | None, method: str, route: str, status: int, ms: float) -> None:  # noqa: A002
    """Log a request at level info.

    JSON is written without structlog: a line costs a quarter, and there is one for each request. `id` has no character
    that JSON escapes.
    """
    if _json_lines is None:
        log.info("request", id=id, caller=caller, method=method, route=route, status=status, ms=ms)
        return
    _json_lines.write(
        f'{{{_process_field}"id": "{id}", "caller": {_quoted(caller)}, "method": {_quoted(method)}, '
        f'"route": {_quoted(route)}, "status": {status}, "ms": {ms}, "event": "request", "level": "info", '
        f'"timestamp": "{utc_now().isoformat(timespec="microseconds")[:-6]}Z"}}\n'
    )
    _json_lines.flush()


def configure(settings: Settings, process: str = "") -> None:
    """Set up logging to standard error, for this package and its libraries.

    Each line has the field `process` unless it is empty. A JSON line is one write of at most LINE_BYTES, so lines of
    several processes do not mix.
    """
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    global _json_lines, _process_field  # noqa: PLW0603 - as structlog's configuration: one per process
    lines = _LogLines(sys.stderr)
    _json_lines = lines if as_json and level <= logging.INFO else None
    _process_field = f'"process": {json.dumps(process)}, ' if process else ""
    repeats = Repeats()
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([_NameProcess(process)] if process else []),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _JsonLine()]
        if as_json
        # Plain: where `rich` is installed, structlog's default shows local variables, secrets included.
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[_LimitRepeats(repeats), *shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.addFilter(_LimitLibraries(repeats))
    of_libraries = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=of_libraries, foreign_pre_chain=shared))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
