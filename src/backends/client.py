"""Speaks to a backend server: one call, and what its answer means."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import aiohttp
import msgspec
from msgspec import Raw, Struct

from ..clock import utc_now
from ..commands.server import Present
from ..events.envelope import NULL
from ..events.task import FailureKind, ModelChoice
from ..projections.task_view import Status
from ..vault.task_keys import without_key
from ..wire.json_depth import deeper_than
from . import task_result
from .egress import AnswerTooLarge, read_capped
from .progress_update import UpdateMetadata
from .stream_parser import FRAMINGS, BadStream, Ending, StreamedAnswer

LONGEST_REASON = 300
"""Characters of a backend's own words kept in an error."""
DEEPEST_ANSWER = 500
"""Levels of nesting. A deeper result would be stored, and then not decode where the stack is deeper than here."""
BUSY = frozenset({429, 503})
TRY_AGAIN = frozenset({408, 425, 429})


class ParentResult(Struct, frozen=True, kw_only=True):
    """A task that has ended."""

    task_id: str
    status: Status | Literal["GONE"]
    """GONE: its history is past its retention."""
    result: Raw = NULL
    """Its TaskResult, JSON; null if it has none."""
    error: str | None = None


class Call(Struct, frozen=True, kw_only=True):
    """One attempt as the server is told of it."""

    task_id: str
    task_type: str
    attempt: int
    payload: Raw
    deadline: datetime
    callback_url: str
    callback_token: str
    model: ModelChoice | None = None
    model_key: str | None = None
    parents: list[ParentResult] | None = None

    def __repr__(self) -> str:
        return f"Call({self.task_id}, attempt {self.attempt})"  # with no secret in it

    def model_headers(self) -> dict[str, str]:
        """Return what tells the server which model to use (contract, section 2)."""
        chosen = self.model or ModelChoice()
        told = {
            "X-AI-Provider": chosen.provider,
            "X-AI-Model": chosen.model,
            "X-AI-BaseUrl": chosen.base_url,
            "X-AI-Key": self.model_key,
        }
        return {name: value for name, value in told.items() if value}


class Completed(Struct, frozen=True):
    """The task succeeded; `result` is a TaskResult, JSON."""

    result: bytes


class FailedByBackend(Struct, frozen=True):
    """The server did the work and says the task failed; `result` is a TaskResult, JSON."""

    result: bytes
    error: str


class Accepted(Struct, frozen=True):
    """The server will report by callback."""

    backend_task_id: str | None


class Failed(Struct, frozen=True, kw_only=True):
    """The attempt came to nothing."""

    kind: FailureKind
    error: str
    retry_after: timedelta | None = None


Answer: TypeAlias = Completed | FailedByBackend | Accepted | Failed
Report: TypeAlias = Callable[[UpdateMetadata], Awaitable[None]]
"""Takes progress as it comes; what is streamed faster waits in the connection."""


class _Predict(Struct, kw_only=True, omit_defaults=True):
    task_id: str
    type: str
    request: Raw
    is_async: bool = msgspec.field(name="async")
    attempt: int
    deadline: int
    """Milliseconds since the epoch."""
    callback_url: str | None = None
    callback_token: str | None = None
    parents: list[ParentResult] | None = None
    """What became of the tasks it depends on, in the order in which it names them."""


class BackendClient:
    """Calls servers over one pooled session."""

    def __init__(
        self, session: aiohttp.ClientSession, max_result_bytes: int, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._session = session
        self._max_result_bytes = max_result_bytes
        self._now = now

    async def call(self, server: Present, call: Call, api_key: str | None, report: Report) -> Answer:
        """Send a task to a server and return what came of it; never raises for anything the server does.

        An answer that is streamed is read as it comes, and its progress passed to `report`.
        """
        settings = server.settings
        reports = settings.is_async or settings.callback
        predict = _Predict(
            task_id=call.task_id,
            type=call.task_type,
            request=call.payload,
            is_async=settings.is_async,
            attempt=call.attempt,
            deadline=int(call.deadline.timestamp() * 1000),
            callback_url=call.callback_url if reports else None,
            callback_token=call.callback_token if reports else None,
            parents=call.parents,
        )
        headers = {"Content-Type": "application/json", **call.model_headers()}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        seconds_left = (call.deadline - self._now()).total_seconds()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds_left):
                async with self._session.post(
                    settings.predict_url, data=msgspec.json.encode(predict), headers=headers, allow_redirects=False
                ) as response:
                    if _is_streamed(response, reports):
                        return await self._follow(response, settings.server_id, call, report, started)
                    body = without_key(await read_capped(response, self._max_result_bytes), call.model_key)
                    retry_after = parse_retry_after(response.headers.get("Retry-After"), self._now())
        except TimeoutError:
            return Failed(kind="timeout", error="the server did not answer within the attempt's time")
        except AnswerTooLarge:
            return Failed(kind="bad_answer", error=f"the answer is larger than {self._max_result_bytes} bytes")
        except BadStream as error:
            return Failed(kind="bad_answer", error=str(error)[:LONGEST_REASON])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failed(kind="unreachable", error=describe(error))
        elapsed_ms = _milliseconds_since(started)
        return interpret(settings.server_id, reports, call.task_id, response.status, body, retry_after, elapsed_ms)

    async def _follow(
        self, response: aiohttp.ClientResponse, server_id: str, call: Call, report: Report, started: float
    ) -> Answer:
        """Pass on what a server streams until it says how the attempt has ended, and close the connection then."""
        streamed = StreamedAnswer(FRAMINGS[response.content_type], call.task_id, call.model_key, self._max_result_bytes)

        def ended(ending: Ending) -> Answer:
            result = ending.result(call.task_id, server_id, _milliseconds_since(started))
            if ending.status == "FINISHED":
                return Completed(result)
            return FailedByBackend(result, (ending.message or "the server reports failure")[:LONGEST_REASON])

        async for chunk in response.content.iter_any():
            for said in streamed.feed(chunk):
                if isinstance(said, Ending):
                    response.close()
                    return ended(said)
                await report(said.metadata)
        for said in streamed.rest():
            if isinstance(said, Ending):
                return ended(said)
            await report(said.metadata)
        return Failed(kind="bad_answer", error="the streamed answer ended without a result")


def _is_streamed(response: aiohttp.ClientResponse, reports: bool) -> bool:
    """Tell whether an answer is a stream to follow, and no refusal and no acceptance."""
    is_acceptance = reports and response.status == 202
    return 200 <= response.status < 300 and not is_acceptance and response.content_type in FRAMINGS


def _milliseconds_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def interpret(
    server_id: str,
    reports: bool,
    task_id: str,
    status: int,
    body: bytes,
    retry_after: timedelta | None,
    elapsed_ms: int,
) -> Answer:
    """Return what a server's answer means. `reports`: it is known to report by callback."""
    if 200 <= status < 300:
        return _interpret_success(server_id, reports, task_id, status, body, elapsed_ms)
    if status >= 500 or status in TRY_AGAIN:
        kind: FailureKind = "busy" if status in BUSY else "error"
        return Failed(kind=kind, error=_reason(status, body), retry_after=retry_after)
    if status >= 400:
        return Failed(kind="rejected", error=_reason(status, body))
    return Failed(kind="bad_answer", error=f"the server answered {status}; redirects are not followed")


def _interpret_success(
    server_id: str, reports: bool, task_id: str, status: int, body: bytes, elapsed_ms: int
) -> Answer:
    if reports and status == 202:
        return Accepted(task_result.parse_acceptance(body).backend_task_id)
    try:
        too_deep = deeper_than(DEEPEST_ANSWER, body, msgspec.json.decode(body))
    except RecursionError:
        too_deep = True
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Failed(kind="bad_answer", error=f"the server answered {status} with something that is no JSON")
    if too_deep:
        return Failed(kind="bad_answer", error=f"the answer is nested deeper than {DEEPEST_ANSWER} levels")
    shape = task_result.parse(body)
    if shape is None:
        return Completed(task_result.wrapped(task_id, server_id, body, elapsed_ms))
    if shape.is_of_another(task_id):
        return Failed(kind="bad_answer", error="the server answered with the result of another task")
    if shape.metadata.status == "FAILED":
        return FailedByBackend(body, (shape.metadata.message or "the server reports failure")[:LONGEST_REASON])
    if reports and shape.metadata.status in ("PROCESSING", "WAITING"):
        return Accepted(shape.backend_task_id)
    return Completed(body)


class _Words(Struct):
    """Where servers put the reason of a refusal."""

    error: str | None = None
    detail: str | None = None
    message: str | None = None


def _reason(status: int, body: bytes) -> str:
    """Return the status and the server's own words, where it has some that are meant to be read."""
    try:
        words = msgspec.json.decode(body, type=_Words)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return f"the server answered {status}"
    said = words.error or words.detail or words.message
    return f"the server answered {status}: {said[:LONGEST_REASON]}" if said else f"the server answered {status}"


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the pause a `Retry-After` header asks for: seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if not value:
        return None
    try:
        if value.strip().isdigit():
            return timedelta(seconds=int(value))
        return max(email.utils.parsedate_to_datetime(value) - now, timedelta(0))
    except (ValueError, TypeError, OverflowError):
        return None


def describe(error: Exception) -> str:
    """Return what went wrong with a connection, without saying to which address."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the server's name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "the server's certificate was not accepted"
        case aiohttp.ClientConnectorError():
            return "the server could not be reached"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "the server closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the server broke off its answer"
        case aiohttp.InvalidURL():
            return "the server's address is not valid"
        case _:
            return "the connection to the server failed"
