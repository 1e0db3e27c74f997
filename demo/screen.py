"""The output of the demo: on a terminal a block that is redrawn, elsewhere a plain line every two seconds."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Literal, TextIO

Style = Literal["bold", "dim", "good", "bad", "warn"]
_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
NARROWEST = 84
"""Columns that a block needs: a line that wraps could not be redrawn."""
PLAIN_EVERY_SECONDS = 2.0


class Screen:
    """Prints lines that stay and, below them, a block that changes."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")  # a terminal without UTF-8 gets question marks, not a traceback
        is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._redraws = is_terminal and shutil.get_terminal_size().columns >= NARROWEST
        self._colours = is_terminal and "NO_COLOR" not in os.environ
        self._block: Sequence[str] = ()
        self._plain_at = 0.0

    def style(self, text: str, style: Style) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colours else text

    def say(self, text: str = "") -> None:
        """Print something that stays; a block stays below it."""
        block = self._block
        self._erase()
        print(text, file=self._out)
        self._draw(block)
        self._out.flush()

    def title(self, text: str) -> None:
        self.say()
        self.say(self.style(text, "bold"))
        self.say()

    def show(self, block: Sequence[str], plain: str, *, last: bool = False) -> None:
        """Show the present state: redraw the block, or print `plain` if it is the last or time for another line."""
        if self._redraws:
            self._erase()
            self._draw(block)
            self._out.flush()
        elif last or time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_SECONDS
            print(plain, file=self._out, flush=True)

    def keep(self) -> None:
        """Leave the block as it is; later lines come below it."""
        self._block = ()

    def _erase(self) -> None:
        if self._block:
            self._out.write(f"\x1b[{len(self._block)}A\x1b[J")
        self._block = ()

    def _draw(self, block: Sequence[str]) -> None:
        for line in block:
            print(line, file=self._out)
        self._block = block
