"""A program on 127.0.0.1 that answers by path, and keeps what it was asked."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from aiohttp import web

from .http_server import HttpServer


class Asked(NamedTuple):
    """A request that a program received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Program(HttpServer):
    """Answers 404 except for the paths in `answers`: JSON with a 200, a status, a handler, or None for silence."""

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers: dict[str, Any] = answers
        self.asked: list[Asked] = []

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [one.path for one in self.asked]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(Asked(request.method, request.path, dict(request.headers), await request.read()))
        answer = self.answers.get(request.path, 404)
        if answer is None:
            await asyncio.Event().wait()
        if callable(answer):
            found: web.StreamResponse = await answer(request)
            return found
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/json")
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)
