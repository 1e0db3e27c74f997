"""Limits of bodies: bytes of an HTTP answer, and levels of nested JSON."""

from __future__ import annotations

from typing import Any

import aiohttp


class AnswerTooLarge(Exception):
    """An answer is longer than the limit; its connection is closed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit} bytes")
        self.limit = limit
        """Bytes that would have been accepted."""


async def read_capped(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the whole body, decompressed. Raises AnswerTooLarge above `limit` bytes, and closes the connection.

    Holds at most `limit` bytes and about 100 KiB more.
    """
    announced = response.content_length
    if announced is not None and announced > limit:
        response.close()
        raise AnswerTooLarge(limit)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise AnswerTooLarge(limit)
    return bytes(body)


# What is stored must decode wherever it is read. Decoders stop at about 1,000 levels, and earlier the deeper the call
# stack already is.


def deeper_than(limit: int, body: bytes, content: Any) -> bool:
    """Return True if `content`, decoded from `body`, has more than `limit` levels."""
    # Each level has a bracket, so a body with few brackets needs no measuring.
    return body.count(b"{") + body.count(b"[") > limit and depth(content) > limit


def depth(content: Any) -> int:
    """Return the number of nested levels of objects and arrays, 0 for a scalar."""
    level = 0
    current = [content]
    while containers := [value for value in current if isinstance(value, dict | list)]:
        level += 1
        current = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
    return level
