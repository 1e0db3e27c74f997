"""Every error answer: RFC 9457 problem documents that also carry `error`, which older clients read.

The one place where errors of ours meet HTTP status codes. A refusal says what to do; an error of ours says nothing of
its insides.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from .. import errors
from ..egress import BadAddress
from ..sealing import SealingUnavailable
from ..streams.connection import PayloadTooLarge
from .auth import KeysUnavailable, Unauthenticated
from .edge import request_id

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"
QUEUE_SURFACE = ("/api/projects/", "/api/queue/", "/api/active-tasks")
LONGEST_DETAIL = 500
"""Characters; what a caller sent may be part of it, however long that was."""


class Problem(Struct, kw_only=True, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    """The detail again, under the name that older clients read."""
    success: bool | None = None
    """False on the queue surface, whose clients look there first."""
    path: str | None = None
    """Where in the request the trouble is, as in `$.payload.width`."""


_encode = msgspec.json.Encoder().encode

_STATUS: dict[type[Exception], int] = {
    errors.InvalidInput: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.IdempotencyConflict: 422,
    errors.RuleBroken: 409,
    PayloadTooLarge: 413,
    errors.StoreUnavailable: 503,
    errors.Conflict: 503,
    errors.UnreadableEvent: 503,
    BadAddress: 400,
    SealingUnavailable: 400,
    Unauthenticated: 401,
    KeysUnavailable: 503,
}
_NOT_STORED = "the store of tasks cannot take this now; nothing was lost, try again in a moment"
_UNREADABLE = "a newer version of this service has written what was asked for; this one cannot read it, another may"
_NO_ROOM = "the store of tasks is full; an administrator must make room before anything new is taken"
_TOO_LARGE = "the body is larger than this service takes; send a reference to large inputs instead of the inputs"
_UNEXPECTED = "something went wrong on our side; the request id helps to find out what"


def problem_for(error: Exception, path: str) -> Problem:
    """Return the problem document for an error raised while answering a request on `path`."""
    status = _status(error)
    detail = _shortened(_detail(error, status))
    return Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=quote(path),
        error=detail,
        success=False if path.startswith(QUEUE_SURFACE) else None,
        path=_path(error),
    )


def _status(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def _path(error: Exception) -> str | None:
    match error:
        case errors.InvalidInput():
            return error.path or None
        case ValidationException(extra=[{"key": str(key)}, *_]):
            return key
        case _:
            return None


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}…"


def _detail(error: Exception, status: int) -> str:
    match error:
        case PayloadTooLarge():
            return _TOO_LARGE
        case errors.StoreFull():
            return _NO_ROOM
        case errors.UnreadableEvent():
            return _UNREADABLE
        case errors.StoreUnavailable() | errors.Conflict():
            return _NOT_STORED
        case ValidationException():
            return _validation_detail(error)
        case NotFoundException(detail="Not Found"):
            return "there is nothing at this address; /docs describes what there is"
        case MethodNotAllowedException():
            return "this address does not take this method; `Allow` names those it takes, /docs describes them"
        case HTTPException(status_code=413, detail="Request Entity Too Large"):
            return _TOO_LARGE
        case HTTPException() if status < 500:
            return error.detail
        case _ if status < 500 or isinstance(error, KeysUnavailable):
            return str(error) or HTTPStatus(status).phrase
        case _:
            return _UNEXPECTED


def _validation_detail(error: ValidationException) -> str:
    """Return what Litestar found wrong, as one sentence."""
    found = error.extra if isinstance(error.extra, list) else []
    parts = [f"{entry.get('key', 'body')}: {entry.get('message', '')}" for entry in found if isinstance(entry, dict)]
    return "; ".join(parts) or error.detail


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(_encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers or {})


def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler for everything that is raised."""
    problem = problem_for(error, request.url.path)
    headers: dict[str, str] = {}
    if problem.status >= 500:
        emit = log.exception if problem.status == 500 else log.warning
        emit("request.failed", id=request_id(request.scope), path=problem.instance, error=repr(error))
    if problem.status == 503:
        headers["Retry-After"] = RETRY_AFTER_SECONDS
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="taskstream"'
    if problem.status == 405 and isinstance(error, HTTPException) and error.headers:
        headers["Allow"] = _allowed(error.headers)
    if problem.status == 415:
        headers["Accept-Encoding"] = "identity"
    return answer(problem, headers)


def _allowed(headers: dict[str, str]) -> str:
    """Return the methods of a 405 in order, with the HEAD that comes with every GET."""
    methods = next((value for name, value in headers.items() if name.lower() == "allow"), "")
    found = {method.strip() for method in methods.split(",")}
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


_MEANINGS = {
    400: "The request is malformed; `detail` says where and how",
    401: "No token, or one that is not valid",
    403: "The token's roles do not allow this",
    404: "There is no such thing, or none that the caller may see",
    409: "Not possible in the present state",
    413: "The body is too large",
    415: "The body is compressed, which is not taken",
    422: "The Idempotency-Key was used with another body",
    503: "The store cannot be reached or is full; nothing was lost. See `Retry-After`",
}


def answers(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the OpenAPI description of error answers."""
    return {
        status: ResponseSpec(
            data_container=Problem, description=_MEANINGS[status], media_type=MEDIA_TYPE, generate_examples=False
        )
        for status in statuses
    }
