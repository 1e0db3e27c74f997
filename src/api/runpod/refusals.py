"""Refusals of long polls, which are held: a client of a long poll repeats it at once, whatever the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from ..middleware import MAY_TAKE_LONG, until_gone

HELD_SECONDS = 5.0
"""How long a refusal is held."""
MOST_HELD = 1_000
"""Refusals held at this process; further ones are sent at once."""


class HeldRefusals:
    """ASGI middleware that holds every refusal of a GET for a while."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "GET":
            await self._app(scope, receive, send)
            return
        has_answered = False

        async def hold_refusals(message: Any) -> None:
            nonlocal has_answered
            has_answered = True
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await self._hold(scope, receive)
            await send(message)

        try:
            await self._app(scope, receive, hold_refusals)
        except Exception:
            if not has_answered:
                await self._hold(scope, receive)
            raise

    async def _hold(self, scope: Any, receive: Receive) -> None:
        if self._held >= MOST_HELD:
            return
        scope[MAY_TAKE_LONG] = True
        self._held += 1
        try:
            async with asyncio.timeout(HELD_SECONDS):
                await until_gone(receive)
        except TimeoutError:
            pass
        finally:
            self._held -= 1
