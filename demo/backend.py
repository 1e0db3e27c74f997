"""A backend server of the demo, a process of its own: `python -m demo.backend --id flaky --style flaky`.

It listens on a free port of this machine and prints that port. The styles are the three ways in which a server may
behave: `sync` answers with the result; `callback` accepts (202) and reports progress and result later; `flaky` is
like `sync`, but every fifth call fails, now with an error, now by a closed connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from typing import Any

import aiohttp
from aiohttp import web

from .workload import BROKEN, REJECTION, STYLES, Style

FAILS_EVERY = 5
STEPS = ((30, "reading"), (60, "working"), (90, "writing"))
"""Progress that the `callback` style reports: percent and message."""
REPORT_TRIES = 20
REPORT_PAUSE_SECONDS = 0.5


class DemoBackend:
    def __init__(self, server_id: str, style: Style) -> None:
        self._server_id = server_id
        self._style = style
        self._calls = 0
        self._session: aiohttp.ClientSession | None = None
        self._jobs: set[asyncio.Task[None]] = set()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/predict", self.predict)
        app.router.add_get("/health", self.health)
        app.cleanup_ctx.append(self._clients)
        return app

    async def _clients(self, _: web.Application) -> Any:
        async with aiohttp.ClientSession() as self._session:
            yield

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "calls": self._calls})

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Do a task, or accept it, or fail: see the styles above."""
        task = await request.json()
        self._calls += 1
        if task["request"].get("image", "").endswith(BROKEN):
            return web.json_response({"error": REJECTION}, status=422)
        match self._style:
            case "callback":
                job = asyncio.create_task(self._work_and_report(task))
                self._jobs.add(job)
                job.add_done_callback(self._jobs.discard)
                accepted = {"task_id": task["task_id"], "backend_task_id": self._job_id(), "status": "PROCESSING"}
                return web.json_response({**accepted, "message": "accepted"}, status=202)
            case "flaky" if self._calls % FAILS_EVERY == 0:
                return await self._fail(request)
            case _:
                return web.json_response({"task_id": task["task_id"], **await self._work(task)})

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - not a secret
        if self._calls % (2 * FAILS_EVERY) and request.transport is not None:
            request.transport.close()
        return web.json_response({"error": "out of memory"}, status=500)

    async def _work(self, task: dict[str, Any]) -> dict[str, Any]:
        """Take as long as the work would, and return a TaskResult without its task id."""
        started = time.perf_counter()
        await asyncio.sleep(random.uniform(0.15, 0.35))  # noqa: S311
        return self._result(task, started)

    async def _work_and_report(self, task: dict[str, Any]) -> None:
        started = time.perf_counter()
        backend_task_id = self._job_id()
        for percent, message in STEPS:
            await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311
            metadata = {"server_id": self._server_id, "status": "PROCESSING", "progress": percent, "message": message}
            await self._report(task, {"backend_task_id": backend_task_id, "data": {}, "metadata": metadata})
        await self._report(task, self._result(task, started))

    async def _report(self, task: dict[str, Any], update: dict[str, Any]) -> None:
        """Send an update, again and again until it is answered: the same one twice does no harm."""
        assert self._session is not None
        headers = {"Authorization": f"Bearer {task['callback_token']}"}
        for _ in range(REPORT_TRIES):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.put(task["callback_url"], json=update, headers=headers) as answer:
                    if answer.status < 500:
                        return
            await asyncio.sleep(REPORT_PAUSE_SECONDS)

    def _result(self, task: dict[str, Any], started: float) -> dict[str, Any]:
        elapsed_ms = round((time.perf_counter() - started) * 1000)
        return {
            "backend_task_id": self._job_id(),
            "data": {"order": task["request"]["order"], "made_by": self._server_id},
            "metadata": {
                "server_id": self._server_id,
                "processing_time": elapsed_ms,
                "model_time": elapsed_ms,
                "queue_time": 0,
                "progress": 100,
                "status": "FINISHED",
                "message": None,
            },
        }

    def _job_id(self) -> str:
        return f"{self._server_id}-{self._calls}"


async def serve(server_id: str, style: Style) -> None:
    """Serve until the process is ended."""
    runner = web.AppRunner(DemoBackend(server_id, style).app(), shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo.backend")
    parser.add_argument("--id", required=True)
    parser.add_argument("--style", choices=STYLES, required=True)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.id, options.style))


if __name__ == "__main__":
    main()
