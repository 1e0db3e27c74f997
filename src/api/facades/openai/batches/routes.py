"""Routes of batches, in OpenAI's form."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from litestar.params import PathParameter

from .....clock import utc_now
from .....commands.batch_job import BatchJob, CancelBatchJob, CreateBatchJob
from .....container import Container
from .....errors import InvalidInput, NotFound, RuleBroken
from .....events.batch_job import BatchJobCreated, BatchJobFinished, BatchJobRejected
from .....events.ids import (
    BatchJobRef,
    FileRef,
    batch_job_for_key,
    new_batch_job_ref,
    owner_token,
    parse_batch_job_id,
    parse_file_id,
)
from .....events.subjects import batch_job_ref, batch_jobs_filter
from .....instants import parse_duration
from .....projections.batch_jobs import BATCH_JOB_STATES, batch_job_refs
from .....streams.jetstream.messages import last_sequence, list_subjects
from .....streams.log import Guard
from .....streams.topology.definitions import BATCH_JOBS
from .....submission.body import fingerprint
from ....auth.access import SUBMITTERS, ApiRequest, origin
from ....bodies import decoded_as, read_body
from ....parameters import IdempotencyKey, made_ref
from ....routing import RouteHandler, Routes
from ..lists import OpenAIPage, asked_page, check_query, page
from .objects import BATCH_PREFIX, FILE_PREFIX, BatchObject, NewBatch, batch_object
from .requests import MOST_BYTES

MOST_UNFINISHED = 50
"""Batches of one owner that have not ended."""
MOST_KEPT = 2_000
"""Batches that one owner may create in the time that they are kept."""
LONGEST_WINDOW = timedelta(days=7)
PURPOSE = "batch"

BatchId = Annotated[str, PathParameter(description="A batch's id, from the answer to its creation")]


async def room_of(container: Container, owner: str) -> Guard:
    """Return a guard that fails once the owner (a token) creates another batch. Raises RuleBroken at the limits."""
    subjects = batch_jobs_filter(owner, BatchJobCreated)
    last = await last_sequence(container.reading, BATCH_JOBS, subjects)  # before they are counted
    created = await _having(container, owner, BatchJobCreated)
    if len(created) >= MOST_KEPT:
        raise RuleBroken(f"you have created {MOST_KEPT:,} batches in 60 days, the most allowed; try later")
    for event in (BatchJobFinished, BatchJobRejected):
        created -= await _having(container, owner, event)
    if len(created) >= MOST_UNFINISHED:
        raise RuleBroken(f"{MOST_UNFINISHED} of your batches have not ended, the most allowed; cancel one, or wait")
    return Guard(subjects, last)


async def _having(
    container: Container, owner: str, event: type[BatchJobCreated | BatchJobFinished | BatchJobRejected]
) -> set[BatchJobRef]:
    """Return the batches of an owner token that have such an event."""
    subjects = await list_subjects(container.reading, BATCH_JOBS, batch_jobs_filter(owner, event))
    return set(map(batch_job_ref, subjects))


def find_batch(request: ApiRequest, batch_id: str) -> BatchJobRef:
    """Return a batch that the caller created. Raises NotFound."""
    if not batch_id.startswith(BATCH_PREFIX):
        raise NotFound("batch", batch_id)
    ref = parse_batch_job_id(batch_id.removeprefix(BATCH_PREFIX))
    if ref.owner != owner_token(request.user.subject):
        raise NotFound("batch", batch_id)
    return ref


def find_file(request: ApiRequest, file_id: str) -> FileRef:
    """Return a file that the caller stored. Raises NotFound."""
    ref = parse_file_id(file_id.removeprefix(FILE_PREFIX))
    if ref.owner != owner_token(request.user.subject):
        raise NotFound("file", file_id)
    return ref


def window_of(text: str) -> timedelta:
    """Return the length of a window. Raises InvalidInput."""
    window = parse_duration(text)
    if window > LONGEST_WINDOW:
        raise InvalidInput("must be at most 7d", "$.completion_window")
    return window


async def unfinished_with_input(container: Container, ref: FileRef) -> list[BatchJobRef]:
    """Return the batches that have not read all of an input file."""
    created = await _having(container, ref.owner, BatchJobCreated)
    for event in (BatchJobFinished, BatchJobRejected):
        created -= await _having(container, ref.owner, event)
    jobs = await BATCH_JOB_STATES.load(container.reading, sorted(created))
    return [job_ref for job_ref, job in jobs.items() if job.created.input_file == ref.id and not job.is_over]


async def created_of(
    container: Container, request: ApiRequest, ref: BatchJobRef, body: NewBatch, now: datetime, digest: str
) -> BatchJobCreated:
    """Return the event that creates a batch. Raises InvalidInput, StoreError."""
    window = window_of(body.completion_window)
    await check_input(container, request, body, now + window)
    user = request.user
    return BatchJobCreated(
        job_id=ref.id,
        owner=user.subject,
        endpoint=body.endpoint,
        input_file=body.input_file_id.removeprefix(FILE_PREFIX),
        window=body.completion_window,
        expires_at=now + window,
        metadata=body.metadata or {},
        output_seconds=body.output_expires_after.seconds if body.output_expires_after else 0,
        types=tuple(sorted(user.types or ())),
        fingerprint=digest,
    )


async def check_input(container: Container, request: ApiRequest, body: NewBatch, until: datetime) -> None:
    """Raise InvalidInput for a file that cannot be the input of a batch."""
    path = "$.input_file_id"
    try:
        file = (await container.files.find(find_file(request, body.input_file_id))).created
    except NotFound:
        raise InvalidInput("there is no such file; POST /openai/v1/files with purpose=batch first", path) from None
    if file.purpose != PURPOSE:
        raise InvalidInput(f"must be a file with purpose `{PURPOSE}`, not `{file.purpose[:64]}`", path)
    if file.size_bytes > MOST_BYTES:
        raise InvalidInput(f"has {file.size_bytes:,} bytes; {MOST_BYTES:,} is the most: split it", path)
    if file.expires_at is not None and file.expires_at < until:
        raise InvalidInput("the file expires before the batch's window ends; let it expire later", path)


def batch_routes(container: Container) -> list[RouteHandler]:
    """Return the routes, without the prefix."""
    routes = Routes("/batches", "OpenAI")
    jobs, depth = container.commands.batch_jobs, container.settings.max_json_depth

    @routes.post(
        "/",
        "Create a batch",
        "The batch, which is validated next",
        body=NewBatch,
        roles=SUBMITTERS,
        fails={409, 429},
    )
    async def create_batch(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> BatchObject:
        """Run every request of a file within a window of time, behind other work, and write the results to files.

        Each request becomes a task of low priority. What has not ended by the end of the window fails.
        """
        check_query(request.query_params, ())
        raw = (await read_body(request)).strip() or b"{}"
        body = decoded_as(raw, NewBatch, depth)
        owner = owner_token(request.user.subject)
        await container.submissions.check_bytes(owner)
        ref = made_ref(owner, idempotency_key, new_batch_job_ref, batch_job_for_key)
        digest = fingerprint(raw) if idempotency_key is not None else ""
        created = await created_of(container, request, ref, body, utc_now(), digest)
        command = CreateBatchJob(created=created, repeatable=idempotency_key is not None)
        handled = await jobs.handle(ref, command, room=partial(room_of, container, owner), **origin(request))
        return batch_object(ref, _found(handled.known.state, ref))

    @routes.get("/", "List batches", "A page of batches, newest first")
    async def list_batches(request: ApiRequest) -> OpenAIPage:
        """List your batches of the last 60 days, newest first."""
        asked = asked_page(request.query_params)
        refs = await batch_job_refs(container.reading, owner_token(request.user.subject))
        if asked.is_ascending:
            refs.reverse()
        if asked.after:
            after = find_batch(request, asked.after).id
            refs = [ref for ref in refs if (ref.id > after if asked.is_ascending else ref.id < after)]
        wanted = refs[: asked.limit + 1]
        found = await BATCH_JOB_STATES.load(container.reading, wanted)
        return page([batch_object(ref, found[ref]) for ref in wanted if ref in found], asked.limit)

    @routes.get("/{openai_batch_id:str}", "Read a batch", "The batch")
    async def get_batch(request: ApiRequest, openai_batch_id: BatchId) -> BatchObject:
        """Return a batch: its status, its counts and, once it has ended, its files."""
        check_query(request.query_params, ())
        ref = find_batch(request, openai_batch_id)
        return batch_object(ref, _found((await jobs.load(ref)).state, ref))

    @routes.post("/{openai_batch_id:str}/cancel", "Cancel a batch", "The batch, which ends soon", fails={409})
    async def cancel_batch(request: ApiRequest, openai_batch_id: BatchId) -> BatchObject:
        """Cancel the requests that have not ended, queued and running ones. The results of the others are kept."""
        check_query(request.query_params, ())
        ref = find_batch(request, openai_batch_id)
        handled = await jobs.handle(ref, CancelBatchJob(), **origin(request))
        return batch_object(ref, _found(handled.known.state, ref))

    return routes.handlers


def _found(state: object, ref: BatchJobRef) -> BatchJob:
    if not isinstance(state, BatchJob):
        raise NotFound("batch", BATCH_PREFIX + ref.id)
    return state
