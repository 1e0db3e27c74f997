"""The outermost layer of every request: its id, its measurement, and headers that every answer carries."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ...clock import unique_id
from ...runtime import metrics
from ...runtime.metrics import labelled

log = structlog.get_logger(__name__)

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

API_POLICY = b"default-src 'none'; frame-ancestors 'none'"
DOCS_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; frame-ancestors 'none'"
)
_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]

ENCODED = ("/api/projects/", "/api/owners/")
"""Where a segment of the path is any text: it stays as it was sent, and the route decodes it."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def request_id(scope: Any) -> str:
    """Return the id of a request: the caller's `X-Request-Id` where it is usable, else one of ours."""
    found: str = scope["taskstream.request_id"]
    return found


class RequestMiddleware:
    """ASGI application around the application."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the HTTP server leaves the body out by itself
        if scope["path"].startswith(ENCODED):
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        started = time.perf_counter()
        identifier = _identifier(scope)
        scope["taskstream.request_id"] = identifier
        status = 500
        extra = [*_COMMON, (b"x-request-id", identifier.encode()), *_by_path(scope["path"])]

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            elapsed = time.perf_counter() - started
            route = scope.get("path_template") or "unmatched"
            labelled(metrics.requests, scope["method"], route, status).inc()
            labelled(metrics.request_seconds, route).observe(elapsed)
            if status >= 500:
                log.warning("request", id=identifier, method=scope["method"], route=route, status=status)
            else:
                log.debug("request", id=identifier, method=scope["method"], route=route, status=status)


def _identifier(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
            return bytes(value).decode()
    return unique_id()


def _by_path(path: str) -> list[tuple[bytes, bytes]]:
    if path.startswith("/docs"):
        return [(b"content-security-policy", DOCS_POLICY)]
    return [(b"content-security-policy", API_POLICY), (b"cache-control", b"no-store")]
