"""The tasks of the queue surface (contract, section 2): long jobs of a user's projects.

A second front door of the same house: its tasks are tasks like any other, of the types `chapter` and `outline`.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

import msgspec
from litestar import Router, delete, get, post
from litestar.params import PathParameter
from litestar.response import Stream
from msgspec import Raw
from msgspec.structs import replace

from ...clock import utc_now
from ...commands.task import CancelTask, DeleteTask, SubmitTask, TaskCommand, Unknown
from ...container import Container
from ...errors import InvalidInput, NotFound, Refused
from ...events.ids import TaskRef, owner_token
from ...projections.task_reader import Listed
from ...runtime import metrics
from ...submission.body import Submission, SubmissionParser
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_ref, requires
from ..bodies import described, read_as, schema_of
from ..event_stream import STREAM_HEADERS, STREAM_TYPE
from ..middleware.edge import request_id
from ..openapi.examples import CHAPTERS_EXAMPLES, OUTLINE_EXAMPLES
from ..parameters import IdempotencyKey, TaskId, decoded, submitted_ref
from ..problems import answers
from ..schemas.legacy_queue import (
    ChaptersBody,
    Done,
    OutlineBody,
    QueueSubmitted,
    QueueTaskAnswer,
    QueueTasksAnswer,
    QueueType,
    queued_task,
)
from .model_headers import read_model
from .stream import generated

SHOWN_AFTER_END = timedelta(hours=1)
CANCELLED = "Cancelled by user"
"""What older clients look for in `error`."""
LONGEST_PROJECT = 256
LONGEST_TIMEOUT = timedelta(days=7)

Project = Annotated[
    str, PathParameter(description="A project's name: any text, percent-encoded", schema_extra={"examples": ["novel"]})
]


class Queue:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._submissions = SubmissionParser(container.settings, container.fleet)

    async def submit(
        self,
        request: ApiRequest,
        project: str,
        task_type: QueueType,
        body: ChaptersBody | OutlineBody,
        idempotency_key: str | None,
        units: int = 1,
    ) -> TaskRef:
        """Submit a task of so many units of work; its attempts get the type's time for each."""
        owner = owner_token(request.user.subject)
        name = project_name(project)
        model, key = read_model(request)
        asked = {field: value for field, value in msgspec.to_builtins(body).items() if value is not None}
        payload = {"projectName": name, **asked}
        encoded = msgspec.json.encode(payload)
        ref = submitted_ref(owner, idempotency_key)
        command = self._submissions.command(
            Submission(payload=Raw(encoded), type=task_type),
            payload,
            request.user.subject,
            encoded + msgspec.json.encode(model),
            repeatable=idempotency_key is not None,
        )
        timeout = min(command.policy.timeout * units, LONGEST_TIMEOUT)
        command = replace(command, project=name, model=model, policy=replace(command.policy, timeout=timeout))
        await self._append(request, ref, command, key)
        return ref

    async def _append(self, request: ApiRequest, ref: TaskRef, command: SubmitTask, key: str) -> None:
        """Keep the key, then append the submission that names it."""
        container = self.container
        key_id = await container.task_keys.keep(ref, key) if key else ""
        try:
            handled = await container.submissions.submit(
                ref, replace(command, key_id=key_id), by=actor(request.user), cause=request_id(request.scope)
            )
        except Refused:
            await container.task_keys.destroy(ref, key_id)
            raise
        if handled.appended:
            metrics.submitted.labels(command.pool, command.priority).inc()
        elif not isinstance(handled.known.state, Unknown) and handled.known.state.facts.key_id != key_id:
            await container.task_keys.destroy(ref, key_id)  # the task was there before, with a key of its own

    async def listed(self, request: ApiRequest, ended_since: datetime | None) -> QueueTasksAnswer:
        owner = owner_token(request.user.subject)
        found = await self.container.tasks.current(owner, ended_since)
        return QueueTasksAnswer(tasks=[queued_task(listed) for listed in found if listed.view.project])

    async def read(self, request: ApiRequest, task_id: str) -> QueueTaskAnswer:
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        detail = await self.container.tasks.detail(ref, deleted=request.user.has(*READERS_OF_ALL))
        if not detail.view.project:
            raise NotFound("task", task_id)
        return QueueTaskAnswer(task=queued_task(Listed(detail.ref, detail.view)))

    async def command(self, request: ApiRequest, task_id: str, command: TaskCommand) -> Done:
        """Give a command about a task of a project."""
        ref = owned_ref(request.user, task_id, "admin")
        await self.read(request, task_id)
        await self.container.commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return Done()


def project_name(segment: str) -> str:
    """Return the project's name that a path's segment is, still percent-encoded. Raises InvalidInput."""
    name = decoded(segment, "name")
    if not 0 < len(name) <= LONGEST_PROJECT or any(map(_is_control, name)):
        raise InvalidInput(f"a project's name is 1 to {LONGEST_PROJECT} characters, none a control character", "name")
    return name


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def queue_router(container: Container) -> Router:
    """Return the routes."""
    queue = Queue(container)
    depth = container.settings.max_json_depth
    submission = partial(
        post, status_code=200, opt=requires(*SUBMITTERS), responses=answers(400, 401, 403, 413, 415, 422, 429, 503)
    )
    chapters = described(schema_of(ChaptersBody), CHAPTERS_EXAMPLES, required=False)

    @submission(
        "/projects/{name:str}/queue-chapters",
        operation_class=chapters,
        response_description="The task's id",
        summary="Queue chapters",
    )
    async def queue_chapters(
        request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None
    ) -> QueueSubmitted:
        """Accept a task of type `chapter`: when this answers, it is on disk.

        An attempt may take the type's time for each of its chapters. The model is named by the headers
        `X-AI-Provider`, `X-AI-Model` and `X-AI-BaseUrl`; `X-AI-Key` is sealed, handed to the server that does the work
        and nobody else, and destroyed when the task ends.
        """
        body = await read_as(request, ChaptersBody, depth)
        ref = await queue.submit(request, name, "chapter", body, idempotency_key, body.chapters_to_generate)
        return QueueSubmitted(task_id=ref.id)

    @submission(
        "/projects/{name:str}/queue-outline",
        operation_class=described(schema_of(OutlineBody), OUTLINE_EXAMPLES, required=False),
        response_description="The task's id",
        summary="Queue an outline",
    )
    async def queue_outline(
        request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None
    ) -> QueueSubmitted:
        """Accept a task of type `outline`; headers as for chapters."""
        body = await read_as(request, OutlineBody, depth)
        return QueueSubmitted(task_id=(await queue.submit(request, name, "outline", body, idempotency_key)).id)

    @submission(
        "/projects/{name:str}/generate-stream",
        media_type=STREAM_TYPE,
        operation_class=chapters,
        response_description="Server-sent events",
        summary="Queue chapters and follow them",
    )
    async def generate_stream(request: ApiRequest, name: Project, idempotency_key: IdempotencyKey = None) -> Stream:
        """Accept a task as `queue-chapters` does, and send what comes of it, each `data` JSON with a `type`.

        `start`, `task_created`, `progress`, `chapter_complete`, `chapter_error`, `heartbeat`, `error`, and `done` at
        the end. Closing the stream does not stop the task. For older clients; `GET /api/task/{id}/stream` resumes.
        """
        body = await read_as(request, ChaptersBody, depth)
        ref = await queue.submit(request, name, "chapter", body, idempotency_key, body.chapters_to_generate)
        lines = generated(container.feeds, ref, 0, body.chapters_to_generate)
        return Stream(lines, media_type=STREAM_TYPE, headers=STREAM_HEADERS)

    @get(
        "/queue/tasks",
        responses=answers(401, 403, 503),
        response_description="All that have not ended, and those that ended within the last hour",
        summary="List queued tasks",
    )
    async def list_queued(request: ApiRequest) -> QueueTasksAnswer:
        """List the caller's tasks of projects, newest first."""
        return await queue.listed(request, utc_now() - SHOWN_AFTER_END)

    @get(
        "/active-tasks",
        responses=answers(401, 403, 503),
        response_description="All that have not ended",
        summary="List active tasks",
    )
    async def list_active(request: ApiRequest) -> QueueTasksAnswer:
        """List the caller's tasks of projects that have not ended, newest first."""
        return await queue.listed(request, None)

    @get(
        "/queue/tasks/{task_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The task as it is now",
        summary="Read a queued task",
    )
    async def get_queued(request: ApiRequest, task_id: TaskId) -> QueueTaskAnswer:
        """Return a task of a project as it is now."""
        return await queue.read(request, task_id)

    @post(
        "/queue/tasks/{task_id:str}/cancel",
        status_code=200,
        responses=answers(400, 401, 403, 404, 409, 503),
        response_description="It is cancelled",
        summary="Cancel a queued task",
    )
    async def cancel_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """End a task that has not ended: it shows as `failed`, "Cancelled by user"."""
        return await queue.command(request, task_id, CancelTask(reason=CANCELLED))

    @delete(
        "/queue/tasks/{task_id:str}",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="It is in no list any more",
        summary="Delete a queued task",
    )
    async def delete_queued(request: ApiRequest, task_id: TaskId) -> Done:
        """Take a task out of every list; one that has not ended is cancelled first. Its history stays for auditors."""
        return await queue.command(request, task_id, DeleteTask(reason=CANCELLED))

    return Router(
        path="/",
        route_handlers=[
            queue_chapters,
            queue_outline,
            generate_stream,
            list_queued,
            list_active,
            get_queued,
            cancel_queued,
            delete_queued,
        ],
        tags=["Queue"],
    )
