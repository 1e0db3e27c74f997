"""Wire fixtures: the answers of servers of each dialect. The conformance suite fails for a dialect without one.

A test sets the answer to the request that matters. A dialect that makes others answers these in `aside`: a schema, a
poll, a cancellation.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple, TypeAlias

from aiohttp import web
from msgspec import Struct

from taskstream.events.exchange import (
    Acceptance,
    AnswerTest,
    BareExchange,
    Cancellation,
    Poll,
    RequestTemplate,
    StreamedParts,
)
from taskstream.events.server import ServerRegistered
from taskstream.events.task import CancelOutcome


class Wire(Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = {}


class StreamWire(Struct, frozen=True):
    """A streamed answer, in the parts a server would write."""

    content_type: str
    parts: list[bytes]


class Received(NamedTuple):
    """A request as a server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: object
    """The same object for requests over one connection."""


Respond: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answering: TypeAlias = Wire | StreamWire | Respond
"""How a server answers: always the same, or as a function does."""


class WireFixture(ABC):
    """Requests and answers of one dialect."""

    leaves_out_large_progress = False
    """A large report of progress is left out, with a note. False: it is a bad answer."""
    busy_pause: float | None = None
    """Seconds that `busy` asks to be left alone."""
    cancelled_unanswered: CancelOutcome = "requested"
    """What comes of the cancellation of an attempt whose first request has no answer yet."""
    cancels: ClassVar[list[tuple[Wire, CancelOutcome]]] = []
    """Answers to the request that cancels what `running` began, and what comes of each. Empty: there is no request."""

    @abstractmethod
    def server(self, url: str) -> ServerRegistered:
        """Return a registration of a server at a URL, with a health address."""

    def aside(self, request: Received) -> Answering | None:
        """Return the answer to a request that is not the one that matters; None: it is that one."""
        return None

    @abstractmethod
    def payload(self, body: bytes) -> Any:
        """Return the payload of the task in a request's body."""

    @abstractmethod
    def success(self, data: Any) -> Answering: ...

    def data(self, result: Any) -> Any:
        """Return what was passed to `success` or `stream`, from the data of the task's result."""
        return result

    @abstractmethod
    def failure(self, reason: str) -> Answering | None:
        """Return an answer that reports the task as failed; None if the dialect has none."""

    @abstractmethod
    def rejection(self, reason: str) -> Answering:
        """Return an answer that refuses the task for good."""

    @abstractmethod
    def busy(self) -> Answering: ...

    @abstractmethod
    def acceptance(self, backend_task_id: str) -> Answering | None:
        """Return an answer that promises a callback; None if the dialect has none."""

    @abstractmethod
    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire | None:
        """Return an answer that streams pieces of output, then ends with data or a failure; None if it has none."""

    def resumed(self, data: Any) -> Respond | None:
        """Return a server that loses the connection and then ends well; None if the dialect does not go on then."""
        return None

    def elsewhere(self, url: str) -> Answering | None:
        """Return an answer that sends the next request to another address; None if the dialect follows none."""
        return None

    def running(self) -> Answering | None:
        """Return an answer that reports progress, after which the work goes on until it is cancelled by a request."""
        return None

    def is_cancel(self, request: Received) -> bool:
        """Return True for the request that cancels what `running` began."""
        return False

    @abstractmethod
    def healthy(self) -> Wire: ...

    @abstractmethod
    def unhealthy(self) -> Wire: ...


def in_json(content: Any) -> bytes:
    return json.dumps(content).encode()


class TaskstreamWire(WireFixture):
    busy_pause = 7

    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(
            server_id="s1",
            name="",
            provider="",
            predict_url=f"{url}/predict",
            health_url=f"{url}/health",
            callback=True,
        )

    def payload(self, body: bytes) -> Any:
        return json.loads(body)["request"]

    def success(self, data: Any) -> Wire:
        return Wire(200, in_json({"data": data, "metadata": {"status": "FINISHED"}}))

    def failure(self, reason: str) -> Wire:
        return Wire(200, in_json({"data": None, "metadata": {"status": "FAILED", "message": reason}}))

    def rejection(self, reason: str) -> Wire:
        return Wire(422, in_json({"error": reason}))

    def busy(self) -> Wire:
        return Wire(503, headers={"Retry-After": "7"})

    def acceptance(self, backend_task_id: str) -> Wire:
        return Wire(202, in_json({"backend_task_id": backend_task_id, "status": "PROCESSING"}))

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire:
        ending = {"status": "FAILED", "message": failure} if failure else {"data": data, "status": "FINISHED"}
        updates = [*({"output": piece} for piece in output), *([ending] if ends else [])]
        return StreamWire("application/x-ndjson", [in_json(update) + b"\n" for update in updates])

    def healthy(self) -> Wire:
        return Wire(204)

    def unhealthy(self) -> Wire:
        return Wire(503)


class OipWire(WireFixture):
    """KServe's answers. Its failures are refusals."""

    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(server_id="s1", name="", provider="", predict_url=f"{url}/v2/models/echo/infer")

    def payload(self, body: bytes) -> Any:
        return {name: value for name, value in json.loads(body).items() if name != "id"}

    def success(self, data: Any) -> Wire:
        return Wire(200, in_json({"model_name": "echo", "outputs": [{"name": "said", "data": [data]}]}))

    def data(self, result: Any) -> Any:
        return result["outputs"][0]["data"][0]

    def failure(self, reason: str) -> Wire:
        return Wire(200, in_json({"error": reason}))

    def rejection(self, reason: str) -> Wire:
        return Wire(400, in_json({"error": reason}))

    def busy(self) -> Wire:
        return Wire(500, in_json({"error": "RuntimeError : Worker queue is full"}))

    def acceptance(self, backend_task_id: str) -> None:
        return None

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> None:
        return None

    def healthy(self) -> Wire:
        return Wire(200, in_json({"name": "echo", "ready": True}))

    def unhealthy(self) -> Wire:
        return Wire(503, in_json({"error": "Model with name echo is not ready."}))


class CogWire(WireFixture):
    """A model that streams. Its answers are as Cog 0.23 made them (tests/backends/recorded/cog)."""

    cancelled_unanswered = "confirmed"
    cancels: ClassVar[list[tuple[Wire, CancelOutcome]]] = [
        (Wire(200, b"{}"), "confirmed"),
        (Wire(404, b"{}"), "unconfirmed"),
        (Wire(500), "unconfirmed"),
    ]
    leaves_out_large_progress = True
    GONE: ClassVar[dict[str, Any]] = {
        "detail": [{"loc": ["body", "input", "__root__"], "msg": '5 is not of type "object"', "type": "value_error"}]
    }

    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(server_id="s1", name="", provider="", predict_url=f"{url}/predictions")

    def aside(self, request: Received) -> Answering | None:
        if request.path == "/openapi.json":
            schemas = {"Input": {"type": "object"}, "Output": {"type": "object"}}
            predict = {"post": {"x-cog-streaming": True}}
            return Wire(200, in_json({"paths": {"/predictions": predict}, "components": {"schemas": schemas}}))
        if self.is_cancel(request):
            return Wire(200, b"{}")
        if request.body == b'{"input":5}' and request.headers.get("Accept") != "text/event-stream":
            return Wire(422, in_json(self.GONE))
        return None

    def payload(self, body: bytes) -> Any:
        return json.loads(body)["input"]

    def success(self, data: Any) -> Wire:
        return Wire(200, in_json({"id": "p1", "output": data, "status": "succeeded", "logs": "", "metrics": {}}))

    def failure(self, reason: str) -> Wire:
        error = f"Prediction failed: {reason}"
        return Wire(200, in_json({"id": "p1", "error": error, "status": "failed", "logs": "", "metrics": {}}))

    def rejection(self, reason: str) -> Wire:
        loc = ["body", "input", "voice"]
        return Wire(422, in_json({"detail": [{"loc": loc, "msg": reason, "type": "value_error"}]}))

    def busy(self) -> Wire:
        return Wire(409, in_json({"error": "At capacity - all prediction slots busy", "status": "failed"}))

    def acceptance(self, backend_task_id: str) -> None:
        return None

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire:
        ending = {"status": "failed", "error": failure} if failure else {"status": "succeeded", "output": data}
        events = [("output", {"chunk": piece, "index": number}) for number, piece in enumerate(output)]
        if ends:
            events.append(("completed", {"id": "p1", "logs": "", "metrics": {}, **ending}))
        return StreamWire("text/event-stream", [event(name, content) for name, content in events])

    def resumed(self, data: Any) -> Respond:
        tries = 0

        async def respond(request: web.Request) -> web.StreamResponse:
            nonlocal tries
            tries += 1
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(event("start", {"id": "p1", "status": "processing"}))
            if tries == 1:
                assert request.transport is not None
                request.transport.close()
            else:
                await response.write(self.stream([], data).parts[-1])
            return response

        return respond

    def running(self) -> Respond:
        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(event("output", {"chunk": "It ", "index": 0}))
            await asyncio.Event().wait()
            return response

        return respond

    def is_cancel(self, request: Received) -> bool:
        return request.path.endswith("/cancel")

    def healthy(self) -> Wire:
        return Wire(200, in_json({"status": "BUSY", "setup": {"status": "succeeded", "logs": ""}}))

    def unhealthy(self) -> Wire:
        return Wire(200, in_json({"status": "STARTING", "setup": {"status": "starting"}}))


def event(name: str, content: Any) -> bytes:
    """Return a server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), in_json(content))


def chat_part(text: str, **more: Any) -> bytes:
    """Return a part of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": text}, **more}
    return b"data: " + in_json({"id": "c1", "object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


def vllm_metrics(running: int, waiting: int = 0) -> bytes:
    """Return what vLLM's `/metrics` says of its requests."""
    labels = '{engine="0",model_name="m"}'
    lines = [f"vllm:num_requests_running{labels} {running}.0", f"vllm:num_requests_waiting{labels} {waiting}.0"]
    return "\n".join(["# TYPE vllm:num_requests_running gauge", *lines, ""]).encode()


class OpenAIWire(WireFixture):
    """A server of chat completions, streamed and whole. What a test wants answered is the field `timings`."""

    cancels: ClassVar[list[tuple[Wire, CancelOutcome]]] = [
        (Wire(200, vllm_metrics(0), "text/plain"), "confirmed"),
        (Wire(200, b"# other metrics", "text/plain"), "requested"),
        (Wire(404), "requested"),
    ]

    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(server_id="s1", name="", provider="", predict_url=f"{url}/v1")

    def aside(self, request: Received) -> Wire | None:
        return Wire(404) if self.is_cancel(request) else None

    def payload(self, body: bytes) -> Any:
        return {name: value for name, value in json.loads(body).items() if not name.startswith("stream")}

    def data(self, result: Any) -> Any:
        return result["timings"]

    def success(self, data: Any) -> Wire:
        message = {"role": "assistant", "content": ""}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return Wire(200, in_json({"object": "chat.completion", "choices": choices, "timings": data}))

    def failure(self, reason: str) -> None:
        return None

    def rejection(self, reason: str) -> Wire:
        return Wire(400, in_json({"error": {"message": reason, "type": "BadRequestError", "code": 400}}))

    def busy(self) -> Wire:
        return Wire(429, in_json({"error": {"message": "slow down", "type": "rate_limit_error", "code": "429"}}))

    def acceptance(self, backend_task_id: str) -> None:
        return None

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire | None:
        if failure:
            return None
        last = b"data: " + in_json({"choices": [], "usage": {}, "timings": data}) + b"\n\n"
        ending = [chat_part("", finish_reason="stop"), last, b"data: [DONE]\n\n"]
        return StreamWire("text/event-stream", [*map(chat_part, output), *(ending if ends else [])])

    def running(self) -> Respond:
        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(chat_part("It "))
            await asyncio.Event().wait()
            return response

        return respond

    def is_cancel(self, request: Received) -> bool:
        return request.path == "/metrics"

    def healthy(self) -> Wire:
        return Wire(200, in_json({"object": "list", "data": [{"id": "m", "object": "model"}]}))

    def unhealthy(self) -> Wire:
        return Wire(200, b"<html>", "text/html")


class BareWire(WireFixture):
    """A registration that uses everything: jobs that are polled and cancelled, streams, failures in a 200."""

    busy_pause = 7
    cancels: ClassVar[list[tuple[Wire, CancelOutcome]]] = [
        (Wire(200, b'{"stopped": true}'), "confirmed"),
        (Wire(200, b'{"stopped": false}'), "unconfirmed"),
        (Wire(200, b"{"), "unconfirmed"),
        (Wire(404, b"{}"), "unconfirmed"),
        (Wire(500), "unconfirmed"),
    ]
    exchange = BareExchange(
        request=RequestTemplate(body={"inputs": "$payload", "id": "$id"}, headers={"X-Fixed": "1"}),
        fail_when=AnswerTest(body='$.status == "failed"'),
        accepted=Acceptance(when=AnswerTest(status=(202,)), id="$.job", status_url="$.poll"),
        poll=Poll(done=AnswerTest(body="$.done == true"), interval=timedelta(milliseconds=1), progress="$.percent"),
        cancel=Cancellation(url="/jobs/{id}/cancel", confirmed=AnswerTest(body="$.stopped == true")),
        stream=StreamedParts(output="$.text", done=AnswerTest(body="$.done == true")),
    )

    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(
            server_id="s1",
            name="",
            provider="",
            predict_url=f"{url}/predict",
            health_url=f"{url}/health",
            exchange=self.exchange,
        )

    def aside(self, request: Received) -> Answering | None:
        return Wire(200, in_json({"percent": 40})) if request.path.startswith("/jobs/") else None

    def payload(self, body: bytes) -> Any:
        return json.loads(body)["inputs"]

    def success(self, data: Any) -> Wire:
        return Wire(200, in_json(data))

    def data(self, result: Any) -> Any:
        return result["data"] if "done" in result else result

    def failure(self, reason: str) -> Wire:
        return Wire(200, in_json({"status": "failed", "error": reason}))

    def rejection(self, reason: str) -> Wire:
        return Wire(422, in_json({"error": reason}))

    def busy(self) -> Wire:
        return Wire(503, headers={"Retry-After": "7"})

    def acceptance(self, backend_task_id: str) -> None:
        return None

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire:
        ending = {"status": "failed", "error": failure} if failure else {"data": data, "done": True}
        parts = [*({"text": piece} for piece in output), *([ending] if ends else [])]
        return StreamWire("application/x-ndjson", [in_json(part) + b"\n" for part in parts])

    def resumed(self, data: Any) -> Respond:
        requests: list[str] = []

        async def respond(request: web.Request) -> web.StreamResponse:
            requests.append(request.path)
            if len(requests) == 1:
                return web.json_response({"job": "j1", "poll": "/polls/j1"}, status=202)
            if len(requests) < 4:
                assert request.transport is not None
                request.transport.abort()
            return web.json_response({"done": True, "data": data})

        return respond

    def elsewhere(self, url: str) -> Wire:
        return Wire(202, in_json({"job": "j1", "poll": f"{url}/jobs/j1"}))

    def running(self) -> Wire:
        return Wire(202, in_json({"job": "j1", "poll": "/jobs/j1"}))

    def is_cancel(self, request: Received) -> bool:
        return request.path == "/jobs/j1/cancel"

    def healthy(self) -> Wire:
        return Wire(204)

    def unhealthy(self) -> Wire:
        return Wire(503)


FIXTURES: dict[str, WireFixture] = {
    "bare": BareWire(),
    "cog": CogWire(),
    "oip": OipWire(),
    "openai": OpenAIWire(),
    "taskstream": TaskstreamWire(),
}
