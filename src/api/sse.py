"""Server-sent events (WHATWG HTML, 9.2), in the form that all common clients can read.

Every block has `data`, one line of JSON: npm `eventsource` forgets an `id` that comes without data, and
`@microsoft/fetch-event-source` passes a block without data on, as an empty message. So `retry` is part of the first
block, and a heartbeat is a comment without the blank line that ends a block.
"""

from __future__ import annotations

from ..events.json_text import compact

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
