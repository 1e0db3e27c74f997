"""The transport to backend servers: sends what a dialect builds and reads what comes back, within size and time."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

import aiohttp
from msgspec.structs import replace

from ..clock import utc_now
from ..events.server import ServerRegistered
from ..wire.body_limit import AnswerTooLarge, BadEncoding, chunks, read_capped
from ..wire.connections import ALONE, Response, UnaskedAnswer, ask, doubt, is_certain, keep
from .dialects import dialect_of
from .dialects.dialect import Answer, BadAnswer, Call, Failed, Probe, Reply, Request, StreamReader, Unsent, Update
from .dialects.framing import FRAMINGS, Texts
from .health_expectation import MOST_BYTES, read_health
from .redaction import without_keys

LONGEST_PROGRESS = 256 * 1024
"""Bytes of one update that does not end the attempt: it becomes a message of NATS, with others it is summed up with."""
LONGEST_ERROR = 300
"""Characters of what is wrong with a streamed answer."""
UPDATES_AT_ONCE = 64
"""Updates of one stream that are passed on before anything else gets its turn: they may arrive faster than that."""
CANCEL_SECONDS = 5.0
"""How long a server may take to answer a request to cancel; then its connection is closed."""

OUT_OF_MEMORY = Failed(kind="error", error="this worker is out of memory", is_neutral=True)
"""The server may have got the request: the attempt counts as failed, but not against the server."""

OnUpdate: TypeAlias = Callable[[Update], Awaitable[None]]
"""Takes progress as it comes. While it waits, what the server sends waits in the connection."""


class BackendClient:
    """Calls servers, each in its dialect, over one session.

    A health check has a connection of its own. A call's connection serves further calls if its answer names the task.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        max_result_bytes: int,
        health_timeout_seconds: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._session = session
        self._max_result_bytes = max_result_bytes
        self._health_timeout_seconds = health_timeout_seconds
        self._now = now

    async def call(self, server: ServerRegistered, call: Call, on_update: OnUpdate) -> Answer:
        """Send a task to a server and return what came of it; never raises for anything the server does.

        A streamed answer is read as it comes, and its progress passed to `on_update`. If the caller is cancelled, so is
        the attempt: by its dialect's request, if there is one, and by closing the connection.
        """
        dialect = dialect_of(server)
        seconds_left = (call.deadline - self._now()).total_seconds()
        started = time.perf_counter()
        request: Request | None = None
        is_recording = False

        async def record(update: Update) -> None:
            nonlocal is_recording
            is_recording = True
            await on_update(update)
            is_recording = False

        try:
            request = dialect.predict(server, call)
            headers = {**call.trace.headers(), "Idempotency-Key": idempotency_key(call), **request.headers}
            async with (
                asyncio.timeout(seconds_left),
                await ask(self._session, request.method, request.url, headers, request.body or b"") as response,
            ):
                framing = FRAMINGS.get(response.content_type)
                if framing and (reader := dialect.open_stream(server, call, response.status)):
                    return await self._follow(response, Texts(framing), reader, call.keys, record, started)
                received = await read_capped(response, self._max_result_bytes)
                _settle(response, call, received)
                body = without_keys(received, call.keys)
                asked = response.headers.get("Retry-After")
                retry_after = parse_retry_after(asked, self._now()) if asked else None
        except TimeoutError:
            # If its progress could not be recorded in time, the server is not to blame.
            error = "the server did not answer within the attempt's time"
            return Failed(kind="timeout", error=error, is_neutral=is_recording)
        except AnswerTooLarge:
            return Failed(kind="bad_answer", error=f"the answer is larger than {self._max_result_bytes} bytes")
        except BadAnswer as error:
            return Failed(kind="bad_answer", error=str(error)[:LONGEST_ERROR])
        except MemoryError:
            return OUT_OF_MEMORY if request is not None else Unsent(error=OUT_OF_MEMORY.error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if (lack := local_lack(error)) is not None:
                return Unsent(error=lack)
            is_unreached = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
            return Failed(kind="unreachable", error=describe(error), is_unreached=is_unreached)
        except asyncio.CancelledError:
            await self._cancel(dialect.cancel(server, call), call)
            raise
        reply = Reply(
            status=response.status,
            headers=response.headers,
            body=body,
            retry_after=retry_after,
            elapsed_ms=_milliseconds_since(started),
        )
        try:
            return dialect.read_answer(server, call, reply)
        except MemoryError:
            return OUT_OF_MEMORY

    async def probe(self, server: ServerRegistered, api_key: str | None = None) -> Probe:
        """Check a server's health once; never raises for anything the server does.

        `api_key`: the server's own, if its check carries it.
        """
        dialect = dialect_of(server)
        request = dialect.health(server, api_key)
        assert request is not None
        started = time.perf_counter()
        try:
            alone = replace(request, headers={**request.headers, **ALONE})
            async with asyncio.timeout(self._health_timeout_seconds), self._send(alone) as response:
                latency_ms = (time.perf_counter() - started) * 1000
                expected = server.health_expect
                limit = MOST_BYTES if expected is not None and expected.json else dialect.most_health_bytes
                body = await read_capped(response, limit) if limit else b""
        except TimeoutError:
            reason = f"no answer to the health check in {self._health_timeout_seconds:g} s"
            return Probe(well=False, reason=reason, timed_out=True)
        except AnswerTooLarge:
            return Probe(well=False, reason=f"the answer to the health check is larger than {limit} bytes")
        except MemoryError:
            return Probe(well=False, reason=OUT_OF_MEMORY.error, is_ours=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if (lack := local_lack(error)) is not None:
                return Probe(well=False, reason=lack, is_ours=True)
            return Probe(well=False, reason=describe(error))
        if expected is not None:
            return read_health(expected, response.status, body)._replace(latency_ms=latency_ms)
        return dialect.read_health(response.status, body)._replace(latency_ms=latency_ms)

    def _send(
        self, request: Request, call: Call | None = None
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = request.headers if call is None else {**call.trace.headers(), **request.headers}
        return self._session.request(
            request.method, request.url, data=request.body, headers=headers, allow_redirects=False
        )

    async def _cancel(self, request: Request | None, call: Call) -> None:
        if request is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
                async with asyncio.timeout(CANCEL_SECONDS), self._send(request, call):
                    pass

    async def _follow(
        self,
        response: Response,
        texts: Texts,
        reader: StreamReader,
        keys: Sequence[str],
        on_update: OnUpdate,
        started: float,
    ) -> Answer:
        """Pass on what a server streams until it says how the attempt has ended, and close the connection then."""
        count = 0

        async def read(completed: Iterator[bytes]) -> Answer | None:
            nonlocal count
            for text in completed:
                count += 1
                try:
                    found = reader.read(without_keys(text, keys), _milliseconds_since(started))
                    if not isinstance(found, Update):
                        if found is not None:
                            return found
                        continue
                    if len(text) > LONGEST_PROGRESS:
                        raise BadAnswer(f"is progress of more than {LONGEST_PROGRESS} bytes")
                except BadAnswer as error:
                    raise BadAnswer(f"part {count} of the streamed answer {error}") from None
                await on_update(found)
                if count % UPDATES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return None

        async with contextlib.aclosing(chunks(response, self._max_result_bytes)) as pieces:
            async for piece in pieces:
                if answer := await read(texts.feed(piece)):
                    response.close()
                    return answer
        return await read(texts.rest()) or reader.end()


def idempotency_key(call: Call) -> str:
    """Return the key of an attempt. Each attempt calls its server once; proxies on the way may repeat a request."""
    return f"{call.task_id}.{call.attempt}"


def _settle(response: Response, call: Call, body: bytes) -> None:
    """Keep the connection for later calls if the answer names its task, which proves that it is this call's."""
    if call.task_id.encode() in body:
        keep(response)
    elif response.ok and not is_certain(response):
        doubt(response)  # the answer before named its task


def _milliseconds_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the pause a `Retry-After` header asks for: seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if not value:
        return None
    try:
        if value.strip().isdigit():
            return timedelta(seconds=int(value))
        return max(email.utils.parsedate_to_datetime(value) - now, timedelta(0))
    except (ValueError, TypeError, OverflowError):
        return None


LOCAL_LACKS: dict[int, str] = {
    errno.EMFILE: "this worker has no file descriptor left (raise its `ulimit -n`)",
    errno.ENFILE: "this machine has no file descriptor left",
    errno.ENOMEM: "this machine is out of memory",
    errno.ENOBUFS: "this machine has no buffer space left for connections",
    errno.EADDRNOTAVAIL: "this machine has no local port left for connections",
}
"""Errors of a connection that say nothing about the server."""


def local_lack(error: Exception) -> str | None:
    """Return what this machine lacks if that is why nothing was sent; None if the server or the network is to blame."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _lack_of_descriptors()  # the resolver does not say what it lacked
    if isinstance(error, aiohttp.ClientConnectorError):
        # Without a number, the addresses of a name failed in different ways.
        return LOCAL_LACKS.get(error.os_error.errno) if error.os_error.errno else _lack_of_descriptors()
    return None


def _lack_of_descriptors() -> str | None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return LOCAL_LACKS.get(error.errno or 0)
    return None


def describe(error: Exception) -> str:
    """Return what went wrong with a connection, without the address."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the server's name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "the server's certificate was not accepted"
        case aiohttp.ClientConnectorError():
            return "the server could not be reached"
        case UnaskedAnswer():
            return "the server sent an answer before it was asked"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "the server closed the connection without an answer"
        case aiohttp.ClientResponseError():
            return "the server's answer is not valid HTTP" + _first_line(error.message)
        case BadEncoding():
            return "the server's answer is not compressed as its Content-Encoding says"
        case aiohttp.ClientPayloadError():
            return "the server broke off its answer"
        case aiohttp.ClientOSError(__cause__=ConnectionResetError()):
            return "the server closed the connection before it had the whole request"
        case aiohttp.InvalidURL():
            return "the server's address is not valid"
        case _:
            return "the connection to the server failed"


def _first_line(message: str) -> str:
    """Return what aiohttp's parser found, without the bytes that it quotes below: ": Bad status line"."""
    found = message.strip().partition("\n")[0].partition(": b'")[0].rstrip(":")
    return f": {found[:80]}" if found else ""
