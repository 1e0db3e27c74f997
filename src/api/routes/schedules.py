"""Recurring schedules: tasks submitted again and again by a cron expression. Users have their own, admins all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated

import msgspec
from litestar.params import QueryParameter
from msgspec import UNSET, Raw
from msgspec.structs import asdict

from ...clock import utc_now
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
from ...container import Container
from ...errors import FileMissing, InvalidInput, NotFound, RuleBroken, StoreError
from ...events.ids import (
    FileRef,
    ScheduleRef,
    TaskRef,
    new_ref,
    new_schedule_ref,
    owner_token,
    parse_file_id,
    parse_schedule_id,
    parse_task_id,
    schedule_for_key,
    triggered_ref,
)
from ...events.schedule import ScheduleCreated, ScheduleSettings
from ...events.subjects import schedules_filter
from ...files.references import place_of
from ...projections.schedule_runs import read_runs
from ...projections.schedules import load_schedules, schedule_refs
from ...projections.task_view import TaskView
from ...projections.usage import OF_SCHEDULES
from ...streams.jetstream.messages import last_sequence
from ...streams.log import Guard
from ...streams.topology.definitions import SCHEDULES
from ...submission.body import fingerprint, read_task
from ...wire.trace import TraceContext
from ..auth.access import (
    READERS_OF_ALL,
    SUBMITTERS,
    ApiRequest,
    Origin,
    check_owner,
    guarded,
    origin,
    reads_bodies,
    tag,
)
from ..auth.authenticator import Identity
from ..bodies import decoded_as, read_as, read_body
from ..middleware import trace_context
from ..parameters import (
    Cursor,
    IdempotencyKey,
    IfMatch,
    Limit,
    Owner,
    ScheduleId,
    made_ref,
    next_cursor,
    page_of,
    read_cursor,
    read_id_cursor,
    selected_owner,
)
from ..routing import RouteHandler, Routes
from ..schemas.schedules import (
    PreviewBody,
    ScheduleBody,
    ScheduleChange,
    ScheduleDetail,
    SchedulePage,
    SchedulePreview,
    ScheduleRun,
    ScheduleRunPage,
    ScheduleSummary,
    past_run,
    preview,
    schedule_detail,
    schedule_summary,
)
from ..schemas.shared import DoneAnswer, ReasonBody

MOST_PER_OWNER = 10_000
LOADED_AT_ONCE = 100
MOST_LOADED = 2_000
"""Schedules that one page looks at for those that are failing."""
Failing = Annotated[
    bool, QueryParameter(description="True: only those whose last run was refused, or has a task that failed")
]
ONCE_ONLY = ("dependsOn", "runAt", "expiresAt", "deadline")
"""Options of a submission that are about one run, so no schedule can use them."""


async def find_schedule(
    container: Container, identity: Identity, schedule_id: str, *roles: str
) -> tuple[ScheduleRef, Created]:
    """Return a schedule the caller owns or may reach by role. Raises NotFound for any other.

    Raises Forbidden if the caller may read the schedule but lacks the role.
    """
    ref = parse_schedule_id(schedule_id)
    check_owner(identity, ref, "schedule", *roles)
    state = (await container.commands.schedules.load(ref)).state
    return ref, _created(state, ref)


def check_task(container: Container, task: Raw, owner: str) -> Sequence[str]:
    """Return the ids of the files that a task refers to.

    Raises InvalidInput, with the path in the schedule's body, unless the task could be submitted now.
    """
    content = msgspec.json.decode(task)
    if not isinstance(content, dict) or "payload" not in content:
        raise InvalidInput("use the full form of a submission: an object with a `payload`", "$.task.payload")
    for name in ONCE_ONLY:
        if name in content:
            raise InvalidInput("this option is about one run, so a schedule cannot use it; remove it", f"$.task.{name}")
    try:
        request = read_task(bytes(task), owner, container.settings.max_json_depth, repeatable=True)
        return container.submissions.rules.submitted(request).files
    except InvalidInput as error:
        if isinstance(error, FileMissing):
            raise FileMissing(error.file_id, _path_in_task(error)) from None
        raise InvalidInput(error.detail, _path_in_task(error)) from None


async def keep_files(container: Container, ref: ScheduleRef, task: Raw, owner: str, signed: Origin) -> None:
    """Keep the files that the runs of a schedule refer to, until it is deleted. Raises FileMissing."""
    if not (files := check_task(container, task, owner)):
        return
    wanted: dict[FileRef, Sequence[str]] = {parse_file_id(each): () for each in files}
    try:
        await container.submissions.file_holds.refer(wanted, schedule=ref.id, **signed)
    except NotFound as missing:
        payload = msgspec.json.decode(task)["payload"]
        raise FileMissing(missing.name, place_of(payload, missing.name, "$.task.payload")) from None


def _path_in_task(error: InvalidInput) -> str:
    return f"$.task{error.path.removeprefix('$')}"


def _created(state: object, ref: ScheduleRef) -> Created:
    if not isinstance(state, Created):
        raise NotFound("schedule", ref.id)
    return state


async def room_of(container: Container, owner: str) -> Guard:
    """Return a guard that fails once the owner (a token) creates another schedule. Raises RuleBroken at the limit."""
    subjects = schedules_filter(owner, ScheduleCreated)
    last = await last_sequence(container.reading, SCHEDULES, subjects)  # before they are counted
    if len(await schedule_refs(container.reading, owner)) >= MOST_PER_OWNER:
        raise RuleBroken(f"you have {MOST_PER_OWNER:,} schedules, the most allowed; delete one first")
    return Guard(subjects, last)


async def read_settings(container: Container, owner: str, content: bytes) -> ScheduleSettings:
    """Return the settings of a schedule to create. Raises InvalidInput."""
    body = decoded_as(content, ScheduleBody, container.settings.max_json_depth)
    recurrence.check(body.cron, body.time_zone, utc_now())
    check_task(container, body.task, owner)
    return ScheduleSettings(**asdict(body))  # the fields have the same names


def read_change(container: Container, schedule: Created, body: ScheduleChange) -> ChangeSchedule:
    """Return the command for a change. Raises InvalidInput if the schedule could not run after it."""
    command = ChangeSchedule(**{name: value for name, value in asdict(body).items() if value is not UNSET})
    settings = schedule.settings
    if command.cron is not None or command.time_zone is not None:
        recurrence.check(command.cron or settings.cron, command.time_zone or settings.time_zone, utc_now())
    if command.task is not None:
        check_task(container, command.task, schedule.owner)
    return command


def _size_after(schedule: Created, command: ChangeSchedule) -> int:
    """Return about how many bytes a change stores: the whole settings, with the task."""
    settings = schedule.settings
    texts = [getattr(command, name, None) or getattr(settings, name) for name in ("task", "name", "description")]
    return sum(len(bytes(text) if isinstance(text, Raw) else text.encode()) for text in texts)


async def run_now(
    container: Container, ref: ScheduleRef, schedule: Created, task_ref: TaskRef, signed: Origin, trace: TraceContext
) -> None:
    """Submit the task of a schedule, then count the run. A crash between leaves the task, and a run not counted.

    Raises RuleBroken if the task cannot be submitted as it is.
    """
    depth = container.settings.max_json_depth
    try:
        task = read_task(
            bytes(schedule.settings.task), schedule.owner, depth, repeatable=True, schedule=ref.id, trace=trace
        )
        handled = await container.submissions.submit(task_ref, task, **signed)
    except InvalidInput as error:
        path = _path_in_task(error)
        raise RuleBroken(f"{path}: {error.detail}; change the `task` of the schedule, then run it again") from None
    if handled.appended:
        with contextlib.suppress(NotFound):  # deleted meanwhile
            await container.commands.schedules.handle(ref, TriggerSchedule(task_id=task_ref.id), **signed)


async def execute(
    container: Container, ref: ScheduleRef, command: ScheduleCommand, request: ApiRequest, size_bytes: int | None
) -> ScheduleDetail:
    """Handle a command and set the timer of the next run. If the timer cannot be set now, the reconciler sets it.

    `size_bytes`: about what it stores, within the owner's quota; None: it makes the schedule stop, which is always
    possible.
    """
    signed = guarded(request)
    room = partial(room_of, container, ref.owner)  # asked only before the first event
    handle = partial(container.commands.schedules.handle, ref, command, room=room, **signed)
    if size_bytes is None:
        handled = await handle()
    else:
        handled = await container.submissions.store(OF_SCHEDULES, ref.owner, size_bytes, handle)
    schedule = _created(handled.known.state, ref)
    if handled.appended and not schedule.paused and schedule.next_at is not None:
        with contextlib.suppress(StoreError):
            await container.timers.run_schedule(ref, schedule.next_at)
    tag(request, schedule)
    return schedule_detail(schedule, utc_now(), bodies=reads_bodies(request.user, ref.owner))


async def _views(container: Container, task_ids: Iterable[str], user: str) -> dict[str, TaskView]:
    """Return the views of tasks that exist and were not deleted, by id. Raises as the index does."""
    refs = [parse_task_id(task_id) for task_id in task_ids if task_id]
    return {ref.id: view for ref, view in await container.lists.views(refs, user=user) if not view.deleted}


async def _failing_page(
    container: Container, refs: Mapping[str, ScheduleRef], limit: int, cursor: str | None, user: str
) -> SchedulePage:
    """Return the schedules whose last firing was refused, or has a task that failed; MOST_LOADED are looked at."""
    found: list[ScheduleSummary] = []
    looked_at = 0
    while True:
        names, following = page_of(refs, LOADED_AT_ONCE, cursor, newest_first=True)
        states = await load_schedules(container.reading, [refs[name] for name in names])
        created = [state for state in states.values() if isinstance(state, Created)]
        last = [run.task_id for state in created for run in state.fired]
        views = await _views(container, last, user)
        for state in created:
            if is_failing(state, views):
                found.append(schedule_summary(state))
                if len(found) == limit:
                    more = following is not None or state.schedule_id != names[-1]
                    return SchedulePage(schedules=found, next_cursor=state.schedule_id if more else None)
        looked_at += len(names)
        if following is None or looked_at >= MOST_LOADED:
            return SchedulePage(schedules=found, next_cursor=following)
        cursor = following


def is_failing(schedule: Created, views: Mapping[str, TaskView]) -> bool:
    """Return True if a run of the last firing was refused, or its task failed. `views`: by the ids of tasks."""
    refused = schedule.failure.runs if schedule.failure is not None else ()
    return any(
        run in refused or ((view := views.get(run.task_id)) is not None and view.status == "FAILED")
        for run in schedule.fired
    )


def _add_runs(routes: Routes, container: Container) -> None:
    """Declare the routes of runs, past and future."""
    reading, depth = container.reading, container.settings.max_json_depth

    @routes.post("/preview", "Preview a cron expression", "Its next runs", body=PreviewBody)
    async def preview_schedule(request: ApiRequest) -> SchedulePreview:
        """Return an expression in words, its next five runs, and what happens to it where clocks change."""
        body = await read_as(request, PreviewBody, depth)
        now = utc_now()
        recurrence.check(body.cron, body.time_zone, now)
        return preview(body.cron, body.time_zone, now)

    @routes.get("/{schedule_id:str}/runs", "List the runs of a schedule", "A page of runs, the last one first")
    async def list_runs(
        request: ApiRequest, schedule_id: ScheduleId, limit: Limit = 50, cursor: Cursor = None
    ) -> ScheduleRunPage:
        """List the runs that are over for the schedule, with the status of their tasks.

        Runs that fired together stay together, so a page may have up to 99 more than `limit`.
        """
        ref, _ = await find_schedule(container, request.user, schedule_id, *READERS_OF_ALL)
        page = await read_runs(reading, ref, limit, read_cursor(cursor))
        views = await _views(container, [run.task_id for run in page.runs], owner_token(request.user.subject))
        return ScheduleRunPage(
            runs=[past_run(run, views.get(run.task_id)) for run in page.runs], next_cursor=next_cursor(page.cursor)
        )


def schedule_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/schedules", "Schedules")
    reading, depth = container.reading, container.settings.max_json_depth

    @routes.post(
        "/",
        "Create a schedule",
        "The schedule, and its next runs",
        body=ScheduleBody,
        roles=SUBMITTERS,
        fails={409, 422, 429},
    )
    async def create_schedule(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> ScheduleDetail:
        """Submit a task again and again, at the times of a cron expression in a time zone.

        The task is checked now and at each run. A run whose task is refused is recorded on the schedule as failed; the
        next runs go on.
        """
        subject, content = request.user.subject, await read_body(request)
        ref = made_ref(owner_token(subject), idempotency_key, new_schedule_ref, schedule_for_key)
        if idempotency_key is not None:
            state = (await container.commands.schedules.load(ref)).state
            if isinstance(state, Created) and state.fingerprint == fingerprint(content):
                return schedule_detail(state, utc_now())  # even if its type is stricter by now
        settings = await read_settings(container, subject, content)
        await keep_files(container, ref, settings.task, subject, origin(request))
        command = CreateSchedule(
            schedule_id=ref.id,
            owner=subject,
            settings=settings,
            fingerprint=fingerprint(content),
            repeatable=idempotency_key is not None,
        )
        return await execute(container, ref, command, request, len(content))

    @routes.get("/", "List schedules", "A page of schedules, newest first")
    async def list_schedules(
        request: ApiRequest,
        owner: Owner = None,
        failing: Failing = False,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> SchedulePage:
        """List schedules by id: newest first, except those made with an Idempotency-Key, whose ids are not by time.

        A page of those that are failing may be short and still have a `nextCursor`.
        """
        refs = {ref.id: ref for ref in await schedule_refs(reading, selected_owner(request.user, owner, "list"))}
        if failing:
            user = owner_token(request.user.subject)
            return await _failing_page(container, refs, limit, read_id_cursor(cursor), user)
        shown, following = page_of(refs, limit, read_id_cursor(cursor), newest_first=True)
        states = await load_schedules(reading, [refs[schedule_id] for schedule_id in shown])
        return SchedulePage(
            schedules=[schedule_summary(state) for state in states.values() if isinstance(state, Created)],
            next_cursor=following,
        )

    _add_runs(routes, container)

    @routes.get("/{schedule_id:str}", "Read a schedule", "The schedule as it is now")
    async def get_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Return a schedule with its task, its next five runs, and the outcome of the last."""
        ref, schedule = await find_schedule(container, request.user, schedule_id, *READERS_OF_ALL)
        held = await container.submissions.holds_schedule(ref.owner, schedule)
        tag(request, schedule)
        return schedule_detail(schedule, utc_now(), held, bodies=reads_bodies(request.user, ref.owner))

    @routes.patch(
        "/{schedule_id:str}", "Change a schedule", "The schedule as it is now", body=ScheduleChange, fails={412, 429}
    )
    async def change_schedule(
        request: ApiRequest,
        schedule_id: ScheduleId,
        if_match: IfMatch = None,  # noqa: ARG001 - read by `guarded`
    ) -> ScheduleDetail:
        """Change the fields in the body and leave the rest. A new `cron` or `timeZone` applies from now on."""
        ref, schedule = await find_schedule(container, request.user, schedule_id, "admin")
        body = await read_as(request, ScheduleChange, depth)
        command = read_change(container, schedule, body)
        if command.task is not None:
            await keep_files(container, ref, command.task, schedule.owner, origin(request))
        return await execute(container, ref, command, request, _size_after(schedule, command))

    @routes.post("/{schedule_id:str}/pause", "Pause a schedule", "The schedule, paused", body=ReasonBody)
    async def pause_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Stop a schedule until it is resumed. Tasks it has submitted go on."""
        ref, _ = await find_schedule(container, request.user, schedule_id, "admin")
        body = await read_as(request, ReasonBody, depth)
        command = PauseSchedule(reason=body.reason or f"paused by {request.user.subject}")
        return await execute(container, ref, command, request, None)

    @routes.post("/{schedule_id:str}/resume", "Resume a schedule", "The schedule, and its next runs", fails={429})
    async def resume_schedule(request: ApiRequest, schedule_id: ScheduleId) -> ScheduleDetail:
        """Start a paused schedule again. `missed` of the schedule decides if missed runs are skipped or caught up."""
        ref, _ = await find_schedule(container, request.user, schedule_id, "admin")
        return await execute(container, ref, ResumeSchedule(), request, 0)

    @routes.post("/{schedule_id:str}/run", "Run a schedule now", "The task, submitted", fails={409, 422, 429})
    async def run_schedule(
        request: ApiRequest, schedule_id: ScheduleId, idempotency_key: IdempotencyKey = None
    ) -> ScheduleRun:
        """Submit the task of a schedule now, even if the schedule is paused. Its other runs are not affected."""
        ref, schedule = await find_schedule(container, request.user, schedule_id, "admin")
        task_ref = made_ref(ref.owner, idempotency_key, new_ref, lambda _, key: triggered_ref(ref, key))
        await run_now(container, ref, schedule, task_ref, origin(request), trace_context(request.scope))
        return ScheduleRun(id=ref.id, task_id=task_ref.id)

    @routes.delete("/{schedule_id:str}", "Delete a schedule", "The schedule is gone")
    async def delete_schedule(request: ApiRequest, schedule_id: ScheduleId) -> DoneAnswer:
        """Delete a schedule. The tasks it has submitted stay."""
        ref, _ = await find_schedule(container, request.user, schedule_id, "admin")
        await container.commands.schedules.handle(ref, DeleteSchedule(), **origin(request))
        return DoneAnswer(id=schedule_id)

    return routes.handlers
