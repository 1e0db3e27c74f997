"""A server that speaks as vLLM does: streamed completions, a list of models, metrics of what runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from .http_server import HttpServer

WORDS = "It was a dark and stormy night."
EMBEDDED = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
    "model": "llama",
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


def wish_of(body: dict[str, Any]) -> str:
    """Return what a completion is asked for: its last message, or its prompt."""
    wish: str = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return wish


class VllmServer(HttpServer):
    """Answers with WORDS. The last message, or the prompt, may ask for something else:

    `hold`: one word, then nothing. `error 500`: one word, then an error. `cut`: one word, then no connection.
    `refuse 400`: an error at once. `step`: one word, then the next one for each call of `step`; `long step`: many more.
    A completion that asks for no stream gets one object.
    """

    def __init__(self, *models: str, key: str = "") -> None:
        super().__init__()
        self.models = list(models or ("llama",))
        self.key = key
        """Its API key; empty: none."""
        self.is_healthy = True
        self.most = 100
        """Requests that it takes at a time; more are answered with 429."""
        self.holds = False
        """Every request is held after one word, until `release`."""
        self._released = asyncio.Event()
        self.streams = True
        """False: it answers with one object, whatever it is asked for."""
        self.pause_seconds = 0.0
        """Before each word of a stream but the first."""
        self.is_silent = False
        """It takes requests and answers nothing, not even a head."""
        self.running = 0
        self.asked: list[dict[str, Any]] = []
        """The bodies of the completions that it was asked for."""
        self.paths: list[str] = []
        self._steps = asyncio.Semaphore(0)

    def step(self, words: int = 1) -> None:
        """Let a `step` answer go on by some words."""
        for _ in range(words):
            self._steps.release()

    def release(self) -> None:
        """Hold no request any more."""
        self.holds = False
        self._released.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if request.path == "/metrics":
            return web.Response(text=f'vllm:num_requests_running{{model_name="m"}} {self.running}.0\n')
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return self._error(401, "Unauthorized")
        match request.path:
            case "/v1/models" if self.is_healthy:
                listed = [{"id": name, "object": "model", "owned_by": "vllm"} for name in self.models]
                return web.json_response({"object": "list", "data": listed})
            case "/v1/chat/completions" | "/v1/completions":
                return await self._complete(request, await request.json())
            case "/v1/embeddings":
                self.asked.append(await request.json())
                return web.json_response(EMBEDDED)
            case _:
                return self._error(404 if self.is_healthy else 503, "Not Found")

    def _error(self, status: int, message: str) -> web.Response:
        error = {"message": message, "type": "Error", "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    async def _complete(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("model", self.models[0]) not in self.models:
            return self._error(404, f"The model `{body['model']}` does not exist.")
        if self.running >= self.most:
            return self._error(429, "too many requests")
        self.asked.append(body)
        wish = wish_of(body)
        if wish.startswith("refuse "):
            return self._error(int(wish[7:]), "this was asked for")
        self.running += 1
        try:
            if self.is_silent:
                await asyncio.Event().wait()
            if not body.get("stream") or not self.streams:
                return await self._whole(body)
            return await self._stream(request, body)
        finally:
            self.running -= 1

    async def _whole(self, body: dict[str, Any]) -> web.Response:
        if self.holds:
            await self._released.wait()
        if wish_of(body) == "hold":
            await asyncio.Event().wait()
        if wish_of(body) == "step":
            await self._steps.acquire()
        if "messages" in body:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": WORDS}}
        else:
            said = {"text": WORDS}
        choices = [{"index": index, **said, "finish_reason": "stop"} for index in range(body.get("n", 1))]
        kind = "chat.completion" if "messages" in body else "text_completion"
        usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
        whole = {"id": "cmpl-1", "object": kind, "created": 1, "model": body.get("model"), "choices": choices}
        return web.json_response({**whole, "usage": usage, "kv_transfer_params": None})

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_chat = "messages" in body
        wish = wish_of(body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(part: Any) -> None:
            await response.write(b"data: " + json.dumps(part).encode() + b"\n\n")

        async def choose(text: str, finish_reason: str | None = None) -> None:
            said = {"delta": {"content": text}} if is_chat else {"text": text}
            choice = {"index": 0, **said, "finish_reason": finish_reason}
            kind = "chat.completion.chunk" if is_chat else "text_completion"
            await send({"id": "cmpl-1", "object": kind, "created": 1, "model": body.get("model"), "choices": [choice]})

        words = WORDS.split(" ") * (8 if wish == "long step" else 1)
        await choose(words[0])
        if self.holds:
            await self._released.wait()
        if wish == "hold":
            await asyncio.Event().wait()
        elif wish == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif wish.startswith("error "):
            await send({"error": {"message": "out of memory", "type": "Error", "code": int(wish[6:])}})
        else:
            for word in words[1:]:
                await asyncio.sleep(self.pause_seconds)
                if wish.endswith("step"):
                    await self._steps.acquire()
                await choose(f" {word}")
            await choose("", "stop")
            if body.get("stream_options", {}).get("include_usage"):
                await send({"id": "cmpl-1", "choices": [], "usage": {"completion_tokens": len(words)}})
            await response.write(b"data: [DONE]\n\n")
        return response
