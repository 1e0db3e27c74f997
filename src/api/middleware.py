"""ASGI middleware: request ids, metrics and common headers of every request; entity tags for clients that poll."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from ..clock import unique_id
from ..runtime import metrics
from ..runtime.logs import Repeats, log_request
from ..runtime.metrics import labelled
from ..wire.trace import NO_CONTEXT, TraceContext, read_context
from .replicate_paths import ROOT as REPLICATE_ROOT
from .replicate_paths import with_one_spelling

log = structlog.get_logger(__name__)

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

API_POLICY = b"default-src 'none'; frame-ancestors 'none'"
DOCS_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; frame-ancestors 'none'"
)
CONSOLE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"media-src data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types console"
)
"""`data:` and `blob:` are images, sounds and videos of results, which the page has fetched. The one policy of
trusted types is for addresses of workers."""
_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]

ENCODED = ("/api/projects/", "/api/owners/")
"""Paths with a segment of any text. It stays percent-encoded until the route decodes it."""

METHODS = "methods"
"""Key of the methods of a path in the `opt` of Litestar's handler of OPTIONS, which knows the first one only."""
IS_HEAD = "taskstream.is_head"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
"""Key in the scope of a HEAD request, which is handled as a GET."""

ANSWERED = "taskstream.answered"
"""Key in the scope of a request whose answer has begun."""
_HEADERS = "taskstream.headers"

REVISION = "taskstream.revision"
"""Key in the scope of the revision of what an answer shows, for its `ETag`."""
MAY_TAKE_LONG = "taskstream.may_take_long"
"""Key in the scope of a request that waits for something to happen: it is not slow."""
UNREMARKABLE = frozenset({"/", "/health/live", "/health/ready", "/metrics"})
"""Routes that are called every few seconds by machines: their lines are of level debug."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def request_id(scope: Any) -> str:
    """Return the id of a request: the caller's `X-Request-Id` if it is well-formed, else a new one."""
    found: str = scope["taskstream.request_id"]
    return found


def headers_of(scope: Any) -> Mapping[bytes, bytes]:
    """Return the headers of a request by name, in lower case; the first of several with one name."""
    found: Mapping[bytes, bytes] | None = scope.get(_HEADERS)
    if found is None:
        found = scope[_HEADERS] = dict(reversed(scope["headers"]))
    return found


def trace_context(scope: Any) -> TraceContext:
    """Return the caller's trace context, an empty one if it sent none that is valid."""
    if b"traceparent" not in headers_of(scope):
        return NO_CONTEXT
    parents, states = (
        [value for given, value in scope["headers"] if given == name] for name in (b"traceparent", b"tracestate")
    )
    return read_context(parents, states)


def is_head(scope: Any) -> bool:
    """Return True if the body of the answer to a request is dropped."""
    return IS_HEAD in scope


async def until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when the client has disconnected. Whatever else it sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


class RequestMiddleware:
    """Outermost ASGI middleware: gives each request an id, measures it, and adds the common headers."""

    def __init__(self, app: App, slow_seconds: float) -> None:
        """`slow_seconds`: the time to the beginning of an answer above which the request is logged as slow."""
        self._app = app
        self._slow_seconds = slow_seconds
        self._refused = Repeats()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}  # the HTTP server drops the body
        if scope["path"].startswith(ENCODED):
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        elif scope["path"].startswith(REPLICATE_ROOT):
            scope = with_one_spelling(scope)
        started = time.perf_counter()
        identifier = _identifier(scope)
        scope["taskstream.request_id"] = identifier
        status = 500
        answered = 0.0
        extra = (b"x-request-id", identifier.encode()), *_by_path(scope["path"])

        async def send_with_headers(message: Any) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = time.perf_counter()
                scope[ANSWERED] = True
                message["headers"] = [*message.get("headers", ()), *extra]
                if REVISION in scope and scope["method"] != "GET" and status == 200:
                    message["headers"].append((b"etag", b'"%b"' % scope[REVISION]))
                if status == 405 or scope["method"] == "OPTIONS":
                    message["headers"] = [_with_all_methods(scope, *header) for header in message["headers"]]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            elapsed = time.perf_counter() - started
            route = scope.get("path_template") or "unmatched"
            method = scope["method"] if scope["method"] in _METHODS else "other"  # a client may send any text
            labelled(metrics.requests, method, route, status).inc()
            labelled(metrics.request_seconds, route).observe(elapsed)
            is_slow = (answered or started + elapsed) - started > self._slow_seconds and MAY_TAKE_LONG not in scope
            self._log(scope, identifier, route, status, elapsed, is_slow=is_slow)

    async def _serve_socket(self, scope: Any, receive: Any, send: Any) -> None:
        started = time.perf_counter()
        identifier = _identifier(scope)
        try:
            await self._app(scope, receive, send)
        finally:
            elapsed = time.perf_counter() - started
            status = 101 if scope.get("user") is not None else 403
            self._log(scope, identifier, scope.get("path_template") or "unmatched", status, elapsed, is_slow=False)

    def _log(
        self, scope: Any, identifier: str, route: str, status: int, elapsed_seconds: float, *, is_slow: bool
    ) -> None:
        """Log a request: never its path or query, which may have a token, and of a stranger's errors only some."""
        user = scope.get("user")
        caller = user.subject if user is not None and user.subject else None
        method = scope.get("method", "WEBSOCKET")
        milliseconds = round(elapsed_seconds * 1000, 1)
        if caller is not None and status < 500 and not is_slow and route not in UNREMARKABLE and method != "OPTIONS":
            log_request(id=identifier, caller=caller, method=method, route=route, status=status, ms=milliseconds)
            return
        told = {"id": identifier, "caller": caller, "method": method, "route": route, "status": status}
        if status >= 500:
            log.warning("request", **told, ms=milliseconds)
        elif is_slow:
            log.warning("request.slow", **told, ms=milliseconds)
        elif route in UNREMARKABLE or method == "OPTIONS":
            log.debug("request", **told, ms=milliseconds)
        elif status < 400:
            log_request(id=identifier, caller=caller, method=method, route=route, status=status, ms=milliseconds)
        elif (omitted := self._refused.admit(status)) is not None:
            log.info("request", **told, ms=milliseconds, **({"suppressed": omitted} if omitted else {}))


def _with_all_methods(scope: Any, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header; `Allow` sorted, with every method of the route, and HEAD where there is GET."""
    if name.lower() != b"allow":
        return name, value
    methods = {method.strip() for method in value.decode().split(",")}
    if scope["method"] == "OPTIONS":
        methods |= scope["route_handler"].opt.get(METHODS, set())
    return name, ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))).encode()


def _identifier(scope: Any) -> str:
    given = headers_of(scope).get(b"x-request-id")
    return bytes(given).decode() if given is not None and _GIVEN_ID.fullmatch(given) else unique_id()


_OF_DOCS = (*_COMMON, (b"content-security-policy", DOCS_POLICY))
_OF_API = (*_COMMON, (b"content-security-policy", API_POLICY), (b"cache-control", b"no-store"))


_OF_CONSOLE = (*_COMMON, (b"content-security-policy", CONSOLE_POLICY))


def _by_path(path: str) -> tuple[tuple[bytes, bytes], ...]:
    if path == "/console" or path.startswith("/console/"):
        return _OF_CONSOLE
    return _OF_DOCS if path.startswith("/docs") else _OF_API


class Conditional:
    """ASGI middleware that tags JSON answers to a GET, and answers 304 if the client has this one (RFC 9110, 13)."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Any = None

        async def send_tagged(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _gets_tag(message):
                if "body" in message:
                    _tag(scope, message, message)
                    await send(message)
                    return
                start = message
                return
            if start is None or message.get("more_body"):
                if start is not None:
                    await send(start)
                    start = None
                await send(message)
                return
            message = {"body": b"", **message}
            _tag(scope, start, message)
            await send(start)
            start = None
            await send(message)

        await self._app(scope, receive, send_tagged)


def _tag(scope: Any, start: Any, last: Any) -> None:
    """Tag an answer that begins and ends with these messages; take the body out if the client has it already."""
    digest = hashlib.blake2b(last["body"], digest_size=12).hexdigest().encode()
    tag = b'"%b.%b"' % (scope[REVISION], digest) if REVISION in scope else b'"%b"' % digest
    start["headers"] = [*start["headers"], (b"etag", tag)]
    if tag in _known_tags(scope):
        start["status"] = 304
        start["headers"] = [header for header in start["headers"] if header[0].lower() not in _BODY_HEADERS]
        last["body"] = b""


_BODY_HEADERS = (b"content-length", b"content-type")


def has_current(scope: Any, tag: bytes) -> bool:
    """Return True if the client of a GET has the answer with this entity tag already."""
    return scope["method"] == "GET" and tag in _known_tags(scope)


def _gets_tag(message: Any) -> bool:
    headers = {name.lower(): value for name, value in message["headers"]}
    return message["status"] == 200 and b"json" in headers.get(b"content-type", b"") and b"etag" not in headers


def _known_tags(scope: Any) -> set[bytes]:
    """Return the tags in `If-None-Match`, which are compared weakly."""
    given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
    return {tag.strip().removeprefix(b"W/") for tag in given.split(b",") if tag.strip()}
