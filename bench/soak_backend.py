"""A backend for long runs: `python -m bench.soak_backend` prints its port.

`POST /predict`: one in 33 tasks fails, one in 20 first attempts is answered with 500. `POST /accept`: 202, and the
outcome by callback a moment later. `GET /stats` returns and forgets the milliseconds from submission to call.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import aiohttp
from aiohttp import web

from testkit.backend import finished

FAILS_ONE_IN = 33
ERRS_ONE_IN = 20
CALLBACK_SECONDS = 0.05
REPORT_TRIES = 20


class Backend:
    def __init__(self) -> None:
        self._waits_ms: list[float] = []
        self._reports: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/predict", self._predict)
        app.router.add_post("/accept", self._accept)
        app.cleanup_ctx.append(self._with_session)
        return app

    async def _with_session(self, _: web.Application) -> Any:
        async with aiohttp.ClientSession() as self._session:
            yield

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _stats(self, _: web.Request) -> web.Response:
        waits, self._waits_ms = self._waits_ms, []
        return web.json_response(waits)

    async def _predict(self, request: web.Request) -> web.Response:
        task = await self._read(request)
        number = int(task["request"]["number"])
        if task["attempt"] == 1 and number % ERRS_ONE_IN == 0:
            return web.json_response({"error": f"worker {number} ran out of memory"}, status=500)
        if number % FAILS_ONE_IN == 0:
            return web.json_response(finished(task, None, status="FAILED", message=f"no face in image {number}"))
        return web.json_response(finished(task, {"number": number}))

    async def _accept(self, request: web.Request) -> web.Response:
        task = await self._read(request)
        report = asyncio.create_task(self._report(task))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
        return web.json_response({"backend_task_id": "b"}, status=202)

    async def _read(self, request: web.Request) -> dict[str, Any]:
        arrived = time.monotonic_ns()
        task: dict[str, Any] = await request.json()
        if task["attempt"] == 1:
            self._waits_ms.append((arrived - task["request"]["sent"]) / 1e6)
        return task

    async def _report(self, task: dict[str, Any]) -> None:
        """Send the outcome, again if the API is away."""
        await asyncio.sleep(CALLBACK_SECONDS)
        headers = {"Authorization": f"Bearer {task['callback_token']}"}
        assert self._session is not None
        for _ in range(REPORT_TRIES):
            try:
                async with self._session.put(
                    task["callback_url"], json=finished(task, {"ok": True}), headers=headers
                ) as answer:
                    if answer.status < 500:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(CALLBACK_SECONDS)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listening.getsockname()[1], flush=True)
    web.run_app(Backend().app(), sock=listening, print=None, access_log=None)
