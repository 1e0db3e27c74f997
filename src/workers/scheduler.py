"""Queues held tasks when nothing holds them any more. One keeper at a time, under a lease.

Who is authoritative: the log; the keeper's book is a fold of it. What gives safety: every batch of releases carries a
message on `scheduler.turn`, guarded by the last one of it, and each release is guarded by its task's own sequence; a
keeper that was deposed and does not know it yet stores nothing, so that two never fill the same room. What gives
liveness: the lease; whoever has it begins with the views of the active tasks and goes on with the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import assert_never

import nats.errors
import structlog
from nats.aio.msg import Msg

from ..clock import unique_id, utc_now
from ..commands.commands import Commands
from ..commands.task import CancelUnstarted, Ended, ExpireTask, FailByParent, HoldTask, TaskCommand, Unknown
from ..commands.task_holds import queue_held
from ..errors import Conflict, OutcomeUnknown, Refused, StoreError
from ..events.codec import task_codec
from ..events.envelope import Actor, Recorded
from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import MOVING_WORDS, kind_of
from ..events.subjects import SCHEDULER_BACKLOG, SCHEDULER_EXPLAIN, SCHEDULER_FENCE, task_ref, task_root, task_word
from ..events.task import AttemptStarted, TaskEvent
from ..explain.explanation import encode as encode_explanation
from ..explain.explanation import explain
from ..projections.active import entered_tasks, projected
from ..projections.fleet import Fleet
from ..projections.task_view import TaskView, awaited
from ..projections.task_view import fold as fold_view
from ..runtime import metrics
from ..runtime.service import Service
from ..scheduling.backlog_report import BacklogReport, OwnerBacklog
from ..scheduling.backlog_report import encode as encode_word
from ..scheduling.held_tasks import (
    AskParent,
    Cancel,
    Due,
    Expire,
    FailChild,
    HeldTasks,
    ParentOutcome,
    Reread,
    TakeBack,
)
from ..scheduling.limit import Stage, TaskEntry
from ..scheduling.rules import FleetRules
from ..settings import Settings
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.committer import Append, StreamMessage
from ..streams.jetstream.messages import Position, last_position
from ..streams.leases import Lease, Membership
from ..streams.log import LogEntry, decode
from ..streams.tail import Tail
from ..streams.topology.definitions import TASKS

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 400
"""Releases in one batch. JetStream takes a thousand messages; a smaller one is sooner on its way to the servers."""
LONGEST_WAIT_SECONDS = 1.0
WORD_SECONDS = 0.1
"""How often those who admit tasks are told who has much waiting."""
TOLD_OWNERS = 1_000
"""About how many owners are told of: with so many more, only those who have so much more waiting."""
WINDOWS_SECONDS = 0.5
TIDY_SECONDS = 30.0
GRANT_SECONDS = 15.0
"""How long a task may be counted in without starting, where that keeps its owner's others from starting elsewhere."""
BY = Actor("system", "scheduler")
LONG_AGO = 1
"""Sequence of the end of a task whose history is past its retention: before that of any child that there is."""
OUTCOMES: dict[str, ParentOutcome] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled"}


class Scheduler(Service):
    def __init__(
        self,
        settings: Settings,
        members: Membership,
        connection: Connection,
        commands: Commands,
        fleet: Fleet,
        tasks_bucket: Bucket,
        tail: Tail,
    ) -> None:
        """`tail`: of the TASKS log."""
        super().__init__("scheduler", lease=Lease(members, "scheduler"))
        self._settings = settings
        self._members = members
        self._connection = connection
        self._commands = commands
        self._fleet = fleet
        self._tasks_bucket = tasks_bucket
        self._tail = tail
        self._rules = FleetRules(fleet)
        self._held_tasks = self._new_book()
        self._fence = 0
        """Sequence of the last message on KEEPER_TURN, which is ours."""
        self._most = MOST_AT_ONCE
        self._as_of = 0
        self._told_as_of = -1
        self._started: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._servers_changed = False
        fleet.watch_limits(self._on_rules_changed)
        fleet.watch(self._on_servers_changed)

    def _new_book(self) -> HeldTasks:
        return HeldTasks(self._rules, self._settings.priority_ageing, time.time())

    def _on_servers_changed(self, _: Collection[str]) -> None:
        self._rules.forget_servers()
        self._servers_changed = True
        self._news.set()

    def _on_rules_changed(self) -> None:
        self._rules.forget_servers()
        self._rules.observe({}, WINDOWS_SECONDS)
        self._held_tasks.room.refresh(time.time())
        self._news.set()

    # Taking over

    async def _serve(self) -> None:
        """Enter what is active, then follow the log and act on it until the lease is lost."""
        await self._take_turn()
        self._rules.observe({}, WINDOWS_SECONDS)
        self._held_tasks = self._new_book()
        self._as_of = await projected(self._tasks_bucket)
        for task in await entered_tasks(self._tasks_bucket):
            self._held_tasks.add(entry_of(task.ref, task.view), time.time())
        log.info("scheduler.started", active=len(self._held_tasks), fence=self._fence)
        caught_up = asyncio.Event()
        await self._serve_together(self._follow(caught_up), self._act(caught_up))

    async def _take_turn(self) -> None:
        """Put a message on KEEPER_TURN: from now on no batch of a former keeper is stored."""
        while True:
            last = await last_position(self._connection, TASKS, SCHEDULER_FENCE)
            append = _fence(self._members.id, last.sequence if last else 0)
            with contextlib.suppress(Conflict, OutcomeUnknown):
                self._fence = await self._commands.tasks.log.append_fence(append)
                return

    async def _follow(self, caught_up: asyncio.Event) -> None:
        """Enter what happens, for ever."""
        async with contextlib.aclosing(self._tail.follow(self._as_of)) as batches:
            async for positions in batches:
                heeded, others = _split(positions)
                self._enter(heeded)
                if not caught_up.is_set():
                    self._held_tasks.notice(task_ref(position.subject) for position in others)
                if not positions and not caught_up.is_set():
                    self._held_tasks.room.begin(time.time())
                    caught_up.set()
                if heeded or not positions:
                    self._news.set()

    def _enter(self, positions: Sequence[Position]) -> None:
        now = time.time()
        for position in positions:
            ref, (sequence, recorded) = task_ref(position.subject), decode(task_codec, position)
            if isinstance(recorded.event, AttemptStarted) and (entry := self._held_tasks.find(ref)):
                self._started[entry.pool] += 1
            self._held_tasks.fold(ref, sequence, recorded, now)
            self._as_of = sequence

    # Acting

    async def _act(self, caught_up: asyncio.Event) -> None:
        """Release, do what else is due, and answer who asks, until the lease is lost."""
        await caught_up.wait()
        asked = await self._connection.subscribe(SCHEDULER_EXPLAIN, self._answer)
        try:
            await self._act_on(_Chores())
        finally:
            with contextlib.suppress(nats.errors.Error):
                await asked.unsubscribe()

    async def _act_on(self, chores: _Chores) -> None:
        while True:
            self._news.clear()
            if self._servers_changed:
                self._servers_changed = False
                self._held_tasks.room.refresh(time.time(), "servers")
            await self.run_once()
            await self._do_chores(chores)
            now = time.time()
            soonest = WORD_SECONDS if self._told_as_of != self._as_of else LONGEST_WAIT_SECONDS
            next_at = min(self._held_tasks.next_at() or now + LONGEST_WAIT_SECONDS, now + soonest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - now)):
                    await self._news.wait()

    async def _answer(self, message: Msg) -> None:
        """Say why a task is held; whoever asks for what is no task is not answered."""
        with contextlib.suppress(Refused, UnicodeDecodeError, StoreError):
            explanation = explain(self._held_tasks, parse_task_id(message.data.decode()), self._as_of, time.time())
            await self._connection.publish(message.reply, encode_explanation(explanation))

    async def run_once(self) -> dict[str, int]:
        """Do what is to be done now; return how many tasks were released, and how many other things were done."""
        counts = {"released": 0, "done": 0}
        while found := self._held_tasks.take_due(time.time()):  # one thing done may call for another before any release
            for due in found:
                await self._do(due)
            counts["done"] += len(found)
        while released := await self._release():
            counts["released"] += released
            metrics.released.inc(released)
        return counts

    async def _release(self) -> int:
        """Queue some of those that nothing holds, in one batch; return how many."""
        chosen = self._held_tasks.release(time.time(), self._most)
        if not chosen:
            return 0
        at = utc_now()
        entries = [_release(entry, at) for entry in chosen]
        began = time.monotonic()
        try:
            last = await self._commands.tasks.log.append_together(entries, fence=_fence(self._members.id, self._fence))
        except Conflict:
            self._held_tasks.put_back(chosen, time.time())
            await self._after_conflict()
            return 0
        except StoreError:
            self._held_tasks.put_back(chosen, time.time())
            raise
        self._rules.stored(time.monotonic() - began)
        self._held_tasks.released(chosen, last - len(chosen) + 1)
        self._fence = last - len(chosen)
        self._most = min(self._most * 2, MOST_AT_ONCE)
        return len(chosen)

    async def _after_conflict(self) -> None:
        """A task of the batch has moved on, and the news of it is on its way; or somebody else is the keeper."""
        last = await last_position(self._connection, TASKS, SCHEDULER_FENCE)
        if last is not None and last.sequence != self._fence:
            raise Deposed
        self._most = max(1, self._most // 4)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await self._news.wait()

    async def _do(self, due: Due) -> None:
        match due:
            case Expire(ref):
                await self._command(ref, ExpireTask())
            case Cancel(ref, reason):
                await self._command(ref, CancelUnstarted(reason=reason))
            case FailChild(ref, parent_id, outcome):
                await self._command(ref, FailByParent(parent_id=parent_id, outcome=outcome))
            case TakeBack(ref, reason):
                await self._command(ref, HoldTask(reason=reason))
            case AskParent(parent_id):
                await self._ask(parent_id)
            case Reread(ref):
                await self._reread(ref)
            case _:
                assert_never(due)

    async def _command(self, ref: TaskRef, command: TaskCommand) -> None:
        with contextlib.suppress(Refused):  # it has ended meanwhile
            await self._commands.task(ref, command, by=BY)

    async def _ask(self, parent_id: str) -> None:
        """Find out whether a parent has ended. If not, the log will tell; one it does not know is gone."""
        history = await self._commands.tasks.history(parse_task_id(parent_id))
        state = self._commands.tasks.fold(history).state
        if isinstance(state, Ended):
            sequence = max(stored.sequence for stored in history if kind_of(stored.recorded.event).ends)
            self._held_tasks.parent_ended(parent_id, OUTCOMES[state.outcome], sequence, time.time())
        elif isinstance(state, Unknown):
            self._held_tasks.parent_ended(parent_id, "failed", LONG_AGO, time.time())

    async def _reread(self, ref: TaskRef) -> None:
        """Enter a task that goes on, unless it has ended by now; of one that is entered, what came meanwhile."""
        history = await self._commands.tasks.history(ref)
        if self._held_tasks.find(ref) is not None:
            for sequence, recorded in history:
                self._held_tasks.fold(ref, sequence, recorded, time.time())
            return
        view: TaskView | None = None
        for stored in history:
            view = fold_view(view, stored)
        if view is not None and view.ended_at is None:
            self._held_tasks.add(entry_of(ref, view), time.time())

    # From time to time

    async def _do_chores(self, chores: _Chores) -> None:
        seconds = chores.seconds_since("windows")
        if chores.is_due("windows", WINDOWS_SECONDS):
            self._rules.observe(self._started, seconds)
            self._started.clear()
            self._held_tasks.room.refresh(time.time(), "window")
        if chores.is_due("word", WORD_SECONDS if self._told_as_of != self._as_of else LONGEST_WAIT_SECONDS):
            await self._tell()
        if chores.is_due("stuck", GRANT_SECONDS / 3):
            for take_back in self._held_tasks.stuck(time.time() - GRANT_SECONDS):
                await self._do(take_back)
        if chores.is_due("tidy", TIDY_SECONDS):
            self._held_tasks.room.tidy(time.time())

    async def _tell(self) -> None:
        metrics.held.set(self._held_tasks.held)
        owners = {
            owner: OwnerBacklog(waits.waiting, waits.queued)
            for owner, waits in self._held_tasks.waits(1 + self._held_tasks.owners_waiting // TOLD_OWNERS).items()
        }
        word = BacklogReport(
            as_of=self._as_of,
            windows=dict(self._rules.windows),
            owners=owners,
            held_back=self._held_tasks.room.held_back(),
            paces=self._rules.paces,
        )
        self._told_as_of = word.as_of
        await self._connection.publish(SCHEDULER_BACKLOG, encode_word(word))


class Deposed(StoreError):
    """Somebody else is the keeper."""


class _Chores:
    """When each thing that is done from time to time was done last, monotonic."""

    def __init__(self) -> None:
        self._done_at: dict[str, float] = {}

    def is_due(self, name: str, every_seconds: float) -> bool:
        """Tell whether a thing is to be done again, and note it as done."""
        now = time.monotonic()
        if now < self._done_at.get(name, -1e9) + every_seconds:
            return False
        self._done_at[name] = now
        return True

    def seconds_since(self, name: str) -> float:
        """Return how long ago a thing was done; very long, if it never was."""
        return time.monotonic() - self._done_at.get(name, -1e9)


def _split(positions: Sequence[Position]) -> tuple[list[Position], list[Position]]:
    """Return those whose events the book reflects, and the others."""
    heeded: list[Position] = []
    others: list[Position] = []
    for position in positions:
        (heeded if task_word(position.subject) in MOVING_WORDS else others).append(position)
    return heeded, others


def _fence(scheduler: str, expected: int) -> Append:
    return Append(
        messages=[StreamMessage(SCHEDULER_FENCE, scheduler.encode())], guard=SCHEDULER_FENCE, expected=expected
    )


def _release(entry: TaskEntry, at: datetime) -> LogEntry[TaskEvent]:
    """Return the release of a task, guarded by the last event that the scheduler knows of it."""
    event = queue_held(entry, entry.created_sequence)
    recorded: Recorded[TaskEvent] = Recorded(id=unique_id(), at=at, by=BY, cause=str(entry.sequence), event=event)
    return LogEntry(root=task_root(entry.ref), events=[recorded], expected=entry.sequence)


def entry_of(ref: TaskRef, view: TaskView) -> TaskEntry:
    """Return what the book holds of a task, as its view says."""
    if view.status == "PROCESSING":
        stage = Stage.RUNNING
    elif view.held:
        stage = Stage.HELD
    else:
        stage = Stage.RETRYING if view.retry_at else Stage.QUEUED
    return TaskEntry(
        ref=ref,
        sequence=view.sequence,
        created_sequence=view.created_sequence,
        pool=view.pool,
        priority=view.priority,
        task_type=view.task_type,
        submitted_at=view.created_at.timestamp(),
        stage=stage,
        granted=view.granted,
        granted_at=view.updated_at.timestamp(),
        attempt=view.attempt,
        renewed_after=view.renewed_after,
        plan=awaited(view),
    )
