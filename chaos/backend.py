"""A backend server of its own process that does to each attempt what the task's payload says, and logs it before.

The payload is `{"mark": …, "do": [what to do to the first attempt, to the second, …], "seconds": how long work takes}`;
the last entry is for all further attempts. Lines of the log: `call` with all that arrived, `over` with what the answer
`says` before it is answered (or where the caller `hung_up`), `report` before and `reported` after each callback,
`extra` before an answer that nobody asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import contextlib
import functools
import gzip
import itertools
import random
import select
import time
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct

from testkit.backend import finished
from testkit.http_server import HttpServer, break_off, serve_until_killed

from .evidence import Says, is_busy, ordered
from .journal import Journal

HUGE_BYTES = 2_000_000
"""More than the runs' TASKSTREAM_MAX_RESULT."""
REPORT_TRIES = 60
REPORT_PAUSE_SECONDS = 0.2
REPORTS_A_SECOND = 40
PADDING = 3_000 * " "
"""Of each piece of output: for a client that does not read, the buffers are soon full."""
TRICKLE_SECONDS = 0.5
GIVE_UP_SECONDS = 30.0
IDLE_SECONDS = 0.05
"""From an answer until the caller has surely read it and its connection idles."""
CROSSING_SECONDS = 1.5
"""Longer than data is under way, also on a busy machine: a request that comes sooner may have crossed what was sent."""
BUSY_ANSWERS: tuple[tuple[int, dict[str, str]], ...] = (
    (429, {}),
    (429, {"Retry-After": "1"}),
    (503, {}),
    (503, {"Retry-After": "1"}),
)
LONG_MESSAGE = "step " * 401
"""2,005 characters, and 2,000 of a message are kept."""
ODDITIES: tuple[dict[str, Any], ...] = (
    {"progress": sum(6 * [100 / 6])},  # a little more than 100
    {"message": LONG_MESSAGE},
    {"status": "finished"},
    {"progress": "40%"},
    {"message": {"text": "done"}},
)
"""Of the metadata of a success."""
FAILURES: tuple[dict[str, Any], ...] = ({}, {"status": "failed"}, {"progress": "40%"}, {"message": {"code": 3}})
"""Of the metadata of a failure."""
FORGED = "forged-forged-forged-forged-forged-forged-"

Answerer: TypeAlias = Callable[["Backend", web.Request, "Attempt"], Awaitable[web.StreamResponse]]


class Attempt(Struct, kw_only=True):
    """What a call says."""

    task_id: str
    attempt: int
    request: dict[str, Any]
    is_async: bool = msgspec.field(name="async", default=False)
    callback_url: str | None = None
    callback_token: str | None = None
    type: str = ""
    deadline: int = 0
    parents: list[dict[str, Any]] | None = None

    @property
    def orders(self) -> str:
        return ordered(self.request, self.attempt)

    @property
    def seconds(self) -> float:
        return float(self.request.get("seconds", 0.05))


class Backend(HttpServer):
    """The server. It keeps all attempts that report by callback."""

    def __init__(
        self, server_id: str, port: int, journal: Journal, *, busy_seconds: float = 0.0, extra_chance: float = 0.0
    ) -> None:
        """`busy_seconds`: it is busy for so long, then has room for so long, and so on; 0: it always has room.

        `extra_chance`: how likely it is, after each answer, to send another one that nobody asked for.
        """
        super().__init__(port)
        self.server_id = server_id
        self.journal = journal
        self._busy_seconds = busy_seconds
        self._extra_chance = extra_chance
        self.chunks = itertools.count(1)
        self.earlier: dict[str, list[Attempt]] = {}
        """Attempts that report by callback, by task."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._session.close()

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/predict", self._predict)

    async def _health(self, request: web.Request) -> web.Response:
        self._send_extra(request)
        return web.Response(text="well")

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        attempt = msgspec.json.decode(await request.read(), type=Attempt)
        now = time.time()
        self.called(attempt, now)
        try:
            if is_busy(self._busy_seconds, now):
                return await status(*random.choice(BUSY_ANSWERS), says="busy")(self, request, attempt)
            if attempt.callback_url is not None and attempt.orders in REPORTERS:
                return await self._accept(attempt)
            answer = await ANSWERS.get(attempt.orders, ok)(self, request, attempt)
            self._send_extra(request, attempt)
            return answer
        except asyncio.CancelledError:
            self.over(attempt, hung_up=True)
            raise

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
            deadline=attempt.deadline / 1000,
            reports=attempt.callback_url is not None,
            parents={task: parent["status"] for task, parent in parents.items()},
            results={task: (parent.get("result") or {}).get("data") for task, parent in parents.items()},
        )

    def over(self, attempt: Attempt, says: Says = "nothing", **more: Any) -> None:
        facts = {"server": self.server_id, "task": attempt.task_id, "attempt": attempt.attempt}
        self.journal.write(what="over", says=says, **facts, **more)

    def _send_extra(self, request: web.Request, attempt: Attempt | None = None) -> None:
        """Now and then send something after an answer: that to this task, a failure, or a refusal."""
        if random.random() < self._extra_chance:
            older = self.result(attempt) if attempt else {}
            older.pop("task_id", None)  # nothing in it says whose result it is
            failure = {"data": None, "metadata": {"status": "FAILED", "message": "CUDA out of memory"}}
            refusal = http(HTTPStatus.BAD_REQUEST, {"error": "invalid HTTP request"})
            answers = (http(HTTPStatus.OK, older or failure), http(HTTPStatus.OK, failure), refusal)
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

    async def _accept(self, attempt: Attempt) -> web.StreamResponse:
        self.earlier.setdefault(attempt.task_id, []).append(attempt)
        job = REPORTERS[attempt.orders](self, attempt)
        if attempt.orders == "report_first":
            await job
        else:
            self.later(job)
        accepted = {"task_id": attempt.task_id, "backend_task_id": "b", "status": "PROCESSING", "message": "accepted"}
        return web.json_response(accepted, status=202)

    def result(self, attempt: Attempt, status: str = "FINISHED", **metadata: Any) -> dict[str, Any]:
        """Return the TaskResult of an attempt."""
        data = {"mark": attempt.request["mark"], "attempt": attempt.attempt, "server": self.server_id}
        task = {"task_id": attempt.task_id}
        return finished(task, data, self.server_id, status=status, **metadata)

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
        headers = {"Authorization": f"Bearer {token or attempt.callback_token}"}
        body = self.result(attempt, status, **metadata)
        facts = {"server": self.server_id, "task": attempt.task_id, "attempt": attempt.attempt, "kind": kind}
        self.journal.write(what="report", status=status, **facts)
        answered = 0
        for _ in range(REPORT_TRIES):
            if status == "PROCESSING":
                body["metadata"]["output"] = f"{self.server_id}/{attempt.attempt}/{next(self.chunks)}{PADDING};"
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
                attempt = msgspec.json.decode(body, type=Attempt)
            except msgspec.DecodeError:
                return  # the rest is still to come
            self._backend.called(attempt, time.time())
            crossed = time.monotonic() - self._sent_at < CROSSING_SECONDS
            self._backend.over(attempt, "crossed" if crossed else "nothing", after_extra=True)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)


# Answers


def http(code: HTTPStatus, body: Any) -> bytes:
    """Return an answer as it is on the wire."""
    content = msgspec.json.encode(body)
    head = f"HTTP/1.1 {code} {code.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def ok(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    await asyncio.sleep(attempt.seconds)
    backend.over(attempt, "FINISHED")
    return web.json_response(backend.result(attempt))


async def odd(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Succeed, and have something beside the point be out of order."""
    result = backend.result(attempt)
    result.update(random.choice(({}, {"backend_task_id": 123}, {"backend_task_id": None})))
    result["metadata"].update(random.choice(ODDITIES))
    backend.over(attempt, "FINISHED")
    mark = random.choice((b"", codecs.BOM_UTF8))
    return web.Response(body=mark + msgspec.json.encode(result), content_type="application/json")


async def fail(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Report a failure with status 200, in one of the ways in which model servers do."""
    result = backend.result(attempt, "FAILED", message="CUDA out of memory")
    for field in random.choice(((), ("data",), ("data", "task_id", "backend_task_id"))):
        del result[field]
    result["metadata"].update(random.choice(FAILURES))
    backend.over(attempt, "FAILED")
    return web.json_response(result)


async def hang(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    await asyncio.sleep(GIVE_UP_SECONDS)
    backend.over(attempt, "error")
    return web.Response(status=500)


async def trickle(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Send a byte at a time, longer than an attempt may take."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(int(GIVE_UP_SECONDS / TRICKLE_SECONDS)):
        await response.write(b" ")
        await asyncio.sleep(TRICKLE_SECONDS)
    backend.over(attempt)
    return response


async def lie(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Say a length, send less, and close."""
    body = msgspec.json.encode(backend.result(attempt))
    backend.over(attempt)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (len(body) + 100)
    return break_off(request, head + body)


async def garbage(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    backend.over(attempt)
    return break_off(request, b"\x00\x01 this is no HTTP\r\n\r\n\xff\xfe")


async def no_json(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    backend.over(attempt)
    return web.Response(text='{"data": {"mark": ', content_type="application/json")


async def huge(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    backend.over(attempt)
    return web.json_response({**backend.result(attempt), "padding": "x" * HUGE_BYTES})


@functools.cache
def packed_bomb() -> bytes:
    return gzip.compress(b'{"padding": "' + b"x" * 20 * HUGE_BYTES + b'"}', 9)


async def bomb(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Send little that unpacks to much."""
    packed = await asyncio.to_thread(packed_bomb)  # other calls go on meanwhile
    backend.over(attempt)
    return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


async def die(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Take the call, and close without an answer."""
    await asyncio.sleep(attempt.seconds)
    backend.over(attempt)
    return break_off(request)


async def twice(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Answer, and then once more on the same connection, where the next call may take it for its own answer."""
    answer = await ok(backend, request, attempt)
    backend.send_while_idle(request, http(HTTPStatus.OK, backend.result(attempt)))
    return answer


async def misaddressed(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Answer with the result of another task, as after a mix-up of connections."""
    backend.over(attempt)
    other = backend.result(attempt)
    other["data"]["mark"] = "another"
    return web.json_response(other | {"task_id": "0" * 26 + "~somebody"})


def status(code: int, headers: dict[str, str] | None = None, *, says: Says) -> Answerer:
    async def answer(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
        backend.over(attempt, says)
        return web.json_response({"error": f"status {code}"}, status=code, headers=headers)

    return answer


ANSWERS: dict[str, Answerer] = {
    "ok": ok,
    "hang": hang,
    "trickle": trickle,
    "lie": lie,
    "garbage": garbage,
    "no_json": no_json,
    "huge": huge,
    "bomb": bomb,
    "die": die,
    "twice": twice,
    "odd": odd,
    "fail": fail,
    "misaddressed": misaddressed,
    "redirect": status(302, {"Location": "http://127.0.0.1:9/"}, says="nothing"),
    "busy": status(429, {"Retry-After": "1"}, says="busy"),
    "unavailable": status(503, {"Retry-After": "1"}, says="busy"),
    "error": status(500, says="error"),
    "reject": status(422, says="rejected"),
}


# Reports


async def report_ok(backend: Backend, attempt: Attempt) -> None:
    """Report progress all along, more often than the log keeps, and the last of it while the end is on its way."""
    reports = 1 + round(attempt.seconds * REPORTS_A_SECOND)
    for number in range(reports):
        await asyncio.sleep(attempt.seconds / reports)
        if number == reports - 1:
            break
        if await backend.report(attempt, "PROCESSING", progress=100 * number / reports) >= 400:
            return  # it is over
    await asyncio.gather(backend.report(attempt, "PROCESSING", progress=100), backend.report(attempt))


async def report_odd(backend: Backend, attempt: Attempt) -> None:
    """Report the end with something out of order that is beside the point."""
    await asyncio.sleep(attempt.seconds)
    await backend.report(attempt, **random.choice(ODDITIES))


async def report_failed(backend: Backend, attempt: Attempt) -> None:
    await asyncio.sleep(attempt.seconds)
    await backend.report(attempt, "FAILED", message="CUDA out of memory")


async def report_first(backend: Backend, attempt: Attempt) -> None:
    """Report the end before accepting."""
    await backend.report(attempt)


async def report_twice(backend: Backend, attempt: Attempt) -> None:
    await asyncio.sleep(attempt.seconds)
    await asyncio.gather(backend.report(attempt), backend.report(attempt))
    await backend.report(attempt)


async def report_disordered(backend: Backend, attempt: Attempt) -> None:
    """Report progress after the end."""
    await asyncio.sleep(attempt.seconds)
    await backend.report(attempt)
    await backend.report(attempt, "PROCESSING", progress=10)


async def report_late(backend: Backend, attempt: Attempt) -> None:
    """Report the end when the attempt is over."""
    await asyncio.sleep(6)
    await backend.report(attempt, kind="late")


async def report_older(backend: Backend, attempt: Attempt) -> None:
    """Say nothing of the first attempt until there is a second, then report the end of the first."""
    earlier = backend.earlier[attempt.task_id]
    if len(earlier) > 1:
        await backend.report(earlier[0], kind="older")
        await report_ok(backend, attempt)


async def report_forged(backend: Backend, attempt: Attempt) -> None:
    """Report with a forged token, then with that of another task, then with its own."""
    await backend.report(attempt, token=FORGED, kind="forged")
    for task_id, attempts in list(backend.earlier.items())[-5:]:
        if task_id != attempt.task_id:
            await backend.report(attempt, token=attempts[-1].callback_token, kind="foreign")
            break
    await report_ok(backend, attempt)


REPORTERS: dict[str, Callable[[Backend, Attempt], Coroutine[Any, Any, None]]] = {
    "ok": report_ok,
    "report_first": report_first,
    "report_twice": report_twice,
    "report_disordered": report_disordered,
    "report_late": report_late,
    "report_older": report_older,
    "report_forged": report_forged,
    "odd": report_odd,
    "fail": report_failed,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos.backend")
    parser.add_argument("--id", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--busy", type=float, default=0.0, help="busy for so many seconds, then not, and so on")
    parser.add_argument("--extra", type=float, default=0.0, help="chance to send another answer after each")
    options = parser.parse_args()

    async def serve() -> None:
        journal = Journal(options.log, synced=False)
        backend = Backend(options.id, options.port, journal, busy_seconds=options.busy, extra_chance=options.extra)
        await serve_until_killed(backend)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
