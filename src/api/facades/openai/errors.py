"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`.

The status and the words come from `api.problems`; here they get the form. What a model's server answered is passed on
as it is. The clients repeat 408, 409, 429 and every 5xx by themselves, unless `x-should-retry: false` says not to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from msgspec import Raw, Struct

from ....errors import InvalidInput, QuotaExceeded, TaskstreamError
from ...problems import Problem, on_error, problem_for

PREFIX = "/openai/"
SHOULD_RETRY = "x-should-retry"
"""Header that the clients obey, `true` or `false`, whatever the status."""
TYPES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "insufficient_permissions"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "idempotency_key_reused"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "timeout"),
}
"""`type` and `code` by status. Others below 500 have the type of a bad request, those above that of our own fault."""

_encode = msgspec.json.Encoder().encode
_decode_problem = msgspec.json.Decoder(Problem).decode


class OpenAIError(TaskstreamError):
    """An error that a route answers with as it is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """`kind`: the `type`; empty: that of the status. `body`: JSON to answer with in place of all that."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = body or error_body(status, message, code=code, param=param, kind=kind)


class _ErrorFields(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorForm(Struct):
    error: _ErrorFields


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str = ""
) -> bytes:
    """Return the JSON of an error."""
    default = ("invalid_request_error", None) if status < 500 else ("server_error", None)
    of_status, its_code = TYPES.get(status, default)
    return _encode(_ErrorForm(_ErrorFields(message, kind or of_status, param, code or its_code)))


def no_such_model(name: str) -> OpenAIError:
    """Return the error about a model that nothing serves, or that the caller may not use."""
    message = (
        f"The model `{name[:256]}` does not exist or you do not have access to it. GET /openai/v1/models lists them."
    )
    return OpenAIError(404, message, code="model_not_found", param="model")


def unsupported(param: str, advice: str) -> OpenAIError:
    """Return the error about a parameter that this API does not have, or not with that value."""
    return OpenAIError(400, f"`{param}` is not supported here: {advice}", code="unsupported_parameter", param=param)


def param_of(path: str) -> str | None:
    """Return the name of a parameter as the clients know it, from a JSON path: `$.messages[0]` is `messages[0]`."""
    return path.removeprefix("$.payload").removeprefix("$").removeprefix(".") or None


def passed_on(status: int, body: bytes, message: str, headers: Mapping[str, str] | None = None) -> OpenAIError:
    """Return the error that a server's own answer is: a body that has an `error` goes out as it came."""
    try:
        found = msgspec.json.decode(body, type=dict[str, Raw]) if body else {}
    except (msgspec.DecodeError, RecursionError):
        found = {}
    if not bytes(found.get("error", Raw(b"null"))).startswith(b"{"):
        body = b""
    return OpenAIError(status, message, kind="upstream_error" if status >= 500 else "", headers=headers, body=body)


def on_openai_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer with the error in OpenAI's form; the status and the headers are those of any other route."""
    if isinstance(error, OpenAIError):
        return Response(
            error.body, status_code=error.status, media_type="application/json", headers=dict(error.headers)
        )
    answered = on_error(request, error)
    problem = _decode_problem(answered.content)
    code = "insufficient_quota" if isinstance(error, QuotaExceeded) and error.policy == "stored" else None
    body = error_body(problem.status, _message(error, problem), code=code, param=_param(error, problem))
    headers = dict(answered.headers)
    if problem.status in (409, 500):  # a rule is broken, or this service failed: the same again changes nothing
        headers[SHOULD_RETRY] = "false"
    return Response(body, status_code=problem.status, media_type="application/json", headers=headers)


def _message(error: Exception, problem: Problem) -> str:
    if isinstance(error, InvalidInput) and (param := param_of(error.path)):
        return f"{param}: {error.detail}"
    if problem.status == 404 and problem.detail.startswith("no such path"):
        return "this path of OpenAI's API is not supported; docs/openai.md lists those that are"
    return problem.detail


def _param(error: Exception, problem: Problem) -> str | None:
    return param_of(problem.path) if isinstance(error, InvalidInput) and problem.path else None


def message_of(error: Exception) -> str:
    """Return the words for an error inside a stream that has begun, when no status can be sent any more."""
    return str(error) if isinstance(error, OpenAIError) else problem_for(error, PREFIX).detail
