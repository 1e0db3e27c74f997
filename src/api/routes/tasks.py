"""The tasks of the task surface (contract, section 1)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from litestar import Router, get, post, put
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import QueryParameter

from ...container import Container
from ...errors import InvalidInput
from ...events.ids import TaskRef, owner_token
from ...events.task import TaskSubmitted
from ...projections.task_reader import TaskDetail, TaskFilter
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...submission.body import OPTIONS, Submission, SubmissionParser, fingerprint
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_ref, requires
from ..bodies import ReasonBody, described, read_as, read_body, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import REASON_EXAMPLES, SUBMISSION_EXAMPLES, UPDATE_EXAMPLES
from ..parameters import (
    Cursor,
    IdempotencyKey,
    Limit,
    OfSchedule,
    Owner,
    TaskId,
    listed_owner,
    read_cursor,
    read_schedule,
    submitted_ref,
)
from ..problems import answers
from ..schemas.task_update import UpdateBody
from ..schemas.tasks import EventPage, TaskAnswer, TaskPage, recorded_event, task_answer, task_summary
from ..task_actions import TaskAction, command_for
from ..task_updates import TaskReports
from ..waiting import Prefer, Wait, preferred_wait, until_ended

STATUSES = frozenset({"WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"})


class Tasks:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._submissions = SubmissionParser(container.settings, container.fleet)

    def answer(self, detail: TaskDetail) -> TaskAnswer:
        return task_answer(detail, self.container.settings)

    async def _answer_in_time(self, detail: TaskDetail, wait_seconds: int) -> TaskAnswer:
        return self.answer(await until_ended(self.container, detail, wait_seconds))

    async def submit(self, request: ApiRequest, idempotency_key: str | None, wait_seconds: int) -> TaskAnswer:
        identity = request.user
        owner = owner_token(identity.subject)
        body = await read_body(request)
        ref = submitted_ref(owner, idempotency_key)
        try:
            command = self._submissions.parse(body, identity.subject, repeatable=idempotency_key is not None)
        except InvalidInput:
            # A repeated submit is the task it was, also when its type has become stricter since.
            if idempotency_key is None or not await self._was_submitted(ref, body):
                raise
            return await self._answer_in_time(await self.container.tasks.detail(ref), wait_seconds)
        handled = await self.container.submissions.submit(
            ref, command, by=actor(identity), cause=request_id(request.scope)
        )
        if not handled.appended:
            return await self._answer_in_time(await self.container.tasks.detail(ref), wait_seconds)
        labelled(metrics.submitted, command.pool, command.priority).inc()
        return await self._answer_in_time(await self.container.tasks.detail_of(ref, handled.appended), wait_seconds)

    async def _was_submitted(self, ref: TaskRef, body: bytes) -> bool:
        history = await self.container.commands.tasks.history(ref)
        return any(
            isinstance(stored.recorded.event, TaskSubmitted) and stored.recorded.event.fingerprint == fingerprint(body)
            for stored in history
        )

    async def intervene(self, request: ApiRequest, task_id: str, action: TaskAction) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = await read_as(request, ReasonBody, self.container.settings.max_json_depth)
        command = command_for(action, body.reason, request.user.subject)
        await self.container.commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return self.answer(await self.container.tasks.detail(ref))

    async def page(
        self,
        request: ApiRequest,
        status: list[str],
        types: list[str],
        schedule_id: str | None,
        owner: str | None,
        limit: int,
        cursor: str | None,
    ) -> TaskPage:
        schedule = read_schedule(schedule_id)
        wanted = TaskFilter(
            owner=listed_owner(request, owner) or (schedule.owner if schedule else None),
            statuses=checked_statuses(status),
            types=frozenset(types),
            schedule=schedule.id if schedule else "",
            deleted=request.user.has(*READERS_OF_ALL),
        )
        page = await self.container.tasks.page(wanted, limit, read_cursor(cursor))
        summaries = [task_summary(listed, self.container.settings) for listed in page.tasks]
        return TaskPage(tasks=summaries, next_cursor=str(page.cursor) if page.cursor else None)

    async def events(self, request: ApiRequest, task_id: str, after: int, limit: int) -> EventPage:
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        deleted = request.user.has(*READERS_OF_ALL)
        history = [
            stored for stored in await self.container.tasks.history(ref, deleted=deleted) if stored.sequence > after
        ]
        shown = history[:limit]
        return EventPage(
            task_id=task_id,
            events=[recorded_event(stored) for stored in shown],
            next_after=shown[-1].sequence if len(history) > limit else None,
        )


def checked_statuses(statuses: list[str]) -> frozenset[str]:
    """Return the statuses that are asked for, also comma-separated. Raises InvalidInput."""
    wanted = frozenset(part for status in statuses for part in status.split(",") if part)
    if unknown := wanted - STATUSES:
        raise InvalidInput(f"{min(unknown)!r} is no status; they are {', '.join(sorted(STATUSES))}", "status")
    return wanted


def bare_payload() -> Schema:
    """Return the schema of the short form."""
    named = [Schema(required=[name]) for name in sorted(OPTIONS)]
    return Schema(
        title="Payload", description="An input as it is", type=OpenAPIType.OBJECT, schema_not=Schema(any_of=named)
    )


def task_router(container: Container) -> Router:
    """Return the routes."""
    tasks = Tasks(container)
    reports = TaskReports(container)
    intervention = partial(
        post,
        status_code=200,
        operation_class=described(schema_of(ReasonBody), REASON_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 409, 413, 415, 503),
    )
    submission = Schema(any_of=[schema_of(Submission), bare_payload()])

    @post(
        "/task",
        status_code=200,
        opt=requires(*SUBMITTERS),
        operation_class=described(submission, SUBMISSION_EXAMPLES),
        responses=answers(400, 401, 403, 413, 415, 422, 429, 503),
        response_description="The task, waiting; or as it is now, where the Idempotency-Key had been used for it",
        summary="Submit a task",
    )
    async def submit_task(
        request: ApiRequest, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
    ) -> TaskAnswer:
        """Accept a task: when this answers, it is on disk.

        The full form is `{type?, payload, priority?, timeout?, attempts?}`. An object with none of these names is
        taken whole as the payload of type `default`.
        """
        return await tasks.submit(request, idempotency_key, preferred_wait(prefer))

    @get(
        "/task/{task_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The task as it is now",
        summary="Read a task",
    )
    async def get_task(request: ApiRequest, task_id: TaskId, wait: Wait = 0) -> TaskAnswer:
        """Return a task as it is now, with its payload and result; with `wait`, once it has ended."""
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        detail = await container.tasks.detail(ref, deleted=request.user.has(*READERS_OF_ALL))
        return tasks.answer(await until_ended(container, detail, wait))

    @put(
        "/task/{task_id:str}",
        request_max_body_size=container.settings.max_result,
        operation_class=described(schema_of(UpdateBody), UPDATE_EXAMPLES),
        responses=answers(400, 401, 403, 404, 409, 413, 415, 503),
        response_description="The task after the update",
        summary="Report progress or the outcome of a task",
    )
    async def update_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Take a TaskResult (less its id) from the backend that has the task, or from the owner.

        The bearer token is the `callback_token` that came with the task, or a JWT with role `service`.
        The same final update again changes nothing; one that contradicts the end of the task is a 409.
        """
        return await reports.take(request, task_id)

    @intervention(
        "/task/{task_id:str}/cancel",
        response_description="The task, cancelled",
        summary="Cancel a task",
    )
    async def cancel_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """End a task that has not ended; a call to a backend is closed at once."""
        return await tasks.intervene(request, task_id, "cancel")

    @intervention(
        "/task/{task_id:str}/retry",
        response_description="The task, waiting again",
        summary="Retry a task",
    )
    async def retry_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Queue a failed or cancelled task again, with a fresh budget of attempts."""
        return await tasks.intervene(request, task_id, "retry")

    @get(
        "/tasks",
        responses=answers(400, 401, 403, 503),
        response_description="A page of tasks, newest first",
        summary="List tasks",
    )
    async def list_tasks(
        request: ApiRequest,
        status: Annotated[
            list[str] | None, QueryParameter(description="One or more statuses, also comma-separated")
        ] = None,
        type_: Annotated[list[str] | None, QueryParameter(name="type", description="One or more types")] = None,
        schedule: OfSchedule = None,
        owner: Owner = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> TaskPage:
        """List tasks, newest first. A page may be shorter than asked and still have a `nextCursor`."""
        return await tasks.page(request, status or [], type_ or [], schedule, owner, limit, cursor)

    @get(
        "/task/{task_id:str}/events",
        responses=answers(400, 401, 403, 404, 503),
        response_description="A page of events, oldest first",
        summary="Read a task's history",
    )
    async def list_events(
        request: ApiRequest,
        task_id: TaskId,
        after: Annotated[int, QueryParameter(ge=0, description="Only events after this sequence")] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=1000, description="Most entries on a page")] = 200,
    ) -> EventPage:
        """Return the events of a task as recorded, oldest first."""
        return await tasks.events(request, task_id, after, limit)

    return Router(
        path="/",
        route_handlers=[submit_task, get_task, update_task, cancel_task, retry_task, list_tasks, list_events],
        tags=["Tasks"],
    )
