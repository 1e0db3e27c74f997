"""The scheduler: releases held tasks into their queues. One process at a time, under a lease.

Authority: the log; the held tasks in memory are a fold of it. Safety: each batch of releases carries a fencing token (a
message on `scheduler.fence`, guarded by the one before), and each release is guarded by its task's own sequence. A
scheduler that lost its lease without knowing stores nothing, so two never use the same capacity. Liveness: the lease;
its holder starts from the views of the active tasks and follows the log from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import assert_never

import nats.errors
import structlog
from msgspec import MsgspecError
from nats.aio.msg import Msg

from ..clock import event_id, utc_now
from ..commands.task_holds import queue_held
from ..commands.task_state import Ended, Unknown
from ..container import Container
from ..errors import Conflict, OutcomeUnknown, Refused, StoreError
from ..events.codec import task_codec
from ..events.envelope import Actor, Recorded
from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import MOVING_WORDS, kind_of, word_of
from ..events.subjects import (
    SCHEDULER_BACKLOG,
    SCHEDULER_EXPLAIN,
    SCHEDULER_FENCE,
    history_filter,
    task_ref,
    task_root,
    task_word,
)
from ..events.task import AttemptStarted, TaskEvent, TaskSubmitted
from ..explain.explanation import encode as encode_explanation
from ..explain.explanation import explain
from ..explain.limit_use import decode_question, use_of_limits
from ..explain.limit_use import encode as encode_use
from ..instants import epoch_seconds
from ..projections.active import entered_tasks, projected
from ..projections.task_view import TaskView, awaited, view_key
from ..projections.task_view import decode as decode_view
from ..projections.task_view import fold as fold_view
from ..runtime import metrics
from ..runtime.service import Service
from ..scheduling.backlog_report import BacklogReport
from ..scheduling.backlog_report import encode as encode_report
from ..scheduling.depth import Depth, Reason
from ..scheduling.held_tasks import (
    AskParent,
    Due,
    DueCommand,
    HeldTasks,
    ParentOutcome,
    Reread,
)
from ..scheduling.limit import Stage, TaskEntry
from ..scheduling.rules import FleetRules
from ..streams.committer import Append, StreamMessage
from ..streams.jetstream.messages import Position, last_position, list_subjects
from ..streams.leases import Lease, Membership
from ..streams.log import LogEntry, decode
from ..streams.tail import Tail
from ..streams.topology.definitions import TASKS

log = structlog.get_logger(__name__)

LARGEST_BATCH = 400
"""Releases in one batch. JetStream allows 1,000 messages; a smaller batch reaches the servers sooner."""
LONGEST_WAIT_SECONDS = 1.0
BACKLOG_SECONDS = 0.1
"""How often the backlog report is published while events arrive."""
DEPTHS_SECONDS = 0.5
"""How often the waiting tasks are counted by what they wait for."""
DEPTHS_COST = 50
"""Counting takes this part of the time at most, one in so many: with very many flows it is done less often."""
REPORTED_OWNERS = 1_000
"""About how many owners are reported. With n times as many owners, only those with more than n waiting tasks are."""
WINDOWS_SECONDS = 0.5
TIDY_SECONDS = 30.0
GRANT_SECONDS = 15.0
"""How long a granted task may block others without starting; then it is held again."""
BY = Actor("system", "scheduler")
LONG_AGO = 1
"""Taken as the sequence of the end of a task whose history has expired: before any retry of its children."""
SUBMITTED = word_of(TaskSubmitted)
OUTCOMES: dict[str, ParentOutcome] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled"}


class Scheduler(Service):
    def __init__(self, container: Container, members: Membership, tail: Tail) -> None:
        super().__init__("scheduler", lease=Lease(members, "scheduler"))
        self._ageing_seconds = container.settings.priority_ageing
        self._connection = container.reading
        self._space = container.space
        self._commands = container.commands
        self._tasks_bucket = container.buckets.tasks
        self._members = members
        self._tail = tail
        self._rules = FleetRules(container.fleet)
        self._held_tasks = self._new_held_tasks()
        self._depths: tuple[Depth, ...] = ()
        self._by_type: Mapping[str, Mapping[Reason, int]] = {}
        """What the waiting tasks of each type wait for, as counted with the depths."""
        self._oldest: dict[str, float] = {}
        self._held = 0
        self._counted_at = 0.0
        self._depths_seconds = DEPTHS_SECONDS
        self._fence = 0
        """Sequence of our last message on SCHEDULER_FENCE."""
        self._batch_size = LARGEST_BATCH
        self._as_of = 0
        self._seen = 0
        """Sequence of the last event that was read."""
        self._reported_as_of = -1
        self._started: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._servers_changed = False
        container.fleet.watch_limits(self._on_rules_changed)
        container.fleet.watch(self._on_servers_changed)

    def _new_held_tasks(self) -> HeldTasks:
        return HeldTasks(self._rules, self._ageing_seconds, time.time())

    def _on_servers_changed(self, _: Collection[str]) -> None:
        self._rules.forget_servers()
        self._servers_changed = True
        self._changed.set()

    def _on_rules_changed(self) -> None:
        self._rules.forget_servers()
        self._rules.observe({}, WINDOWS_SECONDS)
        self._held_tasks.limiter.refresh(time.time())
        self._changed.set()

    # Taking over

    async def _serve(self) -> None:
        """Load the active tasks, then follow the log and act on it until the lease is lost."""
        await self._take_fence()
        self._rules.observe({}, WINDOWS_SECONDS)
        self._held_tasks, self._counted_at = self._new_held_tasks(), 0.0
        self._as_of = self._seen = await projected(self._tasks_bucket)
        for task in sorted(await entered_tasks(self._tasks_bucket), key=lambda task: task.view.created_sequence):
            self._held_tasks.add(entry_of(task.ref, task.view), time.time())
        log.info("scheduler.started", active=len(self._held_tasks), fence=self._fence)
        caught_up = asyncio.Event()
        await self._serve_together(self._follow(caught_up), self._act(caught_up))

    async def _take_fence(self) -> None:
        """Store a fence: from now on no batch of a former scheduler is stored."""
        while True:
            last = await last_position(self._connection, TASKS, SCHEDULER_FENCE)
            append = _fence(self._members.id, last.sequence if last else 0)
            with contextlib.suppress(Conflict, OutcomeUnknown):
                self._fence = await self._commands.tasks.log.append_fence(append)
                return

    async def _follow(self, caught_up: asyncio.Event) -> None:
        """Apply the events of the log as they come."""
        async with contextlib.aclosing(self._tail.follow(self._as_of)) as batches:
            async for positions in batches:
                is_end = not positions
                moves, others = _partition(positions if caught_up.is_set() else await self._without_ended(positions))
                self._apply(moves)
                if not caught_up.is_set():
                    self._held_tasks.reread_unknown(task_ref(position.subject) for position in others)
                if positions:
                    self._seen = positions[-1].sequence
                if is_end and not caught_up.is_set():
                    self._held_tasks.limiter.begin(time.time())
                    caught_up.set()
                if moves or is_end:
                    self._changed.set()

    async def _without_ended(self, positions: Sequence[Position]) -> list[Position]:
        """Return the events without those that the views of ended tasks reflect: these tasks need not be reread.

        A view may be ahead of the projection's checkpoint.
        """
        submitted = {task_ref(position.subject) for position in positions if task_word(position.subject) == SUBMITTED}
        refs = {task_ref(position.subject) for position in positions} - submitted
        keys = {view_key(ref): ref for ref in refs if self._held_tasks.find(ref) is None}
        found = await self._tasks_bucket.get_many(list(keys))
        views = {keys[key]: decode_view(entry.value) for key, entry in found.items()}
        ended = {ref: view.sequence for ref, view in views.items() if view.ended_at is not None}
        return [position for position in positions if position.sequence > ended.get(task_ref(position.subject), 0)]

    def _apply(self, positions: Sequence[Position]) -> None:
        now = time.time()
        for position in positions:
            ref, (sequence, recorded) = task_ref(position.subject), decode(task_codec, position)
            event = recorded.event
            if isinstance(event, AttemptStarted) and event.worker_id and (entry := self._held_tasks.find(ref)):
                self._started[entry.pool] += 1
            self._held_tasks.apply(ref, sequence, recorded, now)
            self._as_of = sequence

    # Acting

    async def _act(self, caught_up: asyncio.Event) -> None:
        """Release tasks, carry out what is due, and answer SCHEDULER_EXPLAIN, until the lease is lost."""
        await caught_up.wait()
        asked = await self._connection.subscribe(SCHEDULER_EXPLAIN, self._on_explain)
        try:
            await self._act_on(_Intervals())
        finally:
            with contextlib.suppress(nats.errors.Error):
                await asked.unsubscribe()

    async def _act_on(self, intervals: _Intervals) -> None:
        while True:
            self._changed.clear()
            if self._servers_changed:
                self._servers_changed = False
                self._held_tasks.limiter.refresh(time.time(), "servers")
            await self.run_once()
            await self._run_periodic(intervals)
            now = time.time()
            next_at = min(self._held_tasks.next_at() or now + LONGEST_WAIT_SECONDS, now + self._report_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - now)):
                    await self._changed.wait()

    async def _on_explain(self, message: Msg) -> None:
        """Answer why a task is held, or how limits are used. A request that is neither gets no answer."""
        with contextlib.suppress(Refused, UnicodeDecodeError, StoreError, MsgspecError):
            if message.data.startswith(b"{"):
                question = decode_question(message.data)
                use = use_of_limits(self._held_tasks.limiter, question, self._by_type, self._as_of, time.time())
                await self._connection.publish(message.reply, encode_use(use))
                return
            explanation = explain(self._held_tasks, parse_task_id(message.data.decode()), self._as_of, time.time())
            await self._connection.publish(message.reply, encode_explanation(explanation))

    async def run_once(self) -> dict[str, int]:
        """Release what can be released and carry out what is due; return how many of each."""
        counts = {"released": 0, "done": 0}
        while found := self._held_tasks.take_due(time.time()):  # an action may cause another; releases come last
            for due in found:
                await self._carry_out(due)
            counts["done"] += len(found)
        while released := await self._release():
            counts["released"] += released
            metrics.released.inc(released)
        return counts

    async def _release(self) -> int:
        """Release tasks in one batch; return how many."""
        chosen = self._held_tasks.release(time.time(), self._batch_size)
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
        self._rules.windows.stored(time.monotonic() - began)
        self._held_tasks.released(chosen, last - len(chosen) + 1)
        self._fence = last - len(chosen)
        self._batch_size = min(self._batch_size * 2, LARGEST_BATCH)
        return len(chosen)

    async def _after_conflict(self) -> None:
        """Wait for the event that a release lost its race to. Raises Deposed if another scheduler has taken over."""
        last = await last_position(self._connection, TASKS, SCHEDULER_FENCE)
        if last is not None and last.sequence != self._fence:
            raise Deposed
        self._batch_size = max(1, self._batch_size // 4)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await self._changed.wait()

    async def _carry_out(self, due: Due) -> None:
        match due:
            case DueCommand(ref, command):
                with contextlib.suppress(Refused):  # it ended meanwhile
                    await self._commands.task(ref, command, by=BY)
            case AskParent(parent_id):
                await self._ask_parent(parent_id)
            case Reread(ref):
                await self._reread(ref)
            case _:
                assert_never(due)

    async def _ask_parent(self, parent_id: str) -> None:
        """Apply the end of a parent that has ended; an unknown one counts as failed. Other ends come with the log."""
        ref = parse_task_id(parent_id)
        if (sequence := await self._succeeded_at(ref)) is not None:
            self._held_tasks.parent_ended(parent_id, "succeeded", sequence, time.time())
            return
        history = await self._commands.tasks.history(ref)
        state = self._commands.tasks.fold(history).state
        if isinstance(state, Ended):
            sequence = max(stored.sequence for stored in history if kind_of(stored.recorded.event).ends)
            self._held_tasks.parent_ended(parent_id, OUTCOMES[state.outcome], sequence, time.time())
        elif isinstance(state, Unknown):
            self._held_tasks.parent_ended(parent_id, "failed", LONG_AGO, time.time())

    async def _succeeded_at(self, ref: TaskRef) -> int | None:
        """Return the sequence of a task's success, None if the projection has none. It is final, and its result large.

        The log is asked for the subjects of its events, not for their content.
        """
        entry = await self._tasks_bucket.get(view_key(ref))
        view = decode_view(entry.value) if entry else None
        if view is None or view.status != "FINISHED" or not view.ended_sequence:
            return None
        subjects = await list_subjects(self._connection, TASKS, history_filter(task_root(ref)))
        has_succeeded = any(task_word(subject) == "succeeded" for subject in subjects)
        return view.ended_sequence if has_succeeded else None

    async def _reread(self, ref: TaskRef) -> None:
        """Add a task unless it has ended by now. To a task that was added meanwhile, apply the events it lacks."""
        history = await self._commands.tasks.history(ref)
        if self._held_tasks.find(ref) is not None:
            for sequence, recorded in history:
                self._held_tasks.apply(ref, sequence, recorded, time.time())
            return
        view: TaskView | None = None
        for stored in history:
            view = fold_view(view, stored)
        if view is not None and view.ended_at is None:
            self._held_tasks.add(entry_of(ref, view), time.time())

    # Periodic work

    async def _run_periodic(self, intervals: _Intervals) -> None:
        seconds = intervals.seconds_since("windows")
        if intervals.is_due("windows", WINDOWS_SECONDS):
            self._rules.observe(self._started, seconds)
            self._started.clear()
            self._held_tasks.limiter.refresh(time.time(), "window")
        if intervals.is_due("backlog", self._report_seconds):
            await self._publish_backlog()
        if intervals.is_due("stuck", GRANT_SECONDS / 3):
            for take_back in self._held_tasks.stuck(time.time() - GRANT_SECONDS):
                await self._carry_out(take_back)
        if intervals.is_due("tidy", TIDY_SECONDS):
            self._held_tasks.limiter.tidy(time.time())

    @property
    def _report_seconds(self) -> float:
        return BACKLOG_SECONDS if self._reported_as_of != self._as_of else LONGEST_WAIT_SECONDS

    async def _publish_backlog(self) -> None:
        self._count_depths(time.time())
        report = BacklogReport(
            as_of=self._as_of,
            windows=dict(self._rules.windows.sizes),
            owners=self._held_tasks.backlogs(1 + self._held_tasks.owners_waiting // REPORTED_OWNERS),
            held_back=self._held_tasks.limiter.held_back(),
            paces=self._rules.windows.paces(),
            over=self._held_tasks.over(),
            depths=self._depths,
            oldest=self._oldest,
            held=self._held,
            counted_at=self._counted_at,
            seen=max(self._seen, self._as_of),
        )
        self._reported_as_of = report.as_of
        await self._connection.publish(SCHEDULER_BACKLOG, encode_report(report))

    def _count_depths(self, now: float) -> None:
        if now < self._counted_at + self._depths_seconds and self._counted_at <= now:
            return
        began = time.perf_counter()
        depths, self._oldest = self._held_tasks.depths(now, scarce=self._space.is_scarce), self._held_tasks.oldest()
        self._depths, self._by_type = tuple(depths.by_pool), depths.by_type
        self._held, self._counted_at = self._held_tasks.held, now
        self._depths_seconds = max(DEPTHS_SECONDS, DEPTHS_COST * (time.perf_counter() - began))


class Deposed(StoreError):
    """Another scheduler has taken over."""


class _Intervals:
    """When each periodic job last ran. Times are monotonic."""

    def __init__(self) -> None:
        self._done_at: dict[str, float] = {}

    def is_due(self, name: str, every_seconds: float) -> bool:
        """Return True if a job is due, and record it as run."""
        now = time.monotonic()
        if now < self._done_at.get(name, -1e9) + every_seconds:
            return False
        self._done_at[name] = now
        return True

    def seconds_since(self, name: str) -> float:
        """Return the seconds since a job last ran; a very long time if it never did."""
        return time.monotonic() - self._done_at.get(name, -1e9)


def _partition(positions: Sequence[Position]) -> tuple[list[Position], list[Position]]:
    """Return the events that move tasks, and the others."""
    moves: list[Position] = []
    others: list[Position] = []
    for position in positions:
        (moves if task_word(position.subject) in MOVING_WORDS else others).append(position)
    return moves, others


def _fence(scheduler: str, expected: int) -> Append:
    return Append(
        messages=[StreamMessage(SCHEDULER_FENCE, scheduler.encode())], guard=SCHEDULER_FENCE, expected=expected
    )


def _release(entry: TaskEntry, at: datetime) -> LogEntry[TaskEvent]:
    """Return the release of a task, guarded by the last event that the scheduler knows of it."""
    event = queue_held(entry, entry.created_sequence)
    recorded: Recorded[TaskEvent] = Recorded(id=event_id(), at=at, by=BY, cause=str(entry.sequence), event=event)
    return LogEntry(root=task_root(entry.ref), events=[recorded], expected=entry.sequence)


def entry_of(ref: TaskRef, view: TaskView) -> TaskEntry:
    """Return the entry of a task as its view has it."""
    if view.status == "PROCESSING":
        stage = Stage.RUNNING if view.worker_id else Stage.REPORTED
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
        submitted_at=epoch_seconds(view.created_at),
        stage=stage,
        granted=view.granted,
        granted_at=epoch_seconds(view.updated_at),
        attempt=view.attempt,
        renewed_after=view.renewed_after,
        plan=awaited(view),
    )
