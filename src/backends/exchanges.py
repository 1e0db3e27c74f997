"""The requests of one attempt: what its dialect wants sent, within the attempt's time, size and origin.

    begin ─► request ─► answer, whole or streamed ─► Turn: an Answer ends it; a Next is the next request, after a pause
                  └───► connection lost ───────────► Turn
    cancelled, or out of time ─► the connection is closed ─► the dialect's cancel request ─► CancelReport

The answers decide what a dialect sends next: a status URL, a reconnect. So every request must go to the origin of
the registration, only QUICK_REQUESTS come without a pause, and all of it ends with the attempt's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import aiohttp
import structlog
from yarl import URL

from ..events.server import ServerRegistered
from ..events.task import CancelOutcome
from ..wire.body_limit import AnswerTooLarge, chunks, read_capped
from ..wire.connections import Received, Response, ask, doubt, is_certain, keep
from ..wire.retry_after import parse_retry_after
from .connection_errors import describe, local_lack
from .dialects.dialect import (
    Answer,
    BadAnswer,
    Call,
    Conversation,
    Failed,
    Final,
    Next,
    Reply,
    Request,
    StreamReader,
    Turn,
    Unsent,
    Update,
)
from .dialects.framing import FRAMINGS, Texts
from .dialects.refusals import reason_text
from .redaction import without_keys

LONGEST_PROGRESS = 256 * 1024
"""Bytes of one update that does not end the attempt: it becomes a message of NATS, with others it is summed up with."""
LONGEST_ERROR = 300
"""Characters of what is wrong with a streamed answer."""
LONGEST_URL = 8 * 1024
"""Characters of a request's address. Servers name status and cancel addresses, and some addresses are remembered."""
UPDATES_AT_ONCE = 64
"""Updates of one stream that are passed on before anything else gets its turn: they may arrive faster than that."""
QUICK_REQUESTS = 8
"""Requests of one attempt that may follow at once."""
SHORTEST_PAUSE = 0.2
"""Seconds before each further request."""
CANCEL_SECONDS = 5.0
"""How long a server may take to stop an attempt: all requests of its cancellation together."""
LONGEST_CANCEL_ANSWER = 1024 * 1024
"""Bytes. It may be all metrics of a server."""

OUT_OF_MEMORY = Failed(kind="error", error="this worker is out of memory", is_neutral=True)
"""The server may have got the request: the attempt counts as failed, but not against the server."""
ELSEWHERE = Failed(kind="bad_answer", error="the next request would go to another server than the registered one")

log = structlog.get_logger(__name__)
T = TypeVar("T")

OnUpdate: TypeAlias = Callable[[Update], Awaitable[None]]
"""Takes progress as it comes. While it waits, what the server sends waits in the connection."""


class CancelReport(NamedTuple):
    """What is known of a server's work after its attempt was cancelled."""

    outcome: CancelOutcome
    detail: str


class Exchanges:
    """One attempt at a server. `run` it once."""

    __slots__ = (
        "_call",
        "_conversation",
        "_is_over",
        "_is_recording",
        "_max_bytes",
        "_now",
        "_on_update",
        "_sent",
        "_server",
        "_session",
        "_started",
        "_trace",
        "cancelled",
    )

    def __init__(
        self,
        session: aiohttp.ClientSession,
        conversation: Conversation,
        server: ServerRegistered,
        call: Call,
        on_update: OnUpdate,
        max_bytes: int,
        now: Callable[[], datetime],
    ) -> None:
        self._session = session
        self._conversation = conversation
        self._server = server
        self._call = call
        self._on_update = on_update
        self._max_bytes = max_bytes
        self._now = now
        self._trace = call.trace.headers()
        self._is_over = False
        self._sent = 0
        self._is_recording = False
        self._started = 0.0
        self.cancelled: CancelReport | None = None
        """What came of the cancellation, after a `run` that was cancelled; None: that was cancelled, too."""

    async def run(self) -> Answer:
        """Return the outcome of the attempt; never raises for anything the server does.

        If the caller is cancelled, so is the attempt: the connection is closed and its dialect tells the server.
        """
        seconds_left = (self._call.deadline - self._now()).total_seconds()
        self._started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds_left):
                first = self._conversation.begin()
                turn = first if isinstance(first, Failed) else await self._exchange(first)
                while isinstance(turn, Next):
                    if turn.update is not None:
                        await self._record(bounded(turn.update))
                    await asyncio.sleep(self._pause(turn))
                    turn = await self._exchange(turn.request)
                if isinstance(turn, Final):
                    await self._record(bounded(turn.update))
                    return turn.answer
                return turn
        except TimeoutError:
            # If its progress could not be recorded in time, the server is not to blame.
            is_neutral = self._is_recording
            await self._cancel()
            error = "the server did not answer within the attempt's time"
            return Failed(kind="timeout", error=error, is_neutral=is_neutral)
        except MemoryError:
            return OUT_OF_MEMORY if self._sent else Unsent(error=OUT_OF_MEMORY.error)
        except asyncio.CancelledError:
            if not self._is_over:
                self.cancelled = await self._cancel()
            raise

    def end(self) -> bool:
        """Return True if the attempt is over now that its server has reported its end by callback.

        Then the caller of `run` is to be cancelled, and the server is not told.
        """
        self._is_over = self._conversation.awaits_report
        return self._is_over

    # One request

    async def _exchange(self, request: Request) -> Turn:
        """Send a request and return what follows its answer."""
        if not is_at(self._server.predict_url, request.url):
            return ELSEWHERE
        conversation = self._conversation
        self._sent += 1
        try:
            within = request.within.total_seconds() if request.within is not None else None
            async with asyncio.timeout(within), await self._ask(request) as response:
                framing = FRAMINGS.get(response.content_type)
                if framing and (reader := conversation.open_stream(response.status, response.headers)):
                    return await self._follow(response, Texts(framing), reader)
                body = await read_capped(response, self._max_bytes)
                _settle(response, body, conversation.mark or self._call.task_id)
                reply = self._reply(response, body)
            return self._understood(partial(conversation.read, reply), "the answer ")
        except AnswerTooLarge:
            return Failed(kind="bad_answer", error=f"the answer is larger than {self._max_bytes} bytes")
        except BadAnswer as error:
            return Failed(kind="bad_answer", error=str(error)[:LONGEST_ERROR])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._lost(error)

    def _lost(self, error: Exception) -> Turn:
        """Return what follows a request without a whole answer."""
        if (lack := local_lack(error)) is not None:
            if self._sent == 1:
                return Unsent(error=lack)
            return self._conversation.lost(Failed(kind="error", error=lack, is_neutral=True))
        is_unreached = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL) and self._sent == 1
        return self._conversation.lost(Failed(kind="unreachable", error=describe(error), is_unreached=is_unreached))

    def _ask(self, request: Request) -> Awaitable[Received]:
        return ask(self._session, request.method, request.url, self._headers_of(request), request.body or b"")

    def _headers_of(self, request: Request) -> dict[str, str]:
        key = idempotency_key(self._call, self._sent)
        return {**self._trace, "Idempotency-Key": key, **request.headers}

    def _reply(self, response: Response, body: bytes) -> Reply:
        asked = response.headers.get("Retry-After")
        return Reply(
            status=response.status,
            headers=response.headers,
            body=without_keys(body, self._call.keys),
            retry_after=parse_retry_after(asked, self._now()) if asked else None,
            elapsed_ms=self._elapsed_ms(),
        )

    def _pause(self, turn: Next) -> float:
        """Return the seconds before the next request."""
        asked = turn.after.total_seconds()
        return asked if self._sent < QUICK_REQUESTS else max(asked, SHORTEST_PAUSE)

    def _elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    # Progress

    async def _record(self, update: Update) -> None:
        self._is_recording = True
        await self._on_update(update)
        self._is_recording = False

    async def _follow(self, response: Response, texts: Texts, reader: StreamReader) -> Turn:
        """Pass on what a server streams until it says how the attempt has ended, and close the connection then."""
        keys = self._call.keys
        count = 0

        async def read(completed: Iterator[bytes]) -> Answer | None:
            nonlocal count
            for text in completed:
                count += 1
                try:
                    clean = without_keys(text, keys)
                    found = self._understood(partial(reader.read, clean, self._elapsed_ms(), texts.event))
                    if found is None:
                        continue
                    if isinstance(found, Final):
                        await self._record(bounded(found.update))
                        return found.answer
                    if not isinstance(found, Update):
                        return found
                    if len(text) > LONGEST_PROGRESS:
                        raise BadAnswer(f"is progress of more than {LONGEST_PROGRESS} bytes")
                except BadAnswer as error:
                    raise BadAnswer(f"part {count} of the streamed answer {error}") from None
                await self._record(found)
                if count % UPDATES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return None

        async with contextlib.aclosing(chunks(response, self._max_bytes)) as pieces:
            async for piece in pieces:
                if answer := await read(texts.feed(piece)):
                    response.close()
                    return answer
        return await read(texts.rest()) or self._understood(reader.end, "the streamed answer ")

    def _understood(self, read: Callable[[], T], what: str = "") -> T:
        """Return what a dialect reads in an answer. Raises BadAnswer also where it fails at what it did not expect.

        A server may send anything: a fault of ours in reading it must cost its own attempt only. `what`: the beginning
        of the error, unless the caller adds it.
        """
        try:
            return read()
        except (BadAnswer, MemoryError):
            raise
        except RecursionError:
            raise BadAnswer(f"{what}is nested too deep to be read") from None
        except Exception as error:
            log.exception("answer.unread", task=self._call.task_id, server=self._server.server_id)
            raise BadAnswer(f"{what}cannot be read ({type(error).__name__})") from None

    # Cancellation

    async def _cancel(self) -> CancelReport:
        """Tell the server to stop, and return what came of it; never raises but if it is cancelled itself."""
        if not self._sent:
            return CancelReport("confirmed", "the server was not called")
        conversation = self._conversation
        request = conversation.cancel()
        turn = conversation.read_cancel(None) if request is None else Next(request=request)
        reply: Reply | None = None
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                while isinstance(turn, Next):
                    if not is_at(self._server.predict_url, turn.request.url):
                        return CancelReport("unconfirmed", ELSEWHERE.error)
                    if reply is not None:
                        await asyncio.sleep(max(turn.after.total_seconds(), SHORTEST_PAUSE))
                    self._sent += 1
                    async with await self._ask(turn.request) as response:
                        reply = self._reply(response, await read_capped(response, LONGEST_CANCEL_ANSWER))
                    turn = self._understood(partial(conversation.read_cancel, reply))
        except BadAnswer as error:
            return CancelReport("unconfirmed", f"the answer to the request to cancel {error}")
        except TimeoutError:
            missing = (
                "no answer to the request to cancel" if reply is None else "the server did not say that it stopped"
            )
            return CancelReport("unconfirmed", f"{missing} in {CANCEL_SECONDS:g} s")
        except AnswerTooLarge as error:
            return CancelReport("unconfirmed", str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return CancelReport("unconfirmed", local_lack(error) or describe(error))
        except MemoryError:
            return CancelReport("unconfirmed", OUT_OF_MEMORY.error)
        if reply is None or (turn == "confirmed" and reply.status >= 400):  # a refusal that shows that it is gone
            return CancelReport(turn, DETAILS[turn])
        return CancelReport(turn, reason_text(reply))


DETAILS: dict[CancelOutcome, str] = {
    "confirmed": "the server stopped",
    "requested": "the connection was closed",
    "unconfirmed": "the server does not say whether it stopped",
    "impossible": "the server cannot be told to stop",
}
"""Of a cancellation without a request of its own."""


def idempotency_key(call: Call, number: int) -> str:
    """Return the key of a request, from 1 for the first one of its attempt: proxies on the way may repeat it.

    No two requests share one: a server that knows keys would answer the second as the first.
    """
    return f"{call.task_id}.{call.attempt}" if number == 1 else f"{call.task_id}.{call.attempt}.{number}"


def is_at(registered: str, url: str) -> bool:
    """Return True if an address is of the registered server: of the same origin, and with the same user, if any."""
    if url == registered:
        return True
    if len(url) > LONGEST_URL:
        return False
    try:
        return _place(url) == _place(registered)
    except ValueError:
        return False


def _place(url: str) -> tuple[str | int | None, ...]:
    found = URL(url)
    return (found.scheme, found.raw_host, found.port, found.raw_user, found.raw_password)


def bounded(update: Update) -> Update:
    """Return an update of at most LONGEST_PROGRESS bytes: from a larger one, what makes it large is left out."""
    texts = (*update.lines, update.output, update.message or "")
    size = 0 if update.parts is None else update.parts.characters
    size += sum(len(text.encode(errors="replace")) for text in texts)
    if size + len(bytes(update.custom_data)) + len(bytes(update.data)) <= LONGEST_PROGRESS:
        return update
    note = f"progress of more than {LONGEST_PROGRESS} bytes was left out"
    return Update(progress=update.progress, notes=(*update.notes, note))


def _settle(response: Response, body: bytes, mark: str) -> None:
    """Keep the connection for later requests if the answer has the mark, which proves that it is this attempt's."""
    if mark.encode() in body:
        keep(response)
    elif response.ok and not is_certain(response):
        doubt(response)  # the answer before had its mark
