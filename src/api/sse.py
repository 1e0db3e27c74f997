"""Server-sent events (WHATWG HTML, 9.2), in the form that all common clients can read.

Every block has `data`, one line of JSON: npm `eventsource` forgets an `id` that comes without data, and
`@microsoft/fetch-event-source` passes a block without data on, as an empty message. So `retry` is part of the first
block, and a heartbeat is a comment without the blank line that ends a block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from litestar.response import Stream

from ..clock import utc_now
from ..events.json_text import compact
from .auth.authenticator import Identity

STREAM_TYPE = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""`X-Accel-Buffering` keeps proxies such as nginx from delaying events."""
HEARTBEAT = b": heartbeat\n"
RETRY = b"retry: 1000\n"
"""A browser reconnects after this many milliseconds."""
_SEPARATORS = {separator.encode(): f"\\u{ord(separator):04x}".encode() for separator in "\u0085\u2028\u2029"}
"""Ends of lines for clients that split text as Python's `splitlines` does; in JSON they occur only within strings."""


def block(data: bytes, event_id: str = "", *, is_first: bool = False) -> bytes:
    """Return a JSON text as one block of a stream. `is_first`: it also says when to reconnect."""
    line = compact(data)
    if not line.isascii():
        for separator, escape in _SEPARATORS.items():
            line = line.replace(separator, escape)
    id_line = b"id: %b\n" % event_id.encode() if event_id else b""
    return b"%b%bdata: %b\n\n" % (RETRY if is_first else b"", id_line, line)


EXPIRED = block(b'{"type":"expired","error":"the token has expired: connect again with a new one"}')
"""The last block of a stream whose token has expired. It has no id: a client resumes after the block before."""


def event_stream(blocks: AsyncGenerator[bytes, None], user: Identity, last: bytes = EXPIRED) -> Stream:
    """Return blocks as server-sent events. If the user's token expires before their end, `last` is the last one."""
    return Stream(until_expiry(blocks, user, last), media_type=STREAM_TYPE, headers=STREAM_HEADERS)


async def until_expiry(blocks: AsyncGenerator[bytes, None], user: Identity, last: bytes) -> AsyncGenerator[bytes, None]:
    """Yield blocks to their end, or until the user's token expires; then `last`."""
    expiry = _Expiry(user.seconds_left(utc_now()))
    try:
        while not expiry.is_past:
            expiry.waiting = asyncio.current_task()
            try:
                made = await anext(blocks, None)
            except asyncio.CancelledError:
                if not expiry.took_back_its_cancellation():
                    raise
                break
            finally:
                expiry.waiting = None
            if made is None:
                return
            yield made
        yield last
    finally:
        expiry.close()
        await blocks.aclose()


class _Expiry:
    """One timer for all waits of a stream: `asyncio.timeout` around each would cost a third of an event's price."""

    def __init__(self, seconds: float) -> None:
        self.is_past = False
        self.waiting: asyncio.Task[object] | None = None
        """The task that waits for the next block; None while a block is being sent."""
        self._cancelled: asyncio.Task[object] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._come)

    def close(self) -> None:
        self._timer.cancel()

    def took_back_its_cancellation(self) -> bool:
        """Return True if the expiry alone ended the wait; False if others want the task to end, too."""
        return self._cancelled is not None and self._cancelled.uncancel() == 0

    def _come(self) -> None:
        self.is_past = True
        if self.waiting is not None:
            self._cancelled = self.waiting
            self.waiting.cancel()
