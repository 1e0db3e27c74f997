"""The active tasks, what holds each of them, and which held tasks are released next.

A fold of the log, which may start from the views of the active tasks. It does no I/O: `release` chooses the tasks to
queue, and `take_due` returns the other actions for the scheduler.

A held task waits, in this order, for its time, for its parents, and for free capacity of its limits (`limiter`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias, assert_never

from ..commands.task_commands import CancelUnstarted, ExpireTask, FailByParent, HoldTask, TaskCommand
from ..commands.task_holds import last_start
from ..events import task as events
from ..events.envelope import Recorded
from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import kind_of
from ..events.task import NO_PLAN, TaskEvent, TaskSubmitted
from ..instants import epoch_seconds
from .backlog_report import OwnerBacklog
from .depth import SERVERS, DepthCounter, Depths
from .limit import LimitKey, Stage, TaskEntry
from .limiter import Limiter, LimitRules
from .windows import lane

ParentOutcome: TypeAlias = Literal["succeeded", "failed", "was cancelled"]


class DueCommand(NamedTuple):
    """A command for a task. The decider rejects it if the task has moved on."""

    ref: TaskRef
    command: TaskCommand


class AskParent(NamedTuple):
    """Find out from the log whether a parent that is not active has ended."""

    parent_id: str


class Reread(NamedTuple):
    """Read the history of a task that is active and missing here, or of which events may have been missed."""

    ref: TaskRef


Due: TypeAlias = DueCommand | AskParent | Reread


class HeldTasks:
    def __init__(self, rules: LimitRules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when every start is applied here."""
        self._rules = rules
        self.limiter = Limiter(rules, ageing_seconds, began_at)
        self._entries: dict[TaskRef, TaskEntry] = {}
        self._children: dict[str, set[TaskRef]] = {}
        """Held tasks by the id of each of their parents, also of parents that have ended."""
        self._check_times: list[tuple[float, TaskRef]] = []
        """A heap of when tasks are to be rechecked; some entries are stale."""
        self._due: list[Due] = []
        self._waiting: dict[str, int] = {}
        """Number of waiting tasks, by owner token."""
        self.held = 0
        """Number of held tasks."""
        self._depth = DepthCounter()

    # Events

    def add(self, entry: TaskEntry, now: float) -> None:
        """Add an active task, as it was submitted or as its view has it."""
        self._entries[entry.ref] = entry
        self._becomes_active(entry.ref, now)
        entry.limits = self.limiter.limits_of(entry, now)
        for limit in entry.limits:
            limit.active += 1
            limit.enter(entry)
            if limit.key.kind == "key":
                limit.members[entry.ref] = entry
        self._count_waiting(entry, 1)
        if (last := last_start(entry.plan)) is not None:
            self._check_at(epoch_seconds(last), entry.ref)
        if entry.stage is Stage.HELD:
            self._find_holds(entry, now)
        self._depth.update(entry, now)
        self._apply_conflict_rule(entry, now)

    def apply(self, ref: TaskRef, sequence: int, recorded: Recorded[TaskEvent], now: float) -> None:
        """Apply an event; repeating is safe."""
        entry = self._entries.get(ref)
        event = recorded.event
        if isinstance(event, TaskSubmitted):
            if entry is None:
                self.add(submitted(ref, sequence, event, recorded.at), now)
            return
        if entry is None:
            self._apply_to_unknown(ref, event, now)
            return
        if sequence <= entry.sequence:
            return
        match event:
            case events.TaskHeld():
                self._move(entry, Stage.HELD)
                self._recheck(entry, now)  # its parents had ended before it was queued
            case events.TaskQueued():
                self._move(entry, Stage.QUEUED, granted=event.granted, at=epoch_seconds(recorded.at))
            case events.AttemptStarted():
                self._start(entry, Stage.RUNNING if event.worker_id else Stage.REPORTED, now)
                entry.attempt = event.attempt
            case events.AttemptFailed():
                self._move(entry, Stage.RETRYING)
            case events.AttemptReturned():
                self._move(entry, Stage.QUEUED, granted=entry.granted, at=epoch_seconds(recorded.at))
            case events.TaskSucceeded():
                self._end(entry, "succeeded", sequence, now)
            case events.TaskFailed():
                self._end(entry, "failed", sequence, now)
            case events.TaskCancelled():
                self._end(entry, "was cancelled", sequence, now)
            case events.ProgressReported() | events.AttemptAccepted() | events.CancelReported() | events.TaskDeleted():
                pass
            case _:
                assert_never(event)
        entry.sequence = sequence
        if ref in self._entries:
            self._depth.update(entry, now)

    def _apply_to_unknown(self, ref: TaskRef, event: TaskEvent, now: float) -> None:
        """Have a task read that is missing here: it was retried after its end, or a killed NATS lost its view.

        Its end may come while it is being read; it is then read again, and so not added as active.
        """
        kind = kind_of(event)
        if not kind.moves:
            return
        self._due.append(Reread(ref))
        if not kind.ends:
            self._becomes_active(ref, now)
        elif ref.id in self._children:
            self._due.append(AskParent(ref.id))

    def reread_unknown(self, refs: Iterable[TaskRef]) -> None:
        """Have those of these tasks read that are missing here. They have events later than the views.

        A killed NATS may have lost its last writes, among them the views that listed these tasks.
        """
        self._due.extend(Reread(ref) for ref in set(refs) if ref not in self._entries)

    def parent_ended(self, parent_id: str, outcome: ParentOutcome, sequence: int, now: float) -> None:
        """Apply the end of a task, by the event at a sequence, to its held children.

        A child that was retried after that end does not fail for it.
        """
        for ref in self._children.get(parent_id, ()):
            child = self._entries[ref]
            if parent_id not in child.parents:
                continue
            is_news = sequence > child.renewed_after
            if outcome != "succeeded" and child.plan.on_parent_failure != "run" and is_news:
                self._due.append(DueCommand(ref, FailByParent(parent_id=parent_id, outcome=outcome)))
                continue
            child.parents -= {parent_id}
            self._recheck(child, now)

    # Decisions

    def release(self, now: float, most: int) -> list[TaskEntry]:
        """Choose up to `most` held tasks and count them as queued. `released` or `put_back` must follow."""
        chosen: list[TaskEntry] = []
        while len(chosen) < most and (entry := self.limiter.pop(now)) is not None:
            self._move(entry, Stage.QUEUED, granted=True, at=now)
            self._depth.update(entry, now)
            chosen.append(entry)
        return chosen

    def released(self, entries: Iterable[TaskEntry], first_sequence: int) -> None:
        """Record that the releases of chosen tasks are in the log, in this order and without gaps."""
        for sequence, entry in enumerate(entries, first_sequence):
            entry.sequence = sequence

    def put_back(self, entries: Iterable[TaskEntry], now: float) -> None:
        """Undo a choice of which nothing was stored."""
        for entry in reversed(list(entries)):
            if entry.ref in self._entries and entry.stage is Stage.QUEUED:
                self._move(entry, Stage.HELD)
                self.limiter.add(entry, now, first=True)
                self._depth.update(entry, now)

    def take_due(self, now: float) -> list[Due]:
        """Return the other actions that are due, each once."""
        self.limiter.advance(now)
        while self._check_times and self._check_times[0][0] <= now:
            _, ref = heapq.heappop(self._check_times)
            entry = self._entries.get(ref)
            if entry is None:
                continue
            last = last_start(entry.plan)
            if last is not None and epoch_seconds(last) <= now:
                self._due.append(DueCommand(entry.ref, ExpireTask()))
                if (ends_by := entry.plan.ends_by) is not None and epoch_seconds(ends_by) > now:
                    self._check_at(epoch_seconds(ends_by), entry.ref)
            elif entry.stage is Stage.HELD:
                self._recheck(entry, now)
        due = {(type(each), each): each for each in self._due}  # named tuples of different types may be equal
        self._due = []
        return list(due.values())

    def next_at(self) -> float | None:
        """Return when a release or an action may be due next without any event; None if never."""
        opens_at = self.limiter.next_at()
        if self._check_times:
            return min(self._check_times[0][0], opens_at or math.inf)
        return opens_at

    def stuck(self, since: float) -> list[DueCommand]:
        """Return tasks to hold again: granted before `since`, not started, and blocking others that could start.

        Of every limit, tasks that no server can take; of an owner's limit, also tasks whose pool is too busy.
        """
        found: dict[TaskRef, DueCommand] = {}
        for limit in self.limiter.limits():
            if limit.key.kind not in ("owner", "type", "key", "project"):
                continue
            pools = {flow.first().pool for flow in limit.blocked if not flow.limits[SERVERS].is_closed}
            for entry in limit.pending.values() if pools else ():
                if entry.granted_at > since:
                    continue
                if entry.limits[SERVERS].is_closed:
                    reason = "no server could take it, and others wait that one could"
                elif limit.key.kind == "owner" and pools - {entry.pool}:
                    reason = f"no server of pool {entry.pool} has taken it, and its owner has others waiting"
                else:
                    continue
                found[entry.ref] = DueCommand(entry.ref, HoldTask(reason=reason))
        return list(found.values())

    # Queries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def owners_waiting(self) -> int:
        return len(self._waiting)

    def find(self, ref: TaskRef) -> TaskEntry | None:
        return self._entries.get(ref)

    def backlogs(self, at_least: int) -> dict[str, OwnerBacklog]:
        """Return the backlogs of owners with at least so many waiting tasks, by owner token."""
        queued: dict[str, dict[str, int]] = {owner: {} for owner, count in self._waiting.items() if count >= at_least}
        blocked: dict[str, list[str]] = {}
        for limit in self.limiter.limits():
            key = limit.key
            if key.kind == "window" and (limit.counted or limit.blocked) and key.name[0] in queued:
                owner, name, _ = key.name
                # While tasks are blocked here, a new task must wait behind them, even if there is capacity.
                queued[owner][name] = max(limit.counted, limit.bounds.concurrency or 0 if limit.blocked else 0)
                if limit.blocked:
                    blocked.setdefault(owner, []).append(name)
        return {
            owner: OwnerBacklog(self._waiting[owner], windows, tuple(blocked.get(owner, ())))
            for owner, windows in queued.items()
        }

    def over(self) -> dict[str, tuple[str, ...]]:
        """Return two of the owners with more queued tasks than their window allows, by pool and priority (`lane`)."""
        found: dict[str, tuple[str, ...]] = {}
        for limit in self.limiter.limits():
            if limit.key.kind == "window" and limit.counted > (limit.bounds.concurrency or math.inf):
                owner, name, pool = limit.key.name
                of_lane = lane(pool, name.split(" ", 1)[0])
                owners = found.get(of_lane, ())
                if len(owners) < 2 and owner not in owners:
                    found[of_lane] = (*owners, owner)
        return found

    def depths(self, now: float, *, scarce: bool = False) -> Depths:
        """Return how many tasks wait, by pool or type, priority and what they wait for first.

        `scarce`: no waiting task is started, as the store has no space for its result.
        The time this takes grows with the kinds of tasks and the flows, not with the tasks.
        """
        limiter = self.limiter
        closed = (key for key in self._depth.kinds() if limiter.limit(key, now).is_closed)
        unserved = {key: self._rules.unserved(key) for key in closed}
        blocking = (limit for limit in limiter.limits() if len(limit.blocked))
        return self._depth.depths(blocking, unserved, "store-full" if scarce else "queued")

    def oldest(self) -> dict[str, float]:
        """Return since when the oldest task of each pool waits that could start, in seconds since the epoch."""
        return self._depth.oldest()

    # One task

    def _move(self, entry: TaskEntry, stage: Stage, *, granted: bool = False, at: float = 0.0) -> None:
        self.limiter.remove(entry)
        self._leave_limits(entry)
        self._count_waiting(entry, -1)
        if entry.stage is Stage.HELD:
            self._leave_parents(entry)
        entry.stage, entry.granted, entry.granted_at = stage, granted, at
        if entry.stage is Stage.HELD:
            self._join_parents(entry)
        self._count_waiting(entry, 1)
        for limit in entry.limits:
            limit.enter(entry)

    def _start(self, entry: TaskEntry, stage: Stage, now: float) -> None:
        self._move(entry, stage, granted=entry.granted)
        for limit in entry.limits[1:]:
            limit.started(entry, now)

    def _end(self, entry: TaskEntry, outcome: ParentOutcome, sequence: int, now: float) -> None:
        self.limiter.remove(entry)
        self._leave_limits(entry)
        self._count_waiting(entry, -1)
        for limit in entry.limits:
            limit.active -= 1
            limit.members.pop(entry.ref, None)
        del self._entries[entry.ref]
        self._depth.remove(entry.ref)
        self._leave_parents(entry)
        self.parent_ended(entry.ref.id, outcome, sequence, now)

    def _leave_limits(self, entry: TaskEntry) -> None:
        for limit in entry.limits:
            if limit.leave(entry):
                self.limiter.recheck(limit)

    def _count_waiting(self, entry: TaskEntry, change: Literal[1, -1]) -> None:
        """Count a task as waiting, or uncount it, if it waits for a worker at its present stage."""
        if entry.stage is Stage.RUNNING:
            return
        if entry.stage is Stage.HELD:
            self.held += change
        owner = entry.ref.owner
        count = self._waiting[owner] = self._waiting.get(owner, 0) + change
        if not count:
            del self._waiting[owner]

    def _find_holds(self, entry: TaskEntry, now: float) -> None:
        """Find what holds a task that was just added."""
        if entry.attempt == 0 or entry.renewed_after:
            entry.parents = set(entry.plan.depends_on)
        self._join_parents(entry)
        for parent_id in entry.parents:
            if parse_task_id(parent_id) not in self._entries:
                self._due.append(AskParent(parent_id))
        self._recheck(entry, now)

    def _join_parents(self, entry: TaskEntry) -> None:
        """Register a held task with its parents, so that their ends and retries reach it."""
        for parent_id in entry.plan.depends_on:
            self._children.setdefault(parent_id, set()).add(entry.ref)

    def _leave_parents(self, entry: TaskEntry) -> None:
        for parent_id in entry.plan.depends_on:
            if children := self._children.get(parent_id):
                children.discard(entry.ref)
                if not children:
                    del self._children[parent_id]
        entry.parents = frozenset()

    def _becomes_active(self, ref: TaskRef, now: float) -> None:
        """Make the held children of a task wait for it, also if it had ended before."""
        for child in self._children.get(ref.id, ()):
            entry = self._entries[child]
            entry.parents = {*entry.parents, ref.id}
            self.limiter.remove(entry)
            self._depth.update(entry, now)

    def _recheck(self, entry: TaskEntry, now: float) -> None:
        """Hand a held task to the limiter if it needs nothing but capacity; else recheck it when its time comes."""
        if entry.flow is None and not entry.parents:
            self._wait_for_time_or_capacity(entry, now)
        self._depth.update(entry, now)

    def _wait_for_time_or_capacity(self, entry: TaskEntry, now: float) -> None:
        starts_at = epoch_seconds(entry.plan.not_before) if entry.plan.not_before and entry.attempt == 0 else 0.0
        if starts_at > now:
            self._check_at(starts_at, entry.ref)
        else:
            # A task between two attempts goes on before the later tasks of its project.
            self.limiter.add(entry, now, first=bool(entry.plan.project and entry.attempt))

    def _check_at(self, at: float, ref: TaskRef) -> None:
        heapq.heappush(self._check_times, (at, ref))

    def _apply_conflict_rule(self, entry: TaskEntry, now: float) -> None:
        """Apply `onConflict` of its type to a new task, and to the tasks with its concurrency key."""
        if not entry.plan.concurrency_key:
            return
        limit = self.limiter.limit(LimitKey("key", (entry.ref.owner, entry.task_type, entry.plan.concurrency_key)), now)
        members = sorted(limit.members.values(), key=lambda member: member.created_sequence)
        new = [member for member in members if member.stage is Stage.HELD and member.attempt == 0]
        match self._rules.on_conflict(entry.task_type):
            case "wait":
                pass
            case "replace":
                waiting = [member for member in members if member.stage in (Stage.HELD, Stage.QUEUED)]
                self._due.extend(
                    _cancel(member, f"replaced by {waiting[-1].ref.id}, which has the same concurrency key")
                    for member in waiting[:-1]
                    if member.attempt == 0
                )
            case "refuse":
                allowed = limit.bounds.concurrency or 1
                self._due.extend(
                    _cancel(member, f"refused: {members[0].ref.id} has the same concurrency key")
                    for member in members[allowed:]
                    if member in new
                )
            case _ as never:
                assert_never(never)


def _cancel(entry: TaskEntry, reason: str) -> DueCommand:
    return DueCommand(entry.ref, CancelUnstarted(reason=reason))


def submitted(ref: TaskRef, sequence: int, event: TaskSubmitted, at: datetime) -> TaskEntry:
    """Return the entry of a new task."""
    return TaskEntry(
        ref=ref,
        sequence=sequence,
        created_sequence=sequence,
        pool=event.pool,
        priority=event.priority,
        task_type=event.task_type,
        submitted_at=epoch_seconds(at),
        stage=Stage.HELD if event.held else Stage.QUEUED,
        plan=event.plan or NO_PLAN,
    )
