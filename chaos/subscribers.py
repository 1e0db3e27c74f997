"""Subscribers over server-sent events and WebSocket that are cut off, hang, reconnect, and record what they receive.

Each reconnects after its last id, to either API. All that it received over its connections must be what the log says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp

from taskstream.api.auth.authenticator import make_token
from testkit.service import SECRET
from testkit.sse import EventStream, sequence_of

from .evidence import Entry, Heard, Line, State, Told
from .load import TOKEN_AGES_SECONDS, TOKEN_LIFETIME_SECONDS

LONGEST_STAY_SECONDS = 3.0
"""How long a connection lasts until it is cut off."""
SHORTEST_STAY = 0.03
"""Of the longest."""
HANG_CHANCE = 0.01
"""After each event, not to read on for a while."""
LONGEST_HANG_SECONDS = 3.0
SLEEP_SECONDS = 12.0
"""Longer than a WebSocket may leave its messages waiting."""
SMALL_BUFFER_BYTES = 4 * 1024
PAUSE_SECONDS = 0.2
CLOSE_SECONDS = 0.1
LINK_CHANCE = 0.5
FINISH_SECONDS = 90.0
"""How long a subscriber may take to receive the rest, once all is quiet."""
DRAIN_SECONDS = 1.0
"""What is in the buffers of a connection that has been ended is read sooner."""
MOST_TASKS = 99
"""A connection has 100 subscriptions at most."""
FOLLOWERS = 3
"""Of single tasks, by each door."""


class NotNow(Exception):
    """The API is away, or cannot read the log now."""


class Ended(Exception):
    """The task has ended, and the subscriber has all its events."""


class Subscriber:
    """One subscriber. Its door is a subclass."""

    def __init__(
        self,
        heard: Heard,
        urls: Sequence[str],
        bearer: str,
        chance: random.Random,
        place: str = "",
        links: Sequence[str] = (),
    ) -> None:
        self.heard = heard
        heard.from_state = not place
        self.chance = chance
        self.headers = {"Authorization": f"Bearer {bearer}"}
        self.place = place
        """Of the last whole event; empty: to begin with the present state."""
        self.over = False
        """It has all that it is to have."""
        self.longest_stay_seconds = LONGEST_STAY_SECONDS
        self.hang_seconds = LONGEST_HANG_SECONDS
        self.receive_bytes: int | None = None
        self._urls = urls
        self._links = links
        self._through_link = False
        self._hurry = asyncio.Event()

    def connected(self, session: aiohttp.ClientSession, url: str) -> AsyncIterator[Told]:
        """Yield what a connection brings, for as long as it lasts. Raises NotNow, and Ended after the end of a task."""
        raise NotImplementedError

    async def run(self) -> None:
        """Reconnect until it has all."""
        while not self.over:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, NotNow, asyncio.IncompleteReadError):
                stay = self.chance.uniform(SHORTEST_STAY, 1) * self.longest_stay_seconds
                async with asyncio.timeout(FINISH_SECONDS if self._hurry.is_set() else stay) as self._stay:
                    await self._listen()
            if not self.over:
                await asyncio.sleep(self.chance.random() * PAUSE_SECONDS)

    def finish(self, wanted: int | None = None) -> None:
        """Be cut off no more, and come to an end: at a sequence (0: there is nothing), or with the task."""
        self._hurry.set()
        self.heard.wanted = wanted
        self.over = self.over or wanted == 0 or self._has_all()

    def _has_all(self) -> bool:
        heard = self.heard
        return heard.wanted is not None and heard.after is not None and heard.until >= heard.wanted

    async def _listen(self) -> None:
        self.heard.connections += 1
        self._through_link = bool(self._links) and not self._hurry.is_set() and self.chance.random() < LINK_CHANCE
        url = self.chance.choice(self._links if self._through_link else self._urls)
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=self._socket)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self.headers) as session:
            try:
                async with contextlib.aclosing(self.connected(session, url)) as told:  # type: ignore[type-var]
                    async for one in told:
                        self._note(one)
                        if self._has_all():
                            self.over = True
                            return
                        if not self._hurry.is_set() and self.chance.random() < HANG_CHANCE:
                            await self._hang()
            except Ended:
                self.over = self.heard.ended = True

    async def _hang(self) -> None:
        """Read nothing for a while; a connection that is to be cut off is not, meanwhile."""
        seconds = self.chance.uniform(0.5, 1) * self.hang_seconds
        when = self._stay.when()
        if when is not None:
            self._stay.reschedule(when + seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _note(self, told: Told) -> None:
        heard = self.heard
        if told.event.get("type") in ("reset", "gap"):  # no run restores a log, or lets one age
            heard.refusals.append(f"{told.event} after {self.place}")
        is_state = told.event.get("type") in ("state", "reset", "gap")
        if told.event.get("type") == "state":
            event = told.event
            heard.states.append(State(event["taskId"], event["sequence"], event["task"]["status"], time.time()))
        if told.place:
            self.place = told.place
            sequence = sequence_of(told.place)
            heard.until = sequence
            if heard.began_at is None:
                heard.began_at = time.time()
            if heard.after is None:
                heard.after = sequence
        if not is_state:
            heard.told.append(told)

    def _socket(self, address: tuple) -> socket.socket:  # type: ignore[type-arg]
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        if self.receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
        return made

    def refused(self, status: int, why: str, retry_after: str | None) -> None:
        """Note an answer that is no stream. Raises NotNow."""
        garbled = status == 400 and self._through_link
        if not garbled and (status != 503 or not (retry_after or "").isdigit()):
            self.heard.refusals.append(f"{status} {why[:200]}")
        raise NotNow


class OverSse(Subscriber):
    async def connected(self, session: aiohttp.ClientSession, url: str) -> AsyncIterator[Told]:
        path = "/api/tasks/stream" if self.heard.task is None else f"/api/task/{self.heard.task}/stream"
        headers = {"Last-Event-ID": self.place} if self.place else {}
        async with session.get(url + path, headers=headers, read_bufsize=2**18) as stream:
            if stream.status == 204:
                raise Ended
            if stream.status != 200:
                self.refused(stream.status, await stream.text(), stream.headers.get("Retry-After"))
            async for sent in EventStream(stream, with_reached=True):
                yield Told(sent.id, {} if sent.type == "reached" else sent.data)


class OverWebSocket(Subscriber):
    async def connected(self, session: aiohttp.ClientSession, url: str) -> AsyncIterator[Told]:
        wanted: Line = {"type": "subscribe"}
        wanted |= {"all": True} if self.heard.task is None else {"task": self.heard.task}
        listening = await self._shake_hands(session, url)
        try:
            await listening.send_json(wanted | ({"after": self.place} if self.place else {}))
            async for message in listening:
                event = message.json()
                match event["type"]:
                    case "ended":
                        if self.heard.task is None:
                            self.heard.refusals.append("ended, where there is no end")
                            raise NotNow
                        raise Ended
                    case "error":
                        if not event["error"].endswith(("retry", "again")):
                            self.heard.refusals.append(event["error"])
                        raise NotNow
                    case "reached":
                        yield Told(event["id"] or "", {})
                    case "subscribed":
                        pass
                    case _:
                        yield Told(event["id"] or "", event)
        finally:
            await listening.close()

    async def _shake_hands(self, session: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
        patience = aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS)
        try:
            return await session.ws_connect(f"{url}/ws", max_msg_size=0, timeout=patience)
        except aiohttp.WSServerHandshakeError as error:
            self.refused(error.status, error.message, (error.headers or {}).get("Retry-After"))
            raise


class NonReader(OverWebSocket):
    """Subscribes to everything from the beginning, several times, and reads nothing until it is dropped.

    It records only that; other subscribers must not be affected.
    """

    def __init__(self, tasks: Callable[[], Sequence[str]], urls: Sequence[str], chance: random.Random) -> None:
        super().__init__(Heard(who="NonReader", wanted=0), urls, _token("root", "admin"), chance)
        self.receive_bytes = SMALL_BUFFER_BYTES
        self.longest_stay_seconds = 2 * SLEEP_SECONDS
        self._tasks = tasks

    async def connected(self, session: aiohttp.ClientSession, url: str) -> AsyncIterator[Told]:
        listening = await self._shake_hands(session, url)
        try:
            for wanted in ({"all": True}, *({"task": task} for task in self._tasks()[:MOST_TASKS])):
                await listening.send_json({"type": "subscribe", "after": 0, **wanted})
            await asyncio.sleep(SLEEP_SECONDS)
            awake_at = time.monotonic()
            async for _ in listening:
                pass
            self.heard.dropped += time.monotonic() - awake_at < DRAIN_SECONDS
        finally:
            await listening.close()
        for nothing in ():
            yield nothing


class Subscribers:
    """All subscribers of a run; use as an async context manager."""

    def __init__(
        self, urls: Sequence[str], links: Sequence[str], tasks: Callable[[], Sequence[str]], seed: int
    ) -> None:
        """`links`: ways to the APIs that may be cut off; `tasks`: ids of tasks that were submitted of late."""
        self._urls = urls
        self._links = links
        self._tasks = tasks
        self._seed = seed
        self._lasting: list[Subscriber] = []
        self._passing: list[Subscriber] = []
        """Of one task each."""
        self._running: list[asyncio.Task[None]] = []
        self._non_reader = NonReader(tasks, urls, random.Random(f"{seed}/non-reader"))
        self._non_reading: asyncio.Task[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Subscribers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_non_reader()
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _stop_non_reader(self) -> None:
        if self._non_reading is not None:
            self._non_reading.cancel()
            await asyncio.wait([self._non_reading])

    def start(self) -> None:
        self._lasting = [
            self._lasts(OverSse, "alice", self._links),
            self._lasts(OverWebSocket, "alice"),
            self._lasts(OverSse, "bob", place="0"),
            self._lasts(OverWebSocket, "carol", self._links, place="0"),
            self._lasts(OverWebSocket, None, self._links),
            self._sleeper(self._lasts(OverSse, None, place="0")),
            self._sleeper(self._lasts(OverWebSocket, None, place="0")),
        ]
        self._non_reading = asyncio.create_task(self._non_reader.run())
        self._running = [asyncio.create_task(subscriber.run()) for subscriber in self._lasting]
        self._running += [
            asyncio.create_task(self._follow_tasks(door, number))
            for door in (OverSse, OverWebSocket)
            for number in range(FOLLOWERS)
        ]

    @property
    def lasting(self) -> list[str]:
        """Names of those that last for the whole run."""
        return [subscriber.heard.who for subscriber in self._lasting]

    async def finish(self, log: Sequence[Entry]) -> list[Heard]:
        """Wait until each has the rest of a log that has come to its end; return what all received."""
        self._stopping = True
        await self._stop_non_reader()
        for subscriber in self._lasting:
            ends = [entry.sequence for entry in log if subscriber.heard.has(entry.task)]
            subscriber.finish(max(ends, default=0))
        for subscriber in self._passing:
            subscriber.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await asyncio.gather(*self._running)
        return [subscriber.heard for subscriber in (*self._lasting, *self._passing, self._non_reader)]

    async def _follow_tasks(self, door: type[Subscriber], number: int) -> None:
        """Follow one task after the other, each to its end."""
        chance = random.Random(f"{self._seed}/{door.__name__}/{number}")
        while not self._stopping:
            tasks = self._tasks()
            if tasks:
                task = chance.choice(tasks)
                place = chance.choice(("", "0"))
                heard = Heard(who=f"{door.__name__} of {task}", task=task, after=int(place) if place else None)
                subscriber = door(heard, self._urls, _token(task.partition("~")[2]), chance, place)
                self._passing.append(subscriber)
                await subscriber.run()
            await asyncio.sleep(PAUSE_SECONDS)

    def _lasts(
        self, door: type[Subscriber], owner: str | None, links: Sequence[str] = (), place: str = ""
    ) -> Subscriber:
        who = f"{door.__name__} of {owner or 'all'}"
        heard = Heard(who=who, owner=owner, after=int(place) if place else None)
        chance = random.Random(f"{self._seed}/{who}/{place}")
        bearer = _token(owner or "root", "user" if owner else "admin")
        return door(heard, self._urls, bearer, chance, place, links)

    def _sleeper(self, subscriber: Subscriber) -> Subscriber:
        """Make a subscriber one that reads little at a time, and sleeps so long that it is dropped."""
        subscriber.hang_seconds = SLEEP_SECONDS
        subscriber.receive_bytes = SMALL_BUFFER_BYTES
        subscriber.heard.who += ", asleep"
        return subscriber


def _token(subject: str, role: str = "user") -> str:
    """Return a token so old that no clock takes it for one of the future."""
    return make_token(SECRET, subject, [role], TOKEN_LIFETIME_SECONDS, time.time() - max(TOKEN_AGES_SECONDS))
