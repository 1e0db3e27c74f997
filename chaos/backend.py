"""A backend server that does to each attempt what the task's payload says, in its dialect, and logs it before.

The payload is `{"mark": …, "do": [what to do to the first attempt, to the second, …], "seconds": how long work takes}`;
the last entry is for all further attempts. Lines of the log: `call` with all that arrived, `over` with what the answer
`says` before it is answered (or where the caller `hung_up`, or the job was `forgotten`), `stopped` where the caller
cancelled, `report` before and `reported` after each callback, `extra` before an answer that nobody asked for.

A process serves one backend or several, each on a port of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import select
import time
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict

from testkit.http_server import HttpServer, break_off

from .evidence import TASKSTREAM, Says, is_busy
from .journal import Journal
from .long_manners import MANNERS
from .manners import Attempt, Manner, Said, TaskstreamManner, encode
from .orders import ANSWERS, REPORTERS, http, ok

REPORT_TRIES = 60
REPORT_PAUSE_SECONDS = 0.2
PADDING = 3_000 * " "
"""Of each piece of output: for a client that does not read, the buffers are soon full."""
IDLE_SECONDS = 0.05
"""From an answer until the caller has surely read it and its connection idles."""
CROSSING_SECONDS = 1.5
"""Longer than data is under way, also on a busy machine: a request that comes sooner may have crossed what was sent."""


class Backend(HttpServer):
    """The server. It keeps all attempts that report by callback, and its jobs."""

    def __init__(
        self,
        server_id: str,
        port: int,
        journal: Journal,
        *,
        manner: Manner | None = None,
        busy_seconds: float = 0.0,
        extra_chance: float = 0.0,
    ) -> None:
        """`busy_seconds`: it is busy for so long, then has room for so long, and so on; 0: it always has room.

        `extra_chance`: how likely it is, after each answer, to send another one that nobody asked for.
        """
        super().__init__(port)
        self.server_id = server_id
        self.journal = journal
        self.manner = manner or TaskstreamManner()
        self._busy_seconds = busy_seconds
        self._extra_chance = extra_chance
        self._chunks = itertools.count(1)
        self.earlier: dict[str, list[Attempt]] = {}
        """Attempts that report by callback, by task."""
        self.running = 0
        """Calls that it has not answered."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._session.close()

    def routes(self, app: web.Application) -> None:
        app.router.add_get(self.manner.health, self._health)
        app.router.add_route(self.manner.method, self.manner.predict, self.predict)
        self.manner.routes(app, self)

    async def _health(self, request: web.Request) -> web.Response:
        self._send_extra(request)
        return web.Response(body=encode(self.manner.well), content_type="application/json")

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Do to a call what it orders."""
        body = await request.read()
        now = time.time()
        if (answer := await self.manner.aside(self, request, body)) is not None:
            return answer
        attempt = self.manner.read(request.headers, body)
        self.called(attempt, now)
        self.running += 1
        try:
            if is_busy(self._busy_seconds, now):
                return await self.answer(request, attempt, self.manner.busy())
            if attempt.callback_url is not None and attempt.orders in REPORTERS:
                return await self._accept(attempt)
            if (answer := await self.manner.take(self, request, attempt)) is not None:
                return answer
            answer = await self.perform(request, attempt)
            self._send_extra(request, attempt)
            return answer
        except asyncio.CancelledError:
            if not attempt.outlives_call:
                self.over(attempt, hung_up=True)
            raise
        finally:
            self.running -= 1

    async def perform(self, request: web.Request, attempt: Attempt) -> web.StreamResponse:
        """Answer a request as the attempt orders."""
        return await ANSWERS.get(attempt.orders, ok)(self, request, attempt)

    def called(self, attempt: Attempt, at: float) -> None:
        """Note a call that came at a time, with all that it says but its token."""
        parents = {parent["task_id"]: parent for parent in attempt.parents or ()}
        self.journal.write(
            at=at,
            what="call",
            server=self.server_id,
            task=attempt.task_id,
            attempt=attempt.attempt,
            type=attempt.type,
            payload=attempt.request,
            deadline=attempt.deadline and attempt.deadline / 1000,
            reports=attempt.callback_url is not None,
            parents={task: parent["status"] for task, parent in parents.items()},
            results={task: (parent.get("result") or {}).get("data") for task, parent in parents.items()},
        )

    def over(self, attempt: Attempt, says: Says = "nothing", **more: Any) -> None:
        self.note("over", attempt, says=says, **more)

    def note(self, what: str, attempt: Attempt, **more: Any) -> None:
        facts = {"server": self.server_id, "task": attempt.task_id, "attempt": attempt.attempt}
        self.journal.write(what=what, **facts, **more)

    async def answer(
        self, request: web.Request, attempt: Attempt, said: Said, seconds: float = 0.0
    ) -> web.StreamResponse:
        """Answer after so many seconds of work; a streamed answer comes meanwhile, and its last piece then."""
        if not said.pieces:
            await asyncio.sleep(seconds)
            self.over(attempt, said.says)
            headers = {"Content-Type": said.media_type, **said.headers}
            return web.Response(body=said.content, status=said.status, headers=headers)
        response = await self._stream(request, said, seconds)
        self.over(attempt, said.says)
        await response.write(said.pieces[-1])
        await response.write_eof()
        return response

    async def tear(self, request: web.Request, attempt: Attempt, said: Said) -> web.StreamResponse:
        """Stream all but the last piece, and close the connection."""
        await self._stream(request, said, 0)
        self.over(attempt)
        return break_off(request)

    async def _stream(self, request: web.Request, said: Said, seconds: float) -> web.StreamResponse:
        """Begin a streamed answer, and send all but its last piece."""
        response = web.StreamResponse(headers={"Content-Type": said.media_type})
        await response.prepare(request)
        for piece in said.pieces[:-1]:
            await response.write(piece)
            await asyncio.sleep(seconds / len(said.pieces))
        return response

    # Answers that nobody asked for

    def _send_extra(self, request: web.Request, attempt: Attempt | None = None) -> None:
        """Now and then send something after an answer: that to this task, a failure, or a refusal."""
        if random.random() < self._extra_chance:
            bodies = self.manner.extra(self.server_id, attempt)
            answers = [http(HTTPStatus.OK, body) for body in bodies]
            answers.append(http(HTTPStatus.BAD_REQUEST, encode({"error": "invalid HTTP request"})))
            self.send_while_idle(request, random.choice(answers))

    def send_while_idle(self, request: web.Request, answer: bytes) -> None:
        """Send an answer that nobody asked for soon after that to a request, unless any byte has come since.

        Bytes that come later were under way: `_AfterExtra` has them. So each call that may take this answer for its own
        is known.
        """
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            return  # the caller has gone
        watched = _Watched.of(transport)
        read = watched.reads

        def send() -> None:
            if not transport.is_closing() and watched.reads == read and not _has_unread(transport):
                self.journal.write(what="extra", server=self.server_id, task="", attempt=0)
                transport.write(answer)
                transport.set_protocol(_AfterExtra(self, transport))

        asyncio.get_running_loop().call_later(IDLE_SECONDS, send)

    # Reports by callback

    async def _accept(self, attempt: Attempt) -> web.StreamResponse:
        self.earlier.setdefault(attempt.task_id, []).append(attempt)
        job = REPORTERS[attempt.orders](self, attempt)
        if attempt.orders == "report_first":
            await job
        else:
            self.later(job)
        accepted = {"task_id": attempt.task_id, "backend_task_id": "b", "status": "PROCESSING", "message": "accepted"}
        return web.json_response(accepted, status=202)

    async def report(
        self,
        attempt: Attempt,
        status: str = "FINISHED",
        *,
        token: str | None = None,
        kind: str = "own",
        **metadata: Any,
    ) -> int:
        """Send an update until it is answered with something other than 5xx; return that, 0 where nothing was.

        Progress brings a piece of output, another one with each try: none of them is ever sent twice.
        """
        assert attempt.callback_url is not None
        assert isinstance(self.manner, TaskstreamManner)
        headers = {"Authorization": f"Bearer {token or attempt.callback_token}"}
        body = self.manner.result(self.server_id, attempt, status, **metadata)
        facts = {"server": self.server_id, "task": attempt.task_id, "attempt": attempt.attempt, "kind": kind}
        self.journal.write(what="report", status=status, **facts)
        answered = 0
        for _ in range(REPORT_TRIES):
            if status == "PROCESSING":
                body["metadata"]["output"] = f"{self.server_id}/{attempt.attempt}/{next(self._chunks)}{PADDING};"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._session.put(attempt.callback_url, json=body, headers=headers) as answer:
                    answered = answer.status
                    if answered < 500:
                        break
            await asyncio.sleep(REPORT_PAUSE_SECONDS)
        self.journal.write(what="reported", status=status, answered=answered, **facts)
        return answered


class _Watched(asyncio.Protocol):
    """The end of a connection that counts how often something was read, before the server's protocol gets it."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self.reads = 0
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    @classmethod
    def of(cls, transport: asyncio.Transport) -> _Watched:
        """Return the watched end of a connection; from now on it is."""
        protocol = transport.get_protocol()
        if not isinstance(protocol, cls):
            assert isinstance(protocol, asyncio.Protocol)
            protocol = cls(protocol)
            transport.set_protocol(protocol)
        return protocol

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self._protocol.data_received(data)


def _has_unread(transport: asyncio.Transport) -> bool:
    """Return True if bytes, or the end, have arrived that the event loop has not read."""
    arrived = select.poll()
    arrived.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(arrived.poll(0))


def headers_of(head: bytes) -> CIMultiDict[str]:
    """Return the headers at the head of a request."""
    lines = (line.partition(":") for line in head.decode(errors="replace").split("\r\n")[1:])
    return CIMultiDict({name: value.strip() for name, _, value in lines})


class _AfterExtra(asyncio.Protocol):
    """The end of a connection on which an answer was sent that nobody asked for.

    The next request on it gets that answer. A caller that checks closes the connection instead, unless the two cross on
    their way. This end notes the request and closes the connection.
    """

    def __init__(self, backend: Backend, transport: asyncio.Transport) -> None:
        self._backend = backend
        self._transport = transport
        self._before = transport.get_protocol()
        self._sent_at = time.monotonic()
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            try:
                attempt = self._backend.manner.read(headers_of(head), body)
            except (msgspec.DecodeError, LookupError):
                return  # the rest is still to come
            self._backend.called(attempt, time.time())
            crossed = time.monotonic() - self._sent_at < CROSSING_SECONDS
            self._backend.over(attempt, "crossed" if crossed else "nothing", after_extra=True)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos.backend")
    parser.add_argument(
        "servers",
        nargs="+",
        metavar="ID=PORT,LOG[,OPTION…]",
        help=f"options: {', '.join(MANNERS)}; busy=SECONDS: busy for so long, then not; extra=CHANCE of extra answers",
    )
    options = parser.parse_args()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for text in options.servers:
                await stack.enter_async_context(_backend(text))
            await asyncio.Event().wait()

    asyncio.run(serve())


def _backend(text: str) -> Backend:
    """Return the backend that an argument of the command line describes."""
    server_id, _, rest = text.partition("=")
    port, log, *options = rest.split(",")
    values = dict(option.partition("=")[::2] for option in options)
    dialects = [name for name in values if name in MANNERS]
    return Backend(
        server_id,
        int(port),
        Journal(Path(log), synced=False),
        manner=MANNERS[dialects[0] if dialects else TASKSTREAM](),
        busy_seconds=float(values.get("busy", 0)),
        extra_chance=float(values.get("extra", 0)),
    )


if __name__ == "__main__":
    main()
