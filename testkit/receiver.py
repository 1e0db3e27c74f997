"""Receivers of webhooks: HTTP servers with an answer set by the test; they keep the messages they received."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from .http_server import HttpServer
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
        """Return the signature that it should have, computed without the library that the service uses."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = b".".join([self.id.encode(), self.timestamp.encode(), self.raw])
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


Answerer = Callable[[Message], Awaitable[web.StreamResponse]]


def answers(status: int, text: str = "", **headers: str) -> Answerer:
    """Return a behaviour that answers with a status."""

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


class HookReceiver(HttpServer):
    """One receiver on 127.0.0.1; use as an async context manager."""

    def __init__(self, answer: Answerer | None = None) -> None:
        super().__init__()
        self.answer = answer or answers(204)
        self.messages: list[Message] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.most_at_once = 0

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/hook", self._take)

    @property
    def url(self) -> str:
        return f"{self.base_url}/hook"

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
        self.headers.append(dict(headers))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            return await self.answer(message)
        finally:
            self.running -= 1


async def register(client: Client, receiver: HookReceiver, **more: Any) -> tuple[str, str]:
    """Register a webhook; return its id and its secret."""
    answer = await client.done("POST", "/api/webhooks", {"url": receiver.url, **more})
    return answer["webhook"]["id"], answer["secret"]


async def deliveries(client: Client, webhook_id: str, query: str = "") -> list[dict[str, Any]]:
    """Return the first page of a webhook's deliveries."""
    found: list[dict[str, Any]] = (await client.done("GET", f"/api/webhooks/{webhook_id}/deliveries{query}"))[
        "deliveries"
    ]
    return found


async def settled(client: Client, webhook_id: str, status: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many deliveries have a status; return them."""

    async def look() -> list[dict[str, Any]] | None:
        found = await deliveries(client, webhook_id, f"?status={status}&limit=200")
        return found if len(found) >= count else None

    return await wait_until(look, f"{count} deliveries to be {status}")
