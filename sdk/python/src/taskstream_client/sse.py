"""Server-sent events (WHATWG HTML, 9.2): bytes in, whole messages out. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from .errors import BadAnswer

LARGEST_LINE = 64 * 1024 * 1024
"""Bytes. A longer line is no message of this service, and would fill the memory."""


class Message(NamedTuple):
    """A message of a stream."""

    id: str
    """The position after it; empty: it has none."""
    data: str


class Parser:
    """Collects the bytes of one connection. A message is returned only when all of it is there."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._id = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that this chunk completes. Raises BadAnswer for a line that is too long."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        *lines, rest = b"".join([*self._parts, chunk]).split(b"\n")
        self._parts, self._held = [], 0
        self._keep(rest)
        found = []
        for line in lines:
            message = self._take(line.rstrip(b"\r"))
            if message is not None:
                found.append(message)
        return found

    def _keep(self, rest: bytes) -> None:
        self._held += len(rest)
        if self._held > LARGEST_LINE:
            raise BadAnswer(f"a line of the stream is longer than {LARGEST_LINE} bytes")
        if rest:
            self._parts.append(rest)

    def _take(self, line: bytes) -> Message | None:
        if not line:
            message = Message(self._id, "\n".join(self._data)) if self._data else None
            self._id, self._data = "", []
            return message
        name, _, value = line.partition(b":")
        text = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(text.decode(errors="replace"))
        elif name == b"id":
            self._id = text.decode(errors="replace")
        return None
