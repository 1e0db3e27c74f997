"""The queue surface: chapter and outline tasks of a user's projects.

They are tasks like all others, of the types `chapter` and `outline`, in the words and shapes of older clients.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from litestar.response.base import ASGIResponse

from ...clock import utc_now
from ...commands.task_commands import CancelTask, DeleteTask
from ...container import Container
from ...errors import AlreadyEnded, Forbidden, NotFound
from ...events.ids import TaskRef, new_ref, owner_token, parse_task_id, ref_for_key
from ...index.lists import ListedTasks
from ...index.query import Span, TaskQuery
from ...projections.task_view import ACTIVE, Listed
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, TakesStreamTokens, origin, reads_bodies, take_place
from ..auth.authenticator import Identity
from ..bodies import read_as
from ..middleware import trace_context
from ..parameters import Cursor, IdempotencyKey, TaskId, made_ref
from ..routing import IGNORES_UNKNOWN_PARAMETERS, RouteHandler, Routes
from ..schemas.legacy_queue import (
    ActiveTaskAnswer,
    ActiveTasksAnswer,
    ChaptersBody,
    Done,
    OutlineBody,
    QueueSubmitted,
    QueueTaskAnswer,
    QueueTasksAnswer,
    active_task,
    queued_task,
)
from ..sse import HEARTBEAT, STREAM_HEADERS, STREAM_TYPE, until_expiry
from ..task_actions import BulkCommand
from ..task_filter import read_place
from .activity import active_lines, begin, event_lines
from .stream import EXPIRED, chapter_lines, outline_lines
from .submission import Generation, generate, project_name, queue_request, read_model, submit_with_key

SHOWN_AFTER_END = timedelta(hours=1)
MOST_ENDED = 200
"""Ended tasks in a list."""
MOST_ACTIVE = 1_000
"""Tasks that have not ended, on one page. Older clients read the first page only."""
CANCELLED = "Cancelled by user"
"""The `error` older clients look for."""

QueueLimit = Annotated[
    int, QueryParameter(ge=1, le=MOST_ACTIVE, description="Most tasks on a page that have not ended")
]
Project = Annotated[
    str, PathParameter(description="A project's name: any text, percent-encoded", schema_extra={"examples": ["novel"]})
]
Token = Annotated[
    str | None, QueryParameter(name="token", description="Of a stream: a JWT, or a token of POST /api/stream-tokens")
]


async def ended_lately(container: Container, owner: str, since: datetime) -> dict[TaskRef, Listed]:
    """Return an owner's project tasks that ended at an instant or later, MOST_ENDED at most: those that ended last."""
    wanted = TaskQuery(owner=owner, in_project=True, ended=Span(since), sort="ended")
    return {listed.ref: listed for listed in (await container.lists.page(wanted, MOST_ENDED, user=owner)).tasks}


async def active_page(
    container: Container, identity: Identity, limit: int, cursor: str | None, project: str = ""
) -> ListedTasks:
    """Return a page of the caller's project tasks that have not ended, newest first."""
    owner = owner_token(identity.subject)
    wanted = TaskQuery(owner=owner, statuses=ACTIVE, in_project=True, project=project)
    return await container.lists.page(wanted, limit, read_place(wanted, cursor), user=owner)


def queue_ref(identity: Identity, task_id: str, *override_roles: str) -> TaskRef:
    """Return a task that the caller owns, or may reach by role. Raises NotFound, and Forbidden for another user's.

    The id names its owner, so a 403 does not show whether there is such a task.
    """
    ref = parse_task_id(task_id)
    if ref.owner != owner_token(identity.subject) and not identity.has(*override_roles):
        raise Forbidden("this task is another user's; you can reach your own tasks only")
    return ref


async def find_queued(
    container: Container, ref: TaskRef, *, project: str = "", deleted: bool = False, polled: bool = False
) -> Listed:
    """Return a task of a project, any or the given one. Raises NotFound; unless `deleted`, also for a deleted one.

    `polled`: read it from the index, as a history may be long.
    """
    of_task = container.lists.views([ref], user=ref.owner) if polled else container.tasks.views([ref])
    for listed in await of_task:
        view = listed.view
        if view.project and project in ("", view.project) and (deleted or not view.deleted):
            return listed
    raise NotFound("task", ref.id)


async def cancel(container: Container, request: ApiRequest, ref: TaskRef) -> Done:
    """Cancel a task; one that has ended stays as it is."""
    with contextlib.suppress(AlreadyEnded):
        await container.commands.task(ref, CancelTask(reason=CANCELLED), **origin(request))
    return Done()


async def cancel_project(container: Container, request: ApiRequest, project: str) -> Done:
    """Cancel what waits or runs in a project; first what waits, so that it does not start meanwhile."""
    cursor: str | None = None
    while True:
        page = await active_page(container, request.user, MOST_ACTIVE, cursor, project)
        for status in ("WAITING", "PROCESSING"):
            bulk = BulkCommand(container, origin(request), CancelTask(reason=CANCELLED), dry_run=False)
            await bulk.run([ref for ref, view in page.tasks if view.status == status])
        cursor = page.cursor
        if cursor is None:
            return Done()


class _EventStream(Stream):
    """Server-sent events, also of a route with other answers: Litestar prefers the media type of the route."""

    def to_asgi_response(self, *given: Any, **named: Any) -> ASGIResponse:
        return super().to_asgi_response(*given, **(named | {"media_type": STREAM_TYPE}))


def _stream(request: ApiRequest, lines: AsyncGenerator[bytes, None], last: bytes = HEARTBEAT) -> Stream:
    """Return lines as server-sent events. If the token expires before their end, `last` is the last one."""
    return _EventStream(until_expiry(lines, request.user, last), media_type=STREAM_TYPE, headers=STREAM_HEADERS)


def queue_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Queue", opt={IGNORES_UNKNOWN_PARAMETERS: True})
    _add_submissions(routes, container)
    _add_lists(routes, container)
    _add_commands(routes, container)
    return routes.handlers


def _add_submissions(routes: Routes, container: Container) -> None:
    submission = partial(routes.post, roles=SUBMITTERS, fails={422, 429}, never={404})
    depth = container.settings.max_json_depth

    async def submit(
        request: ApiRequest, project: str, body: ChaptersBody | OutlineBody, idempotency_key: str | None
    ) -> TaskRef:
        name, owner = project_name(project), request.user.subject
        model, key = read_model(request)
        ref = made_ref(owner_token(owner), idempotency_key, new_ref, ref_for_key)
        trace = trace_context(request.scope)
        asked = queue_request(owner, name, model, body, repeatable=idempotency_key is not None, trace=trace)
        await submit_with_key(container, ref, asked, key, origin(request))
        return ref

    async def follow(
        request: ApiRequest, project: str, body: ChaptersBody | OutlineBody, idempotency_key: str | None
    ) -> tuple[Listed, bool]:
        """Return the task that a stream follows, and whether it follows it from its submission."""
        name, owner = project_name(project), request.user.subject
        if idempotency_key is not None:
            generation = Generation(await submit(request, project, body, idempotency_key), is_new=True)
        else:
            model, key = read_model(request)
            asked = queue_request(owner, name, model, body, repeatable=False, trace=trace_context(request.scope))
            generation = await generate(container, asked, key, origin(request))
        listed = await find_queued(container, generation.ref, deleted=True)
        return listed, generation.is_new

    @submission("/projects/{name:str}/queue-chapters", "Queue chapters", "The task's id", body=ChaptersBody)
    async def queue_chapters(
        request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None
    ) -> QueueSubmitted:
        """Accept a task of type `chapter`. When this answers, the task is on disk.

        Tasks of type `chapter` of one project run one after another. An attempt may take the timeout of the type once
        for each chapter. The headers `X-AI-Provider`, `X-AI-Model` and `X-AI-Key` are required, `X-AI-BaseUrl` is
        optional: they name the model. `X-AI-Key` is sealed, sent only to the server that runs the task, and destroyed
        when the task ends.
        """
        body = await read_as(request, ChaptersBody, depth)
        return QueueSubmitted(task_id=(await submit(request, name, body, idempotency_key)).id)

    @submission("/projects/{name:str}/queue-outline", "Queue an outline", "The task's id", body=OutlineBody)
    async def queue_outline(
        request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None
    ) -> QueueSubmitted:
        """Accept a task of type `outline`. The headers are those of `queue-chapters`."""
        body = await read_as(request, OutlineBody, depth)
        return QueueSubmitted(task_id=(await submit(request, name, body, idempotency_key)).id)

    @submission(
        "/projects/{name:str}/generate-stream",
        "Generate chapters and follow them",
        "Server-sent events",
        body=ChaptersBody,
        media_type=STREAM_TYPE,
    )
    async def generate_stream(request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None) -> Stream:
        """Take up the chapter task that runs in the project, or accept one as `queue-chapters` does; stream its events.

        Each `data` is JSON with a `type`: `start`, `task_created` or `task_resumed`, `progress`, `chapter_complete`,
        `chapter_error`, `heartbeat`, and at the end `done` or `error`. Closing the stream does not stop the task.
        However many requests come at once, they make one task. An `Idempotency-Key` decides which task it is: then
        nothing else is taken up. For older clients: new ones use `GET /api/task/{id}/stream`, which resumes.
        """
        body = await read_as(request, ChaptersBody, depth)
        take_place(request, container.open_streams)
        listed, is_new = await follow(request, name, body, idempotency_key)
        return _stream(request, chapter_lines(container, listed, is_new=is_new), EXPIRED)

    @submission(
        "/projects/{name:str}/outline",
        "Generate an outline and follow it",
        "Server-sent events",
        body=OutlineBody,
        media_type=STREAM_TYPE,
    )
    async def outline_stream(request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None) -> Stream:
        """Take up the outline task that runs in the project, or accept one as `queue-outline` does; stream its events.

        The types are `start`, `progress`, `volume_complete`, and at the end `done` or `error`. All else is as with
        `generate-stream`.
        """
        body = await read_as(request, OutlineBody, depth)
        take_place(request, container.open_streams)
        listed, is_new = await follow(request, name, body, idempotency_key)
        return _stream(request, outline_lines(container, listed, is_new=is_new), EXPIRED)


def _add_lists(routes: Routes, container: Container) -> None:
    @routes.get(
        "/queue/tasks", "List queued tasks", "Tasks that have not ended, and those that ended within the last hour"
    )
    async def list_queued(
        request: ApiRequest, limit: QueueLimit = MOST_ACTIVE, cursor: Cursor = None
    ) -> QueueTasksAnswer:
        """List the caller's project tasks, oldest first: those that have not ended, and the last 200 ended ones.

        Of more tasks that have not ended than `limit`, the newest are on the first page.
        """
        page = await active_page(container, request.user, limit, cursor)
        found = {listed.ref: listed for listed in page.tasks}
        if cursor is None:
            owner = owner_token(request.user.subject)
            found |= await ended_lately(container, owner, utc_now() - SHOWN_AFTER_END)
        listed = sorted(found.values(), key=lambda task: task.view.created_sequence)
        return QueueTasksAnswer(tasks=list(map(queued_task, listed)), next_cursor=page.cursor)

    @routes.get("/queue/tasks/{task_id:str}", "Read a queued task", "The task as it is now")
    async def get_queued(request: ApiRequest, task_id: TaskId) -> QueueTaskAnswer:
        """Return a project task as it is now."""
        ref = queue_ref(request.user, task_id, *READERS_OF_ALL)
        found = await find_queued(container, ref, deleted=request.user.has(*READERS_OF_ALL), polled=True)
        task = queued_task(found)
        if not reads_bodies(request.user, ref.owner):
            task.params = None
        return QueueTaskAnswer(task=task)

    @routes.get(
        "/active-tasks",
        "List active tasks",
        "Tasks that have not ended",
        fails={429},
        takes=TakesStreamTokens(jwt=True, only_with="stream=1"),
    )
    async def list_active(
        request: ApiRequest,
        limit: QueueLimit = MOST_ACTIVE,
        cursor: Cursor = None,
    ) -> ActiveTasksAnswer:
        """List the caller's project tasks that have not ended, newest first.

        With `?stream=1`, the same as server-sent events, at each change: `{"type": "active_tasks", "tasks": […]}`.
        Then `?token=` may be a JWT, or a token of `POST /api/stream-tokens`.
        """
        if request.query_params.get("stream") == "1":
            take_place(request, container.open_streams)
            lines = active_lines(container, await begin(container, request.user.subject))
            return _stream(request, lines)  # type: ignore[return-value]  # the document describes the list only
        page = await active_page(container, request.user, limit, cursor)
        return ActiveTasksAnswer(tasks=list(map(active_task, page.tasks)), next_cursor=page.cursor)

    @routes.get("/projects/{name:str}/active-task", "Read a project's active task", "The task, or null", never={404})
    async def get_active(request: ApiRequest, name: Project) -> ActiveTaskAnswer:
        """Return the newest task of a project that has not ended, null if there is none."""
        page = await active_page(container, request.user, 1, None, project_name(name))
        return ActiveTaskAnswer(task=active_task(page.tasks[0]) if page.tasks else None)

    @routes.get(
        "/events",
        "Stream progress and log lines",
        "Server-sent events",
        fails={429},
        media_type=STREAM_TYPE,
        takes=TakesStreamTokens(jwt=True),
    )
    async def stream_events(
        request: ApiRequest,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Stream:
        """Send the progress of the caller's project tasks, and lines of their logs.

        Each `data` is JSON: `{"type": "progress", "taskId", "taskType", "projectName", "status", "progress", "message",
        "timestamp"}`, first one of each task that has not ended, or `{"type": "log", "taskId", "taskType",
        "projectName", "level", "message", "timestamp"}`. For older clients: new ones use `GET /api/tasks/stream`.
        """
        take_place(request, container.open_streams)
        return _stream(request, event_lines(container, await begin(container, request.user.subject)))


def _add_commands(routes: Routes, container: Container) -> None:
    @routes.post("/queue/tasks/{task_id:str}/cancel", "Cancel a queued task", "The task has ended")
    async def cancel_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """Cancel a task that has not ended. It shows as `failed` with the error "Cancelled by user"."""
        ref = queue_ref(request.user, task_id, "admin")
        await find_queued(container, ref)
        return await cancel(container, request, ref)

    @routes.post("/tasks/{task_id:str}/cancel", "Cancel a task, as older clients do", "The task has ended")
    async def cancel_any(request: ApiRequest, task_id: TaskId) -> Done:
        """Cancel a task that has not ended. For older clients: new ones use `POST /api/task/{id}/cancel`."""
        return await cancel(container, request, queue_ref(request.user, task_id, "admin"))

    @routes.delete("/queue/tasks/{task_id:str}", "Delete a queued task", "The task is in no list any more")
    async def delete_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """Remove a task from every list, and cancel it if it has not ended. Auditors still see its history."""
        ref = queue_ref(request.user, task_id, "admin")
        await find_queued(container, ref, deleted=True)
        await container.commands.task(ref, DeleteTask(reason=CANCELLED), **origin(request))
        return Done()

    @routes.post("/projects/{name:str}/tasks/{task_id:str}/pause", "Note that a client leaves", "The task goes on")
    async def pause_task(request: ApiRequest, name: Project, task_id: TaskId) -> Done:
        """Change nothing: older clients send this when they leave, and the task goes on."""
        ref = queue_ref(request.user, task_id, "admin")
        await find_queued(container, ref, project=project_name(name), deleted=True)
        return Done()

    @routes.delete("/projects/{name:str}/tasks/{task_id:str}", "Cancel a task of a project", "The task has ended")
    async def cancel_in_project(request: ApiRequest, name: Project, task_id: TaskId) -> Done:
        """Cancel a task that has not ended."""
        ref = queue_ref(request.user, task_id, "admin")
        await find_queued(container, ref, project=project_name(name), deleted=True)
        return await cancel(container, request, ref)

    @routes.delete(
        "/projects/{name:str}/active-tasks", "Cancel a project's tasks", "What ran or waited has ended", never={404}
    )
    async def stop_project(request: ApiRequest, name: Project) -> Done:
        """Cancel what runs or waits in a project."""
        return await cancel_project(container, request, project_name(name))

    @routes.post(
        "/projects/{name:str}/active-tasks/cancel",
        "Cancel a project's tasks, as POST",
        "What ran or waited has ended",
        never={404},
    )
    async def stop_project_by_post(request: ApiRequest, name: Project) -> Done:
        """Cancel what runs or waits in a project."""
        return await cancel_project(container, request, project_name(name))
