"""Servers whose work outlives the request that began it: jobs that are polled, predictions that are attached to."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from testkit.http_server import break_off

from .evidence import TASKSTREAM, Line, Says
from .manners import (
    BUSY,
    OUT_OF_MEMORY,
    Attempt,
    BareManner,
    Manner,
    OipManner,
    OpenAIManner,
    Said,
    TaskstreamManner,
    attempt_of,
    event,
    made,
)
from .orders import AT_ONCE

if TYPE_CHECKING:
    from .backend import Backend

FORGETTING_ORDERS = frozenset({"die", "misaddressed"})
"""A server that is polled loses the job, in place of closing without an answer."""
UNHELPFUL_CHANCE = 0.15
"""Of an answer to a poll, to say nothing about the job."""
UNHELPFUL: tuple[Callable[[web.Request], web.Response], ...] = (
    lambda _: web.Response(status=429),
    lambda _: web.Response(status=429, headers={"Retry-After": "1"}),
    lambda _: web.Response(status=503),
    lambda _: web.Response(status=502),
    break_off,
)
ALONE_SECONDS = 0.7
"""How long a prediction goes on without a listener, half of the time."""
STREAMED_ORDERS = frozenset({"ok", "odd", "fail", "twice"})
"""Orders whose answer may be a stream that can be attached to."""
PROBE = 5
"""Input of a request that asks for a running prediction, and is refused if there is none."""


# Jobs


class Job(Struct):
    """A job of a server that is polled."""

    attempt: Attempt
    ends: float
    """On the monotonic clock."""


class JobManner(BareManner):
    """A server that takes jobs, and is polled until one has ended."""

    predict = "/jobs"
    job: ClassVar = "/jobs/{job}"
    """Path of a job."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, Job] = {}

    def registration(self, base: str) -> Line:
        exchange = {
            "result": "$.output.result",
            "error": "$.output.reason",
            "accepted": {"when": [202], "id": "$.job"},
            "poll": {
                "url": "/jobs/{id}",
                "interval": 0.2,
                "patience": 4,
                "done": '$.state == "done"',
                "failed": '$.state == "failed"',
                "progress": "$.progress",
                "progressMax": 1,
                "logs": "$.log",
            },
            "cancel": {"method": "DELETE", "url": "/jobs/{id}", "confirmed": '$.state == "stopped"'},
        }
        return super().registration(base) | {"exchange": exchange}

    def payload(self, body: Line) -> Line:
        return body

    def good(self, server: str, attempt: Attempt) -> Said:
        return Said(says="FINISHED", body={"state": "done", "output": {"result": made(server, attempt)}})

    def odd(self, server: str, attempt: Attempt) -> Said:
        found = {"state": "done", "output": {"result": made(server, attempt)}, "progress": "all", "log": 7}
        return Said(says="FINISHED", body=found)

    def failed(self, server: str, attempt: Attempt) -> Said:  # noqa: ARG002
        return Said(says="FAILED", body={"state": "failed", "output": {"reason": OUT_OF_MEMORY}})

    def busy(self) -> Said:
        return random.choice(BUSY)

    # What it does

    def routes(self, app: web.Application, backend: Backend) -> None:
        app.router.add_get(self.job, partial(self._poll, backend))
        app.router.add_delete(self.job, partial(self._stop, backend))

    async def take(self, backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse | None:  # noqa: ARG002
        """Take a job, unless it is refused at once."""
        if attempt.orders in AT_ONCE:
            return None
        name = uuid.uuid4().hex
        self._jobs[name] = Job(attempt, time.monotonic() + attempt.seconds)
        return web.json_response({"job": name, "state": "queued"}, status=202)

    async def _poll(self, backend: Backend, request: web.Request) -> web.StreamResponse:
        """Answer a poll: that the job goes on, or what came of it; now and then nothing that helps."""
        name = request.match_info["job"]
        job = self._jobs.get(name)
        if job is not None and job.attempt.orders in FORGETTING_ORDERS:
            del self._jobs[name]
            job = None
        if job is None:
            task, number = attempt_of(request.headers)
            backend.over(Attempt(task_id=task, attempt=number, request={}), "error", forgotten=True)
            return web.json_response({"detail": "no such job"}, status=404)
        if random.random() < UNHELPFUL_CHANCE:
            return random.choice(UNHELPFUL)(request)
        left = job.ends - time.monotonic()
        if left > 0 or job.attempt.orders == "hang":
            share = min(1.0, max(0.0, 1 - left / (job.attempt.seconds or 1.0)))
            lines = [f"step {number}" for number in range(round(10 * share))]
            return web.json_response({"state": "running", "progress": round(share, 2), "log": lines})
        return await backend.perform(request, replace(job.attempt, seconds_left=0.0))

    async def _stop(self, backend: Backend, request: web.Request) -> web.Response:
        job = self._jobs.pop(request.match_info["job"], None)
        if job is None:
            return web.json_response({"detail": "no such job"}, status=404)
        backend.note("stopped", job.attempt)
        backend.over(job.attempt, hung_up=True)
        return web.json_response({"state": "stopped"})


# Predictions


class Prediction:
    """A prediction that runs, and its events so far. It stops soon after its last listener has gone."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.events: list[bytes] = []
        self.has_ended = False
        self.listeners = 0
        self.news = asyncio.Condition()
        self.work: asyncio.Task[None] | None = None

    async def add(self, piece: bytes, *, is_last: bool = False) -> None:
        async with self.news:
            self.events.append(piece)
            self.has_ended = is_last
            self.news.notify_all()

    async def after(self, sent: int) -> list[bytes]:
        """Return the events after so many, once there are some."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.events) > sent)
            return self.events[sent:]


class CogManner(Manner):
    """A Cog model, which streams or does not, as it says of itself by turns. It forgets a prediction that has ended."""

    dialect = "cog"
    method = "PUT"
    predict = "/predictions/{id}"
    health = "/health-check"
    well: ClassVar = {"status": "READY"}

    def __init__(self) -> None:
        super().__init__()
        self._predictions: dict[str, Prediction] = {}

    def registration(self, base: str) -> Line:
        return {"dialect": self.dialect, "endpoints": {"predict": base}}

    def payload(self, body: Line) -> Line:
        return dict(body["input"])

    def read(self, headers: Mapping[str, str], body: bytes) -> Attempt:
        attempt = super().read(headers, body)
        attempt.is_async = headers.get("Accept") == "text/event-stream"
        return attempt

    # What it says

    @staticmethod
    def _prediction(status: str, **more: Any) -> Line:
        return {"id": "p", "status": status, "logs": "step 0\nstep 1\n", "metrics": {"predict_time": 0.25}, **more}

    def _ended(self, says: Says, prediction: Line, server: str, attempt: Attempt) -> Said:
        if not attempt.is_async:
            return Said(says=says, body=prediction)
        logs, outputs = ["step 0\n", "step 1\n"], self.chunks(server, attempt)
        events = [
            event({"id": "p", "status": "processing"}, "start"),
            *(event({"source": "stdout", "data": line}, "log") for line in logs),
            *(event({"chunk": chunk, "index": index}, "output") for index, chunk in enumerate(outputs)),
            event({"name": "steps", "value": 1, "mode": "increment"}, "metric"),
        ]
        return Said(says=says, pieces=[*events, event(prediction, "completed")], media_type="text/event-stream")

    def good(self, server: str, attempt: Attempt) -> Said:
        return self._ended("FINISHED", self._prediction("succeeded", output=made(server, attempt)), server, attempt)

    def odd(self, server: str, attempt: Attempt) -> Said:
        oddities: tuple[Line, ...] = ({"logs": 7}, {"logs": None}, {"metrics": []}, {"id": None}, {"error": "warned"})
        prediction = self._prediction("succeeded", output=made(server, attempt)) | random.choice(oddities)
        return self._ended("FINISHED", prediction, server, attempt)

    def failed(self, server: str, attempt: Attempt) -> Said:
        error = random.choice((OUT_OF_MEMORY, f"Prediction failed: {OUT_OF_MEMORY}", None))
        return self._ended("FAILED", self._prediction("failed", error=error), server, attempt)

    def busy(self) -> Said:
        full = {"error": "At capacity - all prediction slots busy", "status": "failed"}
        return random.choice((Said(says="busy", status=409, body=full), super().busy()))

    def torn(self) -> Sequence[Said]:
        bodies = (self._prediction("starting"), self._prediction("done"), {"output": 1}, [])
        return [*super().torn(), *(Said(says="nothing", body=body) for body in bodies)]

    # What it does

    def routes(self, app: web.Application, backend: Backend) -> None:
        app.router.add_get("/openapi.json", self._schema)
        app.router.add_post("/predictions/{id}/cancel", partial(self._cancel, backend))

    async def _schema(self, _: web.Request) -> web.Response:
        predict = {"x-cog-streaming": random.random() < 0.7}
        schemas = {"Input": {"type": "object"}, "Output": {"type": "object"}}
        return web.json_response({"paths": {"/predictions": {"post": predict}}, "components": {"schemas": schemas}})

    async def aside(self, backend: Backend, request: web.Request, body: bytes) -> web.StreamResponse | None:
        """Answer a request for a prediction that may run: its events, or a snapshot."""
        if msgspec.json.decode(body).get("input") != PROBE:
            return None
        found = self._predictions.get(request.match_info["id"])
        if found is None:
            return web.json_response({"detail": [{"msg": '5 is not of type "object"'}]}, status=422)
        if request.headers.get("Accept") != "text/event-stream":
            return web.json_response(self._prediction("processing"), status=202)
        backend.note("attached", found.attempt)
        return await self._listen(backend, request, found)

    async def take(self, backend: Backend, request: web.Request, attempt: Attempt) -> web.StreamResponse | None:
        if not attempt.is_async or attempt.orders not in STREAMED_ORDERS:
            return None
        name, attempt.outlives_call = request.match_info["id"], True
        found = self._predictions[name] = Prediction(attempt)
        found.work = asyncio.create_task(self._work(backend, found, name))
        return await self._listen(backend, request, found)

    async def _work(self, backend: Backend, found: Prediction, name: str) -> None:
        attempt, server = found.attempt, backend.server_id
        makers = {"odd": self.odd, "fail": self.failed}
        said = makers.get(attempt.orders, self.good)(server, attempt)
        try:
            for piece in said.pieces[:-1]:
                await found.add(piece)
                await asyncio.sleep(attempt.seconds / len(said.pieces))
            backend.over(attempt, said.says)
            await found.add(said.pieces[-1], is_last=True)
        except asyncio.CancelledError:
            backend.over(attempt, hung_up=True)
            await found.add(event(self._prediction("canceled"), "completed"), is_last=True)
        finally:
            self._predictions.pop(name, None)

    async def _listen(self, backend: Backend, request: web.Request, found: Prediction) -> web.StreamResponse:
        """Send all events of a prediction from the first one."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        found.listeners += 1
        try:
            await response.prepare(request)
            sent = 0
            while not (found.has_ended and sent == len(found.events)):
                pieces = await found.after(sent)
                sent += len(pieces)
                await response.write(b"".join(pieces))
            await response.write_eof()
            return response
        finally:
            found.listeners -= 1
            if not found.listeners and not found.has_ended:
                backend.later(self._leave(found))

    async def _leave(self, found: Prediction) -> None:
        """Cancel a prediction that nobody listens to; sometimes that shows only after a while."""
        await asyncio.sleep(random.choice((0.0, ALONE_SECONDS)))
        if not found.listeners and found.work is not None:
            found.work.cancel()

    async def _cancel(self, backend: Backend, request: web.Request) -> web.Response:
        found = self._predictions.get(request.match_info["id"])
        if found is None or found.work is None:
            return web.json_response({}, status=404)
        backend.note("stopped", found.attempt)
        found.work.cancel()
        return web.json_response({})


MANNERS: dict[str, type[Manner]] = {
    TASKSTREAM: TaskstreamManner,
    "oip": OipManner,
    "openai": OpenAIManner,
    "bare": BareManner,
    "jobs": JobManner,
    "cog": CogManner,
}
"""By the name that the command line has."""
