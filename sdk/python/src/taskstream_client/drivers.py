"""The two drivers: they carry out what flows yield, over httpx. Nothing here knows the service."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import httpx

from .errors import BadSettings
from .flow import Answer, Broken, Call, Close, Effect, Emit, Exchange, Flow, Open, Opened, Pause, Read, Request, Upload

T = TypeVar("T")

CONNECT_SECONDS = 10.0
UPLOAD_PIECE = 256 * 1024
SHIELD_SECONDS = 5.0
"""How long a request may take that is made while its caller is being cancelled."""
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def _broken(error: httpx.RequestError) -> Broken:
    return Broken(f"{type(error).__name__}{f': {error}' if str(error) else ''}", isinstance(error, NOT_SENT))


def _timeout(request: Request) -> httpx.Timeout:
    return httpx.Timeout(request.seconds, connect=min(CONNECT_SECONDS, request.seconds))


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


class Blocking:
    """Carries out flows in the calling thread. May be used by several threads."""

    def __init__(
        self, url: str, http: httpx.Client | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._url = url
        self._owned = http is None
        self._http = http or httpx.Client(follow_redirects=False)
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections, unless they are the user's."""
        if self._owned:
            self._http.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry out a flow to its end and return what it returns."""
        turns = self._turns(flow)
        try:
            while True:
                next(turns)
        except StopIteration as end:
            return cast(T, end.value)

    def iterate(self, flow: Flow[Any]) -> Generator[Any, None, None]:
        """Yield what a flow emits."""
        return self._turns(flow)

    def _turns(self, flow: Flow[T]) -> Generator[Any, None, T]:
        opened: list[httpx.Response] = []
        outcome: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    effect = flow.send(outcome) if error is None else flow.throw(error)
                except StopIteration as end:
                    return cast(T, end.value)
                outcome = error = None
                if isinstance(effect, Emit):
                    yield effect.item
                    continue
                try:
                    outcome = self._carry_out(effect, opened)
                except BaseException as raised:
                    error = raised
        finally:
            flow.close()
            for response in opened:
                response.close()

    def _carry_out(self, effect: Effect, opened: list[httpx.Response]) -> Any:
        try:
            if isinstance(effect, Exchange):
                response = self._http.send(self._request(effect.request))
                return Answer(response.status_code, _headers(response), response.content)
            if isinstance(effect, Open):
                response = self._http.send(self._request(effect.request), stream=True)
                opened.append(response)
                body = response.read() if response.status_code >= 400 else b""
                return Opened(Answer(response.status_code, _headers(response), body), _Chunks(response))
            if isinstance(effect, Read):
                return next(cast(_Chunks, effect.handle).pieces, None)
        except httpx.RequestError as error:
            return _broken(error)
        if isinstance(effect, Close):
            chunks = cast(_Chunks, effect.handle)
            chunks.response.close()
            opened.remove(chunks.response)
        elif isinstance(effect, Pause):
            self._sleep(effect.seconds)
        elif isinstance(effect, Call):
            found = effect.function()
            if inspect.isawaitable(found):
                if inspect.iscoroutine(found):
                    found.close()
                raise BadSettings("an asynchronous function needs the AsyncClient")
            return found
        return None

    def _request(self, request: Request) -> httpx.Request:
        body: Any = request.body
        if isinstance(body, Upload):
            body = _pieces(body)
        return self._http.build_request(
            request.method,
            self._url + request.path if request.path.startswith("/") else request.path,
            params=list(request.query) or None,
            headers=_sent_headers(request),
            content=body,
            timeout=_timeout(request),
        )


class _Chunks:
    """An open answer."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.pieces: Iterator[bytes] = response.iter_bytes()


class _AsyncChunks:
    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.pieces: AsyncIterator[bytes] = response.aiter_bytes()


def _sent_headers(request: Request) -> dict[str, str]:
    headers = dict(request.headers)
    if isinstance(request.body, Upload) and request.body.size is not None:
        headers["Content-Length"] = str(request.body.size)
    return headers


def _pieces(upload: Upload) -> Iterator[bytes]:
    source = upload.opened()
    try:
        while piece := source.read(UPLOAD_PIECE):
            yield piece
    finally:
        if upload.closes:
            source.close()


async def _async_pieces(upload: Upload) -> AsyncIterator[bytes]:
    source = await anyio.to_thread.run_sync(upload.opened)
    try:
        while piece := await anyio.to_thread.run_sync(source.read, UPLOAD_PIECE):
            yield piece
    finally:
        if upload.closes:
            source.close()


class Awaited:
    """Carries out flows in an event loop."""

    def __init__(
        self, url: str, http: httpx.AsyncClient | None = None, sleep: Callable[[float], Any] = anyio.sleep
    ) -> None:
        self._url = url
        self._owned = http is None
        self._http = http or httpx.AsyncClient(follow_redirects=False)
        self._sleep = sleep

    async def close(self) -> None:
        """Close the connections, unless they are the user's."""
        if self._owned:
            await self._http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Carry out a flow to its end and return what it returns."""
        result: list[T] = []
        async for _ in self._turns(flow, result):
            pass
        return result[0]

    def iterate(self, flow: Flow[Any]) -> AsyncGenerator[Any, None]:
        """Yield what a flow emits."""
        return self._turns(flow, [])

    async def _turns(self, flow: Flow[T], result: list[T]) -> AsyncGenerator[Any, None]:
        opened: list[httpx.Response] = []
        outcome: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    effect = flow.send(outcome) if error is None else flow.throw(error)
                except StopIteration as end:
                    result.append(end.value)
                    return
                outcome = error = None
                if isinstance(effect, Emit):
                    yield effect.item
                    continue
                try:
                    outcome = await self._carry_out(effect, opened)
                except BaseException as raised:
                    error = raised
        finally:
            flow.close()
            with anyio.CancelScope(shield=True):
                for response in opened:
                    await response.aclose()

    async def _carry_out(self, effect: Effect, opened: list[httpx.Response]) -> Any:
        try:
            if isinstance(effect, Exchange):
                if effect.shielded:
                    with anyio.move_on_after(SHIELD_SECONDS, shield=True):
                        return await self._exchange(effect.request)
                    return Broken(f"no answer within {SHIELD_SECONDS:g} s")
                return await self._exchange(effect.request)
            if isinstance(effect, Open):
                response = await self._http.send(self._request(effect.request), stream=True)
                opened.append(response)
                body = await response.aread() if response.status_code >= 400 else b""
                return Opened(Answer(response.status_code, _headers(response), body), _AsyncChunks(response))
            if isinstance(effect, Read):
                return await _next(cast(_AsyncChunks, effect.handle).pieces)
        except httpx.RequestError as error:
            return _broken(error)
        if isinstance(effect, Close):
            chunks = cast(_AsyncChunks, effect.handle)
            await chunks.response.aclose()
            opened.remove(chunks.response)
        elif isinstance(effect, Pause):
            await self._sleep(effect.seconds)
        elif isinstance(effect, Call):
            found = effect.function()
            return await found if inspect.isawaitable(found) else found
        return None

    async def _exchange(self, request: Request) -> Answer:
        response = await self._http.send(self._request(request))
        return Answer(response.status_code, _headers(response), response.content)

    def _request(self, request: Request) -> httpx.Request:
        body: Any = request.body
        if isinstance(body, Upload):
            body = _async_pieces(body)
        return self._http.build_request(
            request.method,
            self._url + request.path if request.path.startswith("/") else request.path,
            params=list(request.query) or None,
            headers=_sent_headers(request),
            content=body,
            timeout=_timeout(request),
        )


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await pieces.__anext__()
    except StopAsyncIteration:
        return None
