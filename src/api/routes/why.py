"""Why a task waits, runs or ended: from its history, the scheduler, the fleet and the queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import structlog
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
    AttemptReturned,
    CancelReported,
    Priority,
    TaskEvent,
    TaskFailed,
    TaskQueued,
    TaskSubmitted,
)
from ...explain.explanation import Explanation, decode
from ...explain.holds import (
    Hold,
    ParentState,
    QueueState,
    by_full_store,
    held_by,
    key_unreadable,
    queued_behind,
    summary,
    unserved_by,
)
from ...instants import milliseconds
from ...projections.task_view import TaskView, fold
from ...scheduling.asks import AskReport
from ...scheduling.eligibility import (
    Considered,
    Standing,
    Stop,
    allowance,
    as_seen_by,
    considered,
    considered_removed,
    meets,
    serves,
    stops,
)
from ...streams.backlog import Backlog, backlogs, find_in_queue, waiting_since
from ...vault.sealing import SealingError, SecretMissing
from ..auth.access import READERS_OF_ALL, ApiRequest, owned_ref
from ..auth.narrowing import TASK, narrows
from ..parameters import TaskId
from ..routing import RouteHandler, Routes
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
"""How long to wait for the scheduler's explanation."""
BEFORE_SPACE = ("retry", "pool-paused", "type-paused", "no-server")
"""Holds of queued tasks that come before a full store."""
TRIES = 3
"""If the scheduler says that a task is no longer held, its history is read again: the event was on its way."""
EMPTY = Backlog(0, 0, 0)

SchedulerAnswer = Literal["answered", "silent", "not asked"]


class TaskHistory(NamedTuple):
    """A task, and the events that its state follows from."""

    ref: TaskRef
    view: TaskView
    events: Sequence[Stored[TaskEvent]]

    @property
    def last_move(self) -> Recorded[TaskEvent]:
        """The event by which the task was held or queued, started or ended."""
        recorded = (stored.recorded for stored in reversed(self.events))
        return next(each for each in recorded if kind_of(each.event).moves)

    @property
    def since(self) -> datetime:
        """When the task was held or queued, started or ended."""
        return self.last_move.at

    @property
    def is_bulk(self) -> bool:
        """True if the task is in a bulk queue, provided that it is in any."""
        event = self.last_move.event
        return isinstance(event, TaskSubmitted | TaskQueued) and event.bulk


async def explain_task(container: Container, ref: TaskRef, *, reads_all: bool) -> WhyAnswer:
    """Return why a task is in its state. Raises NotFound.

    `reads_all`: the caller is an admin or auditor, who also sees deleted tasks and the names of servers.
    """
    task = await load_history(container, ref, deleted=reads_all)
    scheduler: SchedulerAnswer = "not asked"
    holds: list[Hold] = []
    servers: list[Considered] = []
    for _ in range(TRIES):
        view = task.view
        if view.status != "WAITING":
            break
        if not view.held:
            servers = await consider_servers(container, view, ref.owner)
            queue = await queue_state(container, task)
            stopped = paused_by(container, view)
            holds = queued_behind(view, task.since, stopped, servers, queue, utc_now(), in_full=reads_all)
            if not await model_key_opens(container, task):
                holds.insert(0, key_unreadable(task.since))
            if container.space.is_scarce and not any(hold.kind in BEFORE_SPACE for hold in holds):
                holds.insert(0, by_full_store(task.since))
            break
        explanation = await ask_scheduler(container, ref)
        scheduler = "answered" if explanation is not None else "silent"
        servers = await consider_servers(container, view, ref.owner)
        unserved = unserved_by(view, task.since, paused_by(container, view), servers, in_full=reads_all)
        parents = await parent_states(container, task)
        holds = held_by(view, task.since, explanation, parents, unserved, utc_now())
        if explanation is None or explanation.known == "held":
            break
        task = await load_history(container, ref, deleted=reads_all)
    return _answer(task, holds, servers, scheduler, reads_all=reads_all)


async def load_history(container: Container, ref: TaskRef, *, deleted: bool) -> TaskHistory:
    """Return a task as the log has it. Raises NotFound."""
    events = await container.tasks.present_history(ref, deleted=deleted)
    view: TaskView | None = None
    for stored in events:
        view = fold(view, stored)
    if view is None:
        raise NotFound("task", ref.id)  # its first events are past their retention
    return TaskHistory(ref, view, events)


async def model_key_opens(container: Container, task: TaskHistory) -> bool:
    """Return False if a task came with a model key that cannot be decrypted now."""
    submitted = task.events[0].recorded.event
    if not isinstance(submitted, TaskSubmitted) or not submitted.key_id:
        return True
    try:
        await container.secrets.get(task.ref, submitted.key_id)
    except SecretMissing:
        return True  # it starts, and fails
    except SealingError:
        return False
    return True


async def ask_scheduler(container: Container, ref: TaskRef) -> Explanation | None:
    """Return the scheduler's explanation of a held task; None if no scheduler answers in time."""
    try:
        answer = await container.reading.request(SCHEDULER_EXPLAIN, ref.id.encode(), timeout_seconds=SCHEDULER_SECONDS)
        return decode(answer.data)
    except (StoreUnavailable, MsgspecError) as error:
        log.info("why.scheduler-silent", reason=str(error))
        return None


async def parent_states(container: Container, task: TaskHistory) -> Mapping[str, ParentState]:
    """Return the states of the tasks that a task depends on, by id."""
    depends_on = (task.view.plan or NO_PLAN).depends_on
    if not depends_on:
        return {}
    listed = await container.lists.views([parse_task_id(parent) for parent in depends_on], user=task.ref.owner)
    return {each.ref.id: ParentState(each.ref.id, each.view.status, each.view.ended_at) for each in listed}


def paused_by(container: Container, view: TaskView) -> list[Stop]:
    """Return the pauses of the pool and the type of a task."""
    fleet = container.fleet
    return stops(view.pool, fleet.pool_state(view.pool).pause, view.task_type, fleet.type_state(view.task_type).pause)


async def queue_state(container: Container, task: TaskHistory) -> QueueState:
    """Return the place of a task in its queue, and how many tasks wait before it.

    For a task of a bulk queue, those in the first queue count too: the two take turns, so it is at most so many.
    """
    view, pool, is_bulk = task.view, token(task.view.pool), task.is_bulk
    found = await backlogs(container.reading)

    def backlog(priority: Priority, *, bulk: bool) -> Backlog:
        return found.get(pool_filter(pool, priority, bulk=bulk), EMPTY)

    in_queue = await find_in_queue(
        container.reading,
        dispatched_subject(task.ref, view.pool, view.priority, bulk=is_bulk),
        pool_filter(pool, view.priority, bulk=is_bulk),
        backlog(view.priority, bulk=is_bulk),
    )
    ahead = in_queue.ahead if in_queue else 0
    if is_bulk and in_queue and not in_queue.handed_out:
        ahead += backlog(view.priority, bulk=False).waiting
    higher = PRIORITIES[: PRIORITIES.index(view.priority)]
    return QueueState(
        ahead=ahead,
        higher=sum(backlog(priority, bulk=bulk).waiting for priority in higher for bulk in (False, True)),
        handed_out=in_queue is not None and in_queue.handed_out,
        missing=in_queue is None,
    )


async def consider_servers(container: Container, view: TaskView, owner: str) -> list[Considered]:
    """Return a verdict on each server as a place for a task, also on removed ones that would fit and may return.

    `owner`: the owner's token.
    """
    require = (view.plan or NO_PLAN).requirements
    await container.fleet.catch_up(container.reading)
    servers = [as_seen_by(owner, server) for server in container.fleet.servers()]
    fitting = [server for server in servers if serves(server.settings, view.task_type) and meets(server, require)]
    running = await container.lists.running([server.server_id for server in fitting], user=owner)
    on_standby = await _on_standby(container, fitting, running)
    busy = await container.heartbeats.all_busy()
    asks = await container.pull_requests.reports(each.server_id for each in fitting if each.settings.is_pulled)
    standings = []
    for server in servers:
        name = server_token(server.server_id)
        assumed, asked = busy.get(name), asks.get(server.server_id)
        standings.append(
            Standing(
                server,
                running.get(server.server_id),
                server.server_id in on_standby,
                busy_since=assumed.since if assumed else None,
                next_try_at=assumed.next_try_at if assumed else None,
                limit=assumed.limit if assumed else None,
                open_asks=asked.wants if asked else None,
                unasked_for=_ago(asked),
            )
        )
    removed = (considered_removed(server, view.task_type, require) for server in container.fleet.removed())
    return [*considered(view.task_type, require, standings), *filter(None, removed)]


def _ago(asked: AskReport | None) -> timedelta | None:
    """Return how long ago a puller asked last; None: not known."""
    if asked is None or asked.asked_seconds_ago is None:
        return None
    return timedelta(seconds=asked.asked_seconds_ago)


async def _on_standby(container: Container, servers: Sequence[Present], running: Mapping[str, int]) -> set[str]:
    """Return which of these servers are for overflow and have no overflow to take now."""
    helpers = [server for server in servers if server.settings.overflow is not None]
    if not helpers:
        return set()
    found = await backlogs(container.reading)
    return {
        server.server_id for server in helpers if not await _helps(container, server, running[server.server_id], found)
    }


async def _helps(container: Container, server: Present, running: int, found: Mapping[str, Backlog]) -> bool:
    """Return True if an overflow server takes tasks now."""
    overflow = server.settings.overflow
    assert overflow is not None
    served = [
        pool_filter(token(pool), priority, bulk=bulk)
        for pool in container.fleet.pools_of(server)
        if not container.fleet.pool_waits(pool)
        for priority in PRIORITIES
        for bulk in (False, True)
    ]
    queues = [(subjects, found[subjects]) for subjects in served if found.get(subjects, EMPTY).waiting]
    now = utc_now()
    times = [await waiting_since(container.reading, subjects, backlog) for subjects, backlog in queues]
    oldest = max((now - at for at in times if at is not None), default=timedelta())
    waiting = sum(backlog.waiting for _, backlog in queues)
    return allowance(overflow, waiting, oldest, server.settings.max_concurrent, helping=running > 0) > 0


def _answer(
    task: TaskHistory,
    holds: Sequence[Hold],
    servers: Sequence[Considered],
    scheduler: SchedulerAnswer,
    *,
    reads_all: bool,
) -> WhyAnswer:
    view, since = task.view, task.since
    ended = None
    match view.status:
        case "WAITING":
            sentence = summary(list(holds))
        case "PROCESSING":
            sentence = running_sentence(view)
        case "FINISHED" | "FAILED" | "CANCELLED":
            ended = ended_info(view, _ending(task.events), _cancel_detail(view, task.events), utc_now())
            sentence = ended_sentence(view, ended.by)
    return WhyAnswer(
        task_id=task.ref.id,
        status=view.status,
        held=view.held,
        since=milliseconds(since),
        summary=sentence,
        holds=[hold_info(hold) for hold in holds],
        verdicts=verdict_counts(servers),
        servers=server_verdicts(servers) if reads_all else None,
        running=running_info(view, since) if view.status == "PROCESSING" else None,
        ended=ended,
        attempt=view.attempt,
        attempts=view.attempts,
        last_error=_last_error(task.events),
        scheduler=scheduler,
    )


def _ending(history: Sequence[Stored[TaskEvent]]) -> Recorded[TaskEvent]:
    return next(stored.recorded for stored in reversed(history) if kind_of(stored.recorded.event).ends)


def _cancel_detail(view: TaskView, history: Sequence[Stored[TaskEvent]]) -> str | None:
    reports = (stored.recorded.event for stored in reversed(history) if view.cancel_outcome)
    return next((event.detail for event in reports if isinstance(event, CancelReported)), None)


def _last_error(history: Sequence[Stored[TaskEvent]]) -> str | None:
    for stored in reversed(history):
        match stored.recorded.event:
            case AttemptFailed(error=error) | TaskFailed(error=error):
                return error
            case AttemptReturned(kind="busy" | "unsent", reason=reason):
                return reason
    return None


def why_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Tasks")

    @routes.get(
        "/task/{task_id:str}/why",
        "Ask why a task waits, runs or ended",
        "What the task waits for, where it runs, or how it ended",
        opt=narrows(TASK),
    )
    async def get_why(request: ApiRequest, task_id: TaskId) -> WhyAnswer:
        """Return what keeps a task from starting, since when, and what releases it, in words and data.

        For a running task: its server and progress. For an ended one: how it ended, by whom and why. Admins and
        auditors get a verdict on each server, others the number of servers for each verdict.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        return await explain_task(container, ref, reads_all=request.user.has(*READERS_OF_ALL))

    return routes.handlers
