"""The tasks of the task surface (contract, section 1)."""

from __future__ import annotations

from typing import Annotated

from litestar import Router, get, post, put
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from msgspec import Raw

from .. import metrics
from ..clock import random_bits, utc_now
from ..commands.task import CancelTask, Reporter, RetryTask
from ..core import Core
from ..errors import Forbidden, InvalidInput, NotFound
from ..events.envelope import Actor
from ..events.ids import TaskRef, new_ref, owner_token, parse_task_id, ref_for_key
from ..events.task import StoredResult
from ..projections.task_reader import TaskDetail, TaskFilter
from .access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, owned_ref, requires
from .auth import Unauthenticated
from .bodies import ReasonBody, decode_body, described
from .edge import request_id
from .examples import SUBMISSION_EXAMPLES, UPDATE_EXAMPLES
from .problems import answers
from .reports import Report, attempt_of_token, parse_report
from .submission import Submissions
from .wire import EventPage, TaskAnswer, TaskPage, recorded_event, task_answer, task_summary

STATUSES = frozenset({"WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"})
LONGEST_KEY = 255

TaskId = Annotated[str, PathParameter(description="A task's id, as the answer to its submission gave it")]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Most entries on a page")]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Up to 255 printable characters. The same key and body again give the same task, for ever",
    ),
]


class Tasks:
    """What the routes do, apart from HTTP."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._submissions = Submissions(core.settings, core.fleet)

    def answer(self, detail: TaskDetail) -> TaskAnswer:
        return task_answer(detail, self.core.settings)

    async def submit(self, request: ApiRequest, idempotency_key: str | None) -> TaskAnswer:
        identity = request.user
        owner = owner_token(identity.subject)
        body = await request.body()
        command = self._submissions.parse(body, identity.subject, repeatable=idempotency_key is not None)
        if idempotency_key is None:
            ref = new_ref(owner, utc_now(), random_bits(80))
        else:
            ref = ref_for_key(owner, _checked_key(idempotency_key))
        handled = await self.core.commands.task(
            ref,
            command,
            by=actor(identity),
            cause=request_id(request.scope),
            known=self.core.commands.tasks.fold([]),
        )
        if not handled.appended:
            return self.answer(await self.core.tasks.detail(ref))
        metrics.submitted.labels(command.pool, command.priority).inc()
        return self.answer(await self.core.tasks.detail_of(ref, handled.appended))

    async def report(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        ref = parse_task_id(task_id)
        report = parse_report(await request.body(), task_id, self.core.settings.max_json_depth)
        history = await self.core.tasks.history(ref)
        known = self.core.commands.tasks.fold(history)
        if request.auth is not None:
            started = attempt_of_token(request.auth, history)
            if started is None:
                raise Unauthenticated("this token is of no attempt of this task")
            reporter = Reporter(kind="server", attempt=started.attempt, server_id=started.server_id)
            by = Actor("server", started.server_id)
        else:
            reporter, by = self._reporter(request, ref, report)
        result = await self._stored(ref, report) if report.is_final else None
        command = report.command(reporter, result)
        await self.core.commands.task(ref, command, by=by, cause=request_id(request.scope), known=known)
        return self.answer(await self.core.tasks.detail(ref))

    def _reporter(self, request: ApiRequest, ref: TaskRef, report: Report) -> tuple[Reporter, Actor]:
        """Return for whom a caller with a JWT speaks."""
        identity = request.user
        # A backend may call itself otherwise than it was registered: then its name fences nothing.
        server_id = report.server_id if self.core.fleet.knows(report.server_id) else ""
        if identity.has("service"):
            return Reporter(kind="server", server_id=server_id), Actor("server", server_id or identity.subject)
        if identity.has("admin") or ref.owner == owner_token(identity.subject):
            return Reporter(kind="person", server_id=server_id), actor(identity)
        raise NotFound("task", ref.id)

    async def _stored(self, ref: TaskRef, report: Report) -> StoredResult:
        body = report.result
        if len(body) <= self.core.settings.inline_result:
            return StoredResult(inline=Raw(body), size_bytes=len(body))
        name = f"{ref.owner}.{ref.unique}.{report.digest}"
        await self.core.objects.put(name, body)
        return StoredResult(object_name=name, size_bytes=len(body))

    async def cancel(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = decode_body(await request.body(), ReasonBody, self.core.settings.max_json_depth)
        command = CancelTask(reason=body.reason or f"Cancelled by {request.user.subject}")
        await self.core.commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return self.answer(await self.core.tasks.detail(ref))

    async def retry(self, request: ApiRequest, task_id: str) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = decode_body(await request.body(), ReasonBody, self.core.settings.max_json_depth)
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
            owner=_listed_owner(request, owner), statuses=_checked_statuses(status), types=frozenset(types)
        )
        page = await self.core.tasks.page(wanted, limit, _read_cursor(cursor))
        summaries = [task_summary(listed, self.core.settings) for listed in page.tasks]
        return TaskPage(tasks=summaries, next_cursor=str(page.cursor) if page.cursor else None)

    async def events(self, request: ApiRequest, task_id: str, after: int, limit: int) -> EventPage:
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        history = [stored for stored in await self.core.tasks.history(ref) if stored.sequence > after]
        shown = history[:limit]
        return EventPage(
            task_id=task_id,
            events=[recorded_event(stored) for stored in shown],
            next_after=shown[-1].sequence if len(history) > limit else None,
        )


def _checked_key(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidInput(f"an Idempotency-Key is 1 to {LONGEST_KEY} printable characters", "Idempotency-Key")
    return key


def _checked_statuses(statuses: list[str]) -> frozenset[str]:
    wanted = frozenset(part for status in statuses for part in status.split(",") if part)
    if unknown := wanted - STATUSES:
        raise InvalidInput(f"{min(unknown)!r} is no status; they are {', '.join(sorted(STATUSES))}", "status")
    return wanted


def _listed_owner(request: ApiRequest, owner: str | None) -> str | None:
    """Return the token of the owner whose tasks are listed, None for everybody's."""
    own = owner_token(request.user.subject)
    if request.user.has(*READERS_OF_ALL):
        return owner_token(owner) if owner else None
    if owner and owner_token(owner) != own:
        raise Forbidden("only admins and auditors list other users' tasks; leave `owner` out for your own")
    return own


def _read_cursor(cursor: str | None) -> int | None:
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit() and 0 < len(cursor) <= 19):
        raise InvalidInput("this is no cursor; pass `nextCursor` of the page before as it came", "cursor")
    return int(cursor)


def task_router(core: Core) -> Router:
    """Return the routes."""
    tasks = Tasks(core)
    reasons = described(ReasonBody, {}, required=False)

    @post(
        "/task",
        status_code=200,
        guards=[requires(*SUBMITTERS)],
        operation_class=described(None, SUBMISSION_EXAMPLES),
        responses=answers(400, 401, 403, 413, 422, 503),
        summary="Submit a task",
    )
    async def submit_task(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> TaskAnswer:
        """Accept a task: when this answers, it is on disk.

        The full form is `{type?, payload, priority?, timeout?, attempts?}`. An object with none of these names is
        taken whole as the payload of type `default`.
        """
        return await tasks.submit(request, idempotency_key)

    @get("/task/{task_id:str}", responses=answers(400, 401, 404, 503), summary="Read a task")
    async def get_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Return a task as it is now, with its payload and result."""
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        return tasks.answer(await core.tasks.detail(ref))

    @put(
        "/task/{task_id:str}",
        request_max_body_size=core.settings.max_result,
        operation_class=described(None, UPDATE_EXAMPLES),
        responses=answers(400, 401, 404, 409, 413, 503),
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
        responses=answers(400, 401, 404, 409, 413, 503),
        summary="Cancel a task",
    )
    async def cancel_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """End a task that has not ended; a call to a backend is closed at once."""
        return await tasks.cancel(request, task_id)

    @post(
        "/task/{task_id:str}/retry",
        status_code=200,
        operation_class=reasons,
        responses=answers(400, 401, 404, 409, 413, 503),
        summary="Retry a task",
    )
    async def retry_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Queue a failed or cancelled task again, with a fresh budget of attempts."""
        return await tasks.retry(request, task_id)

    @get("/tasks", responses=answers(400, 401, 403, 503), summary="List tasks")
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

    @get("/task/{task_id:str}/events", responses=answers(400, 401, 404, 503), summary="Read a task's history")
    async def list_events(
        request: ApiRequest,
        task_id: TaskId,
        after: Annotated[int, QueryParameter(ge=0, description="Only events after this sequence")] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 200,
    ) -> EventPage:
        """Return the events of a task as recorded, oldest first."""
        return await tasks.events(request, task_id, after, limit)

    return Router(
        path="/",
        route_handlers=[submit_task, get_task, update_task, cancel_task, retry_task, list_tasks, list_events],
        tags=["Tasks"],
    )
