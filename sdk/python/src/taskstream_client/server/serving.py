"""A server: its handlers, its capacity, and its HTTP endpoints for ASGI and aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import hmac
import inspect
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import httpx
import msgspec

from .jobs import Busy, Failed, Job, JobCancelled, Reject

if TYPE_CHECKING:
    from aiohttp import web

Handler = Callable[[Job], Any]
H = TypeVar("H", bound=Handler)

EVERY = ""
"""The handler of types that have none of their own."""
LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a call that are read."""
LONGEST_ERROR = 1000
GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5
"""How often aiohttp is asked whether the client has gone."""
CALLBACK_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0)
NDJSON = "application/x-ndjson"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: list[tuple[str, str]]


class Outcome(NamedTuple):
    """How the work of a job ended."""

    data: Any = None
    error: BaseException | None = None

    @property
    def text(self) -> str:
        """What the error says."""
        error = self.error
        if error is None:
            return ""
        said = str(error) if isinstance(error, (Reject, Failed)) else f"{type(error).__name__}: {error}"
        return said[:LONGEST_ERROR] or type(error).__name__


class Server:
    """Does the work of tasks. It is an ASGI application, too.

    Args:
        capacity: Jobs at a time; a call beyond them is answered 429, and the task goes to another server or waits.
        api_key: The key with which the server is registered; other callers get a 401. None: anybody may call.
        callback: True: calls are answered at once (202) and the result is sent later, so that work outlives its
            connection. Register the server with `callback` then.
    """

    def __init__(self, *, capacity: int = 1, api_key: str | None = None, callback: bool = False) -> None:
        if capacity < 1:
            raise ValueError("`capacity` must be at least 1")
        self.capacity = capacity
        self.callback = callback
        self._api_key = api_key
        self._handlers: dict[str, Handler] = {}
        self._check: Callable[[], Any] | None = None
        self._running: set[Job] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = False

    @overload
    def predict(self, handler: H, /) -> H: ...
    @overload
    def predict(self, *types: str) -> Callable[[H], H]: ...
    def predict(self, *given: Any) -> Any:
        """Register the function that does the work: of the task types that are named, or of all others.

        The function gets a Job and returns the result: any JSON. A coroutine function is cancelled when nobody waits
        any more. An ordinary function runs in a thread of its own: `job.report` and `job.check` end it then.
        """
        if len(given) == 1 and callable(given[0]):
            self._handlers[EVERY] = given[0]
            return given[0]

        def register(handler: H) -> H:
            for name in given or (EVERY,):
                self._handlers[name] = handler
            return handler

        return register

    def health(self, check: Callable[[], Any]) -> Callable[[], Any]:
        """Register a check: `GET /health` is a 503 if it returns something false, or raises. It may be asynchronous."""
        self._check = check
        return check

    @property
    def running(self) -> int:
        """Jobs at work."""
        return len(self._running)

    @property
    def free(self) -> int:
        """Further jobs that can be taken now."""
        return max(0, self.capacity - len(self._running))

    def handles(self, task_type: str) -> bool:
        """Return whether there is a handler for a task type."""
        return task_type in self._handlers or EVERY in self._handlers

    @property
    def types(self) -> list[str]:
        """The types that have a handler of their own; empty: all types are taken."""
        return [] if EVERY in self._handlers else sorted(self._handlers)

    async def close(self, grace: float = GRACE_SECONDS) -> None:
        """Take no further jobs, wait for those at work for some seconds, then cancel them."""
        self._closing = True
        end = time.monotonic() + grace
        while self._running and time.monotonic() < end:  # noqa: ASYNC110 - at the end of a process only
            await asyncio.sleep(0.05)
        for job in list(self._running):
            job.cancel("the server stops")
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # The work

    async def work(self, job: Job) -> Outcome:
        """Carry out a job. Never raises for what the handler does; raises CancelledError if it is cancelled itself."""
        handler = self._handlers.get(job.type) or self._handlers[EVERY]
        self._running.add(job)
        timer = None
        try:
            if inspect.iscoroutinefunction(handler):
                task = asyncio.ensure_future(handler(job))
            else:
                task = asyncio.ensure_future(_in_thread(handler, job))
            job.on_cancel(task.cancel if inspect.iscoroutinefunction(handler) else _nothing)
            if job.deadline is not None:
                left = job.deadline.timestamp() - time.time()
                timer = asyncio.get_running_loop().call_later(max(0.0, left), job.cancel, "the deadline has passed")
            try:
                return _checked(await task)
            except asyncio.CancelledError:
                if not job.cancelled:
                    job.cancel("the call was left")
                    task.cancel()
                    raise
                return Outcome(error=JobCancelled(job.cancelled_because or ""))
            except Exception as error:
                return Outcome(error=error)
        finally:
            if timer is not None:
                timer.cancel()
            self._running.discard(job)

    # HTTP

    async def health_answer(self) -> tuple[int, bytes]:
        """Return status and body of a health check."""
        state = "ok"
        if self._check is not None:
            try:
                found = self._check()
                if not (await found if inspect.isawaitable(found) else found):
                    state = "not ready"
            except Exception as error:
                state = f"not ready: {type(error).__name__}"
        state = "stopping" if self._closing else state
        body = {"status": state, "running": self.running, "capacity": self.capacity}
        return 200 if state == "ok" else 503, msgspec.json.encode(body)

    async def exchange(self, body: bytes, headers: Mapping[str, str]) -> AsyncGenerator[Head | bytes, None]:
        """Answer a call: first its Head, then its body. Closing the generator cancels the job."""
        refusal = self._refusal(headers)
        if refusal is None:
            try:
                job, answered_later = self._job(body, headers)
            except Reject as error:
                refusal = (400, str(error), [])
        if refusal is not None:
            status, text, more = refusal
            yield Head(status, [("Content-Type", TEXT), *more])
            yield text.encode()
            return
        if answered_later is not None:
            task = asyncio.ensure_future(_Callback(*answered_later).carry_out(self, job))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            yield Head(202, [("Content-Type", JSON)])
            yield msgspec.json.encode({"task_id": job.id, "status": "PROCESSING"})
            return
        async with contextlib.aclosing(self._streamed(job)) as parts:
            async for part in parts:
                yield part

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, str, list[tuple[str, str]]] | None:
        given = headers.get("authorization", "")
        if self._api_key is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._api_key}".encode()):
            return 401, "the key of this server is missing or wrong", []
        if self._closing:
            return 503, "this server is stopping", [("Retry-After", "5")]
        if not self.free:
            return 429, f"all {self.capacity} slots of this server are taken", [("Retry-After", "1")]
        return None

    def _job(self, body: bytes, headers: Mapping[str, str]) -> tuple[Job, tuple[str, str] | None]:
        try:
            task = msgspec.json.decode(body)
            task_id, task_type = task["task_id"], task.get("type") or "default"
            payload, attempt = task["request"], int(task.get("attempt", 1))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError, UnicodeDecodeError):
            raise Reject("not a call of Taskstream: `task_id` and `request` are needed") from None
        if not (isinstance(task_id, str) and isinstance(task_type, str)) or not self.handles(task_type):
            raise Reject(f"this server has no function for tasks of type {task_type!r}")
        deadline = task.get("deadline")
        model = {name: headers.get(f"x-ai-{header}") for name, header in _MODEL.items()}
        job = Job(
            id=task_id,
            type=task_type,
            payload=payload,
            attempt=attempt,
            deadline=instant(deadline),
            parents=task.get("parents"),
            headers={name: value for name, value in headers.items() if not _SECRET & {name}},
            model={name: value for name, value in model.items() if value is not None},
        )
        url, token = task.get("callback_url"), task.get("callback_token")
        if self.callback:
            if not (isinstance(url, str) and isinstance(token, str)):
                raise Reject("there is no `callback_url`: register this server with `callback`")
            return job, (url, token)
        return job, None

    async def _streamed(self, job: Job) -> AsyncGenerator[Head | bytes, None]:
        work = asyncio.ensure_future(self.work(job))
        begun = False
        try:
            async for update in updates_of(job, work):
                if not begun:
                    begun = True
                    yield Head(200, [("Content-Type", NDJSON), ("X-Accel-Buffering", "no")])
                yield _line(update)
            outcome = await work
        finally:
            job.cancel("the caller has gone")
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
        for part in _ended(job, outcome, begun=begun):
            yield part

    # ASGI

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve ASGI: HTTP, and the lifespan of a server that runs this application alone."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here: POST /predict and GET /health")
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if (scope["method"], path) == ("GET", "/health"):
            status, body = await self.health_answer()
            await _send(send, Head(status, [("Content-Type", JSON)]), body)
        elif (scope["method"], path) == ("POST", "/predict"):
            found = await _body(receive)
            if found is None:
                await _send(send, Head(413, [("Content-Type", TEXT)]), b"the body is too large")
            else:
                await self._serve(found, headers, receive, send)
        else:
            await _send(send, Head(404, [("Content-Type", TEXT)]), b"POST /predict or GET /health")

    async def _serve(self, body: bytes, headers: Mapping[str, str], receive: Any, send: Any) -> None:
        async def answer() -> None:
            async with contextlib.aclosing(self.exchange(body, headers)) as parts:
                async for part in parts:
                    if isinstance(part, Head):
                        await send(_start(part))
                    else:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        answering = asyncio.ensure_future(answer())
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await answering

    async def _lifespan(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    # aiohttp

    def aiohttp_routes(self) -> list[web.RouteDef]:
        """Return routes for an application of aiohttp: `POST /predict` and `GET /health`. Needs aiohttp."""
        from aiohttp import web  # noqa: PLC0415 - optional

        async def predict(request: web.Request) -> web.StreamResponse:
            return await self._serve_aiohttp(request)

        async def health(_: web.Request) -> web.Response:
            status, body = await self.health_answer()
            return web.Response(status=status, body=body, content_type=JSON)

        return [web.post("/predict", predict), web.get("/health", health)]

    def aiohttp_app(self) -> web.Application:
        """Return an application of aiohttp with these routes. Needs aiohttp."""
        from aiohttp import web  # noqa: PLC0415 - optional

        app = web.Application(client_max_size=LARGEST_BODY)
        app.add_routes(self.aiohttp_routes())

        async def close(_: web.Application) -> None:
            await self.close()

        app.on_shutdown.append(close)
        return app

    async def _serve_aiohttp(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415 - optional

        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        answering = asyncio.current_task()
        assert answering is not None
        left = False

        async def watch() -> None:
            nonlocal left
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event
                await asyncio.sleep(LOOK_SECONDS)
            left = True
            answering.cancel()

        watching = asyncio.ensure_future(watch())
        response = web.StreamResponse()
        try:
            async with contextlib.aclosing(self.exchange(body, headers)) as parts:
                async for part in parts:
                    if isinstance(part, Head):
                        response = web.StreamResponse(status=part.status, headers=dict(part.headers))
                        await response.prepare(request)
                    else:
                        await response.write(part)
            await response.write_eof()
        except ConnectionResetError:
            pass
        except asyncio.CancelledError:
            if not left:
                raise
        finally:
            watching.cancel()
        return response


_MODEL = {"provider": "provider", "model": "model", "base_url": "baseurl", "key": "key"}
_SECRET = frozenset({"authorization", "x-ai-key", "cookie"})


async def updates_of(job: Job, work: asyncio.Future[Outcome]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the updates of a job until its work has ended and all of them were yielded."""
    while True:
        while (update := job.take()) is not None:
            yield update
        if work.done():
            return
        news = asyncio.ensure_future(job.news())
        waited: set[asyncio.Future[Any]] = {news, work}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()


def instant(milliseconds: Any) -> datetime.datetime | None:
    """Return milliseconds since the epoch as an instant; None for anything else."""
    if isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    return None


def _ended(job: Job, outcome: Outcome, *, begun: bool) -> Sequence[Head | bytes]:
    """Return the rest of an answer."""
    error = outcome.error
    if isinstance(error, Busy) and not begun:
        seconds = str(max(1, math.ceil(error.retry_after)))
        return [Head(429, [("Content-Type", TEXT), ("Retry-After", seconds)]), str(error).encode()]
    if error is None:
        line = _line({"task_id": job.id, "data": outcome.data, "metadata": {"status": "FINISHED"}})
        return [line] if begun else [Head(200, [("Content-Type", JSON)]), line]
    if begun:
        metadata = {"status": "FAILED", "message": outcome.text}
        rejected = {"task_id": job.id, "data": None, "metadata": metadata}
        return [_line(rejected if isinstance(error, Reject) else {"error": outcome.text})]
    status = 400 if isinstance(error, Reject) else 500
    return [Head(status, [("Content-Type", TEXT)]), outcome.text.encode()]


def _checked(data: Any) -> Outcome:
    """Return a result as JSON, once and for all: the handler may go on to change what it returned."""
    try:
        return Outcome(msgspec.Raw(msgspec.json.encode(data)))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        return Outcome(error=Reject(f"the function returned something that is no JSON: {error}"))


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


async def _in_thread(handler: Handler, job: Job) -> Any:
    """Run a handler in a thread. It is waited for, also if it is cancelled: a thread cannot be stopped."""
    work = asyncio.ensure_future(asyncio.to_thread(functools.partial(handler, job)))
    try:
        found = await asyncio.shield(work)
    except asyncio.CancelledError:
        job.cancel("the call was left")
        with contextlib.suppress(Exception):
            await work
        raise
    return await found if inspect.isawaitable(found) else found


def _nothing() -> None:
    """A thread sees the cancellation when it reports."""


class _Callback:
    """Sends the updates and the end of a job that was accepted."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": JSON}

    async def carry_out(self, server: Server, job: Job) -> None:
        """Do the work and report it."""
        work = asyncio.ensure_future(server.work(job))
        try:
            async with httpx.AsyncClient(timeout=30.0, follow_redirects=False) as http:
                async for update in updates_of(job, work):
                    fields = {name: value for name, value in update.items() if name != "data"}
                    body = {"metadata": {"status": "PROCESSING", **fields}}
                    await self._send(http, job, body | ({"data": update["data"]} if "data" in update else {}))
                outcome = await work
                if not job.cancelled:
                    await self._send(http, job, _report(job, outcome))
        finally:
            job.cancel("the server stops")
            work.cancel()

    async def _send(self, http: httpx.AsyncClient, job: Job, body: Mapping[str, Any]) -> None:
        tries = 0
        content = msgspec.json.encode(body)
        while not job.cancelled:
            with contextlib.suppress(httpx.RequestError):
                answer = await http.put(self._url, content=content, headers=self._headers)
                if answer.status_code < 500 and answer.status_code not in (408, 429):
                    if answer.status_code >= 400:
                        job.cancel(f"the service answered {answer.status_code} to a report")
                    return
            await asyncio.sleep(CALLBACK_PAUSES[min(tries, len(CALLBACK_PAUSES) - 1)])
            tries += 1


def _report(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Return the final update of a job that was accepted. A callback has no way to ask for another attempt."""
    if outcome.error is not None:
        return {"task_id": job.id, "data": None, "metadata": {"status": "FAILED", "message": outcome.text}}
    return {"task_id": job.id, "data": outcome.data, "metadata": {"status": "FINISHED"}}


async def _body(receive: Any) -> bytes | None:
    """Return the body of a request; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def _until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(head: Head) -> dict[str, Any]:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
    return {"type": "http.response.start", "status": head.status, "headers": headers}


async def _send(send: Any, head: Head, body: bytes) -> None:
    await send(_start(Head(head.status, [*head.headers, ("Content-Length", str(len(body)))])))
    await send({"type": "http.response.body", "body": body, "more_body": False})
