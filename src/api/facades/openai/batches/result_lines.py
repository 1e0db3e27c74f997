"""The lines of a batch's results: what became of each request, in OpenAI's form. Pure.

{"id": "…", "custom_id": "r-1", "response": {"status_code": 200, "request_id": "…", "body": {…}}, "error": null}
{"id": "…", "custom_id": "r-2", "response": null, "error": {"code": "batch_expired", "message": "…"}}
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from .....events.batch_job import TokenUsage
from .....events.task import FailureKind, TaskCancelled, TaskFailed
from ..errors import error_body

EXPIRED = "This request could not be executed before the completion window expired."
REFUSED = (
    "This request was refused when it was submitted: its model, or what that accepts, had changed since validation."
)
GONE = "The result of this request is no longer stored."
CANCELLED = "This request was cancelled."
CODES: dict[FailureKind, str] = {
    "deadline": "batch_expired",
    "expired": "batch_expired",
    "rejected": "invalid_request",
    "timeout": "request_timeout",
    "busy": "overloaded",
}
"""`code` by the kind of a failure; others are a `server_error`."""


class _LineResponse(Struct, frozen=True):
    status_code: int
    request_id: str
    body: Raw


class _LineFailure(Struct, frozen=True):
    code: str
    message: str


class _ResultLine(Struct, frozen=True):
    id: str
    custom_id: str
    response: _LineResponse | None
    error: _LineFailure | None


class _TaskData(Struct):
    data: Raw = Raw(b"null")


class _TokenDetails(Struct):
    cached_tokens: int | None = 0
    reasoning_tokens: int | None = 0


class _AnswerUsage(Struct):
    """Of chat completions, completions and embeddings; or of responses."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    prompt_tokens_details: _TokenDetails | None = None
    completion_tokens_details: _TokenDetails | None = None
    input_tokens_details: _TokenDetails | None = None
    output_tokens_details: _TokenDetails | None = None


class _AnswerBody(Struct):
    usage: _AnswerUsage | None = None


class ResultLine(NamedTuple):
    """A line of a file of results."""

    text: bytes
    is_success: bool
    """True: of the output file; False: of the error file."""


_encode = msgspec.json.Encoder().encode
_data = msgspec.json.Decoder(_TaskData).decode
_body = msgspec.json.Decoder(_AnswerBody).decode
NO_DETAILS = _TokenDetails()


def data_in(result: bytes) -> Raw:
    """Return the data of a TaskResult, JSON: the server's answer."""
    return Raw(bytes(_data(result).data))


def answered(unique: str, custom_id: str, status: int, body: Raw) -> ResultLine:
    """Return the line of a request that a server answered. `unique`: of its task."""
    response = _LineResponse(status, unique, body)
    return _line(_ResultLine(f"batch_req_{unique}", custom_id, response, None), is_success=200 <= status < 300)


def unanswered(unique: str, custom_id: str, code: str, message: str) -> ResultLine:
    """Return the line of a request that has no answer."""
    return _line(_ResultLine(f"batch_req_{unique}", custom_id, None, _LineFailure(code, message)), is_success=False)


def of_failure(unique: str, custom_id: str, event: TaskFailed | TaskCancelled) -> ResultLine:
    """Return the line of a request whose task failed or was cancelled; a server's own refusal as it came."""
    if isinstance(event, TaskCancelled):
        return unanswered(unique, custom_id, "request_cancelled", CANCELLED)
    if (answer := event.answer) is not None:
        body = answer.body if bytes(answer.body) != b"null" else Raw(error_body(answer.status, event.error))
        return answered(unique, custom_id, answer.status, body)
    code = CODES.get(event.kind, "server_error")
    return unanswered(unique, custom_id, code, EXPIRED if code == "batch_expired" else event.error)


def usage_in(body: Raw) -> TokenUsage | None:
    """Return the tokens that an answer reports; None: it reports none."""
    try:
        found = _body(body).usage
    except msgspec.MsgspecError:
        return None
    if found is None:
        return None
    before = found.prompt_tokens_details or found.input_tokens_details or NO_DETAILS
    after = found.completion_tokens_details or found.output_tokens_details or NO_DETAILS
    return TokenUsage(
        input_tokens=(found.prompt_tokens or 0) + (found.input_tokens or 0),
        cached_tokens=before.cached_tokens or 0,
        output_tokens=(found.completion_tokens or 0) + (found.output_tokens or 0),
        reasoning_tokens=after.reasoning_tokens or 0,
    )


def summed(one: TokenUsage | None, other: TokenUsage | None) -> TokenUsage | None:
    """Return the sum of two; None counts as nothing."""
    if one is None or other is None:
        return one or other
    return TokenUsage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
    )


def _line(line: _ResultLine, *, is_success: bool) -> ResultLine:
    return ResultLine(_encode(line) + b"\n", is_success)
