"""A bar for `run(..., progress=True)`: a line of the terminal, or a cell of a notebook. Needs no other package."""

from __future__ import annotations

import html
import shutil
import sys
import time
from typing import Any, Protocol, TextIO

from .updates import AttemptFailed, Ended, Progress, Started, State, Update

WIDTH = 24
PAUSE_SECONDS = 0.05
"""A bar is drawn at most so often."""


class Bar(Protocol):
    """Shows updates."""

    def show(self, update: Update) -> None:
        """Show an update."""

    def close(self) -> None:
        """Leave the last state visible."""


class Shown:
    """What a bar says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.percent: float | None = None
        self.message = "waiting"
        self.has_ended = False

    def take(self, update: Update) -> None:
        """Take what an update says."""
        if isinstance(update, State):
            self.percent = update.task.progress
            self.message = update.task.message or update.task.status.lower()
            self.has_ended = update.task.ended
        elif isinstance(update, Started):
            self.message = f"running on {update.server_id}"
        elif isinstance(update, Progress):
            self.percent = self.percent if update.progress is None else update.progress
            self.message = update.message or self.message
        elif isinstance(update, AttemptFailed):
            self.percent, self.message = None, f"attempt {update.attempt} failed ({update.kind}), another follows"
        elif isinstance(update, Ended):
            self.has_ended = True
            self.percent = 100.0 if update.status == "FINISHED" else self.percent
            self.message = update.status.lower() + (f": {update.error}" if update.error else "")

    def line(self, columns: int) -> str:
        """Return one line of text."""
        percent = 0.0 if self.percent is None else max(0.0, min(100.0, self.percent))
        full = round(WIDTH * percent / 100)
        number = "    " if self.percent is None else f"{percent:3.0f}%"
        text = f"{self.name} [{'#' * full}{'.' * (WIDTH - full)}] {number} {' '.join(self.message.split())}"
        return "".join(each if each.isprintable() else "?" for each in text)[: max(20, columns - 1)]


class TerminalBar:
    """A line that is drawn again and again. If the output is no terminal, only the last one is written."""

    def __init__(self, name: str, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._shown = Shown(name)
        self._drawn_at = float("-inf")
        self._last = ""

    def show(self, update: Update) -> None:
        """Draw the line, unless it was drawn just now."""
        self._shown.take(update)
        now = time.monotonic()
        if self._live and (self._shown.has_ended or now - self._drawn_at >= PAUSE_SECONDS):
            self._drawn_at = now
            self._draw()

    def close(self) -> None:
        """End the line."""
        if self._live:
            self._draw()
            self._out.write("\n")
        else:
            self._out.write(self._shown.line(120) + "\n")
        self._out.flush()

    def _draw(self) -> None:
        line = self._shown.line(shutil.get_terminal_size().columns)
        self._out.write("\r" + line + " " * max(0, len(self._last) - len(line)))
        self._out.flush()
        self._last = line


class NotebookBar:
    """A progress element in a cell of a notebook."""

    def __init__(self, name: str, display: Any) -> None:
        self._shown = Shown(name)
        self._display = display
        self._handle: Any = None
        self._drawn_at = float("-inf")

    def show(self, update: Update) -> None:
        """Draw the element, unless it was drawn just now."""
        self._shown.take(update)
        now = time.monotonic()
        if self._shown.has_ended or now - self._drawn_at >= 2 * PAUSE_SECONDS:
            self._drawn_at = now
            self._draw()

    def close(self) -> None:
        """Draw the last state."""
        self._draw()

    def _draw(self) -> None:
        shown = self._shown
        value = "" if shown.percent is None else f' value="{max(0.0, min(100.0, shown.percent)):g}"'
        name, message = html.escape(shown.name), html.escape(shown.message)
        page = {
            "text/plain": shown.line(120),
            "text/html": f'{name} <progress max="100"{value}></progress> {message}',
        }
        if self._handle is None:
            self._handle = self._display(page, raw=True, display_id=True)
        elif self._handle is not None:
            self._handle.update(page, raw=True)


def bar_of(name: str) -> Bar:
    """Return the bar that fits where the program runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and "ZMQ" in type(shell).__name__:
        return NotebookBar(name, sys.modules["IPython.display"].display)
    return TerminalBar(name)
