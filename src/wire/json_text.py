"""JSON text as it comes from outside: byte order marks, bytes that are not UTF-8, halves of surrogate pairs.

`\\ud83d` alone is half of a character. Senders that cut text in pieces, or escape it by UTF-16 unit, produce such
halves. No UTF-8 text can hold one, so a decoder refuses the whole JSON around it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPLACEMENT = rb"\ufffd"
"""U+FFFD, escaped."""

# Reads each escape from its backslash on, so that the text `\\ud800` (an escaped backslash) is not taken for one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Json(NamedTuple):
    """A JSON text and what it holds."""

    text: bytes
    content: Any


def read_json(text: bytes) -> Json:
    """Return the content of a JSON text, with the text that holds it: without a byte order mark, otherwise unchanged.

    Only if it does not decode, each half surrogate pair and each sequence that is not UTF-8 becomes U+FFFD. Raises
    msgspec.DecodeError for what is not JSON even then, RecursionError for nesting beyond what the decoder can take.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        return Json(text, msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError):
        mended = mend(text)
        if mended == text:
            raise
        return Json(mended, msgspec.json.decode(mended))


def mend(text: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half surrogate pair and each sequence that is not UTF-8."""
    return _ESCAPE.sub(lambda escape: REPLACEMENT if escape[1] else escape[0], text.decode(errors="replace").encode())


def half_surrogate(text: bytes) -> int | None:
    """Return the place of the first half of a surrogate pair in a JSON text, in bytes from 0; None if there is none."""
    return next((escape.start() for escape in _ESCAPE.finditer(text) if escape[1]), None)
