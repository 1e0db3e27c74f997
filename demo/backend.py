"""A backend server of the demo, a process of its own that prints its port: `python -m demo.backend flaky`.

The argument is its style. `sync` answers with the result. `callback` accepts (202) and reports progress and result
later. `flaky` is like `sync`, but every fifth call fails, in turn with an error and with a closed connection.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

from aiohttp import web

from testkit.backend import BackendServer, accept, finished
from testkit.http_server import break_off, serve_until_killed

from .workload import BROKEN, REJECTION

FAILS_EVERY = 5
STEPS = ((30, "reading"), (60, "working"), (90, "writing"))
"""Progress that the `callback` style reports: percent and message."""


def main() -> None:
    """Serve until the process is ended."""
    style = sys.argv[1]

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        calls = len(server.calls)
        if task["request"].get("image", "").endswith(BROKEN):
            return web.json_response({"error": REJECTION}, status=422)
        if style == "callback":
            server.later(work_and_report(server, task))
            return await accept(server, task, request)
        await asyncio.sleep(random.uniform(0.15, 0.35))
        if style == "flaky" and calls % FAILS_EVERY == 0:
            return break_off(request) if calls % 2 else web.json_response({"error": "out of memory"}, status=500)
        return web.json_response(finished(task, result(task), style))

    async def work_and_report(server: BackendServer, task: dict[str, Any]) -> None:
        for percent, message in STEPS:
            await asyncio.sleep(random.uniform(0.1, 0.3))
            await server.report_until_taken(task, "PROCESSING", server_id=style, progress=percent, message=message)
        await server.report_until_taken(task, "FINISHED", result(task), server_id=style)

    def result(task: dict[str, Any]) -> dict[str, Any]:
        return {"number": task["request"]["number"], "made_by": style}

    async def serve() -> None:
        await serve_until_killed(BackendServer(answer))

    asyncio.run(serve())


if __name__ == "__main__":
    main()
