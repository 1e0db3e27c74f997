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
from msgspec import Struct, field

from .. import errors
from ..streams.client.connection import PayloadTooLarge
from ..vault.sealing import SealingUnavailable
from ..wire.addresses import BadAddress
from .auth.authenticator import KeysUnavailable, Unauthenticated
from .middleware.edge import request_id

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"
QUEUE_SURFACE = ("/api/projects/", "/api/queue/", "/api/active-tasks")
LONGEST_DETAIL = 500
"""Characters; what a caller sent may be part of it, however long that was."""


QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""Type of the problem document of a 429, as draft-ietf-httpapi-ratelimit-headers-11 has it (section 5.1)."""
QUOTA_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"
WAITING_POLICY = "waiting"
"""Name of the quota of an owner's waiting tasks, in problem documents and header fields."""


class ItemProblem(Struct, kw_only=True, omit_defaults=True):
    """What is wrong with one of several things that were sent together."""

    index: int
    """Its place, from 0."""
    error: str
    path: str | None = None
    """Where in it the trouble is, as in `$.payload.width`."""


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
    errors: list[ItemProblem] | None = None
    """Of a batch: what is wrong with each of its items that is not as it should be."""
    violated_policies: list[str] | None = field(default=None, name="violated-policies")
    """Of a 429: the quotas that have no room; `RateLimit-Policy` has them too."""


_encode = msgspec.json.Encoder().encode

_STATUS: dict[type[Exception], int] = {
    errors.InvalidInput: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.IdempotencyConflict: 422,
    errors.QuotaExceeded: 429,
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
    is_quota = isinstance(error, errors.QuotaExceeded)
    return Problem(
        type=QUOTA_EXCEEDED if is_quota else "about:blank",
        title=QUOTA_TITLE if is_quota else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=quote(path),
        error=detail,
        success=False if path.startswith(QUEUE_SURFACE) else None,
        path=_path(error),
        errors=_items(error),
        violated_policies=[WAITING_POLICY] if is_quota else None,
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


def _items(error: Exception) -> list[ItemProblem] | None:
    if not isinstance(error, errors.InvalidItems):
        return None
    return [
        ItemProblem(index=index, error=_shortened(found.detail), path=found.path or None)
        for index, found in sorted(error.found.items())
    ]


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
    if isinstance(error, errors.QuotaExceeded):
        headers |= quota_headers(error)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="taskstream"'
    if problem.status == 405 and isinstance(error, HTTPException) and error.headers:
        headers["Allow"] = _allowed(error.headers)
    if problem.status == 415:
        headers["Accept-Encoding"] = "identity"
    return answer(problem, headers)


def quota_headers(error: errors.QuotaExceeded) -> dict[str, str]:
    """Return what a client is told of a quota (draft-ietf-httpapi-ratelimit-headers-11): `q` tasks may wait, `r` more.

    The quota has no window of its own: `t` is when to look again, as `Retry-After` is.
    """
    seconds = max(1, error.retry_after)
    left = max(0, error.limit - error.waiting)
    return {
        "Retry-After": str(seconds),
        "RateLimit": f'"{WAITING_POLICY}";r={left};t={seconds}',
        "RateLimit-Policy": f'"{WAITING_POLICY}";q={error.limit}',
    }


QUOTA_HEADERS: dict[str, Any] = {
    "Retry-After": {"description": "Seconds until another try may be worth it", "schema": {"type": "integer"}},
    "RateLimit": {
        "description": "How many more tasks may wait (`r`), as of now and for `t` seconds",
        "schema": {"type": "string", "examples": ['"waiting";r=0;t=5']},
    },
    "RateLimit-Policy": {
        "description": "How many of the caller's tasks may wait (`q`)",
        "schema": {"type": "string", "examples": ['"waiting";q=100000']},
    },
}
"""How the API's description has the header fields of a 429."""


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
    429: "As many of your tasks wait as may, and nothing was stored. See `Retry-After`",
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
