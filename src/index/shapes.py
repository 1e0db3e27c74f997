"""Shapes of error texts: the same text with what varies from failure to failure replaced by placeholders.

`cannot reach 10.0.0.7:8000 after 2.5 s` has the shape `cannot reach <address> after <duration>`. The fingerprint of a
failure is made of its kind and its shape. It begins with the version of these rules, so a fingerprint never changes
its meaning.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from functools import lru_cache

VERSION = 1
"""Number of the rules. Raise it with every change to them, and FORMAT of the index with it."""
LONGEST_TEXT = 2_000
"""Characters of an error text that count."""
OTHER_SHAPE = f"{VERSION}-other"
"""Fingerprint of the failures of an owner that has too many shapes already."""
FINGERPRINT_PATTERN = r"^[0-9]{1,4}-(?:[0-9a-f]{16}|other)$(?!\n)"

# Placeholders are `<…>`. Nothing matches next to one that did not match before, so a shape is its own shape: `>` stops
# what begins after it, `<` what ends before it, and no digits are left.
_BEFORE = r"(?<![\w>])"
_AFTER = r"(?![\w<])"
_DOUBLE_QUOTES = re.compile(r'"[^"]*"')
_BACKTICKS = re.compile(r"`[^`]*`")
_OPENING = re.compile(rf"{_BEFORE}'")
_CLOSING = re.compile(rf"'{_AFTER}")
_NUMBER = r"\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?"
_UNITS = (
    r"(?:ns|[uµμ]s|ms|milliseconds?|microseconds?|nanoseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?"
    r"|weeks?)"
)
_KINDS = {
    "url": r"[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s<>\"'`]*",
    "email": r"[\w.+-]{1,64}@\w[\w-]{0,62}(?:\.\w[\w-]{0,62}){1,8}",
    "task": rf"{_BEFORE}[0-9A-Za-z]{{26}}~[A-Za-z0-9_=-]{{1,36}}",
    "uuid": rf"{_BEFORE}[0-9A-Fa-f]{{8}}(?:-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}}{_AFTER}",
    "time": rf"{_BEFORE}\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?{_AFTER}",
    "hex": rf"{_BEFORE}(?:0[xX][0-9A-Fa-f]+|(?=[a-f]*\d)[0-9a-f]{{8,}}|(?=[A-F]*\d)[0-9A-F]{{8,}}){_AFTER}",
    "address": (
        rf"{_BEFORE}(?:(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?:/\d{{1,2}}|:\d{{1,5}})?"
        r"|\[?(?=[0-9A-Fa-f:]{0,40}\d)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:\]:\d{1,5}|\])?"
        rf"|(?:localhost|[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{1,8}}):\d{{1,5}}){_AFTER}"
    ),
    "path": (
        rf"{_BEFORE}(?:[A-Za-z]:\\[\w.\\-]+|(?:~|\.{{1,2}})?(?:/[\w.+%=@~-]+)+/?|[\w.-]{{1,80}}(?:/[\w.+%=@-]+){{2,}}/?)"
    ),
    "id": rf"{_BEFORE}(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{{16,}}{_AFTER}",
    "duration": rf"{_NUMBER} ?{_UNITS}{_AFTER}",
    "n": rf"(?:(?<![\w>-])[+-])?{_NUMBER}%?",
}
_NUMBERS = {"n", "hex", "id"}
"""All `<n>`: a random id may well have digits only."""
_VARYING = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()))


def shape_of(text: str) -> str:
    """Return the shape of a text. The shape of a shape is the same text."""
    text = " ".join(text.split())
    text = _BACKTICKS.sub("<text>", _DOUBLE_QUOTES.sub("<text>", text))
    if "'" in text:
        text = _without_quoted(text)
    return _VARYING.sub(_placeholder, text)


def _placeholder(found: re.Match[str]) -> str:
    kind = found.lastgroup
    return "<n>" if kind in _NUMBERS else f"<{kind}>"


def _without_quoted(text: str) -> str:
    """Return the text with its parts in single quotes replaced; an apostrophe within a word is no quote."""
    ends = [found.start() for found in _CLOSING.finditer(text)]
    parts: list[str] = []
    place = 0
    for opening in _OPENING.finditer(text):
        start = opening.start()
        if start < place:
            continue
        following = bisect_right(ends, start)
        if following == len(ends):
            break
        parts += text[place:start], "<text>"
        place = ends[following] + 1
    return "".join((*parts, text[place:]))


@lru_cache(maxsize=256)
def shape_and_fingerprint(kind: str, text: str) -> tuple[str, str]:
    """Return the shape of a failure's text, and the fingerprint of the failure. Failures repeat, so both are cached."""
    shape = shape_of(text[:LONGEST_TEXT])
    digest = hashlib.sha256(f"{kind}\n{shape}".encode()).hexdigest()
    return shape, f"{VERSION}-{digest[:16]}"


def fingerprint(kind: str, text: str) -> str:
    """Return the fingerprint of a failure: the same for texts that differ only in what varies."""
    return shape_and_fingerprint(kind, text)[1]
