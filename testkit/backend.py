"""Backend servers with a behaviour set by the test; they keep the calls they received."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from .http_server import HttpServer
from .waiting import wait_until

CALL_SECONDS = 0.02
"""Long enough for calls to overlap."""
REPORT_PAUSE_SECONDS = 0.05

Answerer = Callable[["BackendServer", dict[str, Any], web.Request], Awaitable[web.StreamResponse]]


def finished(task: dict[str, Any], data: Any, server_id: str = "backend", **metadata: Any) -> dict[str, Any]:
    """Return a TaskResult with status FINISHED."""
    return {
        "task_id": task["task_id"],
        "backend_task_id": f"b-{task['task_id']}",
        "data": data,
        "metadata": {
            "server_id": server_id,
            "processing_time": 1,
            "model_time": 1,
            "queue_time": 0,
            "progress": 100,
            "status": "FINISHED",
            "message": None,
            **metadata,
        },
    }


async def echo(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Answer at once with the request."""
    return web.json_response(finished(task, {"echo": task["request"]}))


def at_first(answer: Answerer) -> Answerer:
    """Return a behaviour that answers a task's first attempt so, and any other like `echo`."""

    async def behave(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return await (answer if task["attempt"] == 1 else echo)(server, task, request)

    return behave


async def hold(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Answer only once the test sets `server.let_go`."""
    await server.let_go.wait()
    return web.json_response(finished(task, {"held": True}))


async def accept(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Accept (202); the test reports with `server.report`."""
    body = {"task_id": task["task_id"], "backend_task_id": "b1", "status": "PROCESSING", "message": "accepted"}
    return web.json_response(body, status=202)


def reporting(work: Callable[[BackendServer, dict[str, Any]], Coroutine[Any, Any, None]]) -> Answerer:
    """Return a behaviour that accepts, and then does the work, which reports."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        server.later(work(server, task))
        return await accept(server, task, request)

    return answer


def overlapping(at_once: int = 1) -> Answerer:
    """Return a behaviour that answers a moment after `at_once` calls have run at the same time, once and for all."""

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        await wait_until(lambda: server.most_at_once >= at_once, f"{at_once} calls at the same time")
        await asyncio.sleep(CALL_SECONDS)
        return web.json_response(finished(task, {"request": task["request"]}))

    return answer


def status(code: int, body: Any = None, headers: dict[str, str] | None = None) -> Answerer:
    """Return a behaviour that answers with a status."""

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response(
            body if body is not None else {"error": f"status {code}"}, status=code, headers=headers
        )

    return answer


class BackendServer(HttpServer):
    """One backend on 127.0.0.1; use as an async context manager."""

    def __init__(self, answer: Answerer = echo) -> None:
        super().__init__()
        self.answer = answer
        self.calls: list[dict[str, Any]] = []
        """Bodies of the `predict` calls, in order of arrival."""
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.most_at_once = 0
        self.broken_off = 0
        """Calls whose client closed the connection before the answer."""
        self.healthy = True
        self.health_checks = 0
        self.let_go = asyncio.Event()

    async def __aexit__(self, *error: object) -> None:
        self.let_go.set()
        await super().__aexit__(*error)

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/predict", self._predict)
        app.router.add_get("/health", self._health)

    @property
    def url(self) -> str:
        return self.base_url

    def registration(self, server_id: str, *, health: bool = True, **more: Any) -> dict[str, Any]:
        """Return the body that registers this server."""
        endpoints = {"predict": f"{self.url}/predict"} | ({"health": f"{self.url}/health"} if health else {})
        return {"id": server_id, "name": server_id, "provider": "test", "endpoints": endpoints, **more}

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        task = await request.json()
        self.calls.append(task)
        self.headers.append(dict(request.headers))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            return await self.answer(self, task, request)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        finally:
            self.running -= 1

    async def _health(self, _: web.Request) -> web.Response:
        self.health_checks += 1
        return web.Response(status=200 if self.healthy else 500, text="health")

    async def report(
        self, task: dict[str, Any], status: str, token: str | None = None, data: Any = None, **metadata: Any
    ) -> tuple[int, dict[str, Any]]:
        """Send an update for a task to its callback URL once, by default with the attempt's own token."""
        body = {"data": data, "metadata": {"server_id": "backend", "status": status, **metadata}}
        headers = {"Authorization": f"Bearer {token or task['callback_token']}"}
        async with (
            aiohttp.ClientSession() as session,
            session.put(task["callback_url"], json=body, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def report_until_taken(self, task: dict[str, Any], status: str, data: Any = None, **metadata: Any) -> int:
        """Send an update again and again until the answer is not 5xx; return that status. Repeating is safe."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                answered, _ = await self.report(task, status, data=data, **metadata)
                if answered < 500:
                    return answered
            await asyncio.sleep(REPORT_PAUSE_SECONDS)
