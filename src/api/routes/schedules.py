"""Recurring schedules: what is submitted again and again, by the clock. Owners have their own, admins everybody's."""

from __future__ import annotations

import contextlib
from typing import Annotated, TypeVar

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import HeaderParameter, PathParameter
from msgspec import Raw, UnsetType
from msgspec.structs import replace

from ...clock import random_bits, utc_now
from ...commands import recurrence
from ...commands.schedule import (
    ChangeSchedule,
    Created,
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
    ScheduleCommand,
    TriggerSchedule,
)
from ...commands.task import SubmitTask
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, RuleBroken, StoreError
from ...events.ids import (
    ScheduleRef,
    new_ref,
    new_schedule_ref,
    owner_token,
    parse_schedule_id,
    schedule_for_key,
    triggered_ref,
)
from ...events.schedule import ScheduleSettings
from ...projections.schedules import load_schedules, schedule_refs
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...submission.body import SubmissionParser, fingerprint
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, actor, requires
from ..bodies import ReasonBody, decoded_as, described, read_as, read_body, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import REASON_EXAMPLES, SCHEDULE_CHANGE_EXAMPLES, SCHEDULE_EXAMPLES, TASK_ID_EXAMPLE
from ..parameters import (
    ID_PATTERN,
    LONGEST_KEY,
    Cursor,
    Limit,
    Owner,
    checked_key,
    listed_owner,
    read_id_cursor,
)
from ..problems import answers
from ..schemas.schedules import (
    ScheduleBody,
    ScheduleChange,
    ScheduleDetail,
    ScheduleDone,
    SchedulePage,
    ScheduleRun,
    schedule_detail,
    schedule_summary,
)

T = TypeVar("T")

MOST_PER_OWNER = 10_000
ONCE_ONLY = ("dependsOn", "runAt", "expiresAt", "deadline")
"""Options of a submission that say something of one run and cannot be right for the next."""

ScheduleId = Annotated[
    str,
    PathParameter(
        description="A schedule's id, as the answer to its creation gave it",
        schema_extra={"pattern": ID_PATTERN, "examples": [TASK_ID_EXAMPLE]},
    ),
]
ScheduleKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Up to 255 printable characters. The same key again changes nothing and gives the same answer",
        schema_extra={"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~][ -~]*$"},
    ),
]


class Schedules:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._submissions = SubmissionParser(container.settings, container.fleet)

    async def create(self, request: ApiRequest, idempotency_key: str | None) -> ScheduleDetail:
        body = await read_body(request)
        owner = owner_token(request.user.subject)
        if idempotency_key is None:
            ref = new_schedule_ref(owner, utc_now(), random_bits(80))
        else:
            ref = schedule_for_key(owner, checked_key(idempotency_key))
            state = await self._state(ref)
            if isinstance(state, Created) and state.fingerprint == fingerprint(body):
                return schedule_detail(state, utc_now())  # also when its type has become stricter since
        command = CreateSchedule(
            schedule_id=ref.id,
            owner=request.user.subject,
            settings=await self._settings(request, body),
            fingerprint=fingerprint(body),
            repeatable=idempotency_key is not None,
        )
        return await self._done(request, ref, command)

    async def _settings(self, request: ApiRequest, content: bytes) -> ScheduleSettings:
        body = decoded_as(content, ScheduleBody, self.container.settings.max_json_depth)
        recurrence.check(body.cron, body.time_zone, utc_now())
        self._check_task(body.task, request.user.subject)
        owner = owner_token(request.user.subject)
        if len(await schedule_refs(self.container.reading, owner)) >= MOST_PER_OWNER:
            raise RuleBroken(f"you have {MOST_PER_OWNER:,} schedules, which is the most; delete one first")
        return ScheduleSettings(
            cron=body.cron,
            time_zone=body.time_zone,
            task=body.task,
            missed=body.missed,
            catch_up=body.catch_up,
            name=body.name,
            description=body.description,
        )

    def _check_task(self, task: Raw, owner: str) -> SubmitTask:
        """Return what would be submitted now. Raises InvalidInput for what could not be, with the path in the body."""
        content = msgspec.json.decode(task)
        if not isinstance(content, dict) or "payload" not in content:
            raise InvalidInput("give the full form of a submission: an object with a `payload`", "$.task.payload")
        for name in ONCE_ONLY:
            if name in content:
                raise InvalidInput("this is about one run, and cannot be right for each of many", f"$.task.{name}")
        try:
            return self._submissions.parse(bytes(task), owner, repeatable=True)
        except InvalidInput as error:
            raise InvalidInput(error.detail, f"$.task{error.path.removeprefix('$')}") from None

    async def page(self, request: ApiRequest, owner: str | None, limit: int, cursor: str | None) -> SchedulePage:
        refs = await schedule_refs(self.container.reading, listed_owner(request, owner))
        before = read_id_cursor(cursor)
        remaining = [ref for ref in refs if before is None or ref.id < before]
        shown = remaining[:limit]
        states = await load_schedules(self.container.reading, shown)
        return SchedulePage(
            schedules=[schedule_summary(state) for state in states.values() if isinstance(state, Created)],
            next_cursor=shown[-1].id if len(remaining) > limit else None,
        )

    async def find(self, request: ApiRequest, schedule_id: str, *roles: str) -> tuple[ScheduleRef, Created]:
        """Return a schedule of the caller's, or one that is reached by role. Raises NotFound for any other."""
        ref = parse_schedule_id(schedule_id)
        identity = request.user
        if ref.owner != owner_token(identity.subject) and not identity.has(*roles):
            if identity.has(*READERS_OF_ALL):
                raise Forbidden(f"this schedule is another user's; that needs the role {' or '.join(roles)}")
            raise NotFound("schedule", schedule_id)
        return ref, _created(await self._state(ref), ref)

    async def change(self, request: ApiRequest, schedule_id: str) -> ScheduleDetail:
        ref, schedule = await self.find(request, schedule_id, "admin")
        body = await read_as(request, ScheduleChange, self.container.settings.max_json_depth)
        command = ChangeSchedule(
            cron=_given(body.cron),
            time_zone=_given(body.time_zone),
            task=_given(body.task),
            missed=_given(body.missed),
            catch_up=_given(body.catch_up),
            name=_given(body.name),
            description=_given(body.description),
        )
        settings = schedule.settings
        if command.cron is not None or command.time_zone is not None:
            recurrence.check(command.cron or settings.cron, command.time_zone or settings.time_zone, utc_now())
        if command.task is not None:
            self._check_task(command.task, schedule.owner)
        return await self._done(request, ref, command)

    async def pause(self, request: ApiRequest, schedule_id: str) -> ScheduleDetail:
        ref, _ = await self.find(request, schedule_id, "admin")
        body = await read_as(request, ReasonBody, self.container.settings.max_json_depth)
        command = PauseSchedule(reason=body.reason or f"paused by {request.user.subject}")
        return await self._done(request, ref, command)

    async def resume(self, request: ApiRequest, schedule_id: str) -> ScheduleDetail:
        ref, _ = await self.find(request, schedule_id, "admin")
        return await self._done(request, ref, ResumeSchedule())

    async def run(self, request: ApiRequest, schedule_id: str, idempotency_key: str | None) -> ScheduleRun:
        """Submit its task now, then note that: a crash between leaves a task that is listed, and no note."""
        container = self.container
        ref, schedule = await self.find(request, schedule_id, "admin")
        if idempotency_key is None:
            task_ref = new_ref(ref.owner, utc_now(), random_bits(80))
        else:
            task_ref = triggered_ref(ref, checked_key(idempotency_key))
        try:
            command = self._check_task(schedule.settings.task, schedule.owner)
        except InvalidInput as error:
            raise RuleBroken(f"its task cannot be submitted as it is: {error}") from None
        by, cause = actor(request.user), request_id(request.scope)
        handled = await container.submissions.submit(task_ref, replace(command, schedule=ref.id), by=by, cause=cause)
        if handled.appended:
            labelled(metrics.submitted, command.pool, command.priority).inc()
            with contextlib.suppress(NotFound):  # deleted meanwhile
                await container.commands.schedules.handle(ref, TriggerSchedule(task_id=task_ref.id), by=by, cause=cause)
        return ScheduleRun(id=ref.id, task_id=task_ref.id)

    async def delete(self, request: ApiRequest, schedule_id: str) -> ScheduleDone:
        ref, _ = await self.find(request, schedule_id, "admin")
        await self.container.commands.schedules.handle(
            ref, DeleteSchedule(), by=actor(request.user), cause=request_id(request.scope)
        )
        return ScheduleDone(id=schedule_id)

    async def _state(self, ref: ScheduleRef) -> object:
        return (await self.container.commands.schedules.load(ref)).state

    async def _done(self, request: ApiRequest, ref: ScheduleRef, command: ScheduleCommand) -> ScheduleDetail:
        """Carry out a command and set the timer; where that cannot be done now, the reconciler does it."""
        handled = await self.container.commands.schedules.handle(
            ref, command, by=actor(request.user), cause=request_id(request.scope)
        )
        schedule = _created(handled.known.state, ref)
        if handled.appended and not schedule.paused and schedule.next_at is not None:
            with contextlib.suppress(StoreError):
                await self.container.timers.run_schedule(ref, schedule.next_at)
        return schedule_detail(schedule, utc_now())


def _created(state: object, ref: ScheduleRef) -> Created:
    if not isinstance(state, Created):
        raise NotFound("schedule", ref.id)
    return state


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value


def schedule_router(container: Container) -> Router:
    """Return the routes."""
    schedules = Schedules(container)

    @post(
        "/",
        status_code=200,
        opt=requires(*SUBMITTERS),
        operation_class=described(schema_of(ScheduleBody), SCHEDULE_EXAMPLES),
        responses=answers(400, 401, 403, 409, 413, 415, 422, 503),
        response_description="The schedule, and its next runs",
        summary="Create a schedule",
    )
    async def create_schedule(request: ApiRequest, idempotency_key: ScheduleKey = None) -> ScheduleDetail:
        """Have a task submitted again and again, as a cron expression says on the clocks of a time zone.

        The task is checked now and again with each run: one that its type does not allow any more is noted on the
        schedule, which goes on.
        """
        return await schedules.create(request, idempotency_key)

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of schedules, newest first",
        summary="List schedules",
    )
    async def list_schedules(
        request: ApiRequest,
        owner: Owner = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> SchedulePage:
        """List schedules, newest first; those that an Idempotency-Key named have no place in time."""
        return await schedules.page(request, owner, limit, cursor)

    @get(
        "/{schedule_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The schedule as it is now",
        summary="Read a schedule",
    )
    async def get_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Return a schedule, its task, its next five runs, and what became of the last."""
        return schedule_detail((await schedules.find(request, schedule_id, *READERS_OF_ALL))[1], utc_now())

    @patch(
        "/{schedule_id:str}",
        operation_class=described(schema_of(ScheduleChange), SCHEDULE_CHANGE_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description="The schedule as it is now",
        summary="Change a schedule",
    )
    async def change_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Change what is named and leave the rest. With another `cron` or zone it runs from now on by that."""
        return await schedules.change(request, schedule_id)

    @post(
        "/{schedule_id:str}/pause",
        status_code=200,
        operation_class=described(schema_of(ReasonBody), REASON_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description="The schedule, paused",
        summary="Pause a schedule",
    )
    async def pause_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Let it run no more, until it is resumed. Tasks that it has submitted go on."""
        return await schedules.pause(request, schedule_id)

    @post(
        "/{schedule_id:str}/resume",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="The schedule, and its next runs",
        summary="Resume a schedule",
    )
    async def resume_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Let it run again. What the pause passed over is skipped or caught up, as its `missed` says."""
        return await schedules.resume(request, schedule_id)

    @post(
        "/{schedule_id:str}/run",
        status_code=200,
        responses=answers(400, 401, 403, 404, 409, 422, 429, 503),
        response_description="The task, submitted",
        summary="Run a schedule now",
    )
    async def run_schedule(
        request: ApiRequest, schedule_id: ScheduleId, idempotency_key: ScheduleKey = None
    ) -> ScheduleRun:
        """Submit its task now, paused or not. Its other runs come when they are due."""
        return await schedules.run(request, schedule_id, idempotency_key)

    @delete(
        "/{schedule_id:str}",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="The schedule is gone",
        summary="Delete a schedule",
    )
    async def delete_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDone:
        """Delete a schedule. The tasks it has submitted stay."""
        return await schedules.delete(request, schedule_id)

    return Router(
        path="/schedules",
        route_handlers=[
            create_schedule,
            list_schedules,
            get_schedule,
            change_schedule,
            pause_schedule,
            resume_schedule,
            run_schedule,
            delete_schedule,
        ],
        tags=["Schedules"],
    )
