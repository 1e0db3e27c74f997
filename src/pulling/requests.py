"""The open requests of pullers at this process: each is an ask of the worker that dispatches to the server.

The process sends the ask again and again while the request is open. An attempt comes as a message with an answer: it
is taken, or the request is over. What is taken after the puller has hung up is returned at once; what no process of
ours hands on comes back by its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
import structlog
from msgspec import Raw, Struct
from nats.aio.msg import Msg

from ..clock import unique_id
from ..errors import NotFound, StoreError, StoreUnavailable
from ..events.ids import TaskRef
from ..events.subjects import ask_report_subject, ask_subject
from ..projections.fleet import Fleet
from ..scheduling.asks import (
    GONE,
    TAKEN,
    AskMessage,
    AskReport,
    HandedInput,
    HandOver,
    decode_hand_over,
    decode_input,
    decode_report,
    encode,
)
from ..streams.client.connection import Connection, status_of
from ..streams.results import Results
from .attempt_ids import AttemptIds, AttemptKey
from .attempts import PulledAttempts
from .open_polls import OpenPolls

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 2.0
"""How often an ask is sent again."""
LIVES_SECONDS = 6.0
"""How long the worker remembers an ask that is not sent again: two messages may be lost."""
UNHEARD_SECONDS = 0.25
"""Pause before an ask is sent again that no worker received."""
SHORTEST_WAIT_SECONDS = 0.25
"""How long a request without a wait is open: a worker needs a moment to look and to start an attempt."""
LINGER_SECONDS = 0.02
"""How long a request that has an attempt, and wants more, waits for another."""
COMING_SECONDS = 1.0
"""The same while the worker says that more are coming."""
LATE_SECONDS = 5.0
"""How long after its end a request still refuses attempts. Longer than a worker waits for the answer."""
STOPPING_SECONDS = 0.5
"""How long a request is held that comes to a process which stops: its puller would repeat it at once."""
REPORT_SECONDS = 0.5

STOPPING = "this process is stopping; ask again"


class Wanted(Struct, frozen=True, kw_only=True):
    """What a puller asks for."""

    most: int = 1
    """Attempts, at most."""
    types: tuple[str, ...] = ()
    """Only tasks of these types; empty: of all that the server serves."""
    labels: dict[str, str] | None = None
    """The puller has only these of the server's labels; None: all."""


class TakenAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that a puller has: nobody else gets it while its lease lasts."""

    id: str
    key: AttemptKey
    given: HandOver
    """With its input."""

    @property
    def payload(self) -> Raw:
        assert self.given.input is not None
        return self.given.input.payload


class Taken(Struct, frozen=True, kw_only=True):
    """The answer to a request."""

    attempts: list[TakenAttempt]
    reason: str = ""
    """Why there are none, if it is not that no task waits."""


class PullRequests:
    """The open requests of this process."""

    def __init__(
        self,
        connection: Connection,
        fleet: Fleet,
        results: Results,
        ids: AttemptIds,
        attempts: PulledAttempts,
    ) -> None:
        self._connection = connection
        self._fleet = fleet
        self._results = results
        self._ids = ids
        self._attempts = attempts
        self._open: set[_PullRequest] = set()
        self.places = OpenPolls()
        self._ended = False

    def end(self) -> None:
        """End every request, now and from now on: this process stops."""
        self._ended = True
        self._attempts.end()
        for request in self._open:
            request.news.set()

    async def take(
        self,
        server_id: str,
        wanted: Wanted,
        wait_seconds: float,
        gone: asyncio.Future[None],
        alive: Callable[[], Awaitable[None]],
    ) -> Taken:
        """Return up to `wanted.most` attempts as soon as there is one; none after `wait_seconds`, or with a reason.

        `gone`: done once the puller has hung up. `alive`: called again and again while it has not. Raises TooManyAsks.
        """
        with self._place(server_id) as request:
            request.wanted = wanted
            gone.add_done_callback(request.on_gone)
            try:
                reason = await self._wait(request, wait_seconds, gone, alive)
                taken = [taken for given in request.given if (taken := await self._completed(given)) is not None]
            finally:
                gone.remove_done_callback(request.on_gone)
                await request.close()
        if gone.done():
            for each in taken:
                await self._return(each.key, each.given.token, "the puller hung up before it got the attempt")
            taken = []
        return Taken(attempts=taken, reason="" if taken else reason)

    async def report(self, server_id: str) -> AskReport | None:
        """Return how many requests of a server's pullers are open at all processes; None if no worker knows."""
        try:
            subject = ask_report_subject(server_id)
            answer = await self._connection.request(subject, timeout_seconds=REPORT_SECONDS)
            return decode_report(answer.data)
        except (StoreUnavailable, msgspec.MsgspecError):
            return None

    async def reports(self, server_ids: Iterable[str]) -> dict[str, AskReport]:
        """Return the same for several servers, by id; without those of which no worker knows."""
        ids = list(server_ids)
        found = await asyncio.gather(*map(self.report, ids))
        return {server_id: report for server_id, report in zip(ids, found, strict=True) if report is not None}

    async def _wait(
        self,
        request: _PullRequest,
        wait_seconds: float,
        gone: asyncio.Future[None],
        alive: Callable[[], Awaitable[None]],
    ) -> str:
        """Wait until a request has what it can get; return why that is nothing, empty if no task waits."""
        give_up_at = time.monotonic() + max(wait_seconds, SHORTEST_WAIT_SECONDS)
        while not request.given:
            reason = STOPPING if self._ended else self._closed_because(request.server_id)
            left = give_up_at - time.monotonic()
            if gone.done() or left <= 0 or (self._ended and request.has_waited):
                return reason
            request.has_waited = True
            await alive()
            if not reason:
                await request.ask()
            pause_seconds = STOPPING_SECONDS if self._ended else request.pause_seconds
            await request.receive(min(left, pause_seconds), is_open=not gone.done())
        while len(request.given) < request.wanted.most and not gone.done():
            count = len(request.given)
            seconds = COMING_SECONDS if request.given[-1].coming > 0 else LINGER_SECONDS
            await request.receive(seconds, is_open=not gone.done())
            if len(request.given) == count:
                break
        return ""

    def _closed_because(self, server_id: str) -> str:
        """Return why the pullers of a server get nothing now; empty if they may."""
        server = self._fleet.find(server_id)
        if server is None:
            return "the server was removed"
        if not server.settings.is_pulled:
            return "the server is not pulled any more"
        if server.maintenance:
            more = f": {server.maintenance_reason}" if server.maintenance_reason else ""
            return f"the server is in maintenance{more}"
        return ""

    @contextlib.contextmanager
    def _place(self, server_id: str) -> Iterator[_PullRequest]:
        with self.places.open(server_id):
            request = _PullRequest(self._connection, server_id)
            self._open.add(request)
            try:
                yield request
            finally:
                self._open.discard(request)

    async def _completed(self, given: HandOver) -> TakenAttempt | None:
        """Return an attempt with its input; None, and return the attempt, if the input cannot be read."""
        key = AttemptKey(TaskRef(given.owner, given.unique), given.attempt)
        if given.input is None:
            try:
                given = msgspec.structs.replace(given, input=await self._stored_input(given.object_name, given.owner))
            except (StoreError, NotFound, msgspec.MsgspecError) as error:
                log.warning("pull.input-unreadable", task=key.ref.id, reason=str(error))
                await self._return(key, given.token, "its input could not be read")
                return None
        return TakenAttempt(id=self._ids.make(key), key=key, given=given)

    async def _stored_input(self, name: str, owner: str) -> HandedInput:
        async with self._results.opened(name, owner) as parts:
            content = b"".join([part async for part in parts])
        with contextlib.suppress(StoreError):
            await self._results.discard([name])
        return decode_input(content)

    async def _return(self, key: AttemptKey, token: str, reason: str) -> None:
        """Return an attempt that no puller has. If that fails, its lease brings it back."""
        try:
            await self._attempts.give_back(await self._attempts.load(key, token), reason)
        except (StoreError, NotFound) as error:
            log.info("pull.not-returned", task=key.ref.id, reason=str(error))


class _PullRequest:
    """One open request, and the ask that stands for it."""

    def __init__(self, connection: Connection, server_id: str) -> None:
        self.server_id = server_id
        self.wanted = Wanted()
        self.given: list[HandOver] = []
        """The attempts that were taken."""
        self.news = asyncio.Event()
        self.pause_seconds = REFRESH_SECONDS
        """How long until the ask is sent again."""
        self._connection = connection
        self._id = unique_id()
        self._inbox = connection.open_inbox(self._on_message)
        self._offered: deque[Msg] = deque()
        self.has_waited = False
        self._has_asked = False
        self._is_over = False
        self._refusals: set[asyncio.Task[None]] = set()

    def on_gone(self, _: object) -> None:
        self.news.set()

    async def ask(self) -> None:
        """Send the ask. Without NATS, nothing happens."""
        self.pause_seconds = REFRESH_SECONDS
        await self._send(self.wanted.most - len(self.given), LIVES_SECONDS)
        self._has_asked = True

    async def receive(self, seconds: float, *, is_open: bool) -> None:
        """Wait until something has happened, `seconds` at most; then take the attempts that were offered.

        If the request is no longer open by then, they are refused.
        """
        if not self._offered:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.news.wait()
        self.news.clear()
        while self._offered:
            message = self._offered.popleft()
            if not is_open or len(self.given) >= self.wanted.most:
                await self._answer(message, GONE)
                continue
            try:
                given = decode_hand_over(message.data)
            except msgspec.MsgspecError as error:  # of another version
                log.warning("pull.unreadable", reason=str(error))
                await self._answer(message, GONE)
                continue
            self.given.append(given)
            await self._answer(message, TAKEN)

    async def close(self) -> None:
        """End the ask, and refuse the attempts that still come."""
        self._is_over = True
        while self._offered:
            await self._answer(self._offered.popleft(), GONE)
        if self._has_asked and len(self.given) < self.wanted.most:
            await self._send(0, 0)
        asyncio.get_running_loop().call_later(LATE_SECONDS, self._connection.close_inbox, self._inbox)

    def _on_message(self, message: Msg | None) -> None:
        if message is not None and not message.data:
            if status_of(message) == "503":  # no worker dispatches to the server at the moment
                self.pause_seconds = UNHEARD_SECONDS
            return
        if message is not None and self._is_over:
            refusal = asyncio.get_running_loop().create_task(self._answer(message, GONE))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            return
        if message is not None:
            self._offered.append(message)
        self.news.set()

    async def _send(self, wants: int, lives_seconds: float) -> None:
        message = AskMessage(
            id=self._id,
            wants=wants,
            lives_seconds=lives_seconds,
            types=self.wanted.types,
            labels=self.wanted.labels,
        )
        with contextlib.suppress(StoreUnavailable):
            await self._connection.publish(
                ask_subject(self.server_id), encode(message), self._connection.inbox(self._inbox)
            )

    async def _answer(self, message: Msg, answer: bytes) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it counts as taken, and its lease brings it back
            await self._connection.publish(message.reply, answer)
