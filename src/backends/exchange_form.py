"""The exchange of a registration: from what admins write to what is stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from ..errors import InvalidInput
from ..events.exchange import (
    Acceptance,
    AnswerTest,
    BareExchange,
    Cancellation,
    Poll,
    RequestTemplate,
    StreamedParts,
)
from ..events.server import ServerRegistered
from .call_headers import is_in_use
from .dialects.bare import Bare
from .dialects.json_paths import json_condition, json_path
from .dialects.templates import check_template, check_url_template, has_placeholder
from .exchange_body import (
    AcceptanceBody,
    AnswerTestBody,
    CancellationBody,
    ExchangeBody,
    PollBody,
    RequestTemplateBody,
    StreamedPartsBody,
)

T = TypeVar("T")
S = TypeVar("S")
_Test = list[int] | str | AnswerTestBody
_ID = "{id}"


def stored_exchange(body: ExchangeBody, key_header: str) -> BareExchange:
    """Return an exchange as it is stored. Raises InvalidInput, with the path in the registration.

    `key_header`: the header of the API key, in lower case.
    """
    where = "$.exchange"
    accepted = _if_given(body.accepted, lambda given: _acceptance(given, f"{where}.accepted"))
    stream = _if_given(body.stream, lambda given: _stream(given, f"{where}.stream"))
    poll = _if_given(body.poll, lambda given: _poll(given, f"{where}.poll"))
    cancel = _if_given(body.cancel, lambda given: _cancellation(given, f"{where}.cancel"))
    if (accepted is None) != (poll is None):
        missing = "accepted" if accepted is None else "poll"
        raise InvalidInput("is required: `accepted` and `poll` belong together", f"{where}.{missing}")
    if accepted is not None and poll is not None:
        if not poll.url and not accepted.status_url:
            raise InvalidInput("is required, as `accepted.statusUrl` is not set", f"{where}.poll.url")
        if poll.done is None and stream is None:
            raise InvalidInput("is required, as `stream` is not set", f"{where}.poll.done")
    if cancel is not None and not cancel.url and not (accepted and accepted.cancel_url):
        raise InvalidInput("is required, as `accepted.cancelUrl` is not set", f"{where}.cancel.url")
    return BareExchange(
        request=_request(body.request or RequestTemplateBody(), key_header, f"{where}.request"),
        result=_path(body.result, f"{where}.result"),
        fail_when=_test(body.fail_when, f"{where}.failWhen"),
        retry_when=_test(body.retry_when, f"{where}.retryWhen"),
        busy_when=_test(body.busy_when, f"{where}.busyWhen"),
        error=_path(body.error, f"{where}.error"),
        accepted=accepted,
        poll=poll,
        cancel=cancel,
        stream=stream,
    )


def check_exchange(server: ServerRegistered) -> None:
    """Raise InvalidInput for settings of a server that the dialect `bare` makes contradict each other."""
    if server.exchange is not None and server.dialect != Bare.name:
        raise InvalidInput(
            f'needs `dialect: "{Bare.name}"`; other dialects say how to talk to a server themselves', "$.exchange"
        )
    if server.dialect == Bare.name and server.reports_later:
        field = "callback" if server.callback else "async"
        raise InvalidInput(
            f"cannot be true: a server of the dialect `{Bare.name}` is polled, with `exchange.poll`", f"$.{field}"
        )


def _request(body: RequestTemplateBody, key_header: str, where: str) -> RequestTemplate:
    for name in body.headers:
        lower = name.lower()
        if lower in ("authorization", "cookie", key_header):
            raise InvalidInput(
                "must not carry a secret here, where admins see it: use `apiKey`", f"{where}.headers.{name}"
            )
        if is_in_use(lower) and lower not in ("accept", "user-agent"):
            raise InvalidInput("must not be a header that calls use for another purpose", f"{where}.headers.{name}")
    if len({name.lower() for name in body.headers}) < len(body.headers):
        raise InvalidInput("must have each header once", f"{where}.headers")
    return RequestTemplate(
        method=body.method,
        url=_url(body.url, f"{where}.url"),
        headers=dict(body.headers),
        body=_template(body.body, f"{where}.body"),
    )


def _acceptance(body: AcceptanceBody, where: str) -> Acceptance:
    when = _test(body.when, f"{where}.when")
    assert when is not None
    return Acceptance(
        when=when,
        id=_path(body.id, f"{where}.id"),
        status_url=_path_or_header(body.status_url, f"{where}.statusUrl"),
        cancel_url=_path_or_header(body.cancel_url, f"{where}.cancelUrl"),
    )


def _poll(body: PollBody, where: str) -> Poll:
    return Poll(
        done=_test(body.done, f"{where}.done"),
        failed=_test(body.failed, f"{where}.failed"),
        method=body.method,
        url=_url_of_job(body.url, f"{where}.url"),
        interval=timedelta(seconds=body.interval),
        patience=timedelta(seconds=body.patience),
        progress=_path(body.progress, f"{where}.progress"),
        progress_max=body.progress_max,
        message=_path(body.message, f"{where}.message"),
        logs=_path(body.logs, f"{where}.logs"),
        result_url=_url_of_job(body.result_url, f"{where}.resultUrl"),
    )


def _cancellation(body: CancellationBody, where: str) -> Cancellation:
    template = _template(body.body, f"{where}.body")
    names_job = has_placeholder(template, "$id")
    return Cancellation(
        method=body.method,
        url=_url(body.url, f"{where}.url") if names_job else _url_of_job(body.url, f"{where}.url"),
        body=template,
        confirmed=_test(body.confirmed, f"{where}.confirmed"),
    )


def _stream(body: StreamedPartsBody, where: str) -> StreamedParts:
    done = _test(body.done, f"{where}.done")
    assert done is not None
    output = _path(body.output, f"{where}.output")
    if output and json_path(output).names is None:
        raise InvalidInput("must be a path of names alone, as in `$.message.content`", f"{where}.output")
    return StreamedParts(
        done=done,
        output=output,
        progress=_path(body.progress, f"{where}.progress"),
        progress_max=body.progress_max,
        message=_path(body.message, f"{where}.message"),
        events=body.events,
    )


def _test(given: _Test | None, where: str) -> AnswerTest | None:
    match given:
        case None:
            return None
        case list():
            return AnswerTest(status=tuple(sorted(set(given))))
        case str():
            return AnswerTest(body=_condition(given, where))
        case _:
            if given.status is None and given.body is None and given.contains is None:
                raise InvalidInput("must have `status`, `body` or `contains`", where)
            return AnswerTest(
                status=tuple(sorted(set(given.status or ()))),
                body=_condition(given.body, f"{where}.body") if given.body is not None else "",
                contains=given.contains or "",
            )


def _condition(given: str, where: str) -> str:
    _checked(json_condition, given, where)
    return given


def _path(given: str | None, where: str) -> str:
    if given is not None:
        _checked(json_path, given, where)
    return given or ""


def _path_or_header(given: str | None, where: str) -> str:
    return _path(given, where) if given is None or given.startswith("$") else given


def _url(given: str | None, where: str) -> str:
    if given is not None:
        _checked(check_url_template, given, where)
    return given or ""


def _url_of_job(given: str | None, where: str) -> str:
    if given is not None and _ID not in given:
        raise InvalidInput(f"must have `{_ID}`: without it, it is about whatever job the server has", where)
    return _url(given, where)


def _template(given: S, where: str) -> S:
    _checked(check_template, given, where)
    return given


def _checked(check: Callable[[S], T], given: S, where: str) -> T:
    try:
        return check(given)
    except ValueError as error:
        raise InvalidInput(str(error), where) from None


def _if_given(given: S | None, read: Callable[[S], T]) -> T | None:
    return None if given is None else read(given)
