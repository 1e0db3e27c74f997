"""Servers obey the orders of an attempt: they answer in any dialect, or report by callback.

Each notes what its answer says before it is sent.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import random
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web
from msgspec import Struct

from testkit.http_server import break_off

from .evidence import Says
from .manners import ODDITIES, OUT_OF_MEMORY, Attempt, Said, encode

if TYPE_CHECKING:
    from .backend import Backend

HUGE_BYTES = 2_000_000
"""More than the runs' TASKSTREAM_MAX_RESULT."""
REPORTS_A_SECOND = 40
TRICKLE_SECONDS = 0.5
GIVE_UP_SECONDS = 30.0
LATE_SECONDS = 6.0
FORGED = "forged-forged-forged-forged-forged-forged-"

Answerer: TypeAlias = Callable[["Backend", web.Request, Attempt], Awaitable[web.StreamResponse]]
Reporter: TypeAlias = Callable[["Backend", Attempt], Coroutine[Any, Any, None]]


class Refusal(Struct, frozen=True):
    """An answer that needs no work: also one that takes jobs gives it at once."""

    status: int
    says: Says
    headers: dict[str, str] = {}

    async def __call__(self, backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
        said = Said(says=self.says, status=self.status, body={"error": f"status {self.status}"}, headers=self.headers)
        return await backend.answer(request, attempt, said)


async def ok(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    return await backend.answer(request, attempt, backend.manner.good(backend.server_id, attempt), attempt.seconds)


async def odd(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Succeed, and have something beside the point be out of order."""
    return await backend.answer(request, attempt, backend.manner.odd(backend.server_id, attempt))


async def fail(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Report a failure, in one of the ways in which model servers do."""
    return await backend.answer(request, attempt, backend.manner.failed(backend.server_id, attempt))


async def busy(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Answer that the server is busy, as model servers do."""
    return await backend.answer(request, attempt, backend.manner.busy())


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
    """Say a length, send less, and close; in a stream, close before the end."""
    said = backend.manner.good(backend.server_id, attempt)
    if said.pieces:
        return await backend.tear(request, attempt, said)
    backend.over(attempt)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return break_off(request, (head % (len(said.content) + 100)).encode() + said.content)


async def garbage(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    backend.over(attempt)
    return break_off(request, b"\x00\x01 this is no HTTP\r\n\r\n\xff\xfe")


async def no_json(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Send something that ends as it should, and cannot be understood."""
    return await backend.answer(request, attempt, random.choice(backend.manner.torn()))


async def huge(backend: Backend, _: web.Request, attempt: Attempt) -> web.StreamResponse:
    backend.over(attempt)
    said = backend.manner.good(backend.server_id, attempt)
    content = b"".join(said.pieces[:-1]) if said.pieces else said.content
    padding = encode({"padding": "x" * HUGE_BYTES})
    return web.Response(body=content + padding, headers={"Content-Type": said.media_type})


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
    said = backend.manner.good(backend.server_id, attempt)
    answer = await backend.answer(request, attempt, said, attempt.seconds)
    if not said.pieces:
        backend.send_while_idle(request, http(HTTPStatus.OK, said.content))
    return answer


async def misaddressed(backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse:
    """Answer with the result of another task, as after a mix-up of connections; or not at all, if that cannot show."""
    said = backend.manner.misaddressed(backend.server_id, attempt)
    if said is None:
        return await die(backend, request, attempt)
    return await backend.answer(request, attempt, said)


def http(code: HTTPStatus, content: bytes) -> bytes:
    """Return an answer as it is on the wire."""
    head = f"HTTP/1.1 {code} {code.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


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
    "redirect": Refusal(302, "nothing", {"Location": "http://127.0.0.1:9/"}),
    "busy": busy,
    "unavailable": Refusal(503, "busy", {"Retry-After": "1"}),
    "error": Refusal(500, "error"),
    "reject": Refusal(422, "rejected"),
}
AT_ONCE = frozenset({"redirect", "busy", "unavailable", "error", "reject"})
"""Orders whose answer needs no work: also a server that takes jobs gives it at once."""


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
    await backend.report(attempt, "FAILED", message=OUT_OF_MEMORY)


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
    await asyncio.sleep(LATE_SECONDS)
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


REPORTERS: dict[str, Reporter] = {
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
