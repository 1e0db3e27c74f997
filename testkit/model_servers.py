"""Servers that answer a request with its result, in the wire formats of several programs."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .http_server import HttpServer


class ModelServer(HttpServer):
    """Answers as a program does. The test may set one other answer. A subclass has the program's routes."""

    path = "/predict"

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []
        self.answer: web.Response | None = None
        """In the place of the usual one."""

    @property
    def url(self) -> str:
        return self.base_url

    def routes(self, app: web.Application) -> None:
        app.router.add_post(self.path, self._take)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ping", self._ping)

    def refuses(self, status: int, body: Any, content_type: str = "application/json") -> None:
        """Answer with this from now on."""
        if content_type == "application/json":
            self.answer = web.json_response(body, status=status)
        else:
            self.answer = web.Response(text=body, status=status, content_type=content_type)

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        """Return the program's answer; this one's is what came."""
        return web.json_response({"got": body})

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        return self.answer or await self.result(request, body)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _ping(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "Healthy"})


class Tei(ModelServer):
    """Text Embeddings Inference."""

    path = "/embed"

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        texts = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
        return web.json_response([[0.1, 0.2] for _ in texts])


class Ollama(ModelServer):
    """Ollama's chat, streamed unless the body says otherwise."""

    path = "/api/chat"
    pieces = ("Hel", "lo")

    def __init__(self) -> None:
        super().__init__()
        self.breaks_with = ""
        """An error in the middle of the stream."""

    def routes(self, app: web.Application) -> None:
        super().routes(app)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.9.1"})

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": "m"}]})

    def line(self, text: str, **more: Any) -> dict[str, Any]:
        return {"model": "m", "message": {"role": "assistant", "content": text}, "done": False, **more}

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        last = {"done": True, "done_reason": "stop", "total_duration": 12_345_678_901, "eval_count": 2}
        if body.get("stream") is False:
            return web.json_response(self.line("".join(self.pieces), **last))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines = [self.line(piece) for piece in self.pieces]
        for line in [*lines, {"error": self.breaks_with} if self.breaks_with else self.line("", **last)]:
            await response.write(f"{web.json_response(line).text}\n".encode())
        return response


class OllamaGenerate(Ollama):
    """Ollama's completion."""

    path = "/api/generate"

    def line(self, text: str, **more: Any) -> dict[str, Any]:
        return {"model": "m", "response": text, "done": False, **more}


class KserveV1(ModelServer):
    """KServe's v1 protocol."""

    path = "/v1/models/iris:predict"

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"predictions": [1 for _ in body["instances"]]})


class Torchserve(ModelServer):
    """TorchServe."""

    path = "/predictions/resnet"

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"tabby": 0.9})


class StableDiffusion(ModelServer):
    """Stable Diffusion web UI."""

    path = "/sdapi/v1/txt2img"

    async def result(self, request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"images": ["iVBORw0KGgo="], "parameters": body, "info": "{}"})
