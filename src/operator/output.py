"""Output of the operators' commands: tables for people, one JSON text a line for scripts.

On a terminal a row takes one line: the columns that may be long share what the others leave. Elsewhere nothing is cut,
and nothing is coloured, so `grep` and `awk` see whole values. `NO_COLOR` and `TERM=dumb` are respected.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from .text import NONE, Styled, json_line, plain

GAP = 2
NARROWEST_LONG = 8
"""Columns that a column with long texts keeps on a narrow terminal."""
UNLIMITED = 1_000_000
"""Width of what is no terminal."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    cell: Callable[[Any], object]
    """Return what to show of an entry: text, a number, None or Styled."""
    long: bool = False
    """True if it may be cut on a terminal."""
    right: bool = False
    """True for numbers."""
    optional: bool = False
    """True if a narrow terminal can do without it."""


class BrokenPipeConsole(Console):
    """A console that leaves a closed pipe to its caller: rich itself would end the process with status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(out: TextIO) -> BrokenPipeConsole:
    """Return a console for a stream: as wide as a terminal, or unlimited. Text without an encoding is replaced."""
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")
    width = None if out.isatty() else UNLIMITED
    return BrokenPipeConsole(
        file=out, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False, force_terminal=None
    )


class Output:
    """What a command writes to stdout, and says on stderr."""

    def __init__(self, *, json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = json
        self.console = console(out or sys.stdout)
        self.messages = console(err or sys.stderr)

    @property
    def is_terminal(self) -> bool:
        """True if people read the output."""
        return self.console.is_terminal and not self.json

    def line(self, text: object = "", style: str = "") -> None:
        """Write one line of text; on a terminal it may wrap."""
        self.console.print(Text(plain(text), style=style), soft_wrap=not self.console.is_terminal)

    def text(self, text: Text) -> None:
        """Write a text that is already safe, as one line where no terminal wraps it; others see it at once."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)
        self.console.file.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """Tell a person something that is no output: on stderr, if it is a terminal."""
        if self.messages.is_terminal:
            self.messages.print(Text(plain(text), style=style))

    def warn(self, text: str) -> None:
        """Write a line to stderr."""
        self.messages.print(Text(f"taskstream: {plain(text)}"), soft_wrap=True)

    def raw(self, value: bytes | msgspec.Raw, *, flush: bool = True) -> None:
        """Write an answer of the API as one line of JSON."""
        file = self.console.file
        file.write(json_line(value) + "\n")
        if flush:
            file.flush()

    def facts(self, rows: Iterable[tuple[str, object]]) -> None:
        """Write `name  value` lines; those without a value are left out."""
        kept = [(name, value) for name, value in rows if value is not None and value != ""]
        width = max((len(name) for name, _ in kept), default=0) + GAP
        for name, value in kept:
            text, style = styled(value)
            line = Text.assemble((f"{name:<{width}}", "dim"), (text, style))
            if self.console.is_terminal:
                room = max(20, self.console.width - width)
                parts = Text(text, style=style).wrap(self.console, room)
                line = Text("\n").join(
                    Text.assemble((f"{name if at == 0 else '':<{width}}", "dim"), part) for at, part in enumerate(parts)
                )
            self.console.print(line, soft_wrap=True)

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(plain(text), style="bold"), soft_wrap=True)


def styled(value: object) -> Styled:
    """Return any cell as a safe text with a style."""
    if isinstance(value, Styled):
        return Styled(plain(value.text), value.style)
    return Styled(NONE if value is None or value == "" else plain(value))


class TablePrinter:
    """Prints rows below a header. Rows that come later have the widths of the first ones, as far as they fit."""

    def __init__(self, output: Output, columns: Sequence[Column]) -> None:
        self._output = output
        self._columns = list(columns)
        self._widths: list[int] = []

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Print rows; the header comes before the first."""
        found = list(entries)
        is_terminal, is_first = self._output.console.is_terminal, not self._widths
        rows = self._rows(found)
        if is_first:
            while is_terminal and self._narrowest(rows) > self._output.console.width and self._drop():
                rows = self._rows(found)
            rows.insert(0, [Styled(column.title, "bold") for column in self._columns])
        if is_first or not is_terminal:
            widths = [max(cell_len(row[at].text) for row in rows) for at in range(len(self._columns))]
            self._widths = [max(pair) for pair in zip(widths, self._widths or widths, strict=True)]
        if is_first and is_terminal:
            self._fit(self._output.console.width)
        for row in rows:
            self._print(row)

    def _rows(self, entries: Iterable[Mapping[str, Any]]) -> list[list[Styled]]:
        return [[styled(column.cell(entry)) for column in self._columns] for entry in entries]

    def _narrowest(self, rows: Sequence[Sequence[Styled]]) -> int:
        """Return the width of a row whose long texts are cut as far as they may be."""
        widths = [
            max([cell_len(column.title), *(cell_len(row[at].text) for row in rows)])
            for at, column in enumerate(self._columns)
        ]
        least = [
            min(width, NARROWEST_LONG) if column.long else width
            for column, width in zip(self._columns, widths, strict=True)
        ]
        return sum(least) + GAP * (len(least) - 1)

    def _drop(self) -> bool:
        """Leave out the last column that is not needed; return False if there is none."""
        optional = [column for column in self._columns if column.optional]
        if optional:
            self._columns.remove(optional[-1])
        return bool(optional)

    def _fit(self, room: int) -> None:
        """Cut the columns with long texts so that a row fits, the widest first."""
        excess = sum(self._widths) + GAP * (len(self._widths) - 1) - room
        long = [at for at, column in enumerate(self._columns) if column.long]
        while excess > 0 and (wide := [at for at in long if self._widths[at] > NARROWEST_LONG]):
            self._widths[max(wide, key=self._widths.__getitem__)] -= 1
            excess -= 1

    def _print(self, row: Sequence[Styled]) -> None:
        console = self._output.console
        line = Text()
        for at, (column, cell, width) in enumerate(zip(self._columns, row, self._widths, strict=True)):
            text = cell.text
            if console.is_terminal and cell_len(text) > width:
                text = set_cell_size(text, width - 1) + "…"
            padding = " " * (width - cell_len(text))
            is_last = at == len(self._columns) - 1
            line.append(padding + text if column.right else text, style=cell.style)
            if not is_last:
                line.append(("" if column.right else padding) + " " * GAP)
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        else:
            console.print(line, soft_wrap=True)
