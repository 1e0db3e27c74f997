"""Batches: tasks that are submitted, followed and commanded together."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeAlias

from litestar import Response
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import QueryParameter
from litestar.response import Stream

from ...container import Container
from ...errors import NotFound
from ...events.ids import batch_for_key, batch_index, new_batch, owner_token
from ...events.task import StoredResult
from ...index.lists import ListedBatches
from ...projections.batches import Batch, progress
from ...projections.task_view import ACTIVE, Listed
from ...submission.batch_body import MOST_TASKS, BatchItem
from ..auth.access import (
    READERS_OF_ALL,
    STREAM_TOKENS,
    SUBMITTERS,
    ApiRequest,
    check_bodies,
    origin,
    owned_batch,
    take_place,
)
from ..auth.narrowing import BATCH, SUBMIT, narrows
from ..bodies import read_as, read_body
from ..event_stream import EventStream
from ..middleware import trace_context
from ..openapi.description import schema_of
from ..openapi.examples import BATCH_EXAMPLES
from ..parameters import (
    BatchId,
    Cursor,
    IdempotencyKey,
    Limit,
    Owner,
    made_ref,
    next_cursor,
    read_choices,
    read_cursor,
    selected_owner,
)
from ..routing import RouteHandler, Routes
from ..schemas.batches import (
    BatchAnswer,
    BatchPage,
    BatchSummary,
    BatchTask,
    BatchTaskPage,
    batch_answer,
    batch_summary,
    batch_task,
    listed_batch,
)
from ..schemas.bulk import BulkAnswer
from ..schemas.shared import ReasonBody
from ..sse import STREAM_TYPE
from ..task_actions import BulkCommand, TaskAction, command_for
from ..task_filter import STATUSES, Statuses
from .bulk import COUNTS
from .events import HEARTBEAT_SECONDS, After, LastEventId, Token, stream
from .tasks import bare_payload

MOST_COUNTED = 10_000
"""Tasks counted for one page of batches. The page ends before the batch that would exceed it."""
PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of results after which a page ends."""


def _countable(page: ListedBatches) -> ListedBatches:
    """Return a page cut to the batches whose tasks can be counted for one request."""
    counted = 0
    for place, batch in enumerate(page.batches):
        if counted >= MOST_COUNTED:
            return ListedBatches(page.batches[:place], page.batches[place - 1].sequence)
        counted += batch.size
    return page


async def _page_of_tasks(
    container: Container, batch_id: str, tasks: Sequence[Listed], limit: int, *, results: bool
) -> BatchTaskPage:
    """Return the page that starts with the first of these tasks. Its cursor is the index of the next task."""
    shown: list[BatchTask] = []
    size = 0
    for listed in tasks[:limit]:
        if size >= PAGE_BYTES:
            break
        result: StoredResult | None = None
        if results and listed.view.status not in ACTIVE:
            result = (await container.tasks.detail(listed.ref, deleted=True)).result
        size += result.size_bytes if result is not None else 0
        shown.append(batch_task(listed, result, container.settings))
    following = batch_index(tasks[len(shown)].ref) if len(shown) < len(tasks) else None
    return BatchTaskPage(batch_id=batch_id, tasks=shown, next_cursor=next_cursor(following))


def batch_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Batches")
    settings, batches, lists = container.settings, container.batches, container.lists
    pushed = EventStream(container, HEARTBEAT_SECONDS)
    task = Schema(any_of=[schema_of(BatchItem), bare_payload()])
    tasks = Schema(type=OpenAPIType.ARRAY, items=task, min_items=1, max_items=MOST_TASKS)

    async def tasks_of(request: ApiRequest, batch: Batch) -> list[Listed]:
        deleted, user = request.user.has(*READERS_OF_ALL), owner_token(request.user.subject)
        return await lists.of_batch(batch.ref, deleted=deleted, user=user)

    async def command(request: ApiRequest, batch_id: str, action: TaskAction) -> BulkAnswer:
        batch = await batches.find(owned_batch(request.user, batch_id, "admin"))
        body = await read_as(request, ReasonBody, settings.max_json_depth)
        chosen = command_for(action, body.reason, request.user.subject)
        bulk = BulkCommand(container, origin(request), chosen)
        tasks = await tasks_of(request, batch)
        await bulk.run([listed.ref for listed in tasks])
        return bulk.answer()

    @routes.post(
        "/tasks/batch",
        "Submit many tasks at once",
        "The ids of the batch and of its tasks",
        body=tasks,
        examples=BATCH_EXAMPLES,
        roles=SUBMITTERS,
        fails={422, 429},
        request_max_body_size=settings.max_batch_body,
        opt=narrows(SUBMIT),
    )
    async def submit_batch(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> BatchAnswer:
        """Accept 1 to 1,000 tasks, all or none. When this answers, they are on disk.

        Each task is in one of the two forms of `POST /api/task`. Numbers in `dependsOn` are indexes in this batch. A
        body sent as `application/x-ndjson` has one task per line. If tasks are wrong, `errors` of the 400 has the
        index, the error and the path of each.
        """
        owner = request.user.subject
        body = await read_body(request)
        ref = made_ref(owner_token(owner), idempotency_key, new_batch, batch_for_key)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        submitted = await container.submissions.submit_batch(
            ref,
            body,
            media_type,
            owner=owner,
            **origin(request),
            repeatable=idempotency_key is not None,
            trace=trace_context(request.scope),
        )
        return batch_answer(ref, submitted)

    @routes.get("/batches", "List batches", "A page of batches, newest first")
    async def list_batches(
        request: ApiRequest,
        owner: Owner = None,
        counts: Annotated[bool, QueryParameter(description="Also count the tasks by status")] = False,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> BatchPage:
        """List batches, newest first. A page may be short, even empty, and still have a `nextCursor`.

        With `counts`, a page ends once its batches have 10,000 tasks together.
        """
        deleted = request.user.has(*READERS_OF_ALL)
        whose, user = selected_owner(request.user, owner, "list"), owner_token(request.user.subject)
        page = await lists.batches(whose, limit, read_cursor(cursor), deleted=deleted, user=user)
        if counts:
            page = _countable(page)
        shown = []
        for batch in page.batches:
            with contextlib.suppress(NotFound):  # deleted meanwhile
                counted = progress(await tasks_of(request, batch)) if counts else None
                shown.append(listed_batch(batch, counted))
        return BatchPage(batches=shown, next_cursor=next_cursor(page.cursor))

    @routes.get("/batches/{batch_id:str}", "Read a batch", "The batch as it is now", opt=narrows(BATCH))
    async def get_batch(request: ApiRequest, batch_id: BatchId) -> BatchSummary:
        """Return the counts of a batch's tasks by status, and the progress of the batch as a whole."""
        batch = await batches.find(owned_batch(request.user, batch_id, *READERS_OF_ALL))
        tasks = await tasks_of(request, batch)
        return batch_summary(batch, progress(tasks))

    @routes.get(
        "/batches/{batch_id:str}/tasks",
        "List a batch's tasks and results",
        "A page of its tasks, in the order in which they were sent",
        opt=narrows(BATCH),
    )
    async def list_batch_tasks(
        request: ApiRequest,
        batch_id: BatchId,
        status: Statuses = None,
        results: Annotated[bool, QueryParameter(description="Also return the results of tasks that ended")] = False,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> BatchTaskPage:
        """List the tasks of a batch in the order of its body. A page with large results may be short."""
        batch = await batches.find(owned_batch(request.user, batch_id, *READERS_OF_ALL))
        if results:
            check_bodies(request.user, batch.ref.owner)
        statuses = read_choices(status, STATUSES, "status")
        first = read_cursor(cursor) or 0
        tasks = await tasks_of(request, batch)
        rest = [
            listed
            for listed in tasks
            if batch_index(listed.ref) >= first and (not statuses or listed.view.status in statuses)
        ]
        return await _page_of_tasks(container, batch_id, rest, limit, results=results)

    @routes.get(
        "/batches/{batch_id:str}/stream",
        "Follow a batch",
        "Server-sent events",
        fails={429},
        media_type=STREAM_TYPE,
        takes=STREAM_TOKENS,
        opt=narrows(BATCH),
    )
    async def stream_batch(
        request: ApiRequest,
        batch_id: BatchId,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the state of the batch and of each task, then each event of its tasks, until all have ended.

        Each `data` is JSON with a `type`: `batch`, `state`, then event names, and `batch` again at the end. It resumes
        like the stream of a task. A 204 means that nothing is left to send.
        """
        take_place(request, container.open_streams)
        return stream(await pushed.of_batch(request.user, batch_id, last_event_id or after), request.user)

    _add_commands(routes, command)
    return routes.handlers


Command: TypeAlias = Callable[[ApiRequest, str, TaskAction], Awaitable[BulkAnswer]]


def _add_commands(routes: Routes, command: Command) -> None:
    @routes.post("/batches/{batch_id:str}/cancel", "Cancel a batch", COUNTS, body=ReasonBody, opt=narrows(BATCH))
    async def cancel_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """Cancel the tasks of a batch that have not ended."""
        return await command(request, batch_id, "cancel")

    @routes.post("/batches/{batch_id:str}/retry", "Retry a batch", COUNTS, body=ReasonBody, opt=narrows(BATCH))
    async def retry_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """Queue the failed and cancelled tasks of a batch again, each with all its attempts."""
        return await command(request, batch_id, "retry")

    @routes.delete("/batches/{batch_id:str}", "Delete a batch", COUNTS, opt=narrows(BATCH))
    async def delete_batch(request: ApiRequest, batch_id: BatchId) -> BulkAnswer:
        """Remove the tasks of a batch from every list, and cancel those that have not ended."""
        return await command(request, batch_id, "delete")
