"""Errors with Replicate's titles and headers: problem documents, as everywhere else here."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response
from msgspec import Struct

from ....errors import InvalidInput, QuotaExceeded
from ...problems import MEDIA_TYPE, Problem, on_error

TITLES = {
    401: "Unauthenticated",
    403: "Forbidden",
    404: "Not found",
    422: "Input validation failed",
    429: "Too many requests",
}
INVALID_VERSION = "Invalid version or not permitted"

_decode = msgspec.json.Decoder(Problem).decode
_encode = msgspec.json.Encoder().encode


class InvalidVersion(Exception):
    """No model has this version, or the caller may not use it."""


class InvalidField(Struct):
    """What is wrong with a part of the body."""

    type: str
    field: str
    description: str


class ReplicateProblem(Struct, kw_only=True, omit_defaults=True):
    """A problem document as Replicate's clients read it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    invalid_fields: list[InvalidField] | None = None


def on_replicate_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer with the problem document of an error."""
    if isinstance(error, InvalidVersion):
        detail = (
            "The specified version does not exist, or you may not use it. Send the id of a version, `owner/name` or "
            "`owner/name:version`; GET /replicate/v1/models lists the models."
        )
        return _answer(ReplicateProblem(title=INVALID_VERSION, status=422, detail=detail), {})
    answered = on_error(request, error)
    found, headers = _decode(answered.content), dict(answered.headers)
    problem = ReplicateProblem(
        type=found.type,
        title=TITLES.get(found.status, found.title),
        status=found.status,
        detail=found.detail,
        instance=found.instance,
    )
    if isinstance(error, InvalidInput) and request.scope["method"] == "POST":
        problem.status, problem.title = 422, TITLES[422]
        name = error.path.removeprefix("$.") or "body"
        problem.detail = f"- {name}: {error.detail}\n"
        problem.invalid_fields = [InvalidField("invalid", name, error.detail)]
    if isinstance(error, QuotaExceeded):
        seconds = max(1, error.retry_after)
        problem.detail = f"Request was throttled. Expected available in {seconds} seconds. {found.detail}"
        headers |= {
            "ratelimit-limit": str(error.limit),
            "ratelimit-remaining": str(max(0, error.limit - error.waiting)),
            "ratelimit-reset": str(seconds),
        }
    return _answer(problem, headers)


def _answer(problem: ReplicateProblem, headers: dict[str, str]) -> Response[bytes]:
    return Response(_encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
