"""The queue surface: chapter and outline tasks of a user's projects.

They are tasks like all others, of the types `chapter` and `outline`, in the words and shapes of older clients.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta
from functools import partial
from itertools import starmap
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from litestar import Router
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Raw
from msgspec.structs import replace

from ...clock import utc_now
from ...commands.task_commands import CancelTask, DeleteTask, TaskCommand
from ...commands.task_state import Unknown
from ...container import Container
from ...errors import InvalidInput, NotFound, Refused
from ...events.ids import TaskRef, new_ref, owner_token, ref_for_key
from ...events.task import ModelChoice
from ...projections.task_reader import TaskFilter
from ...projections.task_view import Listed
from ...submission.body import Submission, TaskRequest, fingerprint
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, Origin, origin, owned_ref, take_place
from ..auth.authenticator import Identity
from ..bodies import read_as
from ..parameters import Cursor, IdempotencyKey, TaskId, decoded, made_ref, next_cursor, read_cursor
from ..routing import IGNORES_UNKNOWN_PARAMETERS, Routes
from ..schemas.legacy_queue import (
    ChaptersBody,
    Done,
    OutlineBody,
    QueueSubmitted,
    QueueTaskAnswer,
    QueueTasksAnswer,
    queued_task,
)
from ..sse import STREAM_TYPE, event_stream
from .stream import EXPIRED, generated

SHOWN_AFTER_END = timedelta(hours=1)
MOST_ENDED = 200
"""Ended tasks in a list."""
MOST_ACTIVE = 1_000
"""Tasks that have not ended, on one page. Older clients read the first page only."""
CANCELLED = "Cancelled by user"
"""The `error` older clients look for."""
LONGEST_PROJECT = 256
MODEL_HEADERS = ("X-AI-Provider", "X-AI-Model", "X-AI-Key", "X-AI-BaseUrl")
LONGEST_NAME = 128
LONGEST_MODEL_KEY = 4_096
LONGEST_URL = 2_048

QueueLimit = Annotated[
    int, QueryParameter(ge=1, le=MOST_ACTIVE, description="Most tasks on a page that have not ended")
]

Project = Annotated[
    str, PathParameter(description="A project's name: any text, percent-encoded", schema_extra={"examples": ["novel"]})
]


def read_model(request: ApiRequest) -> tuple[ModelChoice, str]:
    """Return the model and its key from the headers; parts without a header are empty.

    Raises InvalidInput with the name of the header, never with its value.
    """
    model = ModelChoice(
        provider=_header(request, "X-AI-Provider", LONGEST_NAME),
        model=_header(request, "X-AI-Model", LONGEST_NAME),
        base_url=_header(request, "X-AI-BaseUrl", LONGEST_URL),
    )
    _check_url(model.base_url)
    return model, _header(request, "X-AI-Key", LONGEST_MODEL_KEY)


def _header(request: ApiRequest, name: str, longest: int) -> str:
    text: str = request.headers.get(name, "").strip()
    if len(text) > longest or not (text.isascii() and text.isprintable()):
        raise InvalidInput(f"must be at most {longest} printable ASCII characters", name)
    return text


def _check_url(url: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.password
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput("must be an http or https address without user name and password", "X-AI-BaseUrl")


def queue_request(
    owner: str, project: str, model: ModelChoice, body: ChaptersBody | OutlineBody, *, repeatable: bool
) -> TaskRequest:
    """Return the task a body asks for. An attempt may take the timeout of the type once for each chapter."""
    asked = {field: value for field, value in msgspec.to_builtins(body).items() if value is not None}
    payload = {"projectName": project, **asked}
    encoded = msgspec.json.encode(payload)
    chapters = body.chapters_to_generate if isinstance(body, ChaptersBody) else None
    return TaskRequest(
        owner=owner,
        submission=Submission(payload=Raw(encoded), type="chapter" if chapters else "outline"),
        payload=payload,
        fingerprint=fingerprint(encoded + msgspec.json.encode(model)),
        repeatable=repeatable,
        project=project,
        model=model,
        units=chapters or 1,
    )


async def submit_with_key(container: Container, ref: TaskRef, request: TaskRequest, key: str, signed: Origin) -> None:
    """Seal the model's key, then append the task that names it. The key is destroyed if no task came to use it."""
    key_id = await container.secrets.put(ref, key) if key else ""
    try:
        handled = await container.submissions.submit(ref, replace(request, key_id=key_id), **signed)
    except Refused:
        await container.secrets.destroy(ref, key_id)
        raise
    state = handled.known.state
    if not handled.appended and not isinstance(state, Unknown) and state.facts.key_id != key_id:
        await container.secrets.destroy(ref, key_id)  # an earlier request made the task, with a key of its own


async def queue_page(
    container: Container, owner: str, limit: int, cursor: str | None, ended_since: datetime | None
) -> QueueTasksAnswer:
    """Return a page of an owner's project tasks that have not ended, newest first.

    With `ended_since`, the first page also has the tasks that ended then or later, MOST_ENDED at most.
    """
    wanted = TaskFilter(owner=owner, in_project=True)
    before = read_cursor(cursor)
    page = await container.tasks.active(wanted, limit, before)
    found = dict(page.tasks)
    if ended_since is not None and before is None:
        found |= dict(await container.tasks.ended_lately(wanted, ended_since, MOST_ENDED))
    listed = sorted(starmap(Listed, found.items()), key=lambda task: task.view.created_sequence, reverse=True)
    return QueueTasksAnswer(tasks=list(map(queued_task, listed)), next_cursor=next_cursor(page.cursor))


async def find_queued(container: Container, identity: Identity, task_id: str) -> Listed:
    """Return a project task the caller may read. Raises NotFound, also for a task of no project."""
    ref = owned_ref(identity, task_id, *READERS_OF_ALL)
    detail = await container.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
    if not detail.view.project:
        raise NotFound("task", task_id)
    return Listed(detail.ref, detail.view)


def project_name(segment: str) -> str:
    """Return the project name in a percent-encoded path segment. Raises InvalidInput."""
    name = decoded(segment, "name")
    if not 0 < len(name) <= LONGEST_PROJECT or any(map(_is_control, name)):
        raise InvalidInput(f"a project name has 1 to {LONGEST_PROJECT} characters, without control characters", "name")
    return name


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def queue_router(container: Container) -> Router:
    routes = Routes("/", "Queue", opt={IGNORES_UNKNOWN_PARAMETERS: True})
    submission = partial(routes.post, roles=SUBMITTERS, fails={422, 429}, never={404})
    depth = container.settings.max_json_depth

    async def submit(
        request: ApiRequest, project: str, body: ChaptersBody | OutlineBody, idempotency_key: str | None
    ) -> TaskRef:
        name, owner = project_name(project), request.user.subject
        model, key = read_model(request)
        ref = made_ref(owner_token(owner), idempotency_key, new_ref, ref_for_key)
        asked = queue_request(owner, name, model, body, repeatable=idempotency_key is not None)
        await submit_with_key(container, ref, asked, key, origin(request))
        return ref

    async def command(request: ApiRequest, task_id: str, chosen: TaskCommand) -> Done:
        ref = owned_ref(request.user, task_id, "admin")
        await find_queued(container, request.user, task_id)
        await container.commands.task(ref, chosen, **origin(request))
        return Done()

    @submission("/projects/{name:str}/queue-chapters", "Queue chapters", "The task's id", body=ChaptersBody)
    async def queue_chapters(
        request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None
    ) -> QueueSubmitted:
        """Accept a task of type `chapter`. When this answers, the task is on disk.

        An attempt may take the timeout of the type once for each chapter. The headers `X-AI-Provider`, `X-AI-Model` and
        `X-AI-BaseUrl` name the model. `X-AI-Key` is sealed, sent only to the server that runs the task, and destroyed
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
        "Queue chapters and follow them",
        "Server-sent events",
        body=ChaptersBody,
        media_type=STREAM_TYPE,
    )
    async def generate_stream(request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None) -> Stream:
        """Accept a task as `queue-chapters` does, and stream its events. Each `data` is JSON with a `type`.

        The types are `start`, `task_created`, `progress`, `chapter_complete`, `chapter_error`, `heartbeat`, `error`,
        and at the end `done`. Closing the stream does not stop the task. For older clients: new ones use
        `GET /api/task/{id}/stream`, which resumes.
        """
        body = await read_as(request, ChaptersBody, depth)
        take_place(request, container.open_streams)
        ref = await submit(request, name, body, idempotency_key)
        lines = generated(container.feeds, ref, 0, body.chapters_to_generate)
        return event_stream(lines, request.user, EXPIRED)

    @routes.get(
        "/queue/tasks", "List queued tasks", "Tasks that have not ended, and those that ended within the last hour"
    )
    async def list_queued(
        request: ApiRequest, limit: QueueLimit = MOST_ACTIVE, cursor: Cursor = None
    ) -> QueueTasksAnswer:
        """List the caller's project tasks, oldest first: those that have not ended, and the last 200 ended ones.

        Of more tasks that have not ended than `limit`, the newest are on the first page.
        """
        since = utc_now() - SHOWN_AFTER_END
        page = await queue_page(container, owner_token(request.user.subject), limit, cursor, since)
        page.tasks.reverse()
        return page

    @routes.get("/active-tasks", "List active tasks", "Tasks that have not ended")
    async def list_active(
        request: ApiRequest, limit: QueueLimit = MOST_ACTIVE, cursor: Cursor = None
    ) -> QueueTasksAnswer:
        """List the caller's project tasks that have not ended, newest first."""
        return await queue_page(container, owner_token(request.user.subject), limit, cursor, None)

    @routes.get("/queue/tasks/{task_id:str}", "Read a queued task", "The task as it is now")
    async def get_queued(request: ApiRequest, task_id: TaskId) -> QueueTaskAnswer:
        """Return a project task as it is now."""
        return QueueTaskAnswer(task=queued_task(await find_queued(container, request.user, task_id)))

    @routes.post("/queue/tasks/{task_id:str}/cancel", "Cancel a queued task", "The task is cancelled", fails={409})
    async def cancel_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """Cancel a task that has not ended. It shows as `failed` with the error "Cancelled by user"."""
        return await command(request, task_id, CancelTask(reason=CANCELLED))

    @routes.delete("/queue/tasks/{task_id:str}", "Delete a queued task", "The task is in no list any more")
    async def delete_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """Remove a task from every list, and cancel it if it has not ended. Auditors still see its history."""
        return await command(request, task_id, DeleteTask(reason=CANCELLED))

    return routes.router()
