"""What every call does: the token, retries, errors, pages and streams. Flows only: see `flow.py`."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from . import sse
from .credentials import Credentials, Token
from .errors import ApiError, BadAnswer, BadSettings, TaskstreamError, Unavailable, error_for, retry_after_of
from .flow import Answer, Broken, Close, Emit, Exchange, Flow, Open, Opened, Pause, Read, Request, Upload
from .models import convert, decode, encode
from .retries import RETRIED, Retries
from .updates import Ended, Reset, State, Update, read_update

T = TypeVar("T")

READ_SECONDS = 30.0
"""The longest pause within an answer."""
STREAM_SECONDS = 40.0
"""A stream says something every 15 s. After a pause as long as this its connection is dead."""
FIRST_PAUSE = 0.0
"""A stream that was cut is opened again at once; only then with pauses."""
JSON = "application/json"

Query = Mapping[str, Any]


class Core:
    """The settings of a client, and the flows that all calls are made of."""

    def __init__(
        self,
        url: str,
        token: Token | None,
        *,
        timeout: float,
        patience: float,
        retries: Retries,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        new_key: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadSettings(f"{url!r} is no URL of a service; set TASKSTREAM_URL, as in https://tasks.example.com")
        self.url = url.rstrip("/").removesuffix("/api")
        self.timeout = timeout
        self.patience = patience
        self.retries = retries
        self.user_agent = user_agent
        self.clock = clock
        self.now = now
        self.new_key = new_key
        self.credentials = Credentials(token, now)

    # One request

    def send(
        self, request: Request, *, timeout: float | None = None, repeatable: bool = True, shielded: bool = False
    ) -> Flow[Answer]:
        """Send a request until it is answered with less than 400. Raises ApiError.

        `repeatable`: the service may get it twice without harm. Otherwise it is sent again only if it was not taken.
        """
        turns = self._turns(request, timeout, repeatable)
        while True:
            asked = yield from self._with_token(request, turns.left())
            outcome = yield Exchange(asked, shielded)
            if isinstance(outcome, Answer) and outcome.status < 400:
                return outcome
            yield from turns.after(asked, outcome)

    def open(self, request: Request, *, timeout: float | None = None) -> Flow[Opened]:
        """Send a request and leave its answer open. Raises ApiError."""
        turns = self._turns(request, timeout, True)
        while True:
            asked = yield from self._with_token(request, request.seconds)
            outcome = yield Open(asked)
            if isinstance(outcome, Opened) and outcome.answer.status < 400:
                return outcome
            yield from turns.after(asked, outcome.answer if isinstance(outcome, Opened) else outcome)

    def _turns(self, request: Request, timeout: float | None, repeatable: bool) -> _Turns:
        return _Turns(self, str(request), self.timeout if timeout is None else timeout, repeatable)

    def _with_token(self, request: Request, left: float) -> Flow[Request]:
        headers = {"Accept": JSON, "User-Agent": self.user_agent, **request.headers}
        if request.path.startswith("/") and "Authorization" not in headers:
            headers |= yield from self.credentials.header()
        return Request(
            request.method,
            request.path,
            request.query,
            headers,
            request.body,
            max(0.05, min(request.seconds, left)),
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        repeatable: bool = True,
        seconds: float = READ_SECONDS,
        shielded: bool = False,
    ) -> Flow[Any]:
        """Send JSON and return the JSON of the answer; None for an empty one. Raises ApiError and BadAnswer."""
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = encode(body)
            sent.setdefault("Content-Type", JSON)
        request = Request(method, path, query_of(query), sent, content, seconds)
        answer = yield from self.send(request, timeout=timeout, repeatable=repeatable, shielded=shielded)
        return decode(answer.body) if answer.body else None

    def upload(
        self, path: str, body: bytes | Upload, headers: Mapping[str, str], *, query: Query | None, timeout: float | None
    ) -> Flow[Any]:
        """Send bytes and return the JSON of the answer. The headers have an Idempotency-Key."""
        request = Request("POST", path, query_of(query), headers, body)
        answer = yield from self.send(request, timeout=timeout)
        return decode(answer.body)

    # Lists

    def items(self, path: str, key: str, kind: type[T], query: Query, *, limit: int | None = None) -> Flow[None]:
        """Emit the entries of a list, page after page; a page is read when its first entry is wanted."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = {} if left is None else {"limit": min(left, PAGE)}
            page = yield from self.ask("GET", path, query={"limit": PAGE, **query, **size, "cursor": cursor})
            if not isinstance(page, dict) or not isinstance(page.get(key), list):
                raise BadAnswer(f"GET {path} was answered without `{key}`")
            for entry in page[key][:left]:
                yield Emit(convert(entry, kind))
                left = None if left is None else left - 1
            cursor = page.get("nextCursor")
            if cursor is None:
                return

    # Streams

    def follow(
        self, path: str, task_id: str, *, query: Query, after: str | None, ends: bool, until: float = math.inf
    ) -> Flow[None]:
        """Emit the updates of a stream, over any number of connections. `ends`: it is of one task, and ends with it.

        `until`: a time of the clock at which the caller wants to be asked again, also if nothing comes.
        Raises ApiError if the service refuses, or is away for longer than `patience`.
        """
        place = _Place(after)
        away_since: float | None = None
        tries = 0
        while True:
            seconds = min(STREAM_SECONDS, max(0.05, until - self.clock()))
            request = Request("GET", path, query_of(query), _stream_headers(place.id), seconds=seconds)
            budget = self.patience if away_since is None else max(0.0, away_since + self.patience - self.clock())
            opened = yield from self.open(request, timeout=budget)
            if opened.answer.status == 204:
                yield Close(opened.handle)
                return
            parser = sse.Parser()
            while True:
                chunk = yield Read(opened.handle)
                if chunk is None or isinstance(chunk, Broken):
                    break
                messages = parser.feed(chunk)
                if not messages and seconds > until - self.clock() + 1:
                    break  # a heartbeat: the next pause could be longer than the caller waits
                for message in messages:
                    away_since, tries = None, 0
                    update = place.take(message, task_id)
                    if update is not None:
                        yield Emit(update)
                        if ends and place.has_ended:
                            yield Close(opened.handle)
                            return
            yield Close(opened.handle)
            if ends and place.has_ended:
                return
            now = self.clock()
            away_since = now if away_since is None else away_since
            if now - away_since > self.patience:
                raise Unavailable(
                    f"the stream {path} was cut again and again for {self.patience:g} s. "
                    f"Go on later with after={place.id!r}"
                )
            yield Pause(FIRST_PAUSE if tries == 0 else self.retries.pause(tries, None))
            tries += 1


PAGE = 200
"""Entries of a page."""


class _Place:
    """Where a stream is."""

    def __init__(self, after: str | None) -> None:
        self.id = after or ""
        self.has_ended = False

    def take(self, message: sse.Message, task_id: str) -> Update | None:
        """Return the update of a message, and remember its position."""
        given = decode(message.data)
        if not isinstance(given, dict):
            raise BadAnswer("a message of the stream is no JSON object")
        if message.id:
            self.id = message.id
        update = read_update(given, self.id, task_id)
        if isinstance(update, State):
            self.has_ended = update.task.ended
        elif isinstance(update, Ended):
            self.has_ended = True
        elif isinstance(update, Reset) or given.get("type") in ("TaskQueued", "TaskHeld"):
            self.has_ended = False
        return update


class _Turns:
    """The tries of one request."""

    def __init__(self, core: Core, request: str, timeout: float, repeatable: bool) -> None:
        self._core = core
        self._request = request
        self._timeout = timeout
        self._repeatable = repeatable
        self._give_up_at = core.clock() + timeout
        self._tries = 0
        self._token_renewed = False

    def left(self) -> float:
        """Return the seconds that are left of the timeout."""
        return self._give_up_at - self._core.clock()

    def after(self, request: Request, outcome: Answer | Broken) -> Flow[None]:
        """Return when the request may be sent again. Raises ApiError if it may not."""
        core = self._core
        if isinstance(outcome, Broken):
            error: ApiError = Unavailable(
                f"{self._request} was not answered: {outcome.reason}. Is the service at {core.url} up, and reachable "
                "from here?"
            )
            may = self._repeatable or outcome.unsent
            wanted = None
        else:
            error = error_for(outcome.status, outcome.headers, outcome.body, self._request)
            if outcome.status == 401 and core.credentials.renewable and not self._token_renewed:
                self._token_renewed = True
                core.credentials.refuse(request.headers.get("Authorization"))
                return
            may = outcome.status in RETRIED and (self._repeatable or outcome.status == 429)
            wanted = retry_after_of(outcome.headers)
        most = core.retries.most
        pause = core.retries.pause(self._tries, wanted)
        self._tries += 1
        if not may or (most is not None and self._tries > most) or pause >= self.left():
            if self._tries > 1:
                error.args = (f"{error.args[0]} (the last of {self._tries} tries within {self._timeout:g} s)",)
            raise error
        yield Pause(pause)


def _stream_headers(after: str) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
    return headers | ({"Last-Event-ID": after} if after else {})


def query_of(given: Query | None) -> list[tuple[str, str]]:
    """Return the parameters of a URL: lists are repeated, None is left out, True is `true`."""
    found: list[tuple[str, str]] = []
    for name, value in (given or {}).items():
        values = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
        found += [(name, _text(each)) for each in values if each is not None]
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def path_of(*segments: str) -> str:
    """Return a path below `/api`. A segment is percent-encoded. Raises TaskstreamError for an empty one."""
    if not all(segments):
        raise TaskstreamError("an id is empty")
    return "/api/" + "/".join(quote(each, safe="~") for each in segments)


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def as_list(one_or_more: str | Iterable[str] | None) -> list[str] | None:
    """Return a list of texts; None stays None."""
    if one_or_more is None:
        return None
    return [one_or_more] if isinstance(one_or_more, str) else list(one_or_more)
