"""The smallest Litestar service there is, served as ours is. `python -m bench.bare` prints its port."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
import uvloop
from litestar import Litestar, Request, post


@post("/", status_code=200)
async def handle(request: Request[Any, Any, Any]) -> dict[str, int]:
    return {"bytes": len(await request.body())}


if __name__ == "__main__":
    app = Litestar([handle], openapi_config=None, logging_config=None)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app, http="httptools", loop="none", lifespan="off", ws="none", log_config=None, access_log=False
        )
        uvloop.run(uvicorn.Server(config).serve(sockets=[listening]))
