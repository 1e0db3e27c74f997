"""Servers whose jobs are polled, in the wire formats of several programs. The test says when a job goes on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .http_server import HttpServer


class Job:
    """A job; a test sets its state."""

    def __init__(self, job_id: str, request: Any) -> None:
        self.id = job_id
        self.request = request
        """The body that started it."""
        self.polls = 0
        self.state = "running"
        """Or `done`, `failed`, `cancelled`."""
        self.output: Any = None
        self.error = ""
        self.logs = ""
        self.progress = 0.0


Work = Callable[[Job], None]


def done_after(polls: int, output: Any = "done") -> Work:
    """Return work that is done at this poll, after a line of its log at each."""

    def work(job: Job) -> None:
        job.logs += f"step {job.polls}\n"
        job.progress = min(job.polls / polls, 1)
        if job.polls >= polls:
            job.state, job.output = "done", output

    return work


def failing(error: str) -> Work:
    """Return work that fails at the first poll."""

    def work(job: Job) -> None:
        job.state, job.error = "failed", error

    return work


def endless(job: Job) -> None:
    """Never end."""


class JobsServer(HttpServer):
    """Starts a job for each request, and lets `work` go on at each poll. A subclass has a program's routes.

    This one: `POST /jobs` 202, `GET /jobs/{id}`, `GET /jobs/{id}/result`, `DELETE /jobs/{id}`.
    """

    path = "/jobs"

    def __init__(self, work: Work | None = None) -> None:
        super().__init__()
        self.work = work or done_after(2)
        self.jobs: dict[str, Job] = {}
        self.headers: list[dict[str, str]] = []
        """Of the requests that started a job."""
        self.refuse: tuple[int, Any, dict[str, str]] | None = None
        """The status, body and headers of the answer to each request that would start a job."""
        self.poll_answers: list[int | None] = []
        """Statuses of the next polls, before any other is answered as it is; None: as it is."""
        self.cancels: list[str] = []
        self.healthy = True
        self._ids = itertools.count(1)

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def job(self) -> Job:
        """The only job."""
        (job,) = self.jobs.values()
        return job

    def registration(self, server_id: str, **more: Any) -> dict[str, Any]:
        """Return the body that registers this server; `more` has the preset or the exchange."""
        endpoints = {"predict": self.url + self.path, "health": f"{self.url}/health"}
        return {"id": server_id, "name": server_id, "provider": "test", "endpoints": endpoints, **more}

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/jobs", self._start)
        app.router.add_get("/jobs/{id}", self._show)
        app.router.add_get("/jobs/{id}/result", self._result)
        app.router.add_delete("/jobs/{id}", self._cancel)

    async def started(self, request: web.Request, job_id: str | None = None) -> Job | web.Response:
        """Start a job; or return the refusal."""
        body = await request.json()
        self.headers.append(dict(request.headers))
        if self.refuse is not None:
            status, refusal, headers = self.refuse
            return web.json_response(refusal, status=status, headers=headers)
        job = Job(job_id or body.get("prompt_id") or f"job/{next(self._ids)}", body)
        self.jobs[job.id] = job
        return job

    def polled(self, job_id: str) -> Job | web.Response:
        """Let a job go on; or return the answer that the test set."""
        if self.poll_answers and (status := self.poll_answers.pop(0)) is not None:
            return web.json_response({"error": f"status {status}"}, status=status)
        job = self.jobs.get(job_id)
        if job is None:
            return web.json_response({"error": "no such job"}, status=404)
        job.polls += 1
        if job.state == "running":
            self.work(job)
        return job

    def cancelled(self, job_id: str) -> Job | None:
        """Stop a job; None if there is none, or it has ended."""
        self.cancels.append(job_id)
        job = self.jobs.get(job_id)
        if job is None or job.state != "running":
            return None
        job.state = "cancelled"
        return job

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({}, status=200 if self.healthy else 503)

    async def _start(self, request: web.Request) -> web.Response:
        job = await self.started(request)
        return job if isinstance(job, web.Response) else web.json_response({"job": job.id}, status=202)

    async def _show(self, request: web.Request) -> web.Response:
        job = self.polled(request.match_info["id"])
        if isinstance(job, web.Response):
            return job
        output = None if isinstance(job.output, bytes) else job.output
        shown = {"state": job.state, "percent": job.progress * 100, "log": job.logs, "output": output, "why": job.error}
        return web.json_response(shown)

    async def _result(self, request: web.Request) -> web.Response:
        output = self.jobs[request.match_info["id"]].output
        if isinstance(output, bytes):
            return web.Response(body=output, content_type="audio/wav")
        return web.Response(text=output) if isinstance(output, str) else web.json_response(output)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.cancelled(request.match_info["id"])
        return web.json_response({"stopped": job is not None}, status=200 if job else 404)


class BentomlTasks(JobsServer):
    """BentoML: a method marked `@bentoml.task`. A failed task's result is its error."""

    path = "/summarize/submit"

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/summarize/submit", self._submit)
        app.router.add_get("/summarize/status", self._status)
        app.router.add_get("/summarize/get", self._get)
        app.router.add_put("/summarize/cancel", self._refuse_to_cancel)

    async def _submit(self, request: web.Request) -> web.Response:
        job = await self.started(request)
        return job if isinstance(job, web.Response) else web.json_response({"task_id": job.id, "status": "in_progress"})

    async def _status(self, request: web.Request) -> web.Response:
        job = self.polled(request.query["task_id"])
        if isinstance(job, web.Response):
            return job
        words = {"running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "canceled"}
        times = {"created_at": "2026-01-31T12:00:00", "executed_at": None}
        return web.json_response({"task_id": job.id, "status": words[job.state], **times})

    async def _get(self, request: web.Request) -> web.Response:
        job = self.jobs[request.query["task_id"]]
        if job.state == "failed":
            return web.json_response({"error": job.error}, status=400)
        return web.Response(text=job.output) if isinstance(job.output, str) else web.json_response(job.output)

    async def _refuse_to_cancel(self, request: web.Request) -> web.Response:
        self.cancels.append(request.query["task_id"])
        return web.json_response({"error": "task cancellation is not supported"}, status=400)


class ReplicatePredictions(JobsServer):
    """Replicate's predictions."""

    path = "/v1/predictions"

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/predictions", self._create)
        app.router.add_get("/v1/predictions/{id}", self._get_prediction)
        app.router.add_post("/v1/predictions/{id}/cancel", self._cancel_prediction)

    def _prediction(self, job: Job) -> dict[str, Any]:
        words = {"running": "processing", "done": "succeeded", "failed": "failed", "cancelled": "canceled"}
        return {
            "id": job.id,
            "status": "starting" if not job.polls and job.state == "running" else words[job.state],
            "input": job.request["input"],
            "output": job.output,
            "error": job.error or None,
            "logs": job.logs,
            "urls": {"get": f"{self.url}/v1/predictions/{job.id}"},
        }

    async def _create(self, request: web.Request) -> web.Response:
        job = await self.started(request, f"p{next(self._ids)}")
        return job if isinstance(job, web.Response) else web.json_response(self._prediction(job), status=201)

    async def _get_prediction(self, request: web.Request) -> web.Response:
        job = self.polled(request.match_info["id"])
        return job if isinstance(job, web.Response) else web.json_response(self._prediction(job))

    async def _cancel_prediction(self, request: web.Request) -> web.Response:
        job = self.cancelled(request.match_info["id"])
        return web.json_response(self._prediction(job) if job else {"detail": "not found"}, status=200 if job else 404)


class ComfyJobs(JobsServer):
    """ComfyUI's jobs API. It takes the id that the client chooses, a UUID."""

    path = "/api/prompt"

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/api/prompt", self._queue)
        app.router.add_get("/api/jobs/{id}", self._get_job)
        app.router.add_post("/api/jobs/{id}/cancel", self._cancel_job)

    async def _queue(self, request: web.Request) -> web.Response:
        job = await self.started(request)
        if isinstance(job, web.Response):
            return job
        return web.json_response({"prompt_id": job.id, "number": len(self.jobs), "node_errors": {}})

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self.polled(request.match_info["id"])
        if isinstance(job, web.Response):
            return job
        words = {"running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "cancelled"}
        shown: dict[str, Any] = {"id": job.id, "status": words[job.state], "priority": 1}
        if job.state == "done":
            shown["outputs"] = job.output
        if job.state == "failed":
            shown["execution_error"] = {
                "exception_type": "RuntimeError",
                "exception_message": job.error,
                "node_id": "3",
            }
        return web.json_response(shown)

    async def _cancel_job(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self.cancelled(request.match_info["id"]) is not None})


class RunpodJobs(JobsServer):
    """RunPod's serverless endpoints."""

    path = "/v2/ep/run"

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/v2/ep/run", self._run)
        app.router.add_get("/v2/ep/status/{id}", self._job_status)
        app.router.add_post("/v2/ep/cancel/{id}", self._stop)

    async def _run(self, request: web.Request) -> web.Response:
        job = await self.started(request, f"r{next(self._ids)}-e1")
        return job if isinstance(job, web.Response) else web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _job_status(self, request: web.Request) -> web.Response:
        job = self.polled(request.match_info["id"])
        if isinstance(job, web.Response):
            return job
        words = {"running": "IN_PROGRESS", "done": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED"}
        ending = {"done": {"output": job.output}, "failed": {"error": job.error}}
        return web.json_response({"id": job.id, "status": words[job.state], **ending.get(job.state, {})})

    async def _stop(self, request: web.Request) -> web.Response:
        job = self.cancelled(request.match_info["id"])
        return web.json_response({"id": request.match_info["id"], "status": "CANCELLED" if job else "COMPLETED"})


class GradioCalls(JobsServer):
    """Gradio: a call is queued, and its outcome is a stream of server-sent events that one reader gets."""

    path = "/gradio_api/call/predict"

    def __init__(self, work: Work | None = None) -> None:
        super().__init__(work)
        self.left = asyncio.Event()
        """A reader closed its connection before the end."""

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/health", self._health)
        app.router.add_post("/gradio_api/call/predict", self._call)
        app.router.add_get("/gradio_api/call/predict/{id}", self._events)

    async def _call(self, request: web.Request) -> web.Response:
        job = await self.started(request, f"e{next(self._ids)}")
        return job if isinstance(job, web.Response) else web.json_response({"event_id": job.id})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs[request.match_info["id"]]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"event: heartbeat\ndata: null\n\n")
            await response.write(b'event: generating\ndata: ["so far"]\n\n')
            while job.state == "running":
                job.polls += 1
                self.work(job)
                await asyncio.sleep(0.01)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        name, data = ("complete", job.output) if job.state == "done" else ("error", {"error": job.error})
        await response.write(f"event: {name}\ndata: {web.json_response(data).text}\n\n".encode())
        return response
