"""How a server of a run speaks its dialect: how it is registered, reads a call, and writes what came of it.

What it does to an attempt is in `orders.py`, for all dialects alike. Calls of dialects that say nothing of the task are
told apart by the `Idempotency-Key`, with which that of every request of an attempt begins.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiohttp import web
from msgspec import Struct

from testkit.backend import finished

from .evidence import TASKSTREAM, Line, Says, ordered

if TYPE_CHECKING:
    from .backend import Backend

LONG_MESSAGE = "step " * 401
"""2,005 characters, and 2,000 of a message are kept."""
ODDITIES: tuple[Line, ...] = (
    {"progress": sum(6 * [100 / 6])},  # a little more than 100
    {"message": LONG_MESSAGE},
    {"status": "finished"},
    {"progress": "40%"},
    {"message": {"text": "done"}},
)
"""Of the metadata of a success."""
FAILURES: tuple[Line, ...] = ({}, {"status": "failed"}, {"progress": "40%"}, {"message": {"code": 3}})
"""Of the metadata of a failure."""
OUT_OF_MEMORY = "CUDA out of memory"
ANOTHER = "0" * 26 + "~somebody"
MODEL = "chaos"
PIECES = 3
"""Of a streamed text, before the result."""
STREAMED_CHANCE = 0.5
"""Of answers of a server that may stream."""
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
encode = msgspec.json.Encoder().encode


class Attempt(Struct, kw_only=True):
    """The content of a call."""

    task_id: str
    attempt: int
    request: Line
    is_async: bool = msgspec.field(name="async", default=False)
    callback_url: str | None = None
    callback_token: str | None = None
    type: str | None = None
    """None: the dialect does not say it. So is the deadline."""
    deadline: int | None = None
    parents: list[Line] | None = None
    outlives_call: bool = False
    """Whether the work goes on, at least for a while, when the caller hangs up."""
    seconds_left: float | None = None
    """How long the work takes from now on; None: as long as the payload says."""

    @property
    def orders(self) -> str:
        return ordered(self.request, self.attempt)

    @property
    def seconds(self) -> float:
        return float(self.request.get("seconds", 0.05)) if self.seconds_left is None else self.seconds_left


class Said(Struct, frozen=True, kw_only=True):
    """An answer to an attempt."""

    says: Says
    body: Any = None
    """JSON; bytes are sent as they are."""
    status: int = 200
    headers: Mapping[str, str] = {}
    pieces: Sequence[bytes] = ()
    """Of a streamed answer, one after the other, in place of `body`. The last one says what came of the attempt."""
    media_type: str = "application/json"

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else encode(self.body)


BUSY: tuple[Said, ...] = tuple(
    Said(says="busy", status=status, body={"error": f"status {status}"}, headers=headers)
    for status in (429, 503)
    for headers in ({}, {"Retry-After": "1"})
)


class Manner(ABC):
    """One dialect."""

    dialect: ClassVar[str]
    predict: ClassVar[str] = "/predict"
    """Path of calls."""
    method: ClassVar[str] = "POST"
    health: ClassVar[str] = "/health"
    well: ClassVar[Any] = "well"
    """JSON of the answer to a health check."""

    def __init__(self) -> None:
        self._chunks = itertools.count(1)

    def registration(self, base: str) -> Line:
        """Return the fields of a registration at a URL that the dialect needs."""
        endpoints = {"predict": base + self.predict, "health": base + self.health}
        return {"endpoints": endpoints} | ({"dialect": self.dialect} if self.dialect != TASKSTREAM else {})

    def routes(self, app: web.Application, backend: Backend) -> None:  # noqa: B027 - few have more
        """Add what a server has besides calls and health checks."""

    async def aside(
        self,
        backend: Backend,  # noqa: ARG002
        request: web.Request,  # noqa: ARG002
        body: bytes,  # noqa: ARG002
    ) -> web.StreamResponse | None:
        """Answer a request that comes where calls do, and is none; None: it is a call."""
        return None

    async def take(
        self,
        backend: Backend,  # noqa: ARG002
        request: web.Request,  # noqa: ARG002
        attempt: Attempt,  # noqa: ARG002
    ) -> web.StreamResponse | None:
        """Do an attempt in a way of the dialect's own; None: there is none for such orders."""
        return None

    @abstractmethod
    def payload(self, body: Line) -> Line:
        """Return the payload in the body of a call."""

    def read(self, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Return what a call says. Raises LookupError, DecodeError or ValidationError for anything else."""
        task, attempt = attempt_of(headers)
        return Attempt(task_id=task, attempt=attempt, request=self.payload(msgspec.json.decode(body)))

    @abstractmethod
    def good(self, server: str, attempt: Attempt) -> Said:
        """Return the answer that the work is done, with the result."""

    def odd(self, server: str, attempt: Attempt) -> Said:
        """Return the answer that the work is done, with something out of order that is beside the point."""
        return self.good(server, attempt)

    @abstractmethod
    def failed(self, server: str, attempt: Attempt) -> Said:
        """Return the answer that the task has failed, in one of the ways in which such servers say it."""

    def chunks(self, server: str, attempt: Attempt) -> list[str]:
        """Return pieces of output, each of which is sent only once, ever."""
        return [f"{server}/{attempt.attempt}/{next(self._chunks)};" for _ in range(PIECES)]

    def misaddressed(self, server: str, attempt: Attempt) -> Said | None:  # noqa: ARG002
        """Return the result of another task, as after a mix-up; None where nothing in an answer says whose it is."""
        return None

    def busy(self) -> Said:
        """Return a busy answer, as such servers give it."""
        return random.choice(BUSY)

    def torn(self) -> Sequence[Said]:
        """Return answers that cannot be understood."""
        return [Said(says="nothing", body=b'{"data": {"mark": ')]

    def extra(self, server: str, attempt: Attempt | None) -> Sequence[bytes]:
        """Return answers that may be sent unasked: that to an attempt, a failure."""
        failure = encode({"data": None, "metadata": {"status": "FAILED", "message": OUT_OF_MEMORY}})
        own = self.good(server, attempt) if attempt else None
        return [failure] if own is None or own.pieces else [failure, own.content]


def attempt_of(headers: Mapping[str, str]) -> tuple[str, int]:
    """Return task and number of the attempt that a request belongs to. Raises LookupError."""
    task, attempt, *_ = headers["Idempotency-Key"].split(".")
    return task, int(attempt)


def made(server: str, attempt: Attempt) -> Line:
    """Return what a server makes of an attempt: the result that the checker expects."""
    return {"mark": attempt.request["mark"], "attempt": attempt.attempt, "server": server}


def event(data: Any, name: str = "") -> bytes:
    """Return a server-sent event."""
    text = data if isinstance(data, bytes) else encode(data)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + text + b"\n\n"


class TaskstreamManner(Manner):
    dialect = TASKSTREAM

    def payload(self, body: Line) -> Line:
        return dict(body["request"])

    def read(self, headers: Mapping[str, str], body: bytes) -> Attempt:  # noqa: ARG002
        return msgspec.json.decode(body, type=Attempt)

    def result(self, server: str, attempt: Attempt, status: str = "FINISHED", **metadata: Any) -> Line:
        """Return a TaskResult."""
        return finished({"task_id": attempt.task_id}, made(server, attempt), server, status=status, **metadata)

    def good(self, server: str, attempt: Attempt) -> Said:
        return Said(says="FINISHED", body=self.result(server, attempt))

    def odd(self, server: str, attempt: Attempt) -> Said:
        result = self.result(server, attempt)
        result.update(random.choice(({}, {"backend_task_id": 123}, {"backend_task_id": None})))
        result["metadata"].update(random.choice(ODDITIES))
        return Said(says="FINISHED", body=random.choice((b"", b"\xef\xbb\xbf")) + encode(result))

    def failed(self, server: str, attempt: Attempt) -> Said:
        result = self.result(server, attempt, "FAILED", message=OUT_OF_MEMORY)
        for field in random.choice(((), ("data",), ("data", "task_id", "backend_task_id"))):
            del result[field]
        result["metadata"].update(random.choice(FAILURES))
        return Said(says="FAILED", body=result)

    def misaddressed(self, server: str, attempt: Attempt) -> Said | None:
        other = self.result(server, attempt)
        other["data"]["mark"] = "another"
        return Said(says="nothing", body=other | {"task_id": ANOTHER})

    def extra(self, server: str, attempt: Attempt | None) -> Sequence[bytes]:
        failure = {"data": None, "metadata": {"status": "FAILED", "message": OUT_OF_MEMORY}}
        older = self.result(server, attempt) if attempt else {}
        older.pop("task_id", None)  # nothing in it says whose result it is
        return [encode(older or failure), encode(failure)]


class OipManner(Manner):
    """An inference server of the Open Inference Protocol. Its id is the request's; its result a tensor of one text."""

    dialect = "oip"
    predict = f"/v2/models/{MODEL}/infer"
    health = f"/v2/models/{MODEL}/ready"

    def payload(self, body: Line) -> Line:
        return {name: value for name, value in body.items() if name != "id"}

    def read(self, headers: Mapping[str, str], body: bytes) -> Attempt:
        attempt = super().read(headers, body)
        attempt.callback_token = msgspec.json.decode(body).get("id")  # to be echoed
        return attempt

    def _answer(self, attempt: Attempt, data: Any) -> Line:
        outputs = [{"name": "result", "shape": [1], "datatype": "BYTES", "data": [encode(data).decode()]}]
        return {"model_name": MODEL, "model_version": "1", "id": attempt.callback_token, "outputs": outputs}

    def good(self, server: str, attempt: Attempt) -> Said:
        return Said(says="FINISHED", body=self._answer(attempt, made(server, attempt)))

    def odd(self, server: str, attempt: Attempt) -> Said:
        found = self._answer(attempt, made(server, attempt))
        found.update(random.choice(({"id": ""}, {"id": None}, {"parameters": {"x": 1}}, {"model_version": 7})))
        return Said(says="FINISHED", body=found)

    def failed(self, server: str, attempt: Attempt) -> Said:  # noqa: ARG002
        return Said(says="FAILED", body={"error": OUT_OF_MEMORY})

    def misaddressed(self, server: str, attempt: Attempt) -> Said | None:
        other = self._answer(attempt, made(server, attempt) | {"mark": "another"})
        return Said(says="nothing", body=other | {"id": "0" * 32})

    def busy(self) -> Said:
        full = Said(says="busy", status=500, body={"error": "RuntimeError: the queue is full"})
        return random.choice((*BUSY, full, full))

    def torn(self) -> Sequence[Said]:
        bodies = ({"model_name": MODEL}, {"outputs": {}}, [])
        return [*super().torn(), *(Said(says="nothing", body=body) for body in bodies)]


class OpenAIManner(Manner):
    """A server of chat completions that streams if it is asked to. The completion is the result, as JSON."""

    dialect = "openai"
    predict = "/v1/chat/completions"
    health = "/v1/models"
    ERRORS: ClassVar[tuple[tuple[Says, Line], ...]] = (
        ("rejected", {"message": "context too long", "type": "BadRequestError", "code": 400}),
        ("error", {"message": OUT_OF_MEMORY, "type": "InternalServerError", "code": 500}),
        ("error", {"message": OUT_OF_MEMORY}),
    )
    """Error objects, and what they say."""

    def registration(self, base: str) -> Line:
        return super().registration(base) | {"endpoints": {"predict": f"{base}/v1", "health": base + self.health}}

    def payload(self, body: Line) -> Line:
        return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}

    def read(self, headers: Mapping[str, str], body: bytes) -> Attempt:
        attempt = super().read(headers, body)
        attempt.is_async = bool(msgspec.json.decode(body).get("stream"))
        return attempt

    def routes(self, app: web.Application, backend: Backend) -> None:
        """Show how much runs, as vLLM does."""

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=f'vllm:num_requests_running{{model_name="{MODEL}"}} {backend.running}.0\n')

        app.router.add_get("/metrics", metrics)

    @staticmethod
    def _part(delta: Line, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return event({"id": "c", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})

    def _spoken(self, server: str, attempt: Attempt, end: bytes, says: Says) -> Said:
        """Return a stream of a text, which ends with the result, and its end."""
        texts = [*self.chunks(server, attempt), encode(made(server, attempt)).decode()]
        parts = [self._part({"content": text}) for text in texts]
        return Said(says=says, pieces=[self._part({"role": "assistant"}), *parts, end], media_type=EVENTS)

    def good(self, server: str, attempt: Attempt) -> Said:
        if not attempt.is_async:
            message = {"role": "assistant", "content": encode(made(server, attempt)).decode()}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return Said(says="FINISHED", body={"id": "c", "object": "chat.completion", "choices": [choice]})
        usage = event({"id": "c", "choices": [], "usage": {"total_tokens": 7}})
        return self._spoken(server, attempt, self._part({}, "stop") + usage + event(b"[DONE]"), "FINISHED")

    def odd(self, server: str, attempt: Attempt) -> Said:
        if not attempt.is_async:
            return self.good(server, attempt)
        stop, done = self._part({}, "stop"), event(b"[DONE]")
        end = random.choice((b": comment\n\n" + stop + done, stop, stop + done + b"data: {not JSON}\n\n"))
        return self._spoken(server, attempt, end, "FINISHED")

    def failed(self, server: str, attempt: Attempt) -> Said:
        says, error = random.choice(self.ERRORS)
        if attempt.is_async:
            return self._spoken(server, attempt, event({"error": error}), says)
        return Said(says=says, body={"error": error})

    def torn(self) -> Sequence[Said]:
        half, no_end = self._part({"content": '{"mark": '}), event(b'{"choices": [')
        cases = ([half, half], [half, no_end], [half, event({"choices": 7})], [event([])], [event(b"[DONE]")])
        return [*super().torn(), *(Said(says="nothing", pieces=pieces, media_type=EVENTS) for pieces in cases)]


class BareManner(Manner):
    """A server of its own making: the payload is wrapped, the result is in a field, a status word says what came."""

    dialect = "bare"
    predict = "/generate"

    def registration(self, base: str) -> Line:
        exchange = {
            "request": {"body": {"inputs": "$payload", "parameters": {"fixed": 1}}},
            "result": "$.output.result",
            "failWhen": {"body": '$.state == "failed"'},
            "busyWhen": {"body": '$.state == "full"'},
            "error": "$.output.reason",
            "stream": {"done": '$.state == "done"', "output": "$.text"},
        }
        return super().registration(base) | {"exchange": exchange}

    def payload(self, body: Line) -> Line:
        return dict(body["inputs"])

    def good(self, server: str, attempt: Attempt) -> Said:
        whole = {"state": "done", "output": {"result": made(server, attempt)}}
        if random.random() < STREAMED_CHANCE:
            parts = [{"state": "running", "text": text} for text in self.chunks(server, attempt)]
            pieces = [encode(part) + b"\n" for part in (*parts, whole)]
            return Said(says="FINISHED", pieces=pieces, media_type=LINES)
        return Said(says="FINISHED", body=whole)

    def odd(self, server: str, attempt: Attempt) -> Said:
        oddities: tuple[Line, ...] = ({"state": 7}, {"state": None}, {"state": "done", "more": []})
        return Said(says="FINISHED", body={"output": {"result": made(server, attempt)}, **random.choice(oddities)})

    def failed(self, server: str, attempt: Attempt) -> Said:  # noqa: ARG002
        status = random.choice((200, 200, 500, 404))
        return Said(says="FAILED", status=status, body={"state": "failed", "output": {"reason": OUT_OF_MEMORY}})

    def busy(self) -> Said:
        full = Said(says="busy", body={"state": "full"})
        return random.choice((*BUSY, full, full))

    def torn(self) -> Sequence[Said]:
        bodies = ({"state": "done"}, {"state": "done", "output": []}, "done", b"done")
        return [*super().torn(), *(Said(says="nothing", body=body) for body in bodies)]
