"""Backends that answer at once, so that a measurement shows everything else: `python -m testkit.instant_backend 1000`.

The argument is their number, default 1. All run in one process, each on a port of its own. The process prints the ports
in one line. `POST /predict/<n>` is answered n milliseconds later, `/predict/stream` by a stream of two updates. The
other paths of DIALECTS are those of servers of other dialects, each with as small an answer as it can be.

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
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode
OK = encode({"status": "ok"})

waits_ms: list[float] = []
calls = checks = 0


def _event(data: Any, name: str = "") -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + encode(data) + b"\n\n"


def _finished(body: Any) -> dict[str, Any]:
    metadata = {"server_id": "bench", "processing_time": 0, "progress": 100, "status": "FINISHED"}
    return {"task_id": body["task_id"], "backend_task_id": "b", "data": {"ok": True}, "metadata": metadata}


def _prediction(_: Any = None) -> dict[str, Any]:
    return {"id": "p", "status": "succeeded", "output": {"ok": True}, "logs": "", "metrics": {}}


def _completion() -> dict[str, Any]:
    answer = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [answer]}


def _choice(delta: Any, reason: str | None = None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


CHAT = "/v1/chat/completions"
OUTPUTS = [{"name": "o", "shape": [1], "datatype": "BOOL", "data": [True]}]
DIALECTS: dict[str, Callable[[Any], Any]] = {
    "/bare": lambda body: {"ok": True, "sent": body["sent"]},
    "/bare/wrapped": lambda _: {"state": "done", "output": {"ok": True}},
    "/v2/models/m/infer": lambda body: {"model_name": "m", "id": body["id"], "outputs": OUTPUTS},
    "/v1/embeddings": lambda _: {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "m"},
    "/whole/predictions": _prediction,
}
"""By path: the answer to a body; of Cog, to the path without the id of the prediction."""
STREAMS: dict[str, list[bytes]] = {
    "/predict/stream": [b'{"output":"ok"}\n', b'{"data":{"ok":true},"status":"FINISHED"}\n'],
    CHAT: [
        _event(_choice({"role": "assistant", "content": "ok"})),
        _event(_choice({}, "stop")) + b"data: [DONE]\n\n",
    ],
    "/streamed/predictions": [
        _event({"chunk": "ok", "index": 0}, "output"),
        _event(_prediction(), "completed"),
    ],
}
"""By path, likewise: the pieces of a stream; of CHAT, to a body that asks for one."""
OF_COG = {
    "/whole/openapi.json": encode({"paths": {"/predictions": {"post": {}}}}),
    "/streamed/openapi.json": encode({"paths": {"/predictions": {"post": {"x-cog-streaming": True}}}}),
    "/whole/health-check": encode({"status": "READY"}),
    "/streamed/health-check": encode({"status": "READY"}),
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request (ASGI)."""
    global calls, checks  # noqa: PLW0603 - one process, one count
    path, media_type, pieces = scope["path"], b"application/json", [OK]
    of_dialect = path.rpartition("/")[0] if "/predictions/" in path else path
    is_stream = of_dialect in STREAMS
    if is_stream:
        body = await _body(receive)
        calls += 1
        if path == CHAT and not decode(body).get("stream"):
            is_stream, pieces = False, [encode(_completion())]
        else:
            media_type = b"application/x-ndjson" if of_dialect.startswith("/predict/") else b"text/event-stream"
            pieces = STREAMS[of_dialect]
    elif of_dialect in DIALECTS:
        calls += 1
        pieces = [encode(DIALECTS[of_dialect](decode(await _body(receive))))]
    elif path.startswith("/predict"):
        arrived = time.monotonic_ns()
        task = decode(await _body(receive))
        calls += 1
        if isinstance(task["request"], dict) and "sent" in task["request"]:
            waits_ms.append((arrived - task["request"]["sent"]) / 1e6)
        if call_ms := int(path.rpartition("/")[2]):
            await asyncio.sleep(call_ms / 1000)
        pieces = [encode(_finished(task))]
    elif path == "/stats":
        pieces = [encode({"calls": calls, "checks": checks, "waits_ms": waits_ms})]
    elif path in OF_COG:
        pieces = [OF_COG[path]]
    else:
        checks += path == "/health"
    headers = [(b"content-type", media_type)]
    if not is_stream:
        headers.append((b"content-length", str(len(pieces[0])).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for place, piece in enumerate(pieces):
        await send({"type": "http.response.body", "body": piece, "more_body": place + 1 < len(pieces)})


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
