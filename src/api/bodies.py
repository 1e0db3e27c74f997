"""Bodies of requests, read and decoded; bodies of answers, encoded."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.exceptions import ClientException, HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Raw

from ..clock import secret_token
from ..streams.results import Results
from ..submission.body import parse_json_object
from ..wire.json_text import BYTE_ORDER_MARK
from ..wire.validation_errors import invalid, malformed
from .auth.access import ApiRequest
from .exchange import WHOLE
from .large_bodies import LargeBody, StoredPart
from .middleware import headers_of

T = TypeVar("T")
_JSON = (b"content-type", b"application/json")


class LargeResult:
    """A result in the object store, in the place of its JSON in an answer."""

    __slots__ = ("stored",)

    def __init__(self, stored: StoredPart) -> None:
        self.stored = stored


async def read_body(request: ApiRequest, most_bytes: int | None = None, too_large: str | None = None) -> bytes:
    """Return the body, without a leading byte order mark.

    The Content-Type is ignored: older clients send any. Raises 413 as soon as the body exceeds the limit: before
    anything is read if the Content-Length says so. `most_bytes`: a limit below the route's; `too_large`: its error.
    """
    headers = headers_of(request.scope)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HTTPException(status_code=415, detail="bodies must not be compressed; send it without Content-Encoding")
    limit = request.route_handler.resolve_request_max_body_size() if most_bytes is None else most_bytes
    if limit is not None and int(headers.get(b"content-length", b"0")) > limit:
        raise _too_large(most_bytes, too_large)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":  # the answer is not read
            raise ClientException("the body ended before it was complete")
        parts.append(message["body"])
        size += len(message["body"])
        if limit is not None and size > limit:
            raise _too_large(most_bytes, too_large)
        if not message["more_body"]:
            return b"".join(parts).removeprefix(BYTE_ORDER_MARK)


def _too_large(most_bytes: int | None, detail: str | None) -> HTTPException:
    if most_bytes is None:
        return RequestEntityTooLarge()
    return HTTPException(status_code=413, detail=detail or f"the body may have {most_bytes} bytes at most")


async def read_as(request: ApiRequest, shape: type[T], max_depth: int) -> T:
    """Return the body as a shape; an empty body counts as `{}`. Raises InvalidInput with the path."""
    return decoded_as((await read_body(request)).strip() or b"{}", shape, max_depth)


def decoded_as(body: bytes, shape: type[T], max_depth: int) -> T:
    """Return a body as a shape. Raises InvalidInput with the path."""
    parse_json_object(body, max_depth)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise invalid(error, shape) from None
    except msgspec.DecodeError as error:
        raise malformed(error, "body") from None


class JsonResponse(Response[Any]):
    """A shape as JSON: Litestar's own response without the cost of cookies, headers and media types.

    A LargeResult in it is sent as the JSON that it stands for.
    """

    results: Results

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        content, status, results = self.content, self.status_code, self.results

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            await answer_json(content, results, scope, receive, send, status or 200)

        return respond


async def answer_json(
    content: Any, results: Results, scope: Scope, receive: Receive, send: Any, status: int = 200
) -> None:
    """Answer with a shape as JSON; with a LargeResult in it as the JSON that it stands for, read from `results`."""
    large: list[StoredPart] = []
    mark = b""

    def marked(value: Any) -> Raw:
        nonlocal mark
        if not isinstance(value, LargeResult):
            raise NotImplementedError(f"{type(value)} has no JSON")  # as msgspec asks of an `enc_hook`
        mark = mark or b'"%b"' % secret_token().encode()
        large.append(value.stored)
        return Raw(mark)

    body = msgspec.json.encode(content, enc_hook=marked)
    if large:
        # Nobody can guess the mark, so nothing in the answer repeats it.
        first, *others = body.split(mark)
        parts = [first, *(part for pair in zip(large, others, strict=True) for part in pair)]
        await LargeBody(results, parts, [_JSON])(scope, receive, send)
        return
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
    if WHOLE in (scope.get("extensions") or ()):
        start["body"] = body
        await send(start)
        return
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def json_response(of_container: Results) -> type[JsonResponse]:
    """Return the class of answers that read large results there."""

    class Answer(JsonResponse):
        results = of_container

    return Answer
