"""The requests of a batch: what a line must be, and what is wrong with a whole input. Pure.

{"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": […]}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from .....events.batch_job import LineError
from .....wire.json_text import deeper_than
from .lines import TextLine

ENDPOINTS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"})
MOST_LINES = 50_000
"""Requests of a batch."""
MOST_BYTES = 200 * 1024 * 1024
"""Bytes of an input file."""
MOST_ERRORS = 100
"""Errors that are recorded; the validation ends with the last of them."""
LONGEST_CUSTOM_ID = 512
LONGEST_SHOWN = 64
"""Characters of a caller's text in an error."""
DIGEST_BYTES = 12
"""Of each custom_id, to find doubles: with 50,000 of them, two have the same by chance once in 10^19 batches."""

_fields = msgspec.json.Decoder(dict[str, Raw])


class InvalidLine(Exception):
    """A line is no valid request."""

    def __init__(self, code: str, message: str, param: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.param = param

    def at(self, line: int) -> LineError:
        return LineError(code=self.code, message=str(self), line=line, param=self.param)


class BatchRequest(Struct, frozen=True, kw_only=True):
    """The request of a line."""

    custom_id: str
    model: str
    body: Raw
    """JSON text, as it came."""
    content: dict[str, Any]
    """The body, decoded."""


def read_request(text: bytes, endpoint: str, max_depth: int, longest: int) -> BatchRequest:
    """Return the request of a line. `text`: empty for a line that is too long. Raises InvalidLine."""
    if not text:
        raise InvalidLine("line_too_long", f"This line has more than {longest} bytes.")
    try:
        fields = _fields.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidLine("invalid_json_line", "This line is not a JSON object.") from None
    if deeper_than(max_depth, text):
        raise InvalidLine("invalid_json_line", f"This line is nested deeper than {max_depth} levels.")
    custom_id = _text(fields, "custom_id")
    if not 1 <= len(custom_id) <= LONGEST_CUSTOM_ID:
        raise InvalidLine(
            "invalid_custom_id", f"`custom_id` must have 1 to {LONGEST_CUSTOM_ID} characters.", "custom_id"
        )
    if (method := _text(fields, "method")) != "POST":
        raise InvalidLine("invalid_method", f"`method` must be POST, not `{method[:LONGEST_SHOWN]}`.", "method")
    if (url := _text(fields, "url")) != endpoint:
        shown = url[:LONGEST_SHOWN]
        raise InvalidLine("invalid_url", f"`url` must be the endpoint of the batch, {endpoint}, not `{shown}`.", "url")
    return _with_body(custom_id, fields)


def _with_body(custom_id: str, fields: dict[str, Raw]) -> BatchRequest:
    if "body" not in fields:
        raise InvalidLine("missing_required_parameter", "`body` is missing.", "body")
    try:
        content = msgspec.json.decode(fields["body"])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidLine("invalid_json_line", "`body` is not valid JSON.", "body") from None
    if not isinstance(content, dict):
        raise InvalidLine("invalid_type", "`body` must be an object.", "body")
    model = content.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidLine("missing_required_parameter", "`body.model` must name a model.", "body.model")
    for name in ("stream", "background"):
        if content.get(name) not in (None, False):
            raise InvalidLine("unsupported_parameter", f"`{name}` is not for batches; leave it out.", f"body.{name}")
    return BatchRequest(custom_id=custom_id, model=model, body=Raw(bytes(fields["body"])), content=content)


def _text(fields: dict[str, Raw], name: str) -> str:
    if name not in fields:
        raise InvalidLine("missing_required_parameter", f"`{name}` is missing.", name)
    try:
        return msgspec.json.decode(fields[name], type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidLine("invalid_type", f"`{name}` must be text.", name) from None


class InputCheck:
    """What is wrong with an input, line by line."""

    def __init__(self, read: Callable[[bytes], str]) -> None:
        """`read`: returns the custom_id of a line. Raises InvalidLine."""
        self._read = read
        self._seen: dict[bytes, int] = {}
        """Lines by the digests of their custom_ids."""
        self.errors: list[LineError] = []
        self.total = 0

    @property
    def is_done(self) -> bool:
        """Return True if no further line needs to be read."""
        return len(self.errors) >= MOST_ERRORS or self.total > MOST_LINES

    def add(self, line: TextLine) -> None:
        self.total += 1
        try:
            custom_id = self._read(line.text)
            digest = hashlib.blake2b(custom_id.encode(), digest_size=DIGEST_BYTES).digest()
            if (first := self._seen.setdefault(digest, line.number)) != line.number:
                shown = custom_id[:LONGEST_SHOWN]
                message = f"`{shown}` is the custom_id of line {first} as well; each must be unique."
                raise InvalidLine("duplicate_custom_id", message, "custom_id")
        except InvalidLine as error:
            self.errors.append(error.at(line.number))

    def result(self) -> list[LineError]:
        """Return what is wrong with the input, after its last line; nothing: it is valid."""
        if self.total > MOST_LINES:
            message = f"The file has more than {MOST_LINES:,} requests; split it."
            return [LineError(code="too_many_requests", message=message, param="input_file_id")]
        if not self.total:
            return [LineError(code="empty_file", message="The file has no request.", param="input_file_id")]
        return self.errors[:MOST_ERRORS]
