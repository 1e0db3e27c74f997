"""RunPod's worker protocol: a second entry point for pullers, so that workers made with RunPod's SDK run unmodified.

    GET  job-take/{worker}, job-take-batch/{worker}    take attempts; held open
    GET  job-stop/{worker}                             attempts to stop; held open as long as the worker lives
    GET  ping/{worker}?job_id=a,b                      renews the leases of these attempts
    POST job-stream/{worker}/{job}                     a piece of the result
    POST job-done/{worker}/{job}                       the end, or progress

A job is an attempt. The SDK sends its pings from a process of its own, which outlives a killed worker. So a worker that
hung up `job-stop` and has not come back within a lease is dead, whatever its pings say. While its handler blocks, a
living worker cannot send that request again: so while it has attempts, it is answered only with attempts to stop, and a
byte now and then keeps it open across proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import msgspec
import structlog
from litestar import Response, Router, get, post
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Raw

from ...clock import unique_id, utc_now
from ...container import Container
from ...errors import InvalidInput, NotFound, StoreError, TooManyAsks
from ...events.subjects import task_root
from ...pulling.attempts import PulledAttempt
from ...pulling.requests import Wanted
from ...pulling.worker_records import WorkerRecord, WorkerRecords
from ..auth.access import RAW_TOKENS, TAKES, ApiRequest, Authentication, check_server, origin, requires, until_the_end
from ..auth.authenticator import Authenticator
from ..auth.stream_tokens import StreamTokens
from ..bodies import read_body
from ..middleware import MAY_TAKE_LONG, request_id
from ..pulled_servers import held_open, pulled_server, record_sign_of_life
from .bodies import LONGEST_PIECE, JobBody, piece_in, piece_of, progress_of
from .refusals import HeldRefusals

log = structlog.get_logger(__name__)

WAIT_SECONDS = 45.0
"""How long a request for attempts is held open. The SDK gives up after 90 s, many proxies after 60."""
MOST_TAKEN = 100
KEEP_OPEN_SECONDS = 5.0
"""How often a byte is sent on an open `job-stop`, and the attempts of the worker are looked up again."""
IDLE_SECONDS = 25.0
"""How long `job-stop` of a worker without attempts is held: the SDK ends only when it is answered."""
MOST_PINGED = 200
"""Attempts that one ping renews, at most."""
LONGEST_WORKER = 128
"""Characters of a worker's name."""
RENEWED_AT_ONCE = 8
STOP_CHANNEL_SINCE = (1, 10)
"""The first version of the SDK that sends `job-stop`."""

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)
_JSON = "application/json"
_encode = msgspec.json.Encoder().encode


def runpod_router(container: Container, authenticator: Authenticator, tokens: StreamTokens) -> Router:
    """Return the routes of the protocol, under `/runpod/jobs/{server}`."""
    workers = _Workers(container)

    @get("/job-take/{worker:str}")
    async def take_job(request: ApiRequest, server: FromPath[str], worker: FromPath[str]) -> Response[bytes]:
        found = await workers.take(request, server, worker, 1)
        return _answer(found[0] if found else None)

    @get("/job-take-batch/{worker:str}")
    async def take_jobs(request: ApiRequest, server: FromPath[str], worker: FromPath[str]) -> Response[bytes]:
        asked = request.query_params.get("batch_size", "1")
        most = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 1
        return _answer(await workers.take(request, server, worker, min(max(most, 1), MOST_TAKEN)) or None)

    @get("/job-stop/{worker:str}")
    async def watch_jobs(request: ApiRequest, server: FromPath[str], worker: FromPath[str]) -> Stream:
        return await workers.watch(request, server, worker)

    @get("/ping/{worker:str}")
    async def ping(request: ApiRequest, server: FromPath[str], worker: FromPath[str]) -> Response[bytes]:
        await workers.ping(request, server, worker)
        return _answer({})

    @post("/job-stream/{worker:str}/{job:str}", status_code=200)
    async def stream_piece(
        request: ApiRequest, server: FromPath[str], worker: FromPath[str], job: FromPath[str]
    ) -> Response[bytes]:
        await workers.stream(request, server, worker, job)
        return _answer({})

    @post("/job-done/{worker:str}/{job:str}", status_code=200, request_max_body_size=container.settings.max_result)
    async def end_job(
        request: ApiRequest, server: FromPath[str], worker: FromPath[str], job: FromPath[str]
    ) -> Response[bytes]:
        await workers.end(request, server, worker, job)
        return _answer({})

    return Router(
        path="/runpod/jobs/{server:str}",
        route_handlers=[take_job, take_jobs, watch_jobs, ping, stream_piece, end_job],
        middleware=[HeldRefusals, DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens)],
        opt={TAKES: RAW_TOKENS, **requires("service", "admin")},
    )


class _Workers:
    """The workers of RunPod's protocol that talk to this process."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._attempts = container.pulled_attempts
        self._records = WorkerRecords(container.buckets.heartbeats)
        self._lease = timedelta(seconds=container.settings.pull_lease)
        self._taken: dict[tuple[str, str], asyncio.Future[None]] = {}
        """Of each open `job-stop`: done once the worker has taken another attempt."""
        self._closing: set[asyncio.Task[None]] = set()

    async def take(self, request: ApiRequest, server: str, worker: str, most: int) -> list[dict[str, Any]]:
        """Return attempts for a worker, as jobs; none after the wait."""
        alive = await self._admit(request, server, worker)
        async with held_open(request) as gone:
            try:
                taken = await self._container.pull_requests.take(server, Wanted(most=most), WAIT_SECONDS, gone, alive)
            except TooManyAsks:
                raise HTTPException(status_code=429, detail="too many requests are open") from None
        if taken.attempts:
            with contextlib.suppress(StoreError):  # its pings renew them, but it is not told to stop them
                await self._records.took(server, worker, [each.id for each in taken.attempts])
            if (news := self._taken.get((server, worker))) is not None and not news.done():
                news.set_result(None)
        return [{"id": each.id, "input": each.payload} for each in taken.attempts]

    async def watch(self, request: ApiRequest, server: str, worker: str) -> Stream:
        """Answer with the attempts that a worker must stop, once there are some."""
        await self._admit(request, server, worker)
        cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
        try:
            until_the_end(request, self._attempts.watchers.open(server))
        except TooManyAsks:
            raise HTTPException(status_code=429, detail="too many requests are open") from None
        watch = unique_id()
        await self._records.began_to_watch(server, worker, watch)
        return Stream(self._jobs_to_stop(server, worker, watch), media_type=_JSON)

    async def _jobs_to_stop(self, server: str, worker: str, watch: str) -> AsyncGenerator[bytes, None]:
        stopped: list[str] = []
        has_answered = is_idle = False
        idle_until = time.monotonic() + IDLE_SECONDS
        try:
            while not (stopped or self._attempts.is_ending or (is_idle and time.monotonic() > idle_until)):
                yield b" "
                stopped, is_idle = await self._over(server, worker)
            has_answered = True
            yield _encode({"jobsToStop": stopped})
        finally:
            if not (has_answered or self._attempts.is_ending):
                self._in_background(self._records.hung_up(server, worker, watch))

    async def _over(self, server: str, worker: str) -> tuple[list[str], bool]:
        """Wait a moment for attempts of a worker that are over; return their ids, which it is told once.

        The second is True if it has no attempt.
        """
        news = asyncio.get_running_loop().create_future()
        self._taken[server, worker] = news
        try:
            record = await self._records.get(server, worker)
            over = await self._attempts.stopped(server, record.jobs, KEEP_OPEN_SECONDS, news)
            if over:
                record = await self._records.get(server, worker)  # without those that it has ended itself meanwhile
                await self._records.told_to_stop(server, worker, over.keys())
        except StoreError:
            await asyncio.sleep(KEEP_OPEN_SECONDS)
            return [], False
        finally:
            if self._taken.get((server, worker)) is news:
                del self._taken[server, worker]
        return [job for job in record.jobs if job in over], not record.jobs and not news.done()

    async def ping(self, request: ApiRequest, server: str, worker: str) -> None:
        """Renew the leases of the attempts that a worker has, unless the worker is dead."""
        alive = await self._admit(request, server, worker)
        record = await self._records.keep(server, worker)
        can_watch = _version(request.query_params.get("runpod_version", "")) >= STOP_CHANNEL_SINCE
        if can_watch and record.is_dead(utc_now(), self._lease):
            log.info("runpod.worker-dead", server=server, worker=worker)
            return
        await alive()
        await self._confirm_stopped(request, server, worker, record)
        jobs = [job for job in request.query_params.get("job_id", "").split(",") if job][:MOST_PINGED]
        places = asyncio.Semaphore(RENEWED_AT_ONCE)

        async def renew(job: str) -> None:
            async with places:
                with contextlib.suppress(NotFound):
                    await self._attempts.renew(await self._attempts.by_server(job, server))

        await asyncio.gather(*map(renew, dict.fromkeys(jobs)))

    async def _confirm_stopped(self, request: ApiRequest, server: str, worker: str, record: WorkerRecord) -> None:
        """Record which of the attempts that a worker was told to stop it does not name any more."""
        named = set(request.query_params.get("job_id", "").split(","))
        stopped = [job for job in record.stopping if job not in named]
        for job in stopped:
            with contextlib.suppress(NotFound):
                found = await self._attempts.by_server(job, server)
                if found.is_cancelled:
                    await self._attempts.confirm_stop(found, request_id(request.scope))
        if stopped:
            await self._records.ended(server, worker, stopped)

    async def stream(self, request: ApiRequest, server: str, worker: str, job: str) -> None:
        """Record a piece of an attempt's result. It is in the log before the answer, as the result is made of these."""
        found = await self._find(request, server, worker, job)
        if found is None:
            return
        cause = request_id(request.scope)
        try:
            text = await read_body(request, LONGEST_PIECE)
            update = piece_of(JobBody(text))
        except (InvalidInput, HTTPException) as error:
            await self._fail(found, f"a streamed piece cannot be kept: {_said(error)}", cause)
            return
        await self._attempts.progress(found, update, cause, is_kept_apart=True)

    async def end(self, request: ApiRequest, server: str, worker: str, job: str) -> None:
        """Record the end of an attempt, or its progress."""
        found = await self._find(request, server, worker, job)
        if found is None:
            return
        cause = request_id(request.scope)
        try:
            body = JobBody(await read_body(request))
            if body.is_progress:
                await self._attempts.progress(found, progress_of(body), cause)
                return
            output = body.output
            streams = request.query_params.get("isStream") == "true"
            if streams and body.has_no_output and not body.has_failed:
                output = await self._pieces(found)
            update = body.ending(output)
        except (InvalidInput, HTTPException) as error:
            await self._fail(found, f"the result cannot be kept: {_said(error)}", cause)
        else:
            await self._forget(server, worker, job)
            seen = {"server_id": found.server_id, **({"progress": 100} if update.status == "FINISHED" else {})}
            ending = update.ending(update.result(found.key.ref.id, **seen))
            await self._attempts.finish(found, ending, update.digest, cause)

    async def _forget(self, server: str, worker: str, job: str) -> None:
        """Forget an attempt before its end is known: nobody needs to tell its worker to stop."""
        with contextlib.suppress(StoreError):
            await self._records.ended(server, worker, [job])

    async def _pieces(self, found: PulledAttempt) -> Raw:
        """Return the pieces that an attempt has streamed, as a list. Raises InvalidInput if they are too large."""
        most_bytes = self._container.settings.max_result
        kept: list[Raw] = []
        size = 0
        root = task_root(found.key.ref)
        async with contextlib.aclosing(self._container.commands.tasks.log.steps(root)) as steps:
            async for step in steps:
                for stored in step:
                    if (piece := piece_in(stored.recorded.event, found.key.attempt)) is not None:
                        kept.append(piece)
                        size += len(bytes(piece)) + 1
                if size > most_bytes:
                    raise InvalidInput(f"its pieces are larger than {most_bytes} bytes together", "$.output")
        return Raw(_encode(kept))

    async def _fail(self, found: PulledAttempt, error: str, cause: str) -> None:
        """Fail an attempt whose report cannot be used. The worker is answered 200: it would only repeat it."""
        await self._attempts.fail(found, error, None, cause)

    async def _admit(self, request: ApiRequest, server: str, worker: str) -> Callable[[], Any]:
        """Check that a request may be made for a server; return what records that its worker is alive."""
        if len(worker) > LONGEST_WORKER:
            raise InvalidInput(f"must have {LONGEST_WORKER} characters at most", "worker")
        check_server(request.user, self._container.fleet, server)
        signed = origin(request)
        await pulled_server(self._container, server, signed)
        return partial(record_sign_of_life, self._container, server, signed)

    async def _find(self, request: ApiRequest, server: str, worker: str, job: str) -> PulledAttempt | None:
        """Return the attempt of a job; None if it is none of the server's: whatever is said of it changes nothing."""
        await self._admit(request, server, worker)
        try:
            return await self._attempts.by_server(job, server)
        except NotFound:
            return None

    def _in_background(self, work: Any) -> None:
        """Do something that must be done though its request is cancelled."""

        async def run() -> None:
            with contextlib.suppress(StoreError):
                await work

        task = asyncio.get_running_loop().create_task(run())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _answer(content: Any) -> Response[bytes]:
    """Return an answer that the SDK reads: 204 without content."""
    if content is None:
        return Response(b"", status_code=204)
    return Response(_encode(content), media_type=_JSON, status_code=200)


def _version(text: str) -> tuple[int, int]:
    """Return the version of an SDK, (0, 0) if it is none."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _said(error: InvalidInput | HTTPException) -> str:
    return error.detail if isinstance(error, HTTPException) else str(error)
