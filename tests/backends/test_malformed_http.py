"""An answer that is not HTTP is a failure of the wire, described as what it is; no part of it becomes a result."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import dialect_of
from taskstream.backends.dialects.dialect import Answer, Completed, Failed, Update
from taskstream.backends.egress import EgressPolicy
from taskstream.events.server import ServerRegistered

from .test_taskstream_answers import CALL

OK = b"HTTP/1.1 200 OK\r\n"
ZIPPED = gzip.compress(b"It was a dark night. " * 100, mtime=0)
NO_HTTP = "the server's answer is not valid HTTP"
RESET = b"<reset>"
BROKEN_OFF = "the server broke off its answer"

Call = Callable[[bytes], Any]


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """Return a function that calls a server which answers with these bytes and closes the connection."""
    said = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        body, is_reset, _ = said.partition(RESET)
        writer.write(body)
        await writer.drain()
        if is_reset:
            # A linger time of 0 makes the end of the connection a reset.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def ignore(update: Update) -> None:
        pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
    registered = ServerRegistered(server_id="s1", name="", provider="", predict_url=url, health_url=url)
    async with server, EgressPolicy(allow_private=True).session() as session:
        backend = BackendClient(session, 1_000_000, health_timeout_seconds=30)

        async def send(answer: bytes) -> Answer:
            nonlocal said
            said = answer
            deadline = datetime.now(UTC) + timedelta(seconds=30)
            return await backend.call(dialect_of(registered), registered, replace(CALL, deadline=deadline), ignore)

        yield send


MALFORMED: list[tuple[str, bytes, str]] = [
    ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n", f"{NO_HTTP}: Bad status line"),
    ("HTTP/2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", f"{NO_HTTP}: Bad status line"),
    ("TLS", b"\x15\x03\x03\x00\x02\x02\x46", f"{NO_HTTP}: Bad status line"),
    ("HTTP/0.9", b"<html>hello</html>", f"{NO_HTTP}: Bad status line"),
    ("a word for a status", b"HTTP/1.1 fine\r\n\r\n", f"{NO_HTTP}: Bad status line"),
    ("a status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", f"{NO_HTTP}: Bad status line"),
    ("a header without a colon", OK + b"nonsense\r\n\r\n", f"{NO_HTTP}: Invalid header token"),
    ("a NUL in a header", OK + b"X: a\x00b\r\nContent-Length: 2\r\n\r\n{}", NO_HTTP),
    ("a word for a length", OK + b"Content-Length: two\r\n\r\n{}", NO_HTTP),
    ("two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", NO_HTTP),
    ("length and chunks", OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", NO_HTTP),
    ("a bad chunk", OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", NO_HTTP),
    ("a long status line", b"HTTP/1.1 200 " + b"O" * 20_000 + b"\r\n\r\n", f"{NO_HTTP}: Got more than"),
    ("too many headers", OK + b"".join(b"X%d: 1\r\n" % n for n in range(5_000)) + b"\r\n", f"{NO_HTTP}: Too many"),
    ("1,001 of 102", 1_001 * b"HTTP/1.1 102 \r\n\r\n", f"{NO_HTTP}: more than 1000 informational answers"),
    ("a short body", OK + b"Content-Length: 20\r\n\r\n{}", BROKEN_OFF),
    ("a cut chunk", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}", BROKEN_OFF),
    ("no last chunk", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", BROKEN_OFF),
    ("a reset in text without a length", OK + b"Content-Type: text/plain\r\n\r\nIt was" + RESET, BROKEN_OFF),
    ("a reset after JSON without a length", OK + b"Content-Type: application/json\r\n\r\n{}" + RESET, BROKEN_OFF),
    ("a reset instead of a body", b"HTTP/1.0 200 OK\r\n\r\n" + RESET, BROKEN_OFF),
    ("nothing", b"", "the server closed the connection without an answer"),
]


@pytest.mark.parametrize(("answer", "says"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
async def test_malformed_http_is_described_and_counts_as_a_failure_of_the_wire(
    call: Call, answer: bytes, says: str
) -> None:
    found = await call(answer)

    assert isinstance(found, Failed)
    assert found.kind == "unreachable"
    assert found.error.startswith(says)
    assert "connection to the server failed" not in found.error
    assert "\n" not in found.error
    assert len(found.error) < 150


def compressed(encoding: str, body: bytes, media_type: str = "text/plain") -> bytes:
    return OK + b"Content-Type: %b\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        media_type.encode(),
        encoding.encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "answer",
    [compressed("gzip", b"It was"), compressed("deflate", b"\xff\xff"), compressed("gzip", ZIPPED[:-12] + b"x" * 12)],
    ids=["gzip", "deflate", "checksum"],
)
async def test_a_body_that_is_not_compressed_as_it_says_is_no_result(call: Call, answer: bytes) -> None:
    found = await call(answer)

    assert isinstance(found, Failed)
    assert found.error == "the server's answer is not compressed as its Content-Encoding says"


@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream"])
async def test_a_compressed_body_that_is_cut_is_no_result(call: Call, media_type: str) -> None:
    for cut in (10, 20, len(ZIPPED) - 8, len(ZIPPED) - 1):
        found = await call(compressed("gzip", ZIPPED[:cut], media_type))

        assert isinstance(found, Failed), cut
        assert found.kind == "unreachable"


@pytest.mark.parametrize("encoding", ["br", "zstd", "rot13", "gzip, br"])
async def test_a_compression_that_was_not_asked_for_is_no_result(call: Call, encoding: str) -> None:
    found = await call(compressed(encoding, b"It was"))

    assert isinstance(found, Failed)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", ZIPPED),
        ("x-gzip", ZIPPED),
        ("GZIP", gzip.compress(b"It was a dark night. " * 50, mtime=0) * 2),
        ("deflate", zlib.compress(b"It was a dark night. " * 100)),
        ("identity", b"It was a dark night. " * 100),
    ],
)
async def test_a_compressed_body_is_understood(call: Call, encoding: str, body: bytes) -> None:
    found = await call(compressed(encoding, body))

    assert isinstance(found, Completed)
    assert b"It was a dark night. " * 100 in found.result
