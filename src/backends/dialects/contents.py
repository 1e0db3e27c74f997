"""The content of a successful answer: JSON, text, a file, or nothing. Pure.

| Content-Type | content |
|---|---|
| `application/json`, `…+json` | JSON; anything else is a bad answer |
| `image/*`, `audio/*`, `video/*` | a file |
| `multipart/mixed`, `form-data`, `related` | JSON with files in it |
| any other | JSON if it is an object or an array, else text for `text/*`, else a file |
| none | JSON of any kind, else text if it is UTF-8, else a file |

Whatever its type, an empty body is nothing. Text and JSON are decoded by the `charset` that the type names.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from ...wire.json_text import BYTE_ORDER_MARK, Json, deeper_than, read_json
from ...wire.validation_errors import malformed
from .dialect import BadAnswer, File, Reply
from .multipart import read_parts

DEEPEST_ANSWER = 500
"""Levels of nesting. A deeper result would be stored, and then not decode where the stack is deeper than here."""
ANY_BYTES = "application/octet-stream"
PARTS_TYPES = frozenset({"multipart/mixed", "multipart/form-data", "multipart/related"})
JSON_TYPES = frozenset({"application/json", "text/json"})
FILE_KINDS = ("image/", "audio/", "video/")
CHARSETS = frozenset({
    "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "shift_jis", "euc_jp",
    "euc_kr", "gb2312", "gbk", "gb18030", "big5", "koi8-r", *(f"iso8859-{part}" for part in range(1, 17)),
    *(f"cp{page}" for page in range(1250, 1259)),
})  # fmt: skip
"""By Python's names. Any other, such as `idna` or `utf-7`, counts as UTF-8: some take quadratic time."""

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}", re.ASCII)
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([\w.:+-]{1,40})""", re.ASCII | re.IGNORECASE)
_LOOKS_LIKE_JSON = re.compile(rb"\s*[\[{]")
_LOOKS_LIKE_ANY_JSON = re.compile(rb'\s*(?:[\[{"\-0-9]|true\b|false\b|null\b)')


class Parts(NamedTuple):
    """The content of an answer in several parts: JSON, and files in it."""

    fields: Mapping[str, Raw | int | tuple[Raw | int, ...]]
    """Of the data, each JSON, or the place of a file among `files`, or several of them."""
    files: tuple[File, ...]

    def data(self, path: str) -> bytes:
        """Return the data as JSON. `path`: what the paths of its files begin with; their places follow."""

        def shown(value: Raw | int) -> Raw:
            if isinstance(value, Raw):
                return value
            file = self.files[value]
            size = len(file.content)
            return Raw(_encode({"$ref": f"{path}/{value}", "mediaType": file.media_type, "bytes": size}))

        return _encode(
            {
                name: [shown(each) for each in value] if isinstance(value, tuple) else shown(value)
                for name, value in self.fields.items()
            }
        )


Content: TypeAlias = Json | str | File | Parts | None

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw])


def media_type_of(reply: Reply) -> str:
    """Return the media type of an answer, in lower case and without parameters; empty if it has none."""
    return _content_type(reply).partition(";")[0].strip().lower()


def read_content(reply: Reply) -> Content:
    """Return the content of an answer; None for an empty one. Raises BadAnswer."""
    body = reply.body
    if body in (b"", BYTE_ORDER_MARK):
        return None
    media_type = media_type_of(reply)
    if media_type.startswith(FILE_KINDS):
        return file_of(media_type, body)
    if media_type in PARTS_TYPES:
        return _parts(_content_type(reply), body) or file_of(media_type, body)
    charset = _charset(reply)
    text = body if charset == "utf-8" else body.decode(charset, "replace").encode()
    if media_type in JSON_TYPES or media_type.endswith("+json"):
        return as_json(text)
    looks = _LOOKS_LIKE_JSON if media_type else _LOOKS_LIKE_ANY_JSON
    if looks.match(text.removeprefix(BYTE_ORDER_MARK)):
        may_report = b'"metadata"' in text and b'"status"' in text  # a status must not be lost in a text
        try:
            found = as_json(text)
            is_report = isinstance(found.content, dict) and not {"metadata", "status"}.isdisjoint(found.content)
            if found.marked is None or is_report or may_report:
                return found
        except BadAnswer:
            if may_report:
                raise
    if media_type.startswith("text/") or (not media_type and _is_utf8(text)):
        return text.removeprefix(BYTE_ORDER_MARK).decode(errors="replace")
    return file_of(media_type, body)


def _parts(content_type: str, body: bytes) -> Parts | None:
    """Return the content of an answer in several parts, None if it has none. Raises BadAnswer."""
    fields: dict[str, list[Raw | int]] = {}
    files: list[File] = []
    has_data = False
    for part in read_parts(content_type, body):
        media_type = part.content_type.partition(";")[0].strip().lower()
        if media_type in JSON_TYPES or media_type.endswith("+json"):
            found = as_json(part.content)
            if found.marked is not None:
                raise BadAnswer("has a part with NaN or Infinity, which no JSON has")
            if not has_data and isinstance(found.content, dict):
                for name, value in _fields.decode(found.text).items():
                    fields.setdefault(name, []).insert(0, value)
            else:
                fields.setdefault(part.name or ("result" if not has_data else "parts"), []).append(Raw(found.text))
            has_data = True
        elif (
            part.name
            and "filename" not in part.headers.get("content-disposition", "")
            and (not media_type or media_type.startswith("text/"))
        ):
            fields.setdefault(part.name, []).append(Raw(_encode(part.content.decode(errors="replace"))))
        else:
            fields.setdefault(part.name or "files", []).append(len(files))
            files.append(file_of(media_type, part.content))
    if not fields:
        return None
    return Parts({name: found[0] if len(found) == 1 else tuple(found) for name, found in fields.items()}, tuple(files))


def as_json(text: bytes) -> Json:
    """Return what JSON holds. Raises BadAnswer for anything else, and for what is nested too deep to be read again."""
    try:
        found = read_json(text)
        too_deep = deeper_than(DEEPEST_ANSWER, found.text)
    except RecursionError:
        too_deep = True
    except msgspec.DecodeError as error:
        raise BadAnswer(f"is not JSON: {malformed(error, 'text').detail}") from None
    if too_deep:
        raise BadAnswer(f"is nested deeper than {DEEPEST_ANSWER} levels")
    return found


def file_of(media_type: str, body: bytes) -> File:
    """Return a file; a media type that is not well-formed becomes ANY_BYTES."""
    return File(media_type if _MEDIA_TYPE.fullmatch(media_type) else ANY_BYTES, body)


def _content_type(reply: Reply) -> str:
    if (found := reply.headers.get("Content-Type")) is not None:
        return found
    return next((value for name, value in reply.headers.items() if name.lower() == "content-type"), "")


def _charset(reply: Reply) -> str:
    """Return the charset of an answer, by Python's name of its codec."""
    found = _CHARSET.search(_content_type(reply))
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8"
    except (LookupError, ValueError):
        return "utf-8"
    return name if name in CHARSETS else "utf-8"


def _is_utf8(text: bytes) -> bool:
    try:
        return "\x00" not in text.decode()
    except UnicodeDecodeError:
        return False
