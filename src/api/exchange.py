"""One request and its answer, on uvicorn's protocol. An answer that is complete at once is one write to the socket."""

from __future__ import annotations

import re
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WHOLE: Final = "taskstream.whole"
"""ASGI extension: `http.response.start` may have the whole `body`, with its Content-Length. No message follows then."""
EXTENSIONS: Final[dict[str, dict[object, object]]] = {WHOLE: {}}
CLOSING: Final = (b"connection", b"close")
"""Default header of a server that closes each connection after its answer."""
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""In a head, besides line breaks, which are counted."""
COPIED_BYTES = 64 * 1024
"""A longer body is written after its head: the copy would cost more than the system call."""


class Exchange(RequestResponseCycle):
    """A request and its answer."""

    async def send(self, message: Any) -> None:
        if message["type"] != "http.response.start" or "body" not in message:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("an answer has begun already")
        self.response_started = True
        self.waiting_for_100_continue = False
        if CLOSING in self.default_headers:
            self.keep_alive = False
        head, body = self._head(message), message["body"]
        if self.scope["method"] == "HEAD":
            self.transport.write(head)
        elif len(body) <= COPIED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(self, message: Any) -> bytes:
        """Return status line and headers. Raises RuntimeError for a header that would break the answer."""
        lines = [b"%b: %b\r\n" % header for header in (*self.default_headers, *message["headers"])]
        if not self.keep_alive and CLOSING not in self.default_headers:
            lines.append(b"connection: close\r\n")
        head = b"".join((STATUS_LINE[message["status"]], *lines, b"\r\n"))
        count = len(lines) + 2
        if head.count(b"\r") != count or head.count(b"\n") != count or _FORBIDDEN.search(head):
            raise RuntimeError("a header has characters that HTTP does not allow")
        return head
