"""The output of the demo: on a terminal a block that is redrawn, elsewhere a plain line every two seconds.

It is made of what the operators' commands use, so NO_COLOR, TERM=dumb and narrow terminals are respected.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Literal, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from taskstream.operator.output import console

Style = Literal["bold", "dim", "good", "bad", "warn"]
STYLES: dict[Style, str] = {"bold": "bold", "dim": "dim", "good": "green", "bad": "red", "warn": "yellow"}
NARROWEST = 60
"""Columns that a block needs; on a narrower terminal it is a plain line."""
PLAIN_EVERY_SECONDS = 2.0
HANGING = 4
"""Further indentation of a line that is continued."""


class Screen:
    """Prints lines that stay and, below them, a block that changes."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._console = console(out)
        self._redraws = self._console.is_terminal and self._console.width >= NARROWEST
        self._live: Live | None = None
        self._plain_at = 0.0

    def say(self, text: str | Text = "", style: Style | None = None) -> None:
        """Print something that stays; a block stays below it. A long line is continued, indented."""
        line = Text(text) if isinstance(text, str) else text
        if style is not None:
            line.stylize(STYLES[style])
        if not self._console.is_terminal:
            self._console.print(line, soft_wrap=True)
            return
        indent = len(line.plain) - len(line.plain.lstrip()) + HANGING
        first, *others = line.wrap(self._console, self._console.width)
        first.rstrip()
        self._console.print(first)
        if others:
            rest = Text(" ").join(others)
            for part in rest.wrap(self._console, max(20, self._console.width - indent)):
                part.rstrip()
                self._console.print(Text(" " * indent) + part)

    def title(self, text: str, style: Style = "bold") -> None:
        self.say()
        self.say(text, style)
        self.say()

    def show(self, block: Sequence[RenderableType], plain: str, *, last: bool = False) -> None:
        """Show the present state: redraw the block, or print `plain` if it is the last or time for another line."""
        if self._redraws:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
                self._live.start()
            self._live.update(Group(*block), refresh=True)
        elif last or time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_SECONDS
            self.say(plain)

    def keep(self) -> None:
        """Leave the block as it is, and the terminal as it was; later lines come below."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def styled(text: str, style: Style) -> Text:
    return Text(text, style=STYLES[style])
