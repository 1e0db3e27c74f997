"""As many backends as asked for, each on a port of its own, in one process: `python -m bench.backends 1000` prints the
ports in one line.

Each answers its health checks and its tasks at once. `GET /counts` on any of them tells how many of each there were.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any

import msgspec
import uvicorn

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode

counts = {"checks": 0, "calls": 0}


async def app(scope: Any, receive: Any, send: Any) -> None:
    match scope["path"]:
        case "/predict":
            task = decode(await _body(receive))
            counts["calls"] += 1
            answer = {
                "task_id": task["task_id"],
                "backend_task_id": "b",
                "data": {"ok": True},
                "metadata": {"server_id": "bench", "processing_time": 0, "progress": 100, "status": "FINISHED"},
            }
        case "/health":
            counts["checks"] += 1
            answer = {"status": "ok"}
        case _:
            answer = counts
    content = encode(answer)
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
    with contextlib.ExitStack() as stack:
        listening = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256)) for _ in range(int(sys.argv[1]))
        ]
        print(*(each.getsockname()[1] for each in listening), flush=True)
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=listening)


if __name__ == "__main__":
    main()
