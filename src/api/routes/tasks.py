"""Routes of tasks: submit, read, update, command and list them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Annotated, Any, cast, get_args

from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import HeaderParameter, QueryParameter

from ...clock import utc_now
from ...container import Container
from ...errors import StreamsExhausted, TooManyStreams
from ...events.ids import TaskRef, new_ref, owner_token, ref_for_key
from ...index.search import By
from ...projections.task_reader import TaskDetail
from ...projections.task_view import ACTIVE
from ...push.feed import FeedPosition
from ...push.listeners import Scope
from ...submission.body import OPTIONS, Submission, read_task
from ..auth.access import (
    ATTEMPT_TOKENS,
    ATTEMPT_TOKENS_IN_ADDRESS,
    READERS_OF_ALL,
    SUBMITTERS,
    ApiRequest,
    check_task_of_server,
    origin,
    owned_ref,
    reads_bodies,
)
from ..auth.narrowing import LIST, SUBMIT, TASK, narrows
from ..bodies import read_as, read_body
from ..cog_webhook import record_webhook
from ..middleware import MAY_TAKE_LONG, trace_context, until_gone
from ..openapi.description import schema_of
from ..openapi.examples import SUBMISSION_EXAMPLES
from ..parameters import (
    Bodies,
    Cursor,
    IdempotencyKey,
    Limit,
    TaskId,
    choice,
    made_ref,
)
from ..routing import RouteHandler, Routes
from ..schemas.bulk import TaskSelection
from ..schemas.shared import DoneAnswer, ReasonBody
from ..schemas.tasks import (
    TaskAnswer,
    TaskCount,
    TaskCounts,
    TaskOutlineAnswer,
    TaskPage,
    UpdateBody,
    task_answer,
    task_counts,
    task_outline,
    task_summary,
)
from ..task_actions import TaskAction, command_for, give_command
from ..task_filter import FILTERED, SELECTED, read_place, sorted_by, task_filter
from ..task_updates import record_update
from .bulk import check_batch

COLUMNS: tuple[By, ...] = get_args(By)

LONGEST_WAIT = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)

Wait = Annotated[
    int, QueryParameter(ge=0, le=LONGEST_WAIT, description="Longest wait in seconds for the end of the task")
]
SortedBy = Annotated[
    str,
    QueryParameter(
        description="`created`, `ended` or `duration`, which lists only tasks that ended; `-` before it: descending",
        schema_extra={"enum": ["created", "-created", "ended", "-ended", "duration", "-duration"]},
    ),
]
WithCount = Annotated[bool, QueryParameter(description="Also count all tasks that match, up to 10,000: `total`")]
CountedBy = Annotated[str | None, QueryParameter(description="Count by this", schema_extra={"enum": list(COLUMNS)})]
WebhookToken = Annotated[str | None, QueryParameter(description="The token of the attempt")]
Concatenate = Annotated[bool, QueryParameter(description="True: output in pieces of text is one text")]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        description=f"`wait=n`: wait up to n seconds, {LONGEST_WAIT} at most, for the end of the task",
    ),
]


def bare_payload() -> Schema:
    """Return the schema of the short form."""
    return Schema(
        title="Payload",
        description="A bare payload: an object without any option",
        type=OpenAPIType.OBJECT,
        properties={name: Schema(schema_not=Schema()) for name in sorted(OPTIONS)},
        additional_properties=True,
    )


def preferred_wait(prefer: str | None) -> int:
    """Return the seconds of `wait` in a `Prefer` header, 0 without one (RFC 7240)."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST_WAIT) if found else 0


async def until_ended(
    container: Container, request: ApiRequest, detail: TaskDetail, seconds: float, reached: int = 0
) -> TaskDetail:
    """Return a task when it has ended, or as it is after `seconds`, or when the caller's token expires.

    `reached`: where the hub was before the task was read.

    Raises TooManyStreams and StreamsExhausted, unless it has ended: the wait is a stream of the user's. It ends, too,
    when the client has gone.
    """
    if detail.view.status not in ACTIVE:
        return detail
    position = FeedPosition(max(reached, detail.view.sequence))
    left = min(seconds, request.user.seconds_left(utc_now()))
    cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
    with container.open_streams.open(request.user.subject), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(left) as limit:
            gone = asyncio.create_task(_end_when_gone(request, limit), name="client-gone")
            try:
                feed = container.feeds.feed(Scope(ref=detail.ref), position, seconds, in_log=True)
                async with contextlib.aclosing(feed) as items:
                    async for item in items:
                        if item is not None and item.is_end:
                            break
            finally:
                gone.cancel()
    return await container.tasks.detail(detail.ref)


async def _end_when_gone(request: ApiRequest, limit: asyncio.Timeout) -> None:
    await until_gone(request.receive)
    limit.reschedule(asyncio.get_running_loop().time())


async def read_detail(container: Container, request: ApiRequest, ref: TaskRef, wait: int) -> TaskDetail:
    """Return a task as it is now, or with `wait` when it has ended, after so many seconds at the latest."""
    reached = container.feeds.hub.position
    detail = await container.tasks.detail(ref, deleted=request.user.has(*READERS_OF_ALL))
    return await until_ended(container, request, detail, wait, reached) if wait else detail


def task_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Tasks")
    settings = container.settings
    submission = Schema(any_of=[schema_of(Submission), bare_payload()])

    async def command(request: ApiRequest, task_id: str, action: TaskAction) -> TaskAnswer:
        ref = owned_ref(request.user, task_id, "admin")
        body = await read_as(request, ReasonBody, settings.max_json_depth)
        chosen = command_for(action, body.reason, request.user.subject)
        await give_command(container, ref, chosen, origin(request))
        detail = await container.tasks.detail(ref)
        return task_answer(detail, settings, bodies=reads_bodies(request.user, ref.owner))

    @routes.post(
        "/task",
        "Submit a task",
        "The task: new, or as it is now if an earlier request with this Idempotency-Key made it",
        body=submission,
        examples=SUBMISSION_EXAMPLES,
        roles=SUBMITTERS,
        fails={422, 429},
        opt=narrows(SUBMIT),
    )
    async def submit_task(
        request: ApiRequest, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
    ) -> TaskAnswer:
        """Accept a task. When this answers, the task is on disk.

        The full form is a `payload` with options such as `type`, `priority`, `timeout` and `attempts`. An object with
        no option and no `payload` is taken whole as the payload of type `default`.
        """
        owner, is_repeatable = request.user.subject, idempotency_key is not None
        body = await read_body(request)
        ref = made_ref(owner_token(owner), idempotency_key, new_ref, ref_for_key)
        trace = trace_context(request.scope)
        asked = read_task(body, owner, settings.max_json_depth, repeatable=is_repeatable, trace=trace)
        handled = await container.submissions.submit(ref, asked, **origin(request))
        tasks, new = container.tasks, handled.appended
        detail = tasks.detail_of(ref, new) if new else await tasks.detail(ref)
        if seconds := preferred_wait(prefer):
            # The task is stored, and the wait is a preference: over a limit the answer comes at once (RFC 7240, 2).
            with contextlib.suppress(TooManyStreams, StreamsExhausted):
                detail = await until_ended(container, request, detail, seconds)
        return task_answer(detail, settings)

    @routes.get("/task/{task_id:str}", "Read a task", "The task as it is now", fails={429}, opt=narrows(TASK))
    async def get_task(
        request: ApiRequest, task_id: TaskId, wait: Wait = 0, bodies: Bodies = True
    ) -> TaskAnswer | TaskOutlineAnswer:
        """Return a task with its payload and result. With `wait`, the answer waits for the end of the task.

        With `bodies=false` it has their sizes instead, in `requestBytes` and `resultBytes`. Callers who may not read
        payloads of others get null for both, and `withheld`, the reason.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL, "service")
        detail = await read_detail(container, request, ref, wait)
        check_task_of_server(request.user, container.fleet, ref, detail.view.server_id)
        shown = container.reports.with_waiting(detail)
        if not bodies:
            return task_outline(shown, settings)
        return task_answer(shown, settings, bodies=reads_bodies(request.user, ref.owner))

    @routes.put(
        "/task/{task_id:str}",
        "Report progress or the outcome of a task",
        "The task after the update",
        body=UpdateBody,
        fails={409, 429},
        request_max_body_size=settings.max_result,
        takes=ATTEMPT_TOKENS,
        opt=narrows(TASK),
    )
    async def update_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Accept a TaskResult (without its id) from the server that runs the task, or from the owner.

        The bearer token is the `callback_token` that came with the task, or a JWT with role `service`. The same final
        update again changes nothing. A final update of a task that ended otherwise is a 409. An update with another
        token, the owner's or an admin's, may be no larger than other bodies.
        """
        return await record_update(container, request, task_id)

    @routes.post(
        "/task/{task_id:str}/cog",
        "Report a Cog prediction",
        "The report was taken, or changes nothing any more",
        request_max_body_size=settings.max_result,
        takes=ATTEMPT_TOKENS_IN_ADDRESS,
    )
    async def take_cog_webhook(
        request: ApiRequest,
        task_id: TaskId,
        token: WebhookToken = None,  # noqa: ARG001 - checked with the request's access
        concatenate: Concatenate = False,
    ) -> DoneAnswer:
        """Accept a prediction from Cog, as its webhook sends it: the end of the attempt that the token was made for.

        The service gives this URL to servers with `"dialect": "cog"` that are registered with `callback`.
        """
        ref = await record_webhook(container, request, task_id, concatenates=concatenate)
        return DoneAnswer(id=ref.id)

    @routes.post(
        "/task/{task_id:str}/cancel",
        "Cancel a task",
        "The task, cancelled",
        body=ReasonBody,
        fails={409},
        opt=narrows(TASK),
    )
    async def cancel_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """End a task that has not ended. A call to a server is closed at once."""
        return await command(request, task_id, "cancel")

    @routes.post(
        "/task/{task_id:str}/retry",
        "Retry a task",
        "The task, waiting again",
        body=ReasonBody,
        fails={409, 429},
        opt=narrows(TASK),
    )
    async def retry_task(request: ApiRequest, task_id: TaskId) -> TaskAnswer:
        """Queue a failed or cancelled task again, with all its attempts."""
        return await command(request, task_id, "retry")

    _add_lists(routes, container)
    return routes.handlers


def _add_lists(routes: Routes, container: Container) -> None:
    settings = container.settings

    @routes.get(
        "/tasks",
        "List tasks",
        "A page of tasks, newest first",
        fails={404},
        dependencies=SELECTED,
        opt=FILTERED | narrows(LIST),
    )
    async def list_tasks(
        request: ApiRequest,
        selection: NamedDependency[TaskSelection],
        sort: SortedBy = "-created",
        count: WithCount = False,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> TaskPage:
        """List tasks that match every filter given, newest first.

        `label.<name>=<value>` selects by a label that a task requires or prefers, `payload.<path>=<value>` by a field
        of its payload that its type declares as `indexed`. A bulk command with the same filter is for the same tasks. A
        page is full unless it is the last, or the filter fits few of very many tasks: then it may be short, even empty,
        and still have a `nextCursor`.
        """
        wanted = sorted_by(task_filter(request.user, selection, "list"), sort)
        await check_batch(container, wanted)
        user = owner_token(request.user.subject)
        page = await container.lists.page(wanted, limit, read_place(wanted, cursor), user=user)
        total = (await container.lists.count(wanted, user=user)).total if count else None
        return TaskPage(
            tasks=[task_summary(listed, settings) for listed in page.tasks],
            next_cursor=page.cursor,
            as_of=page.as_of,
            total=None if total is None else TaskCount(count=total.number, capped=total.capped),
        )

    @routes.get(
        "/tasks/count",
        "Count tasks",
        "How many tasks match",
        fails={404},
        dependencies=SELECTED,
        opt=FILTERED | narrows(LIST),
    )
    async def count_tasks(
        request: ApiRequest, selection: NamedDependency[TaskSelection], by: CountedBy = None
    ) -> TaskCounts:
        """Count the tasks that match every filter given, up to 10,000; the filters are those of `GET /api/tasks`.

        With `by`, also for each status, type, pool, server, owner, kind of failure (`kind`), or cause of a hold
        (`hold`).
        """
        wanted = task_filter(request.user, selection, "list")
        await check_batch(container, wanted)
        column = choice(by, COLUMNS, "by")
        user = owner_token(request.user.subject)
        found = await container.lists.count(wanted, column, user=user)
        return task_counts(found)
