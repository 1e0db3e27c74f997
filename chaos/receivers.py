"""Receivers of webhooks: HTTP servers that come, go, hang and lie, and note what they are sent and what they answer.

A receiver does what its mode says, for a moment, then it has another. In the end it takes everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import aiohttp
import msgspec
from aiohttp import web
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from testkit.http_server import HttpServer, break_off
from testkit.service import Client, token

from .evidence import Entry, Line, Received

Mode: TypeAlias = Literal[
    "takes",  # 204
    "gone",  # nobody listens on its port
    "hangs",  # never answers
    "fails",  # 500
    "busy",  # 429 with Retry-After
    "redirects",  # 307 to an address of its own
    "babbles",  # no HTTP
    "dies",  # closes without an answer
    "ignores",  # 200, without having read the message
    "floods",  # 200, and 2 MB
    "refuses",  # 410
]
MODES: tuple[Mode, ...] = tuple(mode for mode in get_args(Mode) if mode != "refuses")
HONESTY = 3
"""How much likelier than any other mode it is to take what comes."""
SHORTEST_MODE_SECONDS, LONGEST_MODE_SECONDS = 0.2, 2.5
HUGE_BYTES = 2_000_000
FINISH_SECONDS = 90.0
"""How long it may take until all has been taken, once all is quiet."""
CALL_SECONDS = 8.0
POLL_SECONDS = 0.3
ELSEWHERE = "/elsewhere"
"""Where redirects lead."""


class Receiver(HttpServer):
    """One receiver and its webhook. Use as an async context manager; it listens in between."""

    def __init__(self, received: Received, events: Sequence[str], port: int, mode: Mode | None, seed: int) -> None:
        """`mode`: the one that it keeps; None: it changes."""
        super().__init__(port)
        self.received = received
        self.events = list(events)
        self.webhook_id = ""
        self._constant = mode
        self._mode: Mode = mode or "takes"
        self._chance = random.Random(f"{seed}/{received.who}")
        self._webhook: Webhook | None = None
        self._changed = asyncio.Event()
        self._changing: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.received.who}"

    @property
    def taken(self) -> set[int]:
        """Sequences of the events that it has said yes to. What it did not read counts by its id."""
        sequences = {line["id"]: line["message"]["data"]["sequence"] for line in self.received.calls if line["message"]}
        yes = {line["id"] for line in self.received.calls if 200 <= line["answered"] < 300}
        known = {delivery["messageId"]: delivery["sequence"] for delivery in self.received.deliveries}
        return {sequence for one in yes if (sequence := sequences.get(one) or known.get(one))}

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self._answer)

    async def __aexit__(self, *error: object) -> None:
        if self._changing is not None:
            self._changing.cancel()
        await super().__aexit__(*error)

    def registered(self, webhook_id: str, secret: str) -> None:
        self.webhook_id = webhook_id
        self._webhook = Webhook(secret)

    def start_modes(self) -> None:
        """Change the mode from now on, unless it is a constant one."""
        if self._constant is None:
            self._changing = asyncio.create_task(self._change())

    async def reform(self) -> None:
        """Take everything from now on, unless the mode is a constant one."""
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.wait([self._changing])
            await self._turn("takes")

    async def _change(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(SHORTEST_MODE_SECONDS, LONGEST_MODE_SECONDS))
            weights = [HONESTY if mode == "takes" else 1 for mode in MODES]
            await self._turn(self._chance.choices(MODES, weights)[0])

    async def _turn(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode == "gone":
            await self.stop()
        elif self._runner is None:
            await self.start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        mode = self._mode
        line: Line = {
            "at": time.time(),
            "id": request.headers.get("webhook-id", ""),
            "mode": mode,
            "path": request.path,
        }
        line |= {"signed": None, "message": None, "answered": 0}
        self.received.calls.append(line)
        if mode != "ignores":
            body = await request.read()
            line["signed"] = self._is_signed(body, dict(request.headers))
            with contextlib.suppress(msgspec.DecodeError):
                line["message"] = msgspec.json.decode(body)
        if mode == "hangs":
            await self._changed.wait()
            return break_off(request)
        answer = ANSWERS[mode](request) if mode != "gone" else break_off(request)
        line["answered"] = answer.status
        return answer

    def _is_signed(self, body: bytes, headers: dict[str, str]) -> bool:
        assert self._webhook is not None
        try:
            self._webhook.verify(body, {name.lower(): value for name, value in headers.items()})
        except WebhookVerificationError:
            return False
        return True


ANSWERS: dict[Mode, Callable[[web.BaseRequest], web.Response]] = {
    "takes": lambda _: web.Response(status=204),
    "fails": lambda _: web.Response(status=500, text="oh"),
    "busy": lambda _: web.Response(status=429, headers={"Retry-After": "1"}),
    "redirects": lambda _: web.Response(status=307, headers={"Location": ELSEWHERE}),
    "babbles": lambda request: break_off(request, b"\x00\x01 this is no HTTP\r\n\r\n\xff\xfe"),
    "dies": break_off,
    "ignores": lambda _: web.Response(text="whatever"),
    "floods": lambda _: web.Response(body=b"x" * HUGE_BYTES),
    "refuses": lambda _: web.Response(status=410),
}


class Receivers:
    """All receivers of a run, each with a webhook; use as an async context manager, once the service runs."""

    def __init__(self, url: str, ports: Sequence[int], seed: int) -> None:
        """`ports`: four or more that are free."""
        free = iter(ports)

        def receiver(who: str, owner: str, events: Sequence[str], mode: Mode | None) -> Receiver:
            received = Received(who=who, owner=owner, kinds=frozenset(), mode=mode or "")
            return Receiver(received, events, next(free), mode, seed)

        self._url = url
        self.all = [
            receiver("steady", "alice", ["all"], "takes"),
            receiver("flaky", "alice", ["ended", "attempts"], None),
            receiver("flaky", "bob", ["ended", "task.submitted"], None),
            receiver("silent", "bob", ["ended"], "hangs"),
            receiver("leaving", "carol", ["ended"], "refuses"),
        ]
        self._stack = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Receivers:
        async with contextlib.AsyncExitStack() as stack:
            timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
            self._session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            for receiver in self.all:
                await stack.enter_async_context(receiver)
                await self._register(receiver)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def names(self) -> list[tuple[str, str, str]]:
        """Owner, name and mode of each."""
        return [(one.received.owner, one.received.who, one.received.mode) for one in self.all]

    def start(self) -> None:
        for receiver in self.all:
            receiver.start_modes()

    async def reform(self) -> None:
        """Have all take what comes, but for those that never do."""
        for receiver in self.all:
            await receiver.reform()

    async def finish(self, log: Sequence[Entry]) -> list[Received]:
        """Wait until all of a log that has come to its end has been sent, and return what came of it."""
        await asyncio.gather(*(self._finish(receiver, log) for receiver in self.all))
        return [receiver.received for receiver in self.all]

    async def _finish(self, receiver: Receiver, log: Sequence[Entry]) -> None:
        wanted = {entry.sequence for entry in log if receiver.received.wants(entry)}
        over_at = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < over_at:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, AssertionError):
                if await self._is_finished(receiver, wanted):
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def _is_finished(self, receiver: Receiver, wanted: set[int]) -> bool:
        received = receiver.received
        received.deliveries = await self._deliveries(receiver)
        if received.mode == "hangs":
            return wanted <= {delivery["sequence"] for delivery in received.deliveries}
        if received.mode == "refuses":
            webhook = await self._owner(receiver).done("GET", f"/api/webhooks/{receiver.webhook_id}")
            received.disabled_at = None if webhook["active"] else time.time()
            return received.disabled_at is not None or not wanted
        waiting = any(delivery["status"] == "waiting" for delivery in received.deliveries)
        return not waiting and wanted <= receiver.taken

    async def _register(self, receiver: Receiver) -> None:
        body = {"url": receiver.url, "events": receiver.events}
        answer = await self._owner(receiver).done("POST", "/api/webhooks", body)
        names = answer["webhook"]["events"]
        receiver.received.kinds = frozenset(name.removeprefix("task.") for name in names)
        receiver.registered(answer["webhook"]["id"], answer["secret"])

    async def _deliveries(self, receiver: Receiver) -> list[Line]:
        """Return all deliveries of a webhook, the one that changed last first."""
        listed = await self._owner(receiver).listed(f"/api/webhooks/{receiver.webhook_id}/deliveries", "deliveries")
        found: dict[str, Line] = {}
        for delivery in listed:
            found.setdefault(delivery["id"], delivery)
        return list(found.values())

    def _owner(self, receiver: Receiver) -> Client:
        assert self._session is not None
        return Client(self._session, self._url, token(receiver.received.owner))
