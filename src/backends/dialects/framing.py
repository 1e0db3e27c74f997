"""How a streamed answer is divided into texts: server-sent events (WHATWG HTML, 9.2), or JSON on lines (NDJSON)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from ...wire.json_text import BYTE_ORDER_MARK

Framing = Literal["events", "lines"]
FRAMINGS: dict[str, Framing] = {
    "text/event-stream": "events",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
}
"""By media type."""
LINE_ENDS: dict[Framing, re.Pattern[bytes]] = {"events": re.compile(rb"\r\n?|\n"), "lines": re.compile(rb"\n")}


LONGEST_NAME = 64
"""Bytes of an event's name that are kept."""


class Texts:
    """The texts of one answer, whatever the pieces it arrives in; empty ones, which keep a connection open, are not."""

    def __init__(self, framing: Framing) -> None:
        self._lines = _Lines(LINE_ENDS[framing])
        self._data: list[bytes] | None = [] if framing == "events" else None
        self._name = b""
        self.event = ""
        """Name of the event that the last text came in; empty: it had none."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the texts that a piece completes."""
        for line in self._lines.feed(chunk):
            yield from self._take(line)

    def rest(self) -> Iterator[bytes]:
        """Yield the last text, if the line end that completes it is missing."""
        yield from self._take(self._lines.rest())
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[bytes]:
        """Yield the text that a line completes: itself, or the `data` of an event, which ends with an empty line."""
        text = line
        if self._data is not None:
            if line:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
                elif name == b"event":
                    self._name = value.removeprefix(b" ")[:LONGEST_NAME]
                return
            self.event = self._name.decode(errors="replace") if self._name else ""
            self._name = b""
            text = b"\n".join(self._data)
            self._data.clear()
        if text.strip():
            yield text


class _Lines:
    """Puts pieces together to lines, without their ends."""

    def __init__(self, ends: re.Pattern[bytes]) -> None:
        self._ends = ends
        self._held = bytearray()
        self._after_return = False
        self._is_first = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the other half of a line end that came in two pieces
            self._after_return = False
        if not chunk:
            return
        self._after_return = chunk.endswith(b"\r") and self._ends is LINE_ENDS["events"]
        *ended, last = self._ends.split(chunk)
        for piece in ended:
            self._held += piece
            yield self.rest()
        self._held += last

    def rest(self) -> bytes:
        """Return what has come since the last line end, and forget it."""
        line = bytes(self._held)
        self._held.clear()
        if self._is_first:
            self._is_first = False
            return line.removeprefix(BYTE_ORDER_MARK)
        return line
