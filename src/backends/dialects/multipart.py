"""Answers in several parts: `multipart/mixed`, `form-data`, `related` (RFC 2046, 5.1). Pure.

The first part that is JSON is the data; each other part is a file in it, or text, under the name of its part. Parts
within parts are files: they are not taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .dialect import BadAnswer

MOST_PARTS = 64
MOST_HEAD = 8 * 1024
"""Bytes of the headers of a part."""
LONGEST_NAME = 128
_BOUNDARY = re.compile(r""";\s*boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))""", re.ASCII | re.IGNORECASE)
_PARAMETER = r"""(?:^|;)\s*{}\s*=\s*(?:"([^"\r\n]*)"|([^\s;"]+))"""
_NAME = re.compile(_PARAMETER.format("name"), re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(_PARAMETER.format("filename"), re.ASCII | re.IGNORECASE)
_END_OF_LINE = re.compile(rb"[ \t]*\r?\n")


class AnswerPart(NamedTuple):
    """A part of an answer."""

    headers: Mapping[str, str]
    """By name, in lower case."""
    name: str
    """What it is called in the data; empty: it has no name."""
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")


def read_parts(content_type: str, body: bytes) -> list[AnswerPart]:
    """Return the parts of an answer. Raises BadAnswer for what is malformed or incomplete, or has too many parts."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadAnswer("is in several parts, and its Content-Type names no `boundary`")
    boundary = (found[1] or found[2]).encode("latin-1")
    parts: list[AnswerPart] = []
    for text in _between(b"--" + boundary, body):
        if len(parts) == MOST_PARTS:
            raise BadAnswer(f"has more than {MOST_PARTS} parts")
        parts.append(_part(text))
    return parts


def _between(delimiter: bytes, body: bytes) -> Iterator[bytes]:
    """Yield the text of each part."""
    at = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter) + 1
    if at == 0 and not body.startswith(delimiter):
        raise BadAnswer("is in several parts, and its boundary is not in it")
    while True:
        at += len(delimiter)
        if body.startswith(b"--", at):
            return
        line = _END_OF_LINE.match(body, at)
        if line is None:
            raise BadAnswer("is in several parts, and a boundary is not followed by a line break")
        start, end = line.end(), body.find(b"\n" + delimiter, line.end() - 1)
        if end == -1:
            raise BadAnswer("ends before its last part is complete")
        yield body[start:end].removesuffix(b"\r") if end > start else b""
        at = end + 1


def _part(text: bytes) -> AnswerPart:
    head, content = _split(text)
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    disposition = headers.get("content-disposition", "")
    given = _NAME.search(disposition) or _FILE_NAME.search(disposition)
    name = (given[1] or given[2] or "") if given else headers.get("content-id", "").strip("<>")
    return AnswerPart(headers, _clean(name), content)


def _split(text: bytes) -> tuple[bytes, bytes]:
    if text.startswith((b"\r\n", b"\n")):
        return b"", text[text.index(b"\n") + 1 :]
    for end in (b"\r\n\r\n", b"\n\n"):
        head, found, _ = text[: MOST_HEAD + len(end)].partition(end)
        if found:
            return head, text[len(head) + len(end) :]
    raise BadAnswer(f"has a part whose headers do not end within {MOST_HEAD} bytes")


def _clean(name: str) -> str:
    """Return a name as text: its bytes are UTF-8 with every client in use."""
    text = name.encode("latin-1").decode(errors="replace")
    return "".join(character for character in text if character.isprintable())[:LONGEST_NAME]
