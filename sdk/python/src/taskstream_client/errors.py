"""The errors of this package.

TaskstreamError
├── ApiError                 the service refused a request, or could not be reached
│   ├── Refused              400, 409, 412, 413, 422 …: the request must be changed
│   ├── Unauthorized         401: the token or key is missing, wrong or expired
│   ├── Forbidden            403: the token or key lacks a role
│   ├── NotFound             404: it does not exist, or belongs to somebody else
│   ├── RateLimited          429: a quota is used up; `retry_after` says for how long
│   └── Unavailable          5xx, or no answer: the service or the network is down
├── TaskEnded                a task has ended, and not as asked; `task` is the task
│   ├── TaskFailed
│   └── TaskCancelled
├── WaitTimeout              the task has not ended in time; it goes on
├── BadAnswer                the answer cannot be read: this is not Taskstream, or a proxy answered
├── BadSignature             a webhook's message is not from the service, or too old
└── BadSettings              a setting of the client is missing or wrong
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .models import Task

LONGEST_TEXT = 300
"""Characters of an answer without JSON that an error quotes."""


class TaskstreamError(Exception):
    """The base of all errors of this package."""


class BadSettings(TaskstreamError, ValueError):
    """A setting of the client is missing or wrong."""


class BadAnswer(TaskstreamError):
    """An answer could not be read."""


class BadSignature(TaskstreamError, ValueError):
    """A webhook's message is not signed with one of the secrets, or is too old."""


class ApiError(TaskstreamError):
    """A request was refused, or not answered."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None without an answer."""
        self.problem: Mapping[str, Any] = problem or {}
        """The problem document (RFC 9457) of the answer: `detail`, `path`, `errors` and others; empty without one."""
        self.request_id = request_id
        """The request's id in the service's log."""
        self.retry_after = retry_after
        """Seconds after which a retry may succeed, if the service said so."""

    @property
    def path(self) -> str | None:
        """Where in the request, as in `$.payload.width`; None if the service did not say."""
        found = self.problem.get("path")
        return str(found) if found else None


class Refused(ApiError):
    """The request is wrong, or not possible in the present state. The same request will be refused again."""


class Unauthorized(ApiError):
    """The token or key is missing, wrong or expired (401)."""


class Forbidden(ApiError):
    """The token or key lacks a role (403)."""


class NotFound(ApiError):
    """It does not exist, or belongs to another user (404)."""


class RateLimited(ApiError):
    """A quota is used up (429). Nothing was stored."""


class Unavailable(ApiError):
    """The service, or the network, is down (5xx, or no answer). The outcome of the request may be unknown."""


class TaskEnded(TaskstreamError):
    """A task ended without success. `task` has all of it."""

    def __init__(self, message: str, task: Task) -> None:
        super().__init__(message)
        self.task = task


class TaskFailed(TaskEnded):
    """A task failed for good: `task.error` says why, `task.failure_kind` names the kind of failure."""


class TaskCancelled(TaskEnded):
    """A task was cancelled."""


class WaitTimeout(TaskstreamError, TimeoutError):
    """A task has not ended in time. It goes on: wait for `task_id` again, or cancel it."""

    def __init__(self, task_id: str, seconds: float, status: str) -> None:
        super().__init__(
            f"task {task_id} has not ended after {seconds:g} s (it is {status}). It goes on: "
            f"call wait({task_id!r}) again, cancel it, or give a longer `timeout`"
        )
        self.task_id = task_id
        self.status = status


_KINDS: dict[int, type[ApiError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 429: RateLimited}
_ADVICE: dict[type[ApiError], str] = {
    Unauthorized: "Set TASKSTREAM_TOKEN or TASKSTREAM_API_KEY to one that is valid, or pass `token` to the client",
    Forbidden: "Use a token or key with the role that this needs",
    NotFound: "Check the id, and that the token is of the user who owns it",
    RateLimited: "Wait until tasks have ended, send less at a time, or ask for a higher quota",
    Unavailable: "Try again later, or give a longer `timeout`",
}


def error_for(status: int, headers: Mapping[str, str], body: bytes, request: str) -> ApiError:
    """Return the error for an answer of 400 or more. `request`: method and path."""
    problem = problem_of(body)
    kind = _KINDS.get(status) or (Unavailable if status >= 500 or status == 408 else Refused)
    detail = problem.get("detail") or problem.get("error") or _text(body) or "no reason given"
    path = str(problem.get("path") or "")
    where = f" at {path}" if path and path not in str(detail) else ""
    items = "".join(
        f"; item {item.get('index')}: {item.get('path', '')} {item.get('error')}"
        for item in (problem.get("errors") or [])[:3]
        if isinstance(item, dict)
    )
    said = f"{request} was answered {status}: {detail}{where}{items}"
    advice = _ADVICE.get(kind)
    return kind(
        f"{said}. {advice}" if advice else said,
        status=status,
        problem=problem,
        request_id=headers.get("x-request-id"),
        retry_after=retry_after_of(headers),
    )


def problem_of(body: bytes) -> dict[str, Any]:
    """Return the problem document in a body, empty if it is none."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        found = msgspec.json.decode(body)
        if isinstance(found, dict):
            return found
    return {}


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `Retry-After`, None without one. The service sends seconds, never a date."""
    given = headers.get("retry-after", "").strip()
    with contextlib.suppress(ValueError):
        seconds = float(given)
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _text(body: bytes) -> str:
    text = body[: 4 * LONGEST_TEXT].decode(errors="replace").strip()
    return "" if text.startswith("<") else text[:LONGEST_TEXT]
