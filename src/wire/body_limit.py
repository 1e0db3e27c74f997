"""A limit on the bytes of an HTTP answer."""

from __future__ import annotations

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
