"""Batches: tasks that are submitted together, followed together, and commanded together."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import QueryParameter
from litestar.response import Stream
from msgspec import Raw

from ...commands.task import SubmitTask
from ...container import Container
from ...errors import IdempotencyConflict, NotFound
from ...events.ids import BatchRef, TaskRef, nth, owner_token, place_of
from ...projections import batches as projections
from ...projections.batches import Batch, progress
from ...projections.task_reader import Listed
from ...projections.task_view import ACTIVE
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...submission.body import SubmissionParser, fingerprint
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_batch, requires
from ..batch_stream import BatchEventStream
from ..bodies import ReasonBody, described, read_as, read_body, schema_of
from ..event_stream import STREAM_TYPE
from ..middleware.edge import request_id
from ..openapi.examples import BATCH_EXAMPLES, REASON_EXAMPLES
from ..parameters import (
    BatchId,
    Cursor,
    IdempotencyKey,
    Limit,
    Owner,
    listed_owner,
    read_cursor,
    submitted_batch,
)
from ..problems import answers
from ..schemas.batch_body import MOST_TASKS, BatchBodies, BatchItem
from ..schemas.batches import (
    BatchAnswer,
    BatchPage,
    BatchSummary,
    BatchTask,
    BatchTaskPage,
    RefusedItem,
    batch_summary,
    batch_task,
    listed_batch,
)
from ..schemas.bulk import BulkAnswer
from ..task_actions import TaskAction, command_for
from .bulk import COUNTS, Bulk, Tally
from .events import HEARTBEAT_SECONDS, After, LastEventId, Token, read_after, stream
from .tasks import bare_payload, checked_statuses

MOST_COUNTED = 10_000
"""Tasks: a page of batches with counts ends once it has as many."""
PAGE_BYTES = 8 * 1024 * 1024
"""Of results: a page that has more ends there."""


class Batches:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self._container = container
        settings = container.settings
        self._bodies = BatchBodies(
            SubmissionParser(settings, container.fleet), settings.max_json_depth, settings.max_body
        )
        self._bulk = Bulk(container)

    async def submit(self, request: ApiRequest, idempotency_key: str | None) -> BatchAnswer:
        identity = request.user
        body = await read_body(request)
        ref = submitted_batch(owner_token(identity.subject), idempotency_key)
        if idempotency_key is not None and (stored := await self._stored(ref, body)) is not None:
            return _accepted(stored.refs, ref, repeated=True, refused={})
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        commands = self._bodies.parse(body, media_type, ref, identity.subject, repeatable=idempotency_key is not None)
        refs = [nth(ref, place) for place in range(len(commands))]
        submitted = await self._container.submissions.submit_together(
            list(zip(refs, commands, strict=True)), by=actor(identity), cause=request_id(request.scope)
        )
        if submitted.is_new:
            _count(commands)
        return _accepted(refs, ref, repeated=not submitted.is_new, refused=submitted.refused)

    async def _stored(self, ref: BatchRef, body: bytes) -> Batch | None:
        """Return what was submitted with this key before, complete. Raises IdempotencyConflict for another body."""
        try:
            batch = await self._container.batches.find(ref)
        except NotFound:
            return None
        if batch.fingerprint != fingerprint(body):
            raise IdempotencyConflict
        return batch if await self._container.batches.is_complete(batch) else None

    async def find(self, request: ApiRequest, batch_id: str, *override_roles: str) -> Batch:
        return await self._container.batches.find(owned_batch(request.user, batch_id, *override_roles))

    async def tasks(self, request: ApiRequest, batch: Batch) -> list[Listed]:
        return await self._container.batches.tasks(batch, deleted=request.user.has(*READERS_OF_ALL))

    async def page(
        self, request: ApiRequest, owner: str | None, limit: int, cursor: str | None, *, counts: bool
    ) -> BatchPage:
        page = await self._container.batches.page(
            listed_owner(request, owner), limit, read_cursor(cursor), deleted=request.user.has(*READERS_OF_ALL)
        )
        if counts:
            page = _countable(page)
        shown = []
        for batch in page.batches:
            with contextlib.suppress(NotFound):  # deleted meanwhile
                counted = progress(await self.tasks(request, batch)) if counts else None
                shown.append(listed_batch(batch, counted))
        return BatchPage(batches=shown, next_cursor=None if page.cursor is None else str(page.cursor))

    async def summary(self, request: ApiRequest, batch_id: str) -> BatchSummary:
        batch = await self.find(request, batch_id, *READERS_OF_ALL)
        return batch_summary(batch, progress(await self.tasks(request, batch)))

    async def tasks_page(
        self,
        request: ApiRequest,
        batch_id: str,
        status: list[str],
        limit: int,
        cursor: str | None,
        *,
        results: bool,
    ) -> BatchTaskPage:
        batch = await self.find(request, batch_id, *READERS_OF_ALL)
        statuses = checked_statuses(status)
        first = read_cursor(cursor) or 0
        wanted = [
            (place_of(listed.ref), listed)
            for listed in await self.tasks(request, batch)
            if not statuses or listed.view.status in statuses
        ]
        rest = [(place, listed) for place, listed in wanted if place >= first]
        shown: list[BatchTask] = []
        size = 0
        for place, listed in rest[:limit]:
            if size >= PAGE_BYTES:
                break
            result = await self._result(listed) if results else None
            size += len(bytes(result)) if result is not None else 0
            shown.append(batch_task(place, listed, result, self._container.settings))
        more = rest[len(shown)][0] if len(shown) < len(rest) else None
        return BatchTaskPage(batch_id=batch_id, tasks=shown, next_cursor=None if more is None else str(more))

    async def _result(self, listed: Listed) -> Raw | None:
        if listed.view.status in ACTIVE:
            return None
        return (await self._container.tasks.detail(listed.ref, deleted=True)).result

    async def command(self, request: ApiRequest, batch_id: str, action: TaskAction) -> BulkAnswer:
        batch = await self.find(request, batch_id, "admin")
        body = await read_as(request, ReasonBody, self._container.settings.max_json_depth)
        refs = [listed.ref for listed in await self.tasks(request, batch)]
        tally = Tally(matched=len(refs))
        command = command_for(action, body.reason, request.user.subject)
        await self._bulk.give(request, refs, command, tally, dry_run=False)
        return tally.answer(dry_run=False)


def _countable(page: projections.ListedBatches) -> projections.ListedBatches:
    """Return the batches that a page begins with, as many as are counted for one request."""
    counted = 0
    for place, batch in enumerate(page.batches):
        if counted >= MOST_COUNTED:
            return projections.ListedBatches(page.batches[:place], page.batches[place - 1].sequence)
        counted += batch.size
    return page


def _accepted(
    refs: Sequence[TaskRef], batch: BatchRef, *, repeated: bool, refused: Mapping[TaskRef, str]
) -> BatchAnswer:
    return BatchAnswer(
        batch_id=batch.id,
        task_ids=[ref.id for ref in refs],
        repeated=repeated,
        refused=[RefusedItem(index=place_of(ref), error=refused[ref]) for ref in refs if ref in refused],
    )


def _count(commands: Sequence[SubmitTask]) -> None:
    for (pool, priority), count in Counter((command.pool, command.priority) for command in commands).items():
        labelled(metrics.submitted, pool, priority).inc(count)


def batch_router(container: Container) -> Router:
    """Return the routes."""
    batches = Batches(container)
    pushed = BatchEventStream(container, HEARTBEAT_SECONDS)
    reading = partial(get, responses=answers(400, 401, 403, 404, 503))
    intervention = partial(
        post,
        status_code=200,
        operation_class=described(schema_of(ReasonBody), REASON_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description=COUNTS,
    )
    task = Schema(any_of=[schema_of(BatchItem), bare_payload()])
    tasks = Schema(type=OpenAPIType.ARRAY, items=task, min_items=1, max_items=MOST_TASKS)

    @post(
        "/tasks/batch",
        status_code=200,
        opt=requires(*SUBMITTERS),
        request_max_body_size=container.settings.max_batch_body,
        operation_class=described(tasks, BATCH_EXAMPLES),
        responses=answers(400, 401, 403, 413, 415, 422, 429, 503),
        response_description="The ids of the batch and of its tasks",
        summary="Submit many tasks at once",
    )
    async def submit_batch(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> BatchAnswer:
        """Accept 1 to 1,000 tasks, all of them or none: when this answers, they are on disk.

        Each is in either of the two forms of `POST /api/task`; in `dependsOn`, numbers are places in this batch. Sent
        as `application/x-ndjson`, the body has one on each line instead. Where some are not as they should be, the 400
        has in `errors` the place, the trouble and where it is, of each of these.
        """
        return await batches.submit(request, idempotency_key)

    @get(
        "/batches",
        responses=answers(400, 401, 403, 503),
        response_description="A page of batches, newest first",
        summary="List batches",
    )
    async def list_batches(
        request: ApiRequest,
        owner: Owner = None,
        counts: Annotated[bool, QueryParameter(description="With how many of their tasks are at what")] = False,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> BatchPage:
        """List batches, newest first. A page may be short, even empty, and still have a `nextCursor`.

        With counts a page has as many batches as have 10,000 tasks together.
        """
        return await batches.page(request, owner, limit, cursor, counts=counts)

    @reading("/batches/{batch_id:str}", response_description="The batch as it is now", summary="Read a batch")
    async def get_batch(request: ApiRequest, batch_id: BatchId) -> BatchSummary:
        """Return how many of a batch's tasks are at what, and how far it is as a whole."""
        return await batches.summary(request, batch_id)

    @reading(
        "/batches/{batch_id:str}/tasks",
        response_description="A page of its tasks, in the order in which they were sent",
        summary="List a batch's tasks and results",
    )
    async def list_batch_tasks(
        request: ApiRequest,
        batch_id: BatchId,
        status: Annotated[
            list[str] | None, QueryParameter(description="One or more statuses, also comma-separated")
        ] = None,
        results: Annotated[bool, QueryParameter(description="With the results of those that have ended")] = False,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> BatchTaskPage:
        """List the tasks of a batch, with their results if asked for. A page with large results may be short."""
        return await batches.tasks_page(request, batch_id, status or [], limit, cursor, results=results)

    @reading(
        "/batches/{batch_id:str}/stream",
        media_type=STREAM_TYPE,
        response_description="Server-sent events",
        summary="Follow a batch",
    )
    async def stream_batch(
        request: ApiRequest,
        batch_id: BatchId,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the batch and each of its tasks as they are, then each event of these; ends when all have ended.

        Each `data` is JSON with a `type`: `batch`, `state`, then the names of events, and `batch` again at the end. It
        resumes as the stream of a task does. A 204 says that there is nothing left.
        """
        messages = await pushed.of_batch(request.user, batch_id, read_after(last_event_id, after))
        return Response(None, status_code=204) if messages is None else stream(messages)

    @intervention("/batches/{batch_id:str}/cancel", summary="Cancel a batch")
    async def cancel_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """End those of a batch's tasks that have not ended."""
        return await batches.command(request, batch_id, "cancel")

    @intervention("/batches/{batch_id:str}/retry", summary="Retry a batch")
    async def retry_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """Queue those of a batch's tasks that failed or were cancelled again, with a fresh budget of attempts."""
        return await batches.command(request, batch_id, "retry")

    @delete(
        "/batches/{batch_id:str}",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description=COUNTS,
        summary="Delete a batch",
    )
    async def delete_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """Take a batch's tasks out of every list; those that have not ended are cancelled first."""
        return await batches.command(request, batch_id, "delete")

    return Router(
        path="/",
        route_handlers=[
            submit_batch,
            list_batches,
            get_batch,
            list_batch_tasks,
            stream_batch,
            cancel_batch,
            retry_batch,
            delete_batch,
        ],
        tags=["Batches"],
    )
