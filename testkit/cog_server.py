"""A model server like Cog 0.23, inside the test's process; tests/backends/test_cog.py compares it with the real one.

Its model takes `{"text": …, "seconds": …, "fail": …}`: it logs what it heard, works for so many seconds, and returns
the text in capitals, as files, or as a stream of its words.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from .http_server import HttpServer

INPUT = {
    "title": "Input",
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"title": "Text", "type": "string"},
        "seconds": {"title": "Seconds", "type": "number", "default": 0, "minimum": 0, "maximum": 600},
        "fail": {"title": "Fail", "type": "boolean", "default": False},
    },
}
NOT_READY = "Setup has not finished yet. Wait until it has finished, or GET /health-check for status."
NO_STREAM = "This model does not support streaming responses. Add @cog.streaming to predict() to enable SSE."
WEBHOOK_TRIES = 12


def capitals(text: str) -> Any:
    return text.upper()


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


class Received(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Prediction:
    """A prediction that runs, with the events of its stream so far."""

    def __init__(self, prediction_id: str, given: dict[str, Any], webhook: str | None, events: list[str]) -> None:
        self.id = prediction_id
        self.given = given
        self.webhook = webhook
        self.webhook_events = events
        self.state: dict[str, Any] = {"id": prediction_id, "status": "starting", "logs": "", "metrics": {}}
        self.history: list[tuple[str, Any]] = []
        self.listeners = 0
        self.ends_with_listeners = False
        self.changed = asyncio.Condition()
        self.work: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()


class CogServer(HttpServer):
    """A server with one model; use as an async context manager."""

    def __init__(self, *, streams: bool = False, output: Callable[[str], Any] = capitals, slots: int = 1) -> None:
        super().__init__()
        self.streams = streams
        self.output = output
        self.slots = slots
        self.run_seconds: float | None = None
        """How long its model works; None: as the input says."""
        self.status = "READY"
        """Of the setup: READY, STARTING, SETUP_FAILED, …"""
        self.setup_log = ""
        self.predictions: dict[str, Prediction] = {}
        """Those that run. One that has ended is forgotten."""
        self.received: list[Received] = []
        """All requests but health checks."""
        self.runs: list[str] = []
        """Ids of the predictions that were started."""
        self.ends: list[tuple[str, str]] = []
        """Id and status of those that ended."""
        self.cuts: list[int] = []
        """Events after which the connections of streams are cut, one after the other, without a trace at the server."""
        self.delivers = True
        """Webhooks are sent."""

    def registration(self, server_id: str, **more: Any) -> dict[str, Any]:
        """Return the body that registers this server."""
        return {
            "id": server_id,
            "name": server_id,
            "provider": "test",
            "dialect": "cog",
            "endpoints": {"predict": self.base_url},
            "maxConcurrent": self.slots,
            **more,
        }

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health-check", self._health)
        app.router.add_get("/openapi.json", self._schema)
        app.router.add_post("/predictions", self._predict)
        app.router.add_put("/predictions/{id}", self._predict)
        app.router.add_post("/predictions/{id}/cancel", self._cancel)

    async def _health(self, _: web.Request) -> web.Response:
        is_full = self.status == "READY" and len(self.predictions) >= self.slots
        setup = {"status": "starting" if self.status == "STARTING" else "succeeded", "logs": self.setup_log}
        return web.json_response({"status": "BUSY" if is_full else self.status, "setup": setup, "version": {}})

    async def _schema(self, request: web.Request) -> web.Response:
        await self._receive(request)
        if self.status == "STARTING":
            return web.json_response({"error": "OpenAPI schema not available"}, status=503)
        output: dict[str, Any] = {"title": "Output", "type": "string"}
        if self.streams:
            iterator = {"x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"}
            output = {"title": "Output", "type": "array", "items": {"type": "string"}, **iterator}
        predict: dict[str, Any] = {"summary": "Predict", **({"x-cog-streaming": True} if self.streams else {})}
        schemas = {"Input": INPUT, "Output": output}
        return web.json_response(
            {"openapi": "3.0.2", "paths": {"/predictions": {"post": predict}}, "components": {"schemas": schemas}}
        )

    async def _receive(self, request: web.Request) -> bytes:
        body = await request.read()
        self.received.append(Received(request.method, request.path, dict(request.headers), body))
        return body

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await self._receive(request))
        wants_events = "text/event-stream" in request.headers.get("Accept", "")
        prediction_id = request.match_info.get("id", f"pred_{len(self.runs)}")
        if (running := self.predictions.get(prediction_id)) is not None:
            if not wants_events:
                return web.json_response({**running.state, "input": running.given}, status=202)
            return await self._events(request, running) if self.streams else _error(406, NO_STREAM)
        if wants_events and not self.streams:
            return _error(406, NO_STREAM)
        given = body.get("input") if body.get("input") is not None else {}
        if self.status != "STARTING" and (detail := invalid(given)):
            return web.json_response({"detail": detail}, status=422)
        if self.status != "READY":
            return _error(503, NOT_READY, status="failed")
        if len(self.predictions) >= self.slots:
            return _error(409, "At capacity - all prediction slots busy", status="failed")
        wanted = body.get("webhook_events_filter", ["start", "output", "logs", "completed"])
        prediction = Prediction(prediction_id, given, body.get("webhook"), wanted)
        self.predictions[prediction_id] = prediction
        self.runs.append(prediction_id)
        prediction.work = asyncio.create_task(self._run(prediction))
        self._jobs.add(prediction.work)
        if wants_events:
            prediction.ends_with_listeners = True
            return await self._events(request, prediction)
        if request.headers.get("Prefer") == "respond-async":
            return web.json_response({"id": prediction_id, "status": "starting"}, status=202)
        try:
            await prediction.ended.wait()
        except asyncio.CancelledError:
            prediction.work.cancel()
            raise
        logs = prediction.state["logs"] if prediction.state["status"] == "succeeded" else ""
        return web.json_response({**prediction.state, "logs": logs})

    async def _events(self, request: web.Request, prediction: Prediction) -> web.StreamResponse:
        """Send the events of a prediction from the first one."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        prediction.listeners += 1
        sent, is_cut = 0, False
        cut_after = self.cuts.pop(0) if self.cuts else None
        try:
            await response.prepare(request)
            while not (sent and prediction.history[sent - 1][0] == "completed"):
                async with prediction.changed:
                    while len(prediction.history) == sent:
                        await prediction.changed.wait()
                for name, content in prediction.history[sent:]:
                    if sent == cut_after:
                        is_cut = True
                        assert request.transport is not None
                        request.transport.close()
                        return response
                    await response.write(f"event: {name}\ndata: {json.dumps(content)}\n\n".encode())
                    sent += 1
        finally:
            prediction.listeners -= 1
            is_last = prediction.ends_with_listeners and not prediction.listeners
            if is_last and not is_cut and prediction.work is not None:
                prediction.work.cancel()
        return response

    async def _cancel(self, request: web.Request) -> web.Response:
        await self._receive(request)
        prediction = self.predictions.get(request.match_info["id"])
        if prediction is None or prediction.work is None:
            return web.json_response({}, status=404)
        prediction.work.cancel()
        return web.json_response({})

    def seconds_of(self, given: dict[str, Any]) -> float:
        return float(given.get("seconds", 0)) if self.run_seconds is None else self.run_seconds

    async def _run(self, prediction: Prediction) -> None:
        state, given = prediction.state, prediction.given
        started = asyncio.get_running_loop().time()
        try:
            state["status"] = "processing"
            await self._tell(prediction, "start", {"id": prediction.id, "status": "processing"})
            await self._log(prediction, f"heard {given['text']}\n")
            state["metrics"]["words"] = len(given["text"].split())
            metric = {"mode": "replace", "name": "words", "value": state["metrics"]["words"]}
            await self._tell(prediction, "metric", metric)
            words = given["text"].split() if self.streams else []
            if not words:
                await asyncio.sleep(self.seconds_of(given))
            for place, word in enumerate(words):
                await asyncio.sleep(self.seconds_of(given) / len(words))
                state.setdefault("output", []).append(f"{word} ")
                await self._tell(prediction, "output", {"chunk": f"{word} ", "index": place})
            if given.get("fail"):
                raise ValueError("no such voice")
            if not self.streams:
                state["output"] = self.output(given["text"])
            state["status"] = "succeeded"
        except ValueError as error:
            state.update(status="failed", error=f"Prediction failed: Prediction failed: ValueError: {error}")
        except asyncio.CancelledError:
            state["status"] = "canceled"
        state["metrics"]["predict_time"] = asyncio.get_running_loop().time() - started
        del self.predictions[prediction.id]
        self.ends.append((prediction.id, state["status"]))
        prediction.ended.set()
        await self._tell(prediction, "completed", dict(state))

    async def _log(self, prediction: Prediction, text: str) -> None:
        prediction.state["logs"] += text
        await self._tell(prediction, "log", {"data": text, "source": "stdout"})

    async def _tell(self, prediction: Prediction, event: str, content: Any) -> None:
        async with prediction.changed:
            prediction.history.append((event, content))
            prediction.changed.notify_all()
        hook = {"log": "logs"}.get(event, event)
        if prediction.webhook is not None and hook in prediction.webhook_events and self.delivers:
            self.later(deliver(prediction.webhook, json.dumps(prediction.state), is_last=event == "completed"))


def invalid(given: Any) -> list[dict[str, Any]]:
    """Return what is wrong with an input, as Cog describes it."""
    if not isinstance(given, dict):
        return [_detail("__root__", f'{json.dumps(given)} is not of type "object"')]
    found = []
    if not isinstance(given.get("seconds", 0), int | float) or given.get("seconds", 0) < 0:
        found.append(_detail("seconds", f"{json.dumps(given['seconds'])} is less than the minimum of 0"))
    if "text" not in given:
        found.append(_detail("text", "Field required", "value_error.missing"))
    return found


def _detail(field: str, message: str, kind: str = "value_error") -> dict[str, Any]:
    return {"loc": ["body", "input", field], "msg": message, "type": kind}


def _error(code: int, message: str, **more: str) -> web.Response:
    return web.json_response({"error": message, **more}, status=code)


async def deliver(url: str, body: str, *, is_last: bool) -> None:
    """Post a webhook: the last one again after an error that may pass, any other once."""
    async with aiohttp.ClientSession() as session:
        for number in range(WEBHOOK_TRIES if is_last else 1):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                    if response.status not in (429, 500, 502, 503, 504):
                        return
            await asyncio.sleep(0.1 * 2 ** min(number, 10))
