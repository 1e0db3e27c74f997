"""HTTP calls to the service: bounded in time and size, with errors as one line."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from .access import ProblemDocument, ServiceAccess, read_problem
from .failures import EXIT_REFUSED, CommandFailed, ServiceRefused, Unreachable

CONNECT_SECONDS = 10.0
CALL_SECONDS = 90.0
"""Longer than any answer of the API takes, waits included."""
CALL_TIMEOUT = aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=CONNECT_SECONDS)
SILENT_SECONDS = 40.0
"""A stream sends something every 15 s; after so long the connection is dead."""
LARGEST_ANSWER = 256 * 1024 * 1024
PAGE = 200
"""Entries of a page; the API's maximum."""

Query = Sequence[tuple[str, str]]


class ServiceAnswer(Struct, frozen=True):
    """The service's answer, which is not an error."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    content: bytes

    @property
    def body(self) -> Any:
        """The JSON in it. Raises CommandFailed if it is none."""
        return decode(self.content)

    def raw(self, name: str) -> list[msgspec.Raw]:
        """Return the entries of a list in it as the API wrote them. Raises CommandFailed."""
        try:
            found = msgspec.json.decode(self.content, type=dict[str, msgspec.Raw]).get(name)
            return [] if found is None else msgspec.json.decode(found, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _not_ours() from None


def decode(content: bytes | msgspec.Raw) -> Any:
    """Return the value of a JSON text. Raises CommandFailed if it is none."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _not_ours() from None


def path(*parts: str) -> str:
    """Return an API path of these parts, each escaped: `path("task", "a/b")` is `/api/task/a%2Fb`."""
    return "/api/" + "/".join(quote(part, safe="~") for part in parts)


class OperatorClient:
    """Calls of one command."""

    def __init__(self, session: aiohttp.ClientSession, access: ServiceAccess) -> None:
        self._session = session
        self.access = access

    async def get(self, where: str, query: Query = ()) -> ServiceAnswer:
        """Return the answer to a GET. Raises CommandFailed for every error, as all calls do."""
        return await self.call("GET", where, query)

    async def send(self, method: str, where: str, body: Any = None, query: Query = (), **headers: str) -> ServiceAnswer:
        """Send JSON, or bytes that are JSON; None: no body."""
        content = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call(method, where, query, content, named)

    async def call(
        self,
        method: str,
        where: str,
        query: Query = (),
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        accepted: Collection[int] = (),
    ) -> ServiceAnswer:
        """Make a call and return its answer. `accepted`: statuses that are no errors."""
        with self._failures():
            async with self._request(method, where, query, content, headers or {}) as response:
                found = await _read(response)
                if response.status >= 300 and response.status not in accepted:
                    raise self._refusal(response, found)
                named = {name.lower(): value for name, value in response.headers.items()}
                return ServiceAnswer(response.status, named, found)

    async def pages(
        self, where: str, query: Query = (), limit: int | None = None
    ) -> AsyncGenerator[ServiceAnswer, None]:
        """Yield the pages of a list up to `limit` entries in all; None: all of it. The caller cuts the last page."""
        left = limit
        cursor: str | None = None
        seen: set[str] = set()
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            place = [("cursor", cursor)] if cursor else []
            answer = await self.get(where, [*query, ("limit", str(size)), *place])
            yield answer
            body = answer.body
            cursor = body.get("nextCursor") if isinstance(body, dict) else None
            if not cursor or cursor in seen:
                return
            seen.add(cursor)
            left = None if left is None else left - size

    @contextlib.asynccontextmanager
    async def streamed(self, where: str, query: Query, last_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a stream of server-sent events after an id. Its status is 200, or 204: nothing will come."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        with self._failures():
            async with self._request("GET", where, query, None, headers, timeout) as response:
                if response.status not in (200, 204):
                    raise self._refusal(response, await _read(response))
                yield response

    async def upload(
        self, where: str, query: Query, content: AsyncIterator[bytes], headers: dict[str, str]
    ) -> ServiceAnswer:
        """Send bytes as they are read; return the answer. Takes as long as they need."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CALL_SECONDS)
        with self._failures():
            async with self._request("POST", where, query, content, headers, timeout) as response:
                found = await _read(response)
                if response.status >= 300:
                    raise self._refusal(response, found)
                return ServiceAnswer(response.status, {}, found)

    @contextlib.asynccontextmanager
    async def download(self, where: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer of bytes, with status 200 or 206."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        with self._failures():
            async with self._request("GET", where, (), None, headers | {"Accept": "*/*"}, timeout) as response:
                if response.status >= 300:
                    raise self._refusal(response, await _read(response))
                yield response

    def _request(
        self,
        method: str,
        where: str,
        query: Query,
        content: bytes | AsyncIterator[bytes] | None,
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        address = self.access.url + where + (f"?{urlencode(query)}" if query else "")
        sent = {"Accept": "application/json", **headers}
        if bearer := self.access.bearer():
            sent["Authorization"] = f"Bearer {bearer}"
        if content is not None:
            sent["Content-Type"] = "application/json" if isinstance(content, bytes) else "application/octet-stream"
        return self._session.request(
            method,
            URL(address, encoded=True),
            data=content,
            headers=sent,
            allow_redirects=False,
            timeout=timeout or CALL_TIMEOUT,
        )

    @contextlib.contextmanager
    def _failures(self) -> Any:
        """Raise Unreachable for everything that happens instead of an answer."""
        url, source = self.access.url, self.access.url_from
        where = "start the service, or name it with --url or TASKSTREAM_URL"
        try:
            yield
        except aiohttp.ClientConnectorCertificateError as error:
            text = f"{url}: its certificate is not trusted ({error.certificate_error}): set SSL_CERT_FILE to its CA"
            raise Unreachable(text) from None
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            reason = os.strerror(number) if number and number > 0 else str(error.os_error)
            raise Unreachable(f"cannot reach {url} ({source}): {reason}: {where}") from None
        except TimeoutError:
            raise Unreachable(f"{url} ({source}) does not answer in time: try again, or look at its log") from None
        except (aiohttp.ClientError, ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
            reason = type(error).__name__ if not str(error) else str(error)
            raise Unreachable(f"the connection to {url} ({source}) failed: {reason}: {where}") from None

    def _refusal(self, response: aiohttp.ClientResponse, content: bytes) -> CommandFailed:
        """Return the error for an answer with a status of 300 or more."""
        problem = read_problem(content)
        status = response.status
        if problem is None:
            said = f"{self.access.url} answered {status} {response.reason or ''}".rstrip()
            if 300 <= status < 400:
                return CommandFailed(f"{said}: set --url to the address it leads to")
            return ServiceRefused(f"{said} and no reason: is it the URL of a Taskstream service?", status)
        text = problem.detail or problem.error
        if status == 401 and self.access.bearer() is None:
            text = no_token()
        elif status in (401, 403):
            text = f"{text} (as {self.access.token_from})"
        elif status in (429, 503) and (pause := response.headers.get("Retry-After", "")).isdecimal():
            text = f"{text}; try again in {pause[:9]} s"
        elif status >= 500 and status != 503 and (request := response.headers.get("X-Request-Id")):
            text = f"{text}; the service's log has the reason under the request {request}"
        return ServiceRefused(text, status, _place(problem))


def no_token() -> str:
    return (
        "no token: set TASKSTREAM_TOKEN or TASKSTREAM_TOKEN_FILE, or the service's TASKSTREAM_JWT_SECRET to sign one, "
        "or give --token"
    )


@contextlib.asynccontextmanager
async def open_client(access: ServiceAccess) -> AsyncIterator[OperatorClient]:
    """Yield a client for an access. Raises CommandFailed if there is no token."""
    if access.bearer() is None:
        raise CommandFailed(no_token(), EXIT_REFUSED)
    async with open_session() as session:
        yield OperatorClient(session, access)


@contextlib.asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for part in response.content.iter_chunked(256 * 1024):
        found += part
        if len(found) > LARGEST_ANSWER:
            raise CommandFailed(f"the answer has more than {LARGEST_ANSWER // 2**20} MiB: ask for less")
    return bytes(found)


def _place(problem: ProblemDocument) -> str:
    return problem.path or ""


def _not_ours() -> CommandFailed:
    return CommandFailed("the answer is not what this version reads: is it the URL of a Taskstream service?")
