"""A server that speaks as vLLM does: streamed completions, a list of models, metrics of what runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from .http_server import HttpServer

WORDS = "It was a dark and stormy night."


class VllmServer(HttpServer):
    """Answers with WORDS. The last message, or the prompt, may ask for something else:

    `hold`: one word, then nothing. `error 500`: one word, then an error. `cut`: one word, then no connection.
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
        """Every request is held, as by `hold`."""
        self.running = 0
        self.asked: list[dict[str, Any]] = []
        """The bodies of the completions that it was asked for."""
        self.paths: list[str] = []

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
        self.running += 1
        try:
            return await self._stream(request, body)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_chat = "messages" in body
        wish = body["messages"][-1]["content"] if is_chat else body["prompt"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(part: Any) -> None:
            await response.write(b"data: " + json.dumps(part).encode() + b"\n\n")

        async def choose(text: str, finish_reason: str | None = None) -> None:
            said = {"delta": {"content": text}} if is_chat else {"text": text}
            choice = {"index": 0, **said, "finish_reason": finish_reason}
            kind = "chat.completion.chunk" if is_chat else "text_completion"
            await send({"id": "cmpl-1", "object": kind, "model": body.get("model"), "choices": [choice]})

        words = WORDS.split(" ")
        await choose(words[0])
        if self.holds or wish == "hold":
            await asyncio.Event().wait()
        elif wish == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif wish.startswith("error "):
            await send({"error": {"message": "out of memory", "type": "Error", "code": int(wish[6:])}})
        else:
            for word in words[1:]:
                await choose(f" {word}")
            await choose("", "stop")
            if body.get("stream_options", {}).get("include_usage"):
                await send({"id": "cmpl-1", "choices": [], "usage": {"completion_tokens": len(words)}})
            await response.write(b"data: [DONE]\n\n")
        return response
