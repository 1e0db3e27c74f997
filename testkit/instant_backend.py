"""Backends that answer at once, so that a measurement shows everything else: `python -m testkit.instant_backend 1000`.

The argument is their number, default 1. All run in one process, each on a port of its own. The process prints the ports
in one line. `POST /predict/<n>` is answered n milliseconds later.

`GET /stats` on any of them returns the number of `calls` and health `checks`, and in `waits_ms` the milliseconds from
submission to call: payloads carry the instant of their submission (`sent`) on the monotonic clock, which all processes
of one machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from typing import Any

import msgspec
import uvicorn

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode
OK = encode({"status": "ok"})

waits_ms: list[float] = []
calls = checks = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request (ASGI)."""
    global calls, checks  # noqa: PLW0603 - one process, one count
    path = scope["path"]
    if path.startswith("/predict"):
        arrived = time.monotonic_ns()
        task = decode(await _body(receive))
        calls += 1
        if isinstance(task["request"], dict) and "sent" in task["request"]:
            waits_ms.append((arrived - task["request"]["sent"]) / 1e6)
        if call_ms := int(path.rpartition("/")[2]):
            await asyncio.sleep(call_ms / 1000)
        content = encode(
            {
                "task_id": task["task_id"],
                "backend_task_id": "b",
                "data": {"ok": True},
                "metadata": {"server_id": "bench", "processing_time": 0, "progress": 100, "status": "FINISHED"},
            }
        )
    elif path == "/stats":
        content = encode({"calls": calls, "checks": checks, "waits_ms": waits_ms})
    else:
        checks += path == "/health"
        content = OK
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def main() -> None:
    """Serve until the process is ended."""
    backlog = 1024 if sys.argv[1:] in ([], ["1"]) else 256
    with contextlib.ExitStack() as stack:
        listening = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
            for _ in range(int(sys.argv[1]) if sys.argv[1:] else 1)
        ]
        print(*(each.getsockname()[1] for each in listening), flush=True)
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=listening)


if __name__ == "__main__":
    main()
