"""Answers that contain large results or files, sent piece by piece as the object store gives them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from ..errors import RangeNotSatisfiable
from .middleware import has_current, is_head, until_gone
from .ranges import ByteRange, read_range

Headers: TypeAlias = list[tuple[bytes, bytes]]


class Openable(Protocol):
    """A bucket of objects, or what reads from one."""

    def opened(
        self, object_name: str, user: str, start: int = 0, end: int | None = None
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


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

    def __init__(
        self,
        results: Openable,
        parts: Sequence[bytes | StoredPart],
        headers: Headers,
        *,
        has_ranges: bool = False,
        tag: bytes = b"",
    ) -> None:
        """`has_ranges`: a client may ask for a range of the bytes. There must be one part then.

        `tag`: the entity tag; default: made of what the parts are.
        """
        self._results = results
        self._parts = parts
        tag = tag or b'"%b"' % hashlib.blake2b(b"".join(map(_named, parts)), digest_size=12).hexdigest().encode()
        self._headers = [*headers, (b"etag", tag)]
        self._tag = tag
        self._size = sum(_size(part) for part in parts)
        self._has_ranges = has_ranges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if has_current(scope, self._tag):
            await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", self._tag)]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        headers, status, size, wanted = list(self._headers), 200, self._size, None
        if self._has_ranges:
            headers.append((b"accept-ranges", b"bytes"))
            wanted = self._wanted(scope)
        if wanted is not None:
            status, size = 206, wanted.size
            headers.append((b"content-range", b"bytes %d-%d/%d" % (wanted.start, wanted.end - 1, self._size)))
        async with contextlib.aclosing(self._chunks(scope, wanted)) as chunks:
            first = await anext(chunks, b"")
            headers.append((b"content-length", b"%d" % size))
            await send({"type": "http.response.start", "status": status, "headers": headers})
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

    def _wanted(self, scope: Scope) -> ByteRange | None:
        """Return the range that a request asks for, None for the whole. Raises RangeNotSatisfiable."""
        if is_head(scope):
            return None
        named = {b"range": "", b"if-range": ""}
        named |= {name: value.decode("latin-1") for name, value in scope["headers"] if name in named}
        if named[b"if-range"] and named[b"if-range"].encode() != self._tag:
            return None  # what the client has a part of is something else
        wanted = read_range(named[b"range"], self._size)
        if wanted == "unsatisfiable":
            raise RangeNotSatisfiable(self._size)
        return wanted

    async def _chunks(self, scope: Scope, wanted: ByteRange | None) -> AsyncGenerator[bytes, None]:
        """Yield the body; before its first chunk, the first stored part has been opened."""
        async with contextlib.AsyncExitStack() as ahead:
            stored = [part for part in self._parts if isinstance(part, StoredPart)]
            first = await ahead.enter_async_context(self._open(stored[0], scope, wanted)) if stored else None
            for part in self._parts:
                if isinstance(part, bytes):
                    yield part if wanted is None else part[wanted.start : wanted.end]
                    continue
                content = first if first is not None else await ahead.enter_async_context(self._open(part, scope))
                first = None
                async for chunk in content:
                    yield chunk
                await ahead.aclose()

    def _open(
        self, part: StoredPart, scope: Scope, wanted: ByteRange | None = None
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        # The bearer of a link has no name.
        start, end = wanted or (0, None)
        return self._results.opened(part.object_name, scope["user"].subject or part.owner, start, end)


class LargeAnswer(Response[None]):
    """A payload, a result or a file alone, as the answer of a route. A client may ask for a range of its bytes."""

    def __init__(self, results: Openable, part: bytes | StoredPart, headers: Headers, tag: bytes = b"") -> None:
        super().__init__(None)
        self._body = LargeBody(results, [part], headers, has_ranges=True, tag=tag)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        return self._body


def attachment(name: str) -> tuple[bytes, bytes]:
    """Return the header with which a browser saves an answer under a name of letters, digits, dots and dashes."""
    return b"content-disposition", b'attachment; filename="%b"' % name.encode("ascii")


def _size(part: bytes | StoredPart) -> int:
    return len(part) if isinstance(part, bytes) else part.size_bytes


def _named(part: bytes | StoredPart) -> bytes:
    """Return what distinguishes a part from others: an object never changes."""
    return part if isinstance(part, bytes) else part.object_name.encode()
