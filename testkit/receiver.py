"""Receivers of webhooks for tests: real HTTP servers that keep what they were sent and answer as a test says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from .service import Client
from .waiting import wait_until


class Message(NamedTuple):
    """A request as it came."""

    id: str
    timestamp: str
    signatures: str
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def type(self) -> str:
        return str(self.body["type"])

    def signature_with(self, secret: str) -> str:
        """Return the signature that this should have, by the words of the standard and no library."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = b".".join([self.id.encode(), self.timestamp.encode(), self.raw])
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


Answerer = Callable[[Message], Awaitable[web.StreamResponse]]


def answers(status: int, text: str = "", **headers: str) -> Answerer:
    async def answer(_: Message) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def in_turn(*statuses: int) -> Answerer:
    """Return a behaviour that answers with each status in turn, and with the last one from then on."""
    left = list(statuses)

    async def answer(_: Message) -> web.StreamResponse:
        return web.Response(status=left.pop(0) if len(left) > 1 else left[0])

    return answer


async def hang(_: Message) -> web.StreamResponse:
    """Answer nothing, ever."""
    await asyncio.Event().wait()
    raise AssertionError


class HookReceiver:
    """One receiver on 127.0.0.1; use as an async context manager."""

    def __init__(self, answer: Answerer | None = None) -> None:
        self.answer = answer or answers(204)
        self.messages: list[Message] = []
        self.running = 0
        self.most_at_once = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> HookReceiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; on the same port again after `stop`."""
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def types(self) -> list[str]:
        return [message.type for message in self.messages]

    async def has(self, count: int) -> list[Message]:
        """Wait until that many messages came."""
        await wait_until(lambda: len(self.messages) >= count, f"{count} messages; there are {len(self.messages)}")
        return self.messages

    async def _take(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        message = Message(
            headers["webhook-id"], headers["webhook-timestamp"], headers["webhook-signature"], await request.read()
        )
        self.messages.append(message)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            return await self.answer(message)
        finally:
            self.running -= 1


async def register(client: Client, receiver: HookReceiver, **more: Any) -> tuple[str, str]:
    """Register a webhook; return its id and its secret."""
    answer = await client.post("/api/webhooks", {"url": receiver.url, **more})
    assert answer.status == 200, answer
    return answer["webhook"]["id"], answer["secret"]


async def deliveries(client: Client, webhook_id: str, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/api/webhooks/{webhook_id}/deliveries{query}")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer["deliveries"]
    return found


async def settled(client: Client, webhook_id: str, status: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many deliveries have a status; return them."""

    async def look() -> list[dict[str, Any]] | None:
        found = await deliveries(client, webhook_id, f"?status={status}&limit=200")
        return found if len(found) >= count else None

    found = await wait_until(look, f"{count} deliveries to be {status}")
    assert found is not None
    return found
