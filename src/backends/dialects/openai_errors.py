"""Error objects of the OpenAI family, as a body and as a part of a stream that began with 200. Pure.

{"error": {"message": "...", "type": "BadRequestError", "code": 400}}       vLLM, llama.cpp; litellm: `"code": "400"`
{"error": {"message": "...", "type": "invalid_request_error", "code": "context_length_exceeded"}}       OpenAI
{"object": "error", "message": "...", "type": "BadRequestError", "code": 400}       older vLLM, SGLang
{"error": "..."}       Ollama
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw

from ...events.envelope import NULL
from ...events.json_text import compact
from ...events.server import ServerRegistered
from ...events.task import ErrorAnswer
from ...wire.json_text import Json
from .contents import as_json
from .dialect import BadAnswer, Busy, Dialect, Failed, Reply
from .reasons import reason_in
from .refusals import TRY_AGAIN

FOR_GOOD = frozenset(
    {
        "badrequesterror", "context_length_exceeded", "empty", "invalid_prompt", "invalid_request_error",
        "not_found_error", "notfounderror", "permission_error", "tokenizer", "unprocessableentityerror", "validation",
    }
)  # fmt: skip
"""Types and codes in words of errors that another attempt cannot mend, where no number says so."""
BUSY = frozenset(
    {
        "overloaded", "overloaded_error", "rate_limit_error", "rate_limit_exceeded", "ratelimiterror", "server_busy",
        "throttling_error", "too_many_requests", "unavailable_error",
    }
)  # fmt: skip
AGAIN = TRY_AGAIN | {424}
"""Statuses below 500 after which another attempt may succeed. 424: the model behind TEI failed."""
ANSWERED_FOR_GOOD = frozenset({501})
"""Statuses above 499 of a request that the server will never serve."""
LONGEST_KEPT_ERROR = 16 * 1024
"""Bytes of an error that is kept as it came: it enters the log."""
_EVENT_DATA = re.compile(rb"^data: ?(\{.*)", re.MULTILINE)


def error_in(content: Any) -> Any:
    """Return the error that an object reports; None if it reports none."""
    if not isinstance(content, dict):
        return None
    return content.get("error") or (content if content.get("object") == "error" else None)


def failure_of(dialect: Dialect, server: ServerRegistered, error: Any, *, has_streamed: bool) -> Busy | Failed:
    """Return what an error object means. `has_streamed`: the server has begun with the work, so it is not busy."""
    text = f"the server reported an error: {reason_in(error) or 'without a reason'}"
    status, words = _status(error), _words(error)
    if status is None:
        is_busy, is_for_good = bool(words & BUSY), bool(words & FOR_GOOD)
    else:
        is_busy = dialect.means_busy(server, status)
        is_for_good = (400 <= status < 500 and status not in AGAIN) or status in ANSWERED_FOR_GOOD
    if is_busy:
        return Failed(kind="error", error=text, is_neutral=True) if has_streamed else Busy(error=text)
    if is_for_good:
        return Failed(kind="rejected", error=text)
    return Failed(kind="error", error=text, is_neutral=status in TRY_AGAIN)


def error_of_stream(body: bytes) -> Any:
    """Return the error in the first event of an answer with the media type of a stream; None if there is none."""
    found = _EVENT_DATA.search(body[: 64 * 1024])
    if found is None:
        return None
    try:
        read: Json = as_json(found[1].rstrip(b"\r"))
    except BadAnswer:
        return None
    return error_in(read.content)


def answered(reply: Reply) -> ErrorAnswer:
    """Return the error that an answer is, for a client that gets it as it is."""
    body = NULL
    if len(reply.body) <= LONGEST_KEPT_ERROR:
        try:
            if isinstance(as_json(reply.body).content, dict):
                body = Raw(compact(reply.body))
        except BadAnswer:
            pass
    return ErrorAnswer(status=reply.status if reply.status >= 400 else 502, body=body)


def reported(error: Any, *, is_for_good: bool) -> ErrorAnswer:
    """Return the same for an error object in an answer with 200."""
    body = msgspec.json.encode({"error": error if isinstance(error, dict) else {"message": reason_in(error)}})
    status = _status(error) or (400 if is_for_good else 500)
    return ErrorAnswer(status=status, body=Raw(body) if len(body) <= LONGEST_KEPT_ERROR else NULL)


def _status(error: Any) -> int | None:
    """Return the status that an error object names, as a number or in digits."""
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code", "http_code"):
        value = error.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _words(error: Any) -> set[str]:
    if not isinstance(error, dict):
        return set()
    named = (error.get(name) for name in ("code", "type", "error_type"))
    return {word.lower() for word in named if isinstance(word, str)}
