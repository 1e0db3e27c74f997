"""Lines of a stream of bytes, with their places, in bounded memory. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TextLine(NamedTuple):
    """A line that is not empty."""

    number: int
    """From 1, empty lines counted."""
    text: bytes
    """Without its line break; empty: it is longer than allowed."""
    end: int
    """Bytes of the stream up to and with its line break."""


class LineSplitter:
    """Splits a stream at line feeds. Of a line that is too long nothing is kept."""

    def __init__(self, longest: int, *, offset: int = 0, number: int = 0) -> None:
        """`longest`: bytes of a line. `offset`: bytes of the stream before the first chunk; `number`: lines."""
        self._longest = longest
        self._blanks = re.compile(rb"(?:[ \t\r\v\f]{0,%d}+\n)++" % longest)
        self._number = number
        self._offset = offset
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[TextLine]:
        """Return the lines that a chunk completes."""
        found: list[TextLine] = []
        start = 0
        while True:
            # All at once: a stream may have millions of empty lines.
            if not self._size and (blanks := self._blanks.match(chunk, start)):
                self._number += chunk.count(b"\n", start, blanks.end())
                self._offset += blanks.end() - start
                start = blanks.end()
            if (end := chunk.find(b"\n", start)) < 0:
                break
            self._keep(chunk[start:end])
            self._offset += end - start + 1
            self._end(found)
            start = end + 1
        self._keep(chunk[start:])
        self._offset += len(chunk) - start
        return found

    def finish(self) -> list[TextLine]:
        """Return the last line, if it has no line feed."""
        found: list[TextLine] = []
        if self._size:
            self._end(found)
        return found

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._longest + 1:  # a carriage return is no part of the line
            self._kept.append(part)
        else:
            self._kept.clear()

    def _end(self, found: list[TextLine]) -> None:
        text = b"".join(self._kept)
        if self._number == 0:
            text = text.removeprefix(BYTE_ORDER_MARK)
        self._number += 1
        is_long = self._size > self._longest + 1 or len(text := text.strip()) > self._longest
        if text or is_long:
            found.append(TextLine(self._number, b"" if is_long else text, self._offset))
        self._kept, self._size = [], 0
