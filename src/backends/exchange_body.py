"""How to talk to a server of the dialect `bare`, as admins write it. Paths and conditions are JSONPath (RFC 9535)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec import NODEFAULT, Meta, Struct, field
from msgspec.structs import fields

from ..events.exchange import (
    Acceptance,
    AnswerTest,
    BareExchange,
    Cancellation,
    Poll,
    RequestTemplate,
    StreamedParts,
)
from ..wire.fields import HEADER_NAME_PATTERN, HEADER_VALUE_PATTERN

B = TypeVar("B", bound=Struct)
LONGEST_PATH = 256

_Path = Annotated[str, Meta(min_length=1, max_length=LONGEST_PATH, examples=["$.output.text"])]
_Condition = Annotated[str, Meta(min_length=1, max_length=LONGEST_PATH, examples=['$.status == "failed"'])]
_Statuses = Annotated[list[Annotated[int, Meta(ge=100, le=599)]], Meta(min_length=1, max_length=20)]
_UrlTemplate = Annotated[str, Meta(min_length=1, max_length=1024, examples=["status?task_id={id}"])]
_Method = Literal["DELETE", "GET", "PATCH", "POST", "PUT"]
_HeaderName = Annotated[str, Meta(min_length=1, max_length=64, pattern=HEADER_NAME_PATTERN)]
_HeaderValue = Annotated[str, Meta(min_length=1, max_length=1024, pattern=HEADER_VALUE_PATTERN)]
_Seconds = Annotated[float, Meta(ge=1, le=86_400, extra={"unit": "seconds"})]


class AnswerTestBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A test of an answer: each part that is given must hold. At least one is required."""

    status: _Statuses | None = None
    """The status is one of these."""
    body: _Condition | None = None
    """A condition on the body, which is JSON or text: what JSONPath allows in a filter, about the whole body."""
    contains: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """The first 64 KiB of the body contain this text, in any case."""


_Test = _Statuses | _Condition | AnswerTestBody
"""Statuses, a condition on the body, or both."""


class RequestTemplateBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """The request that starts an attempt."""

    method: Literal["PATCH", "POST", "PUT"] = "POST"
    url: _UrlTemplate | None = None
    """Relative to the predict URL, which counts as a folder; `{id}`: the id of the attempt. Null: the predict URL."""
    headers: Annotated[dict[_HeaderName, _HeaderValue], Meta(max_length=20)] = {}
    """Sent with every request of the attempt. They are shown to admins: a secret belongs in `apiKey`."""
    body: Any = "$payload"
    """JSON of at most 16 KiB. `"$payload"` becomes the payload, `"$payload.a.b"` a part of it, `"$id"` the id of the
    attempt, a UUID. A key whose part the payload does not have is left out. Text that begins with `$` has two of it."""


class AcceptanceBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """The answer by which the server takes a job that it does later."""

    when: _Test = field(default_factory=lambda: [202])
    """By default status 202. A condition on the body alone holds for 2xx only."""
    id: _Path | None = None
    """Path to the server's id of the job; null: it knows the job by `$id`."""
    status_url: _Path | None = None
    """Path to the URL to poll, or the name of a header with it, such as `Location`; null: `poll.url`."""
    cancel_url: _Path | None = None
    """Path to the URL that cancels, or the name of a header with it; null: `cancel.url`."""


class PollBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How to ask for a job until it has ended.

    Without an answer, and after 5xx, the poll is repeated with growing pauses, up to `patience`. 429 and 503: later.
    404 and 410: the server lost the job, and the attempt has failed.
    """

    done: _Test | None = None
    """The job is done. Required, unless the answer is streamed."""
    failed: _Test | None = None
    """The task has failed, for good; beside `failWhen`."""
    method: Literal["GET", "POST"] = "GET"
    url: _UrlTemplate | None = None
    """With `{id}`: the id of the job. Relative to the predict URL, which counts as a folder. Null: the acceptance
    names it."""
    interval: Annotated[float, Meta(ge=0.2, le=600, extra={"unit": "seconds"})] = 1
    """Seconds between polls; more if the answer has a `Retry-After`."""
    patience: _Seconds = 60
    """Seconds of pauses without an answer about the job, after which the attempt has failed."""
    progress: _Path | None = None
    """Path to the progress."""
    progress_max: Annotated[float, Meta(gt=0, le=1_000_000_000)] = 100
    """The progress of a job that is done, such as 1 for fractions."""
    message: _Path | None = None
    """Path to a text that is shown with the progress."""
    logs: _Path | None = None
    """Path to the log so far: a text, or a list of lines."""
    result_url: _UrlTemplate | None = None
    """With `{id}`: where the result of a job that is done is (GET). Null: in the poll's answer."""


class CancellationBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """The request that stops a job."""

    method: _Method = "POST"
    url: _UrlTemplate | None = None
    """With `{id}`, unless the body has `$id`. Null: the acceptance names it."""
    body: Any = None
    """JSON with placeholders; null: no body."""
    confirmed: _Test | None = None
    """An answer that says that the job has stopped; null: none does."""


class StreamedPartsBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How to read a streamed answer: server-sent events, or JSON on lines. The data of an event may be text.

    The result is the last part that is an object, with the whole output in the place of its own.
    """

    done: _Test
    """The part that ends the stream well. A stream that ends without it is a failed attempt."""
    output: _Path | None = None
    """Path, of names alone, to the text that a part adds to the output."""
    progress: _Path | None = None
    """Path to the progress."""
    progress_max: Annotated[float, Meta(gt=0, le=1_000_000_000)] = 100
    """The progress of a task that is done, such as 1 for fractions."""
    message: _Path | None = None
    """Path to a text that is shown with the progress."""
    events: bool = False
    """True: a part is `{"event": NAME, "data": …}`, so that conditions can name events."""


class ExchangeBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How to talk to a server of the dialect `bare`."""

    request: RequestTemplateBody | None = None
    """Null: a POST of the payload."""
    result: _Path | None = None
    """Path to the result; null: the answer is the result. An answer without it is a failed attempt. A path with
    more than names and places finds a list."""
    fail_when: _Test | None = None
    """The task has failed, for good. Like the two below, it is tried on every answer, whatever its status."""
    retry_when: _Test | None = None
    """The attempt has failed; the task may be tried again."""
    busy_when: _Test | None = None
    """The server takes no task now, beside `busyStatus`: the task waits and loses no attempt."""
    error: _Path | None = None
    """Path to the reason of a failure; null: where servers usually have it."""
    accepted: AcceptanceBody | None = None
    """Null: the answer to the first request has the result."""
    poll: PollBody | None = None
    """Required with `accepted`."""
    cancel: CancellationBody | None = None
    """Null: closing the connection is all there is."""
    stream: StreamedPartsBody | None = None
    """Null: a streamed answer is read whole, as text."""


def shown_exchange(exchange: BareExchange) -> ExchangeBody:
    """Return a stored exchange as admins write it."""
    return ExchangeBody(
        request=_shown_request(exchange.request) if exchange.request != RequestTemplate() else None,
        result=exchange.result or None,
        fail_when=_shown_test(exchange.fail_when),
        retry_when=_shown_test(exchange.retry_when),
        busy_when=_shown_test(exchange.busy_when),
        error=exchange.error or None,
        accepted=_shown_acceptance(exchange.accepted) if exchange.accepted else None,
        poll=_shown_poll(exchange.poll) if exchange.poll else None,
        cancel=_shown_cancellation(exchange.cancel) if exchange.cancel else None,
        stream=_shown_stream(exchange.stream) if exchange.stream else None,
    )


def _shown_request(request: RequestTemplate) -> RequestTemplateBody:
    return _without_defaults(
        RequestTemplateBody(
            method=request.method,  # type: ignore[arg-type]
            url=request.url or None,
            headers=request.headers,
            body=request.body,
        )
    )


def _shown_acceptance(accepted: Acceptance) -> AcceptanceBody:
    return AcceptanceBody(
        when=_shown(accepted.when),
        id=accepted.id or None,
        status_url=accepted.status_url or None,
        cancel_url=accepted.cancel_url or None,
    )


def _shown_poll(poll: Poll) -> PollBody:
    return _without_defaults(
        PollBody(
            done=_shown_test(poll.done),
            failed=_shown_test(poll.failed),
            method=poll.method,  # type: ignore[arg-type]
            url=poll.url or None,
            interval=poll.interval.total_seconds(),
            patience=poll.patience.total_seconds(),
            progress=poll.progress or None,
            progress_max=poll.progress_max,
            message=poll.message or None,
            logs=poll.logs or None,
            result_url=poll.result_url or None,
        )
    )


def _shown_cancellation(cancel: Cancellation) -> CancellationBody:
    return _without_defaults(
        CancellationBody(
            method=cancel.method,  # type: ignore[arg-type]
            url=cancel.url or None,
            body=cancel.body,
            confirmed=_shown_test(cancel.confirmed),
        )
    )


def _shown_stream(stream: StreamedParts) -> StreamedPartsBody:
    return _without_defaults(
        StreamedPartsBody(
            done=_shown(stream.done),
            output=stream.output or None,
            progress=stream.progress or None,
            progress_max=stream.progress_max,
            message=stream.message or None,
            events=stream.events,
        )
    )


def _shown_test(test: AnswerTest | None) -> list[int] | str | AnswerTestBody | None:
    return None if test is None else _shown(test)


def _shown(test: AnswerTest) -> list[int] | str | AnswerTestBody:
    if test.status and not test.body and not test.contains:
        return list(test.status)
    if test.body and not test.status and not test.contains:
        return test.body
    return AnswerTestBody(status=list(test.status) or None, body=test.body or None, contains=test.contains or None)


def _without_defaults(body: B) -> B:
    """Return a body whose values that equal defaults are the defaults themselves, which are left out."""
    for each in fields(body):
        if each.default is not NODEFAULT and getattr(body, each.name) == each.default:
            setattr(body, each.name, each.default)
    return body
