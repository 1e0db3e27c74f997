"""The body of an HTTP answer: decompressed, complete, and of no more bytes than a limit.

Sessions are opened with `auto_decompress=False`. aiohttp 3.14.5 takes the beginning of a gzip body for all of it, and
passes on a body of an encoding that it does not know as it came; either would become a result.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterator

import aiohttp

from .connections import Response

STEP_BYTES = 64 * 1024
"""Decompressed at once, so that a decompression bomb bursts at the limit."""
GZIP, DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS
ENCODINGS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": DEFLATE}
"""Content-Encoding (RFC 9110, 8.4.1) to the window bits of zlib."""


class AnswerTooLarge(Exception):
    """An answer is longer than the limit; its connection is closed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit} bytes")
        self.limit = limit
        """Bytes that would have been accepted."""


class BadEncoding(aiohttp.ClientPayloadError):
    """A body is not, or not completely, compressed as its Content-Encoding says."""


async def read_capped(response: Response, limit: int) -> bytes:
    """Return the whole body, decompressed. Raises AnswerTooLarge above `limit` bytes, and closes the connection.

    Holds at most `limit` bytes and about 100 KiB more. Raises BadEncoding, and whatever reading raises.
    """
    if response.headers.get("Content-Encoding"):
        body = bytearray()
        async for chunk in chunks(response, limit):
            body += chunk
        return bytes(body)
    _check(response, response.content_length or 0, limit)
    content = response.content
    whole = await content.readany()
    _check(response, len(whole), limit)
    if content.at_eof() and content.exception() is None:  # a reset ends it, too, and is raised by the next read
        return whole
    body = bytearray(whole)
    while chunk := await content.readany():
        _check(response, len(body) + len(chunk), limit)
        body += chunk
    return bytes(body)


async def chunks(response: Response, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, decompressed. Raises what `read_capped` raises.

    The limit counts for the body as it is sent, and for what is in it.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *ENCODINGS):
        raise BadEncoding(f"unknown Content-Encoding {encoding!r}")
    inflation = _Inflation(ENCODINGS[encoding]) if encoding in ENCODINGS else None
    _check(response, response.content_length or 0, limit)
    sent = size = 0
    async for chunk in response.content.iter_any():
        sent += len(chunk)
        _check(response, sent, limit)
        for piece in [chunk] if inflation is None else inflation.feed(chunk):
            size += len(piece)
            _check(response, size, limit)
            yield piece
    if inflation is not None:
        yield inflation.end()


def _check(response: Response, size: int, limit: int) -> None:
    if size > limit:
        response.close()
        raise AnswerTooLarge(limit)


class _Inflation:
    """Decompresses one body. Both methods raise BadEncoding."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body hold, in steps."""
        while chunk:
            if self._decompressor is None:
                is_raw = self._window_bits == DEFLATE and chunk[0] & 0x0F != zlib.DEFLATED
                # Some servers leave out zlib's header around `deflate`.
                self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else self._window_bits)
            elif self._decompressor.eof:
                if self._window_bits == DEFLATE:
                    raise BadEncoding("bytes after the end of the compressed body")
                self._decompressor = zlib.decompressobj(self._window_bits)  # gzip may have several members
            try:
                piece = self._decompressor.decompress(chunk, STEP_BYTES)
            except zlib.error as error:
                raise BadEncoding(str(error)) from None
            chunk = self._decompressor.unconsumed_tail or self._decompressor.unused_data
            if piece:
                yield piece

    def end(self) -> bytes:
        """Return the rest at the end of the body."""
        if self._decompressor is None:
            return b""  # an empty body
        rest = self._decompressor.flush()
        if not self._decompressor.eof:
            raise BadEncoding("the compressed body is cut")
        return rest
