"""Every error answer: RFC 9457 problem documents that also carry `error`, which older clients read.

The only place where the service's errors meet HTTP status codes. A refusal says what to do; a server error says nothing
about internals.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from msgspec import Struct, field

from .. import errors
from ..streams.client.connection import PayloadTooLarge
from ..vault.sealing import SealingUnavailable
from ..wire.addresses import BadAddress
from ..wire.validation_errors import parameter_error
from .auth.authenticator import KeysUnavailable, Unauthenticated
from .middleware import ENCODED, request_id

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"
QUEUE_SURFACE = re.compile(
    r"/api/(?:(?:projects|queue|active-tasks|events|health)(?:/.*)?|tasks/[^/]*/cancel)", re.DOTALL
)
"""Paths of the queue surface, known or not, whose answers all carry `success`."""
LONGEST_DETAIL = 500
"""Characters. An error may quote what the caller sent, which may be long."""


QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""Type of the problem document of a 429, as draft-ietf-httpapi-ratelimit-headers-11 has it (section 5.1)."""
QUOTA_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"


class ItemProblem(Struct, kw_only=True, omit_defaults=True):
    """The error of one of several items sent together."""

    index: int
    """Index of the item, from 0."""
    error: str
    path: str | None = None
    """Where in the item, as in `$.payload.width`."""


class Problem(Struct, kw_only=True, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    """The same as `detail`, for older clients."""
    success: bool | None = None
    """False, on the queue surface only."""
    path: str | None = None
    """Where in the request, as in `$.payload.width`."""
    errors: list[ItemProblem] | None = None
    """Of a batch: the error of each invalid item."""
    violated_policies: list[str] | None = field(default=None, name="violated-policies")
    """Of a 429: the exceeded quotas, named as in `RateLimit-Policy`."""


_encode = msgspec.json.Encoder().encode

_STATUS: dict[type[Exception], int] = {
    errors.FileMissing: 422,
    errors.InvalidInput: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.RangeNotSatisfiable: 416,
    errors.RevisionChanged: 412,
    errors.IdempotencyConflict: 422,
    errors.QuotaExceeded: 429,
    errors.RuleBroken: 409,
    errors.FileTooLarge: 413,
    errors.UploadTooSlow: 408,
    PayloadTooLarge: 413,
    errors.StoreUnavailable: 503,
    errors.Conflict: 503,
    errors.UnreadableEvent: 503,
    errors.StreamsExhausted: 503,
    BadAddress: 400,
    SealingUnavailable: 400,
    Unauthenticated: 401,
    KeysUnavailable: 503,
}
_NOT_STORED = "the task store is not available; nothing was lost, retry after `Retry-After` seconds"
_UNREADABLE = "a newer version of the service wrote this and this process cannot read it; retry, or upgrade"
_STORE_FULL = (
    "the task store is full: NATS refuses to store more. Nothing acknowledged is lost. Retry later; an administrator "
    "must free space, enlarge the store, or set TASKSTREAM_TASK_RETENTION (/health/ready says what is full)"
)
STORE_FULL = "urn:problem-type:taskstream:store-full"
"""Type of the problem document of a 503 for lack of space: another process has none either."""
STORE_FULL_RETRY_AFTER_SECONDS = "30"
_TOO_LARGE = "the body is larger than this service takes; send a reference to large inputs instead of the inputs"
_UNEXPECTED = "internal error; report the request id in `X-Request-Id`, which is in the service's logs"


def problem_for(error: Exception, path: str) -> Problem:
    """Return the problem document for an error raised while answering a request on `path`.

    A path of ENCODED is percent-encoded, as it was sent.
    """
    status = _status(error)
    problem = problem_with(
        status, _shortened(_detail(error, status)), path if path.startswith(ENCODED) else quote(path)
    )
    problem.success = False if QUEUE_SURFACE.fullmatch(path) else None
    problem.path = _path(error)
    problem.errors = _items(error)
    if isinstance(error, errors.QuotaExceeded):
        problem.violated_policies = [error.policy]
    if isinstance(error, errors.StoreFull):
        problem.type, problem.title = STORE_FULL, "The task store is full"
    return problem


def problem_with(status: int, detail: str, instance: str) -> Problem:
    """Return a problem document with the fields that all of this status have."""
    is_quota = status == 429
    return Problem(
        type=QUOTA_EXCEEDED if is_quota else "about:blank",
        title=QUOTA_TITLE if is_quota else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        error=detail,
        violated_policies=[errors.QuotaExceeded.policy] if is_quota else None,
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
        case errors.StoreReserved():
            return str(error)
        case errors.StoreFull():
            return _STORE_FULL
        case errors.UnreadableEvent():
            return _UNREADABLE
        case (
            errors.TooManyReads()
            | errors.TooManyUploads()
            | errors.IndexNotReady()
            | errors.IndexBusy()
            | errors.QueryTooSlow()
        ):
            return str(error)
        case errors.StoreUnavailable() | errors.Conflict():
            return _NOT_STORED
        case ValidationException():
            return _validation_detail(error)
        case NotFoundException(detail="Not Found"):
            return "no such path; /docs describes the API"
        case MethodNotAllowedException():
            return "method not allowed; use one of the methods in the `Allow` header"
        case HTTPException(status_code=413, detail="Request Entity Too Large"):
            return _TOO_LARGE
        case HTTPException() if status < 500:
            return error.detail
        case _ if status < 500 or isinstance(error, KeysUnavailable | errors.StreamsExhausted):
            return str(error) or HTTPStatus(status).phrase
        case _:
            return _UNEXPECTED


def _validation_detail(error: ValidationException) -> str:
    """Return Litestar's errors about parameters, as one sentence."""
    found = error.extra if isinstance(error.extra, list) else []
    parts = [
        f"{entry.get('key', 'body')}: {parameter_error(str(entry.get('message', '')))}"
        for entry in found
        if isinstance(entry, dict)
    ]
    return "; ".join(parts) or error.detail


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(_encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers or {})


def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer with the problem document of an error; Litestar calls this for every exception."""
    problem = problem_for(error, request.scope["path"])
    headers: dict[str, str] = {}
    if problem.status >= 500 and not isinstance(error, errors.StoreReserved):  # `store.full` says it once
        emit = log.exception if problem.status == 500 else log.warning
        emit("request.failed", id=request_id(request.scope), path=problem.instance, error=repr(error))
    if problem.status == 503:
        is_full = isinstance(error, errors.StoreFull)
        headers["Retry-After"] = STORE_FULL_RETRY_AFTER_SECONDS if is_full else RETRY_AFTER_SECONDS
    if isinstance(error, errors.QuotaExceeded):
        headers |= quota_headers(error)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="taskstream"'
    if problem.status == 405 and isinstance(error, HTTPException) and error.headers:
        headers["Allow"] = next((value for name, value in error.headers.items() if name.lower() == "allow"), "")
    if isinstance(error, errors.RevisionChanged):
        headers["ETag"] = f'"{error.present}"'
    if isinstance(error, errors.RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    if problem.status == 415:
        headers["Accept-Encoding"] = "identity"
    return answer(problem, headers)


def quota_headers(error: errors.QuotaExceeded) -> dict[str, str]:
    """Return the headers about a quota (draft-ietf-httpapi-ratelimit-headers-11): `q` allowed, `r` more allowed now.

    The quota has no time window: `t` is when to retry, as in `Retry-After`.
    """
    seconds = max(1, error.retry_after)
    left = max(0, error.limit - error.waiting)
    return {
        "Retry-After": str(seconds),
        "RateLimit": f'"{error.policy}";r={left};t={seconds}',
        "RateLimit-Policy": f'"{error.policy}";q={error.limit}',
    }


QUOTA_HEADERS: dict[str, Any] = {
    "Retry-After": {"description": "Seconds after which a retry may succeed", "schema": {"type": "integer"}},
    "RateLimit": {
        "description": "How many more tasks, stored bytes, open streams or requests are allowed (`r`), for `t` seconds",
        "schema": {"type": "string", "examples": ['"waiting";r=0;t=5']},
    },
    "RateLimit-Policy": {
        "description": "The quota (`q`): of waiting tasks, stored bytes, open streams, or requests per second",
        "schema": {"type": "string", "examples": ['"waiting";q=100000']},
    },
}
"""Headers of a 429, for the API document."""


MEANINGS = {
    400: "The request is malformed; `detail` says where and what is required",
    401: "No token, or an invalid one",
    403: "The token lacks the required role",
    404: "Not found, or not visible to the caller",
    405: "Another method than those in `Allow`",
    408: "The upload took too long",
    409: "Not possible in the present state",
    412: "It has changed since it was read; the `ETag` has its present revision",
    413: "The body is too large",
    415: "The body is compressed, which is not accepted",
    416: "The range has none of the bytes; `Content-Range` has their number",
    422: "The Idempotency-Key was used with another body, or there is no such file",
    429: "A quota is exceeded: waiting tasks, stored bytes, streams, or the rate of an API key. See `Retry-After`",
    503: "The task store is unavailable or full; nothing was lost. See `Retry-After`",
}
"""What an error status of a route means, for the API document."""
