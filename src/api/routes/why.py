"""Why a task is where it is: gathered from its history, the scheduler, the fleet and the queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import structlog
from litestar import Router, get
from msgspec import MsgspecError

from ...clock import utc_now
from ...commands.server import Present
from ...container import Container
from ...errors import NotFound, StoreUnavailable
from ...events.envelope import Recorded, Stored
from ...events.ids import TaskRef, parse_task_id, token
from ...events.kinds import kind_of
from ...events.subjects import SCHEDULER_EXPLAIN, dispatched_subject, pool_filter, server_token
from ...events.task import (
    NO_PLAN,
    PRIORITIES,
    AttemptFailed,
    TaskEvent,
    TaskFailed,
)
from ...explain.explanation import Explanation, decode
from ...explain.held import ParentState, held_by
from ...explain.hold import Hold, summary
from ...explain.queued import QueueState, queued_behind, unserved_by
from ...projections.active import count_running
from ...projections.task_view import TaskView, fold
from ...scheduling.eligibility import Considered, Standing, Stop, allowance, considered, missing_label, serves, stops
from ...streams.backlog import Backlog, backlogs, find_in_queue, waiting_since
from ...wire.fields import milliseconds
from ..auth.access import READERS_OF_ALL, ApiRequest, owned_ref
from ..parameters import TaskId
from ..problems import answers
from ..schemas.why import (
    WhyAnswer,
    ended_info,
    ended_sentence,
    hold_info,
    running_info,
    running_sentence,
    server_verdicts,
    verdict_counts,
)

log = structlog.get_logger(__name__)

SCHEDULER_SECONDS = 1.0
"""How long to wait for an answer of the scheduler."""
TRIES = 3
"""How often a history is read again when the scheduler says that the task is not held any more."""
NOTHING = Backlog(0, 0, 0)

SchedulerAnswer = Literal["answered", "silent", "not asked"]


class _Known(NamedTuple):
    """A task's history, and what it comes to."""

    ref: TaskRef
    view: TaskView
    history: Sequence[Stored[TaskEvent]]

    @property
    def since(self) -> datetime:
        """Return when the task came to where it is: was held, queued, started or ended."""
        recorded = (stored.recorded for stored in reversed(self.history))
        return next(each.at for each in recorded if kind_of(each.event).moves)


class Why:
    """What the route does, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def answer(self, ref: TaskRef, *, to_reader_of_all: bool) -> WhyAnswer:
        """Return why a task is where it is; servers are named to readers of all alone. Raises NotFound."""
        known = await self._known(ref, deleted=to_reader_of_all)
        scheduler: SchedulerAnswer = "not asked"
        holds: list[Hold] = []
        servers: list[Considered] = []
        said: Explanation | None = None
        for _ in range(TRIES):
            if known.view.status != "WAITING":
                break
            if not known.view.held:
                servers = await self._considered(known.view)
                holds = await self._queued(known, servers, telling=to_reader_of_all)
                break
            said = await self._ask(ref)
            scheduler = "answered" if said is not None else "silent"
            servers = await self._considered(known.view)
            holds = await self._held(known, said, servers, telling=to_reader_of_all)
            if said is None or said.known == "held":
                break
            known = await self._known(ref, deleted=to_reader_of_all)
        return _answer(known, holds, servers, scheduler, to_reader_of_all=to_reader_of_all)

    async def _known(self, ref: TaskRef, *, deleted: bool) -> _Known:
        """Return a task as the log has it. Raises NotFound."""
        history = await self.container.tasks.history(ref, deleted=deleted)
        view: TaskView | None = None
        for stored in history:
            view = fold(view, stored)
        if view is None:
            raise NotFound("task", ref.id)  # its beginning is past its retention
        return _Known(ref, view, history)

    # Held

    async def _ask(self, ref: TaskRef) -> Explanation | None:
        """Return what the scheduler says of a task; None if it does not answer in time."""
        try:
            answer = await self.container.reading.request(
                SCHEDULER_EXPLAIN, ref.id.encode(), timeout_seconds=SCHEDULER_SECONDS
            )
            return decode(answer.data)
        except (StoreUnavailable, MsgspecError) as error:
            log.info("why.scheduler-silent", reason=str(error))
            return None

    async def _parents(self, known: _Known) -> Mapping[str, ParentState]:
        depends_on = (known.view.plan or NO_PLAN).depends_on
        if not depends_on:
            return {}
        listed = await self.container.tasks.views([parse_task_id(parent) for parent in depends_on], known.ref.owner)
        return {each.ref.id: ParentState(each.ref.id, each.view.status, each.view.ended_at) for each in listed}

    async def _held(
        self, known: _Known, said: Explanation | None, servers: Sequence[Considered], *, telling: bool
    ) -> list[Hold]:
        view = known.view
        unserved = unserved_by(view, known.since, self._stops(view), servers, telling=telling)
        return held_by(view, known.since, said, await self._parents(known), unserved, utc_now())

    def _stops(self, view: TaskView) -> list[Stop]:
        fleet = self.container.fleet
        return stops(
            view.pool, fleet.pool_state(view.pool).pause, view.task_type, fleet.type_state(view.task_type).pause
        )

    # Queued

    async def _queued(self, known: _Known, servers: Sequence[Considered], *, telling: bool) -> list[Hold]:
        queue = await self._place(known)
        return queued_behind(
            known.view, known.since, self._stops(known.view), servers, queue, utc_now(), telling=telling
        )

    async def _place(self, known: _Known) -> QueueState:
        view = known.view
        pool = token(view.pool)
        found = await backlogs(self.container.reading)
        of_pool = {priority: found.get(pool_filter(pool, priority), NOTHING) for priority in PRIORITIES}
        in_queue = await find_in_queue(
            self.container.reading,
            dispatched_subject(known.ref, view.pool, view.priority),
            pool_filter(pool, view.priority),
            of_pool[view.priority],
        )
        higher = PRIORITIES[: PRIORITIES.index(view.priority)]
        return QueueState(
            ahead=in_queue.ahead if in_queue else 0,
            higher=sum(of_pool[priority].waiting for priority in higher),
            handed_out=in_queue is not None and in_queue.handed_out,
            missing=in_queue is None,
        )

    # Servers

    async def _considered(self, view: TaskView) -> list[Considered]:
        """Return what every server is as a place for a task."""
        container, require = self.container, (view.plan or NO_PLAN).require
        await container.fleet.catch_up(container.reading)
        servers = list(container.fleet.servers())
        fitting = [
            server
            for server in servers
            if serves(server.settings, view.task_type) and missing_label(server.settings, require) is None
        ]
        running = await count_running(container.buckets.tasks, [server_token(server.server_id) for server in fitting])
        standing_by = await self._standing_by(fitting, running)
        standings = [
            Standing(server, running.get(server_token(server.server_id)), server.server_id in standing_by)
            for server in servers
        ]
        return considered(view.task_type, require, standings)

    async def _standing_by(self, servers: Sequence[Present], running: Mapping[str, int]) -> set[str]:
        """Return which of these servers are there for overflow and have no call to help out now."""
        helpers = [server for server in servers if server.settings.overflow is not None]
        if not helpers:
            return set()
        found = await backlogs(self.container.reading)
        return {
            server.server_id
            for server in helpers
            if not await self._helps(server, running[server_token(server.server_id)], found)
        }

    async def _helps(self, server: Present, running: int, found: Mapping[str, Backlog]) -> bool:
        container, overflow = self.container, server.settings.overflow
        assert overflow is not None
        served = [
            pool_filter(token(pool), priority)
            for pool in container.fleet.pools_of(server)
            if not container.fleet.pool_waits(pool)
            for priority in PRIORITIES
        ]
        queues = [(subjects, found[subjects]) for subjects in served if found.get(subjects, NOTHING).waiting]
        now = utc_now()
        times = [await waiting_since(container.reading, subjects, backlog) for subjects, backlog in queues]
        oldest = max((now - at for at in times if at is not None), default=timedelta())
        waiting = sum(backlog.waiting for _, backlog in queues)
        return allowance(overflow, waiting, oldest, server.settings.max_concurrent, helping=running > 0) > 0


def _answer(
    known: _Known,
    holds: Sequence[Hold],
    servers: Sequence[Considered],
    scheduler: SchedulerAnswer,
    *,
    to_reader_of_all: bool,
) -> WhyAnswer:
    view, since = known.view, known.since
    ended = None
    match view.status:
        case "WAITING":
            sentence = summary(list(holds))
        case "PROCESSING":
            sentence = running_sentence(view)
        case "FINISHED" | "FAILED" | "CANCELLED":
            ended = ended_info(view, _ending(known), utc_now())
            sentence = ended_sentence(view, ended.by)
    return WhyAnswer(
        task_id=known.ref.id,
        status=view.status,
        held=view.held,
        since=milliseconds(since),
        summary=sentence,
        holds=[hold_info(hold) for hold in holds],
        verdicts=verdict_counts(servers),
        servers=server_verdicts(servers) if to_reader_of_all else None,
        running=running_info(view, since) if view.status == "PROCESSING" else None,
        ended=ended,
        attempt=view.attempt,
        attempts=view.attempts,
        last_error=_last_error(known.history),
        scheduler=scheduler,
    )


def _ending(known: _Known) -> Recorded[TaskEvent]:
    return next(stored.recorded for stored in reversed(known.history) if kind_of(stored.recorded.event).ends)


def _last_error(history: Sequence[Stored[TaskEvent]]) -> str | None:
    events = (stored.recorded.event for stored in reversed(history))
    return next((event.error for event in events if isinstance(event, AttemptFailed | TaskFailed)), None)


def why_router(container: Container) -> Router:
    """Return the route."""
    why = Why(container)

    @get(
        "/task/{task_id:str}/why",
        responses=answers(400, 401, 403, 404, 503),
        response_description="What it waits for, where it runs, or how it ended",
        summary="Ask why a task is where it is",
    )
    async def get_why(request: ApiRequest, task_id: TaskId) -> WhyAnswer:
        """Return, in words and data, what keeps a task from starting, since when, and what would release it.

        Of a running task: where and how far; of an ended one: how, by whom and why. Admins and auditors are told of
        each server what keeps it from being given the task; others how many servers are what.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        return await why.answer(ref, to_reader_of_all=request.user.has(*READERS_OF_ALL))

    return Router(path="/", route_handlers=[get_why], tags=["Tasks"])
