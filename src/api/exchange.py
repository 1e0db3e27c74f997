"""One request and its answer, on uvicorn's protocol. An answer that is complete at once is one write to the socket."""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

WHOLE: Final = "taskstream.whole"
"""ASGI extension: `http.response.start` may have the whole `body`, with its Content-Length. No message follows then."""
EXTENSIONS: Final[dict[str, dict[object, object]]] = {WHOLE: {}}
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
        headers = [*self.default_headers, *message["headers"]]
        names = [name.lower() for name, _ in headers]
        values = [value for _, value in headers]
        if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
            raise RuntimeError("a header has characters that HTTP does not allow")
        if b"connection" in names:
            self.keep_alive = False  # the only value that is ever sent is `close`
        elif not self.keep_alive:
            names.append(b"connection")
            values.append(b"close")
        lines = [b"%b: %b\r\n" % line for line in zip(names, values, strict=True)]
        return b"".join((STATUS_LINE[message["status"]], *lines, b"\r\n"))
