"""The tasks of the task surface (contract, section 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated

from litestar import Router, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from msgspec import Raw

from .. import metrics
from ..clock import random_bits, utc_now
from ..commands.task import CancelTask, Reporter, RetryTask
from ..core import Core
from ..errors import Forbidden, InvalidInput, NotFound
from ..events.envelope import Actor, Stored
from ..events.ids import TaskRef, new_ref, owner_token, parse_task_id, ref_for_key
from ..events.task import AttemptStarted, StoredResult, TaskEvent, TaskSubmitted
from ..metrics import labelled
from ..projections.task_keys import without_key
from ..projections.task_reader import TaskDetail, TaskFilter
from ..sealing import SealingError
from .access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_ref, requires
from .auth import Identity, Unauthenticated
from .bodies import ReasonBody, described, read_as, read_body, schema_of
from .edge import request_id
from .examples import REASON_EXAMPLES, SUBMISSION_EXAMPLES, TASK_ID_EXAMPLE, UPDATE_EXAMPLES
from .problems import answers
from .reports import Report, UpdateBody, attempt_of_token, parse_report
from .submission import OPTIONS, Submission, Submissions, fingerprint
from .task_shapes import EventPage, TaskAnswer, TaskPage, recorded_event, task_answer, task_summary
from .waiting import Prefer, Wait, preferred_wait, until_ended

TASK_ID_PATTERN = r"^[0-9A-Za-z]{26}~[A-Za-z0-9_=-]{1,36}$"
STATUSES = frozenset({"WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"})
LONGEST_KEY = 255
NO_ATTEMPT = "this token is of no attempt of this task"

TaskId = Annotated[
    str,
    PathParameter(
        description="A task's id, as the answer to its submission gave it",
        schema_extra={"pattern": TASK_ID_PATTERN, "examples": [TASK_ID_EXAMPLE]},
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Most entries on a page")]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Up to 255 printable characters. The same key and body again give the same task, for ever",
        schema_extra={"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~][ -~]*$"},
    ),
]


class Tasks:
    """What the routes do, apart from HTTP."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._submissions = Submissions(core.settings, core.fleet)

    def answer(self, detail: TaskDetail) -> TaskAnswer:
        return task_answer(detail, self.core.settings)

    async def _answer_in_time(self, detail: TaskDetail, wait_seconds: int) -> TaskAnswer:
        return self.answer(await until_ended(self.core, detail, wait_seconds))

    async def submit(self, request: ApiRequest, idempotency_key: str | None, wait_seconds: int) -> TaskAnswer:
        identity = request.user
        owner = owner_token(identity.subject)
        body = await read_body(request)
        if idempotency_key is None:
            ref = new_ref(owner, utc_now(), random_bits(80))
        else:
            ref = ref_for_key(owner, checked_key(idempotency_key))
        try:
            command = self._submissions.parse(body, identity.subject, repeatable=idempotency_key is not None)
        except InvalidInput:
            # A repeated submit is the task it was, also when its type has become stricter since.
            if idempotency_key is None or not await self._was_submitted(ref, body):
                raise
            return await self._answer_in_time(await self.core.tasks.detail(ref), wait_seconds)
        handled = await self.core.commands.task(
            ref,
            command,
            by=actor(identity),
            cause=request_id(request.scope),
            known=self.core.commands.tasks.fold([]),
        )
        if not handled.appended:
            return await self._answer_in_time(await self.core.tasks.detail(ref), wait_seconds)
        labelled(metrics.submitted, command.pool, command.priority).inc()
        return await self._answer_in_time(await self.core.tasks.detail_of(ref, handled.appended), wait_seconds)

    async def _was_submitted(self, ref: TaskRef, body: bytes) -> bool:
        history = await self.core.commands.load_task(ref)
        return any(
            isinstance(stored.recorded.event, TaskSubmitted) and stored.recorded.event.fingerprint == fingerprint(body)
            for stored in history
        )

    async def report(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        """Take an update. Who may not send it is told so before the body is read."""
        started: AttemptStarted | None = None
        if request.auth is None:
            ref = owned_ref(request.user, task_id, "service", "admin")
            history = await self.core.tasks.history(ref)
        else:
            ref, history, started = await self._by_attempt(request.auth, task_id)
        body = without_key(await read_body(request), await self._key_of(ref, history))
        report = parse_report(body, task_id, self.core.settings.max_json_depth)
        if not report.is_final and len(body) > self.core.settings.max_body:
            raise HTTPException(
                status_code=413, detail=f"a progress report may have {self.core.settings.max_body} bytes at most"
            )
        reporter, by = self._reporter(request.user, report, started)
        cause = request_id(request.scope)
        known = self.core.commands.tasks.fold(history)
        if report.is_final:
            command = report.ending(reporter, await self._stored(ref, report))
            has_moved = await self.core.progress.flush(ref)
            await self.core.commands.task(ref, command, by=by, cause=cause, known=None if has_moved else known)
        else:
            await self.core.progress.report(ref, report.progress(reporter), by=by, cause=cause, known=known)
        return self.answer(await self.core.tasks.detail(ref))

    async def _key_of(self, ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> str | None:
        """Return the key a task came with, which its server was told and may repeat; None if there is none (now)."""
        submitted = history[0].recorded.event
        if not isinstance(submitted, TaskSubmitted):
            return None
        with contextlib.suppress(SealingError):
            return await self.core.task_keys.get(ref, submitted.key_id)
        return None

    async def _by_attempt(self, token: str, task_id: str) -> tuple[TaskRef, list[Stored[TaskEvent]], AttemptStarted]:
        """Return the task, its history and the attempt that a callback token is of.

        Raises Unauthenticated, also where there is no such task: a made-up token finds out nothing.
        """
        try:
            ref = parse_task_id(task_id)
            history = await self.core.tasks.history(ref)
        except NotFound:
            raise Unauthenticated(NO_ATTEMPT) from None
        started = attempt_of_token(token, history)
        if started is None:
            raise Unauthenticated(NO_ATTEMPT)
        return ref, history, started

    def _reporter(self, identity: Identity, report: Report, started: AttemptStarted | None) -> tuple[Reporter, Actor]:
        """Return for whom the caller speaks."""
        if started is not None:
            reporter = Reporter(kind="server", attempt=started.attempt, server_id=started.server_id)
            return reporter, Actor("server", started.server_id)
        # A backend may call itself otherwise than it was registered: then its name fences nothing.
        server_id = report.server_id if self.core.fleet.knows(report.server_id) else ""
        if identity.has("service"):
            return Reporter(kind="server", server_id=server_id), Actor("server", server_id or identity.subject)
        return Reporter(kind="person", server_id=server_id), actor(identity)

    async def _stored(self, ref: TaskRef, report: Report) -> StoredResult:
        body = report.result
        if len(body) <= self.core.settings.inline_result:
            return StoredResult(inline=Raw(body), size_bytes=len(body))
        name = f"{ref.owner}.{ref.unique}.{report.digest}"
        await self.core.objects.put(name, body)
        return StoredResult(object_name=name, size_bytes=len(body))

    async def cancel(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = await read_as(request, ReasonBody, self.core.settings.max_json_depth)
        command = CancelTask(reason=body.reason or f"Cancelled by {request.user.subject}")
        await self.core.commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return self.answer(await self.core.tasks.detail(ref))

    async def retry(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = await read_as(request, ReasonBody, self.core.settings.max_json_depth)
        command = RetryTask(reason=body.reason or f"retried by {request.user.subject}")
        await self.core.commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return self.answer(await self.core.tasks.detail(ref))

    async def page(
        self,
        request: ApiRequest,
        status: list[str],
        types: list[str],
        owner: str | None,
        limit: int,
        cursor: str | None,
    ) -> TaskPage:
        wanted = TaskFilter(
            owner=listed_owner(request, owner),
            statuses=_checked_statuses(status),
            types=frozenset(types),
            deleted=request.user.has(*READERS_OF_ALL),
        )
        page = await self.core.tasks.page(wanted, limit, read_cursor(cursor))
        summaries = [task_summary(listed, self.core.settings) for listed in page.tasks]
        return TaskPage(tasks=summaries, next_cursor=str(page.cursor) if page.cursor else None)

    async def events(self, request: ApiRequest, task_id: str, after: int, limit: int) -> EventPage:
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        deleted = request.user.has(*READERS_OF_ALL)
        history = [stored for stored in await self.core.tasks.history(ref, deleted=deleted) if stored.sequence > after]
        shown = history[:limit]
        return EventPage(
            task_id=task_id,
            events=[recorded_event(stored) for stored in shown],
            next_after=shown[-1].sequence if len(history) > limit else None,
        )


def checked_key(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidInput(f"an Idempotency-Key is 1 to {LONGEST_KEY} printable characters", "Idempotency-Key")
    return key


def _checked_statuses(statuses: list[str]) -> frozenset[str]:
    wanted = frozenset(part for status in statuses for part in status.split(",") if part)
    if unknown := wanted - STATUSES:
        raise InvalidInput(f"{min(unknown)!r} is no status; they are {', '.join(sorted(STATUSES))}", "status")
    return wanted


def listed_owner(request: ApiRequest, owner: str | None) -> str | None:
    """Return the token of the owner whose tasks are listed, None for everybody's."""
    own = owner_token(request.user.subject)
    if request.user.has(*READERS_OF_ALL):
        return owner_token(owner) if owner else None
    if owner and owner_token(owner) != own:
        raise Forbidden("only admins and auditors list other users' tasks; leave `owner` out for your own")
    return own


def read_cursor(cursor: str | None) -> int | None:
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit() and 0 < len(cursor) <= 19):
        raise InvalidInput("this is no cursor; pass `nextCursor` of the page before as it came", "cursor")
    return int(cursor)


def _bare_payload() -> Schema:
    named = [Schema(required=[name]) for name in sorted(OPTIONS)]
    return Schema(
        title="Payload", description="An input as it is", type=OpenAPIType.OBJECT, schema_not=Schema(any_of=named)
    )


def task_router(core: Core) -> Router:
    """Return the routes."""
    tasks = Tasks(core)
    reasons = described(schema_of(ReasonBody), REASON_EXAMPLES, required=False)
    submission = Schema(any_of=[schema_of(Submission), _bare_payload()])

    @post(
        "/task",
        status_code=200,
        opt=requires(*SUBMITTERS),
        operation_class=described(submission, SUBMISSION_EXAMPLES),
        responses=answers(400, 401, 403, 413, 415, 422, 503),
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
        detail = await core.tasks.detail(ref, deleted=request.user.has(*READERS_OF_ALL))
        return tasks.answer(await until_ended(core, detail, wait))

    @put(
        "/task/{task_id:str}",
        request_max_body_size=core.settings.max_result,
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
        return await tasks.report(request, task_id)

    @post(
        "/task/{task_id:str}/cancel",
        status_code=200,
        operation_class=reasons,
        responses=answers(400, 401, 403, 404, 409, 413, 415, 503),
        response_description="The task, cancelled",
        summary="Cancel a task",
    )
    async def cancel_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """End a task that has not ended; a call to a backend is closed at once."""
        return await tasks.cancel(request, task_id)

    @post(
        "/task/{task_id:str}/retry",
        status_code=200,
        operation_class=reasons,
        responses=answers(400, 401, 403, 404, 409, 413, 415, 503),
        response_description="The task, waiting again",
        summary="Retry a task",
    )
    async def retry_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Queue a failed or cancelled task again, with a fresh budget of attempts."""
        return await tasks.retry(request, task_id)

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
        owner: Annotated[
            str | None, QueryParameter(description="A user; for admins and auditors, whose default is all")
        ] = None,
        limit: Limit = 50,
        cursor: Annotated[str | None, QueryParameter(description="`nextCursor` of the page before")] = None,
    ) -> TaskPage:
        """List tasks, newest first. A page may be shorter than asked and still have a `nextCursor`."""
        return await tasks.page(request, status or [], type_ or [], owner, limit, cursor)

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
