"""JSON texts of others, which are kept as they came: payloads, results, custom data."""

from __future__ import annotations

import msgspec

_SPACES = bytes.maketrans(b"\r\n", b"  ")


def compact(text: bytes) -> bytes:
    """Return a JSON text without line breaks; one without any is returned as it is.

    In JSON a line break is insignificant whitespace, which is removed. Numbers and strings stay as they are written.
    """
    if b"\n" not in text and b"\r" not in text:
        return text
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):  # nested too deep to be formatted
        return text.translate(_SPACES)
