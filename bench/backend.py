"""A backend that answers at once, so that what is measured is everything else. `python -m bench.backend` prints its
port. What is sent to `/predict/<n>` is answered n milliseconds later.

`GET /stats` tells how many calls it had and how long each took from its submission: payloads carry the instant of their
submission (`sent`) on the monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import msgspec
import uvicorn

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode

waits_ms: list[float] = []
calls = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    global calls  # noqa: PLW0603 - one process, one count
    if scope["path"].startswith("/predict"):
        arrived = time.monotonic_ns()
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        task = decode(body)
        calls += 1
        if isinstance(task["request"], dict) and "sent" in task["request"]:
            waits_ms.append((arrived - task["request"]["sent"]) / 1e6)
        if call_ms := int(scope["path"].rpartition("/")[2]):
            await asyncio.sleep(call_ms / 1000)
        answer = {
            "task_id": task["task_id"],
            "backend_task_id": "b",
            "data": {"ok": True},
            "metadata": {"server_id": "bench", "processing_time": 0, "progress": 100, "status": "FINISHED"},
        }
    elif scope["path"] == "/stats":
        answer = {"calls": calls, "waits_ms": waits_ms}
    else:
        answer = {"status": "ok"}
    content = encode(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
