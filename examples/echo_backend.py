"""A backend server in twenty lines: returns each payload. Start it with `python examples/echo_backend.py 9001`."""

import asyncio
import sys

from aiohttp import web


async def predict(request: web.Request) -> web.Response:
    task = await request.json()
    await asyncio.sleep(0.2)  # the long, costly work
    return web.json_response({"echo": task["request"], "attempt": task["attempt"]})


async def health(_: web.Request) -> web.Response:
    return web.Response(text="ok")


app = web.Application()
app.add_routes([web.post("/predict", predict), web.get("/health", health)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
