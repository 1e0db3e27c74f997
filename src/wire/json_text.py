"""JSON text as it comes from outside: byte order marks, bytes that are not UTF-8, halves of surrogate pairs.

`\\ud83d` alone is half of a character. Senders that cut text in pieces, or escape it by UTF-16 unit, produce such
halves. No UTF-8 text can hold one, so a decoder refuses the whole JSON around it.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPLACEMENT = rb"\\ufffd"
"""U+FFFD, escaped; as a template of `re`."""

_FIRST, _SECOND = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# A first half without a second one after it, or a second half without a first one before it. The alternatives share
# their beginning, so that `re` skips text without escapes quickly.
_HALF = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!%b)|(?<!%b\\u[dD])[c-fC-F][0-9a-fA-F]{2})" % (_SECOND, _FIRST))
_NO_NUMBER = re.compile(
    rb'(?:"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)[^"NI-]*+)++|-?\b(?:NaN|Infinity)\b',
    re.DOTALL,
)
"""What encoders such as Python's write for numbers that JSON cannot hold. Strings match, too, to be passed over."""
_LONGEST_WITH_NULLS = 4 * 1024 * 1024
"""Longer texts stay as they are: the search takes up to half a second for each megabyte."""
_NUL = b"\x00"
_BACKSLASH, _HIDDEN = rb"\\", b"\x00\x00"
"""An escaped backslash, hidden while halves are searched, and what hides it: no JSON has a NUL."""


_NO_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
"""A bracket to what it adds to the depth, as a signed byte."""
FLAT = 16
"""Levels that are removed one at a time, which is quicker than following each bracket while there are few."""


class Json(NamedTuple):
    """A JSON text and what it holds."""

    text: bytes
    content: Any
    marked: bytes | None = None
    """The text with `true` for each NaN and Infinity, for which `text` has null; None if it came without them."""


def read_json(text: bytes) -> Json:
    """Return the content of a JSON text, with the text that holds it: without a byte order mark, otherwise unchanged.

    Only if it does not decode, each half surrogate pair and each sequence that is not UTF-8 becomes U+FFFD, and, in up
    to 4 MB, each NaN and Infinity null; `marked` shows where. Raises msgspec.DecodeError for what is not JSON even
    then, RecursionError for nesting beyond what the decoder can take.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        return Json(text, msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = mend(text)
        marked = _with_nuls(mended)
        if marked == text:
            if isinstance(error, msgspec.DecodeError):
                raise
            raise msgspec.DecodeError(f"JSON is malformed: invalid character (byte {text.find(_NUL)})") from None
        if marked == mended:
            return Json(mended, msgspec.json.decode(mended))
        with_nulls = marked.replace(_NUL, b"null")
        return Json(with_nulls, msgspec.json.decode(with_nulls), marked.replace(_NUL, b"true"))


def mend(text: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each half surrogate pair and each sequence that is not UTF-8.

    Text with a NUL, which is not JSON, is returned unchanged.
    """
    if _NUL in text:
        return text
    hidden = text.decode(errors="replace").encode().replace(_BACKSLASH, _HIDDEN)
    return _HALF.sub(REPLACEMENT, hidden).replace(_HIDDEN, _BACKSLASH)


def _with_nuls(text: bytes) -> bytes:
    """Return a JSON text with a NUL for each NaN and Infinity outside its strings.

    A long text is returned unchanged, and so is one with a NUL, which is not JSON.
    """
    if len(text) > _LONGEST_WITH_NULLS or _NUL in text or (b"NaN" not in text and b"Infinity" not in text):
        return text
    return _NO_NUMBER.sub(lambda found: found[0] if found[0].startswith(b'"') else _NUL, text)


def half_surrogate(text: bytes) -> int | None:
    """Return the place of the first half of a surrogate pair in a JSON text, in bytes from 0; None if there is none."""
    found = _HALF.search(text.replace(_BACKSLASH, _HIDDEN))
    return found.start() if found else None


def deeper_than(limit: int, text: bytes) -> bool:
    """Return True if a valid JSON text has more than `limit` levels of objects and arrays.

    What is stored must decode wherever it is read. Decoders stop at about 1,000 levels, and earlier the deeper the call
    stack already is. Only the text is read, as a whole: following what it holds takes a minute for 30 MB of `[]`.
    """
    if text.count(b"{") + text.count(b"[") <= limit:
        return False
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_ONE_KIND, _NO_BRACKETS_OR_QUOTES)
    text = text.replace(b'""', b"")  # strings without brackets
    if b'"' in text:
        text = b"".join(text.split(b'"')[::2])
    for level in range(min(limit, FLAT)):
        if len(text) <= 2 * (limit - level):
            return False
        text = text.replace(b"[]", b"")
    return max(accumulate(memoryview(text.translate(_STEPS)).cast("b")), default=0) > limit - min(limit, FLAT)
