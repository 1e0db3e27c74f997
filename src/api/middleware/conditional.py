"""Entity tags for those who poll: an answer that has not changed since is a 304 without a body (RFC 9110, 13)."""

from __future__ import annotations

import hashlib
from typing import Any

from .edge import App


class Conditional:
    """ASGI application around the application: tags whatever JSON a GET is answered with."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Any = None

        async def send_tagged(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_tagged(message):
                start = message
                return
            if start is None or message.get("more_body"):
                if start is not None:
                    await send(start)
                    start = None
                await send(message)
                return
            body = message.get("body", b"")
            tag = b'"%b"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
            start["headers"] = [*start["headers"], (b"etag", tag)]
            if tag in _known(scope):
                start["status"] = 304
                start["headers"] = [header for header in start["headers"] if header[0].lower() not in OF_A_BODY]
                message = {**message, "body": b""}
            await send(start)
            start = None
            await send(message)

        await self._app(scope, receive, send_tagged)


OF_A_BODY = (b"content-length", b"content-type")


def _is_tagged(message: Any) -> bool:
    is_json = any(name.lower() == b"content-type" and b"json" in value for name, value in message["headers"])
    return is_json and message["status"] == 200


def _known(scope: Any) -> set[bytes]:
    """Return the tags of the answers that the caller has: `If-None-Match`, compared weakly."""
    given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
    return {tag.strip().removeprefix(b"W/") for tag in given.split(b",") if tag.strip()}
