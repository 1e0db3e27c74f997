"""The reconciler: finds tasks that a crash left between two steps, and takes the second step.

Authoritative: the log. Safety: every remedy is a command, guarded like any other. Liveness: one worker at a time
searches every interval, and at once when a worker has died or NATS has come back. Tolerated: a task may be queued
twice; its claim makes that harmless. A task or schedule with an event that does not decode is left to the version that
wrote it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum, auto

import structlog

from ..clock import utc_now
from ..commands.task_commands import RequeueTask
from ..commands.task_state import Ended, Unknown
from ..container import Container
from ..errors import Refused, StoreUnavailable, UnreadableEvent
from ..events.envelope import Actor
from ..events.ids import TaskRef
from ..events.subjects import (
    DISPATCH_SUBJECTS,
    TASK_SUBJECTS,
    dispatched_ref,
    due_retry_filter,
    server_token,
    timer_name,
    timer_subject,
    timers_filter,
)
from ..projections.active import active_tasks, projected, remove_stale, unstarted_tasks
from ..projections.task_view import Listed, TaskView
from ..runtime.service import Service
from ..streams.backlog import delete_hiding
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import SUBJECTS_PAGE, last_sequence, last_sequence_of_most, list_subjects
from ..streams.leases import Lease, Membership
from ..streams.topology.definitions import DISPATCH, RETRIES, TASKS, TIMERS
from ..streams.topology.sources import raise_floor
from .attempts.outcomes import DEADLINE_PASSED, WORKER_LOST, end_busy_wait, fail_attempt
from .cron import Cron
from .file_sweeper import FileSweeper
from .result_sweeper import ResultSweeper

log = structlog.get_logger(__name__)

SETTLED_AFTER = timedelta(seconds=10)
"""A task that changed more recently may be between two steps that a live process is still taking."""
FORGOTTEN_AFTER = timedelta(minutes=2)
"""How far past its deadline a call of a live worker counts as forgotten: the worker may be waiting for NATS to record
the outcome."""
BY = Actor("system", "reconciler")
LOOKED_FOR_AT_ONCE = 64


class Remedy(Enum):
    """What a task needs."""

    NONE = auto()
    QUEUE_AGAIN = auto()
    ATTEMPT_LOST = auto()
    ATTEMPT_EXPIRED = auto()
    BUSY_TOO_LONG = auto()


def diagnose(view: TaskView, now: datetime, *, queued: bool, worker_alive: bool) -> Remedy:
    """Return what a task that has not ended needs.

    `queued`: its message is in the queue, or its retry in the timers. `worker_alive`: the worker that makes its call
    is alive.
    """
    if view.status == "PROCESSING":
        if not view.accepted and not worker_alive:
            return Remedy.ATTEMPT_LOST
        margin = SETTLED_AFTER if view.accepted else FORGOTTEN_AFTER
        overdue = view.deadline is not None and view.deadline + margin < now
        return Remedy.ATTEMPT_EXPIRED if overdue else Remedy.NONE
    if view.held:
        return Remedy.NONE  # the scheduler queues it
    if view.busy_until is not None and view.busy_until + SETTLED_AFTER < now:
        return Remedy.BUSY_TOO_LONG
    due_at = view.retry_at or view.updated_at
    return Remedy.QUEUE_AGAIN if not queued and due_at + SETTLED_AFTER < now else Remedy.NONE


@contextlib.contextmanager
def _unreadable_left(counts: Counter[str]) -> Iterator[None]:
    """Leave alone what an event that does not decode is about, and count it."""
    try:
        yield
    except UnreadableEvent as error:
        log.warning("reconciler.unreadable", reason=str(error))
        counts["unreadable"] += 1


class Reconciler(Service):
    def __init__(self, container: Container, members: Membership, cron: Cron) -> None:
        super().__init__("reconciler", lease=Lease(members, "reconciler"), period_seconds=members.period_seconds)
        self._container = container
        self._settings = container.settings
        self._connection = container.reading
        self._commands = container.commands
        self._tasks_bucket = container.buckets.tasks
        self._members = members
        self._cron = cron
        self._sweeper = ResultSweeper(container)
        self._file_sweeper = FileSweeper(container)
        self._next_at = 0.0
        """When the next search is due though no worker has died, monotonic."""
        self._unsubmitted: set[TaskRef] = set()
        """Tasks that had a key and no submission at the last search."""

    async def _prepare(self) -> None:
        await self._members.observed()

    async def _serve(self) -> None:
        """Search if the interval is over or a worker has died."""
        dead = self._members.dead()
        if not dead and time.monotonic() < self._next_at:
            return
        counts = await self.run_once()
        self._next_at = time.monotonic() + self._settings.reconcile_interval
        if any(counts.values()):
            log.info("reconciler.done", **counts)
        for process in dead:
            if process in self._members.dead():
                await self._members.bury(process)

    def wake(self) -> None:
        """Search now: NATS may have come back with less than it had."""
        self._next_at = 0.0
        super().wake()

    async def run_once(self) -> Mapping[str, int]:
        """Search once; return how many of each remedy were applied, and how many things could not be read."""
        counts: Counter[str] = Counter()
        counts["consumers_deleted"] = await self._delete_hiding()
        await self._projection_is_current()
        now = utc_now()
        reflected = await projected(self._tasks_bucket)  # read first: later events are above any floor
        tasks = await active_tasks(self._tasks_bucket)
        queued = await self._queued() if tasks else set()
        # Observed after the tasks are read: a worker announces itself before it starts one.
        await self._members.observe()
        alive = {worker for worker in {task.view.worker_id for task in tasks} if self._members.is_alive(worker)}
        for task in tasks:
            remedy = diagnose(task.view, now, queued=task.ref in queued, worker_alive=task.view.worker_id in alive)
            with contextlib.suppress(Refused), _unreadable_left(counts):
                await self._apply(remedy, task, counts)
        counts["checks_set"] = await self._set_missing_checks()
        with _unreadable_left(counts):
            counts["schedules_set"] = await self._cron.set_missing()
        await self._destroy_left_keys(tasks, counts)
        counts.update(await self._sweeper.run_once(now))
        counts.update(await self._file_sweeper.run_once(now))
        counts["stale_removed"] = await remove_stale(self._tasks_bucket)
        if self._settings.replicas == 1:  # a replicated queue is synced: it forgets nothing
            # Whatever was submitted before the oldest task that has not ended needs no queue any more.
            # What is held comes into a queue by an event that is still to come.
            queued_from = (task.view.created_sequence for task in tasks if not task.view.held)
            await raise_floor(self._connection, min([reflected + 1, *queued_from]))
        return counts

    async def uncopied_from(self) -> dict[str, int]:
        """Return, for each source of DISPATCH, the first sequence that may not have been copied yet.

        Everything before it is in the queue or needs no queue. Raises StoreUnavailable.
        """
        last_fired = int((await api(self._connection, f"STREAM.INFO.{RETRIES}"))["state"]["last_seq"])
        reflected = await projected(self._tasks_bucket)  # read first: what is later is copied whatever it is
        tasks = [task for task in await unstarted_tasks(self._tasks_bucket) if not task.view.held]
        queued = await self._queued() if tasks else set()
        waiting = [task for task in tasks if task.ref not in queued]
        retried = [
            await last_sequence(self._connection, RETRIES, due_retry_filter(task.ref))
            for task in waiting
            if task.view.retry_at is not None
        ]
        submitted = [task.view.created_sequence for task in waiting if task.view.retry_at is None]
        return {
            TASKS: min([reflected + 1, *submitted]),
            RETRIES: min([last_fired + 1, *(sequence for sequence in retried if sequence)]),
        }

    async def _apply(self, remedy: Remedy, task: Listed, counts: Counter[str]) -> None:
        match remedy:
            case Remedy.QUEUE_AGAIN:
                await self._commands.task(task.ref, RequeueTask(reason="it was in no queue"), by=BY)
                counts["queued_again"] += 1
            case Remedy.ATTEMPT_LOST:
                await fail_attempt(self._container, task.ref, task.view.attempt, WORKER_LOST, by=BY)
                counts["attempts_lost"] += 1
            case Remedy.ATTEMPT_EXPIRED:
                await fail_attempt(self._container, task.ref, task.view.attempt, DEADLINE_PASSED, by=BY)
                counts["attempts_expired"] += 1
            case Remedy.BUSY_TOO_LONG:
                await end_busy_wait(self._container, task.ref, by=BY)
                counts["busy_too_long"] += 1
            case Remedy.NONE:
                pass

    async def _projection_is_current(self) -> None:
        """Raise StoreUnavailable unless the projection reflects the whole log: remedies from less would be guesses."""
        last = await last_sequence_of_most(self._connection, TASKS, TASK_SUBJECTS)  # fences are not projected
        for _ in range(100):
            if await projected(self._tasks_bucket) >= last:
                return
            await asyncio.sleep(0.1)
        raise StoreUnavailable("the projection of tasks lags behind")

    async def _delete_hiding(self) -> int:
        """Delete the consumers that do not deliver what is in the queue; return how many."""
        if names := await delete_hiding(self._connection):
            log.warning("queues.messages-hidden", consumers=names, action="deleting them: workers create them again")
        return len(names)

    async def _queued(self) -> set[TaskRef]:
        """Return the tasks that are in the queue, or will be when a timer fires.

        Every consumer delivers what is there: `_delete_hiding` sees to it.
        """
        waiting = {dispatched_ref(subject) for subject in await self._dispatched()}
        retries = await list_subjects(self._connection, RETRIES, timer_subject("retry", ">"))
        return waiting | {TaskRef(*timer_name(subject)) for subject in retries}

    async def _dispatched(self) -> list[str]:
        """Return the subjects of the queue that have a message.

        After its disk was full NATS (2.15.1) may go on listing one whose message is gone: then each is looked for.
        """
        state = (await api(self._connection, f"STREAM.INFO.{DISPATCH}", {"subjects_filter": DISPATCH_SUBJECTS}))[
            "state"
        ]
        listed: dict[str, int] = state.get("subjects") or {}
        if len(listed) >= SUBJECTS_PAGE:
            return await list_subjects(self._connection, DISPATCH, DISPATCH_SUBJECTS)
        if sum(listed.values()) <= state["messages"]:
            return list(listed)
        places = asyncio.Semaphore(LOOKED_FOR_AT_ONCE)

        async def is_there(subject: str) -> bool:
            async with places:
                return await last_sequence(self._connection, DISPATCH, subject) > 0

        there = await asyncio.gather(*map(is_there, listed))
        return [subject for subject, found in zip(listed, there, strict=True) if found]

    async def _set_missing_checks(self) -> int:
        """Set a check for every server that has none: a crash came between its registration and its timer.

        Also for removed servers that are kept, which wait for a check that restores or forgets them.
        """
        checks = {
            timer_name(subject) for subject in await list_subjects(self._connection, TIMERS, timers_filter("check"))
        }
        count = 0
        fleet = self._container.fleet
        since = [(server.server_id, server.registered_at) for server in fleet.servers()]
        since += [(server.server_id, server.removed_at) for server in fleet.removed() if server.is_kept]
        for server_id, at in since:
            if at + SETTLED_AFTER < utc_now() and (server_token(server_id),) not in checks:
                await self._container.timers.check_server(server_id, utc_now())
                count += 1
        return count

    async def _destroy_left_keys(self, active: list[Listed], counts: Counter[str]) -> None:
        """Destroy the keys of tasks that have ended, or were never submitted: a crash came between."""
        unended = {task.ref for task in active}
        unsubmitted: set[TaskRef] = set()
        for ref, key_ids in (await self._container.secrets.ids(TaskRef)).items():
            if ref in unended:
                continue
            with _unreadable_left(counts):
                state = (await self._commands.tasks.load(ref)).state
                if isinstance(state, Unknown) and ref not in self._unsubmitted:
                    unsubmitted.add(ref)  # its submission may be on its way
                elif isinstance(state, Unknown | Ended):
                    await self._container.secrets.destroy(ref, *key_ids)
                    counts["keys_destroyed"] += len(key_ids)
        self._unsubmitted = unsubmitted
