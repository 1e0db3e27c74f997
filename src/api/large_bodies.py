"""Answers that contain large results or files, sent piece by piece as the object store gives them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from ..streams.results import Results
from .middleware import has_current, is_head, until_gone

Headers: TypeAlias = list[tuple[bytes, bytes]]


class StoredPart(NamedTuple):
    """A part of an answer that is in the object store."""

    object_name: str
    size_bytes: int
    owner: str
    """Owner token of its task."""


class LargeBody:
    """An ASGI application that answers with these parts, one after the other.

    Its memory does not grow with their length. A part that cannot be read is an error if it is the first stored one;
    later the answer is cut.
    """

    def __init__(self, results: Results, parts: Sequence[bytes | StoredPart], headers: Headers) -> None:
        self._results = results
        self._parts = parts
        tag = b'"%b"' % hashlib.blake2b(b"".join(map(_named, parts)), digest_size=12).hexdigest().encode()
        self._headers = [*headers, (b"etag", tag)]
        self._tag = tag
        self._size = sum(len(part) if isinstance(part, bytes) else part.size_bytes for part in parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if has_current(scope, self._tag):
            await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", self._tag)]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        async with contextlib.aclosing(self._chunks(scope)) as chunks:
            first = await anext(chunks)
            headers = [*self._headers, (b"content-length", b"%d" % self._size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if not is_head(scope):
                gone = asyncio.create_task(until_gone(receive), name="client-gone")
                try:
                    await send({"type": "http.response.body", "body": first, "more_body": True})
                    async for chunk in chunks:
                        if gone.done():
                            return
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                finally:
                    gone.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, scope: Scope) -> AsyncGenerator[bytes, None]:
        """Yield the body; before its first chunk, the first stored part has been opened."""
        async with contextlib.AsyncExitStack() as ahead:
            stored = [part for part in self._parts if isinstance(part, StoredPart)]
            first = await ahead.enter_async_context(self._open(stored[0], scope)) if stored else None
            for part in self._parts:
                if isinstance(part, bytes):
                    yield part
                    continue
                content = first if first is not None else await ahead.enter_async_context(self._open(part, scope))
                first = None
                async for chunk in content:
                    yield chunk
                await ahead.aclose()

    def _open(self, part: StoredPart, scope: Scope) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        # The bearer of a link has no name.
        return self._results.opened(part.object_name, scope["user"].subject or part.owner)


class LargeAnswer(Response[None]):
    """A result or a file alone, as the answer of a route."""

    def __init__(self, results: Results, part: bytes | StoredPart, headers: Headers) -> None:
        super().__init__(None)
        self._body = LargeBody(results, [part], headers)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        return self._body


def _named(part: bytes | StoredPart) -> bytes:
    """Return what distinguishes a part from others: an object never changes."""
    return part if isinstance(part, bytes) else part.object_name.encode()
