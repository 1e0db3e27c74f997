"""References to files in payloads: `{"$file": "<id>"}`, anywhere in the JSON. Pure.

A payload is kept as the text that came. What a reference stands for is replaced in that text, so everything else stays
as it was, to the digit. In valid JSON the bytes of a reference cannot be a part of anything else: a `"` within a
string is escaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..errors import FileMissing, InvalidInput, NotFound
from ..events.ids import parse_file_id

KEY = "$file"
SIGN = b"$file"
"""A text without it has no reference."""
MOST_FILES = 100
"""Files that one payload may refer to."""
PLACEHOLDER = "https://files.invalid/"
"""What the schema of a type sees in the place of a reference, with the id behind it: the server gets a URL there."""

_REFERENCE = re.compile(
    rb'\{[ \t\r\n]*"\$file"[ \t\r\n]*:[ \t\r\n]*"([0-9A-Za-z]{26}~[A-Za-z0-9_=-]{1,36})"[ \t\r\n]*\}'
)


def referenced(content: Any, text: bytes, owner: str, path: str) -> tuple[str, ...]:
    """Return the ids of the files that a payload refers to, each once. They have the form of ids of this owner.

    `content`: the payload, decoded. `owner`: a token. `path`: where the payload is in what the caller sent. Raises
    InvalidInput for what only looks like a reference, FileMissing for a file of another owner.
    """
    if SIGN not in text:
        return ()
    found: Counter[str] = Counter()
    for value, place in _places(content, path):
        if not isinstance(value, str):
            raise InvalidInput("must be the id of a file, from the answer to its upload", place)
        try:
            is_own = parse_file_id(value).owner == owner
        except NotFound:
            raise InvalidInput("must be the id of a file, from the answer to its upload", place) from None
        if not is_own:
            raise FileMissing(value, place)
        found[value] += 1
    if found != Counter(each.decode() for each in _REFERENCE.findall(text)):  # a repeated key hides the first one
        raise InvalidInput(f"write `{KEY}` and the id of the file without escapes, and each key once", path)
    if len(found) > MOST_FILES:
        raise InvalidInput(f"a payload refers to {MOST_FILES} files at most; this one to {len(found)}", path)
    return tuple(found)


def place_of(content: Any, file_id: str, path: str) -> str:
    """Return where a payload refers to a file first."""
    return next((place for value, place in _places(content, path) if value == file_id), path)


def replaced(text: bytes, url_of: Callable[[str], str]) -> bytes:
    """Return a payload with a string in the place of each reference: what `url_of` returns for the id of the file."""
    return rewritten(text, url_of)


def rewritten(text: bytes, value_of: Callable[[str], Any]) -> bytes:
    """Return JSON with a value in the place of each reference, by the id of the file; None: it stays."""

    def value(found: re.Match[bytes]) -> bytes:
        given = value_of(found[1].decode())
        return found[0] if given is None else msgspec.json.encode(given)

    return _REFERENCE.sub(value, text)


def ids_in(text: bytes) -> list[str]:
    """Return the ids of the files that JSON refers to, each once."""
    return list(dict.fromkeys(found.decode() for found in _REFERENCE.findall(text)))


def _places(content: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Yield what each `$file` in a payload says, and where. Raises InvalidInput for one that is not alone."""
    waiting: list[tuple[Any, str]] = [(content, path)]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, dict):
            if KEY in value:
                if len(value) > 1:
                    raise InvalidInput(
                        f"an object with `{KEY}` has no other field; the server gets a URL for it", place
                    )
                yield value[KEY], f"{place}.{KEY}"
                continue
            waiting += [(each, f"{place}.{name}") for name, each in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(each, f"{place}[{number}]") for number, each in reversed(list(enumerate(value)))]
