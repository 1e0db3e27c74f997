"""One call outside the queue, to check a registration: what was sent, what came back, and what it means."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from msgspec import Struct

from ..wire.connections import Received
from .connection_errors import describe, local_lack
from .dialects.dialect import Request, Turn
from .egress import refused_by_policy
from .exchanges import CancelReport, Exchanges
from .redaction import REDACTED, without_keys

MOST_SHOWN_BYTES = 64 * 1024
"""Bytes of each body that are shown."""
MOST_SHOWN = 20
"""Requests that are shown. A server that is polled gets many."""
MOST_HEADERS = 100
LONGEST_HEADER = 1_000
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-ai-key"})


class ShownBody(Struct, kw_only=True):
    """The beginning of a body."""

    content: bytearray
    length: int = 0
    """Bytes that were seen of it."""

    def add(self, piece: bytes) -> None:
        self.length += len(piece)
        self.content += piece[: max(MOST_SHOWN_BYTES - len(self.content), 0)]


class ShownAnswer(Struct, kw_only=True):
    status: int
    headers: dict[str, str]
    body: ShownBody


class ShownExchange(Struct, kw_only=True):
    """A request and its answer, without keys."""

    method: str
    url: str
    headers: dict[str, str]
    body: ShownBody
    began_ms: int
    """Milliseconds since the beginning of the trial."""
    answer: ShownAnswer | None = None
    """None: there was none."""
    error: str = ""
    """Why there is no answer, or only a part."""


class Trial(Exchanges):
    """An attempt that keeps what is sent and received. `run` it once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.shown: list[ShownExchange] = []
        self.left_out = 0
        """Requests that are not shown."""
        self._began = time.perf_counter()

    async def _ask(self, request: Request) -> Received:
        if len(self.shown) >= MOST_SHOWN:
            self.left_out += 1
            return await super()._ask(request)
        shown = ShownExchange(
            method=request.method,
            url=self._cleaned(request.url),
            headers=self._headers_shown(self._headers_of(request)),
            body=self._whole(request.body or b""),
            began_ms=round((time.perf_counter() - self._began) * 1000),
        )
        self.shown.append(shown)
        response = await super()._ask(request)
        body = ShownBody(content=bytearray())
        shown.answer = ShownAnswer(status=response.status, headers=self._headers_shown(response.headers), body=body)
        response.content = _Copied(response.content, body)  # type: ignore[assignment]
        return response

    async def _cancel(self) -> CancelReport:
        self.cancelled = report = await super()._cancel()
        return report

    def _lost(self, error: Exception) -> Turn:
        turn = super()._lost(error)
        if self.shown and not self.left_out:
            refused = "the egress rules refuse the server's address" if refused_by_policy(error) else ""
            self.shown[-1].error = refused or local_lack(error) or describe(error)
        return turn

    def _headers_shown(self, headers: Mapping[str, str]) -> dict[str, str]:
        secret = SECRET_HEADERS | {self._server.auth_header.lower()}
        return {
            name[:LONGEST_HEADER]: REDACTED.decode()
            if name.lower() in secret
            else self._cleaned(value)[:LONGEST_HEADER]
            for name, value in _first(headers.items(), MOST_HEADERS)
        }

    def _whole(self, content: bytes) -> ShownBody:
        body = ShownBody(content=bytearray())
        body.add(content)
        return body

    def _cleaned(self, text: str) -> str:
        return without_keys(text.encode(errors="replace"), self._call.keys).decode(errors="replace")

    def text_of(self, body: ShownBody) -> str | None:
        """Return a body as text without keys; None if it is none.

        A key at the end of what is shown, cut, is removed with it.
        """
        content = bytes(body.content)
        if b"\0" in content:
            return None
        if body.length > len(content):
            longest = max((len(key) for key in self._call.keys), default=0)
            content = content[: max(len(content) - 6 * longest, 0)]  # escaped, a key is at most six times as long
        return without_keys(content, self._call.keys).decode(errors="replace")


class _Copied:
    """A body that is read as before, and copied as far as it is shown."""

    def __init__(self, content: Any, body: ShownBody) -> None:
        self._content = content
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def readany(self) -> bytes:
        piece: bytes = await self._content.readany()
        self._body.add(piece)
        return piece

    async def iter_any(self) -> AsyncIterator[bytes]:
        async for piece in self._content.iter_any():
            self._body.add(piece)
            yield piece


def _first(items: Iterable[tuple[str, str]], count: int) -> Iterable[tuple[str, str]]:
    return (item for _, item in zip(range(count), items, strict=False))
