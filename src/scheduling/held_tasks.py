"""The keeper's book: every task that has not ended, what holds it, and which held ones go next.

It is kept from the log alone, and can be begun from the views of the active tasks. It does nothing itself: `release`
says what to queue, and `take_due` what else is to be done.

A held task waits, in this order, for its time, for its parents, and for room (`room`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias, assert_never

from ..commands.task_holds import last_start
from ..events.envelope import Recorded
from ..events.ids import TaskRef, parse_task_id
from ..events.task import (
    NO_PLAN,
    AttemptAccepted,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    ProgressReported,
    TaskCancelled,
    TaskDeleted,
    TaskEvent,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskSubmitted,
    TaskSucceeded,
)
from .backlog_report import OwnerBacklog
from .limit import LimitKey, Stage, TaskEntry
from .limiter import SERVERS, Limiter, LimitRules

ParentOutcome: TypeAlias = Literal["succeeded", "failed", "was cancelled"]


class Expire(NamedTuple):
    """The task's time may be up."""

    ref: TaskRef


class Cancel(NamedTuple):
    """The task is to give way to another with its concurrency key, unless it has started."""

    ref: TaskRef
    reason: str


class FailChild(NamedTuple):
    """A parent of the task did not succeed."""

    ref: TaskRef
    parent_id: str
    outcome: str


class AskParent(NamedTuple):
    """The book does not know what became of a parent: it ended before the book began, or is to come."""

    parent_id: str


class Reread(NamedTuple):
    """The book does not know a task that goes on, or missed something of it while it was read."""

    ref: TaskRef


class TakeBack(NamedTuple):
    """A task was granted its start long ago and has not started, while others could."""

    ref: TaskRef
    reason: str


Due: TypeAlias = Expire | Cancel | FailChild | AskParent | Reread | TakeBack


class HeldTasks:
    def __init__(self, rules: LimitRules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when all that starts is entered here."""
        self._rules = rules
        self.room = Limiter(rules, ageing_seconds, began_at)
        self._entries: dict[TaskRef, TaskEntry] = {}
        self._children: dict[str, set[TaskRef]] = {}
        """Held tasks by the id of a parent, also of one that they do not wait for any more."""
        self._clock: list[tuple[float, TaskRef]] = []
        """A heap of when tasks are to be looked at again; with outdated ones."""
        self._due: list[Due] = []
        self._waiting: dict[str, int] = {}
        """Tasks that wait, by owner token."""
        self.held = 0
        """Tasks that are held."""

    # What the log says

    def add(self, entry: TaskEntry, now: float) -> None:
        """Enter an active task: as it was submitted, or as its view says."""
        self._entries[entry.ref] = entry
        self._goes_on(entry.ref)
        entry.limits = self.room.limits_of(entry, now)
        for limit in entry.limits:
            limit.passing += 1
            limit.enter(entry)
            if limit.key.kind == "key":
                limit.members[entry.ref] = entry
        self._wait(entry, 1)
        if (last := last_start(entry.plan)) is not None:
            self._remind(last.timestamp(), entry.ref)
        if entry.stage is Stage.HELD:
            self._hold(entry, now)
        self._mind_key(entry, now)

    def fold(self, ref: TaskRef, sequence: int, recorded: Recorded[TaskEvent], now: float) -> None:
        """Reflect an event; one that is reflected already changes nothing."""
        entry = self._entries.get(ref)
        event = recorded.event
        if isinstance(event, TaskSubmitted):
            if entry is None:
                self.add(submitted(ref, sequence, event, recorded.at), now)
            return
        if entry is None:
            self._fold_unknown(ref, event)
            return
        if sequence <= entry.sequence:
            return
        match event:
            case TaskHeld():
                self._move(entry, Stage.HELD)
                self._look_at(entry, now)  # its parents had their say before it was queued
            case TaskQueued():
                self._move(entry, Stage.QUEUED, granted=event.granted, at=recorded.at.timestamp())
            case AttemptStarted():
                self._start(entry, now)
                entry.attempt = event.attempt
            case AttemptFailed():
                self._move(entry, Stage.RETRYING)
            case AttemptReturned():
                self._move(entry, Stage.QUEUED, granted=entry.granted, at=recorded.at.timestamp())
            case TaskSucceeded():
                self._end(entry, "succeeded", sequence, now)
            case TaskFailed():
                self._end(entry, "failed", sequence, now)
            case TaskCancelled():
                self._end(entry, "was cancelled", sequence, now)
            case ProgressReported() | AttemptAccepted() | TaskDeleted():
                pass
            case _:
                assert_never(event)
        entry.sequence = sequence

    def _fold_unknown(self, ref: TaskRef, event: TaskEvent) -> None:
        """Reflect an event of a task that is not known: retried after its end, or forgotten by a killed NATS.

        Its end may come while it is being read again, and then it must not be entered as what goes on.
        """
        if isinstance(event, TaskHeld | TaskQueued | AttemptStarted | AttemptFailed | AttemptReturned):
            self._due.append(Reread(ref))
            self._goes_on(ref)
        elif isinstance(event, TaskSucceeded | TaskFailed | TaskCancelled):
            self._due.append(Reread(ref))
            if ref.id in self._children:
                self._due.append(AskParent(ref.id))

    def notice(self, refs: Iterable[TaskRef]) -> None:
        """Have those tasks looked up that something has happened to since the views, and that are not known here.

        With the last of its writes a killed NATS may forget the views that these replaced.
        """
        self._due.extend(Reread(ref) for ref in set(refs) if ref not in self._entries)

    def parent_ended(self, parent_id: str, outcome: ParentOutcome, sequence: int, now: float) -> None:
        """Tell the children of a task that it has ended, by the event at a sequence.

        A child that had ended itself by then, and was retried, takes its outcome as it is.
        """
        for ref in self._children.get(parent_id, ()):
            child = self._entries[ref]
            if parent_id not in child.parents:
                continue
            is_news = sequence > child.renewed_after
            if outcome != "succeeded" and child.plan.on_parent_failure != "run" and is_news:
                self._due.append(FailChild(ref, parent_id, outcome))
                continue
            child.parents -= {parent_id}
            self._look_at(child, now)

    # What is to be done

    def release(self, now: float, most: int) -> list[TaskEntry]:
        """Choose held tasks to be queued, and count them in as if they were: `released` or `put_back` must follow."""
        chosen: list[TaskEntry] = []
        while len(chosen) < most and (entry := self.room.pop(now)) is not None:
            self._move(entry, Stage.QUEUED, granted=True, at=now)
            chosen.append(entry)
        return chosen

    def released(self, entries: Iterable[TaskEntry], first_sequence: int) -> None:
        """Note that chosen tasks are in the log as queued, one after the other."""
        for sequence, entry in enumerate(entries, first_sequence):
            entry.sequence = sequence

    def put_back(self, entries: Iterable[TaskEntry], now: float) -> None:
        """Undo a choice: nothing was stored."""
        for entry in reversed(list(entries)):
            if entry.ref in self._entries and entry.stage is Stage.QUEUED:
                self._move(entry, Stage.HELD)
                self.room.add(entry, now, first=True)

    def take_due(self, now: float) -> list[Due]:
        """Return what else is to be done by now, each once."""
        self.room.heed(now)
        while self._clock and self._clock[0][0] <= now:
            _, ref = heapq.heappop(self._clock)
            entry = self._entries.get(ref)
            if entry is None:
                continue
            last = last_start(entry.plan)
            if last is not None and last.timestamp() <= now:
                self._due.append(Expire(entry.ref))
                if (ends_by := entry.plan.ends_by) is not None and ends_by.timestamp() > now:
                    self._remind(ends_by.timestamp(), entry.ref)
            elif entry.stage is Stage.HELD:
                self._look_at(entry, now)
        due = {(type(each), each): each for each in self._due}  # named tuples of two types may be equal
        self._due = []
        return list(due.values())

    def next_at(self) -> float | None:
        """Return when time alone will give something to do, None if it will not."""
        opens_at = self.room.next_at()
        if self._clock:
            return min(self._clock[0][0], opens_at or math.inf)
        return opens_at

    def stuck(self, since: float) -> list[TakeBack]:
        """Return grants that have not started since, where others wait for their room that could.

        Of all limits, grants that no server could take; of an owner's limit, also those whose pool is too busy.
        """
        found: dict[TaskRef, TakeBack] = {}
        for limit in self.room.limits():
            if limit.key.kind not in ("owner", "type", "key"):
                continue
            pools = {flow.first().pool for flow in limit.parked if not flow.limits[SERVERS].is_shut}
            for entry in limit.pending.values() if pools else ():
                if entry.granted_at > since:
                    continue
                if entry.limits[SERVERS].is_shut:
                    found[entry.ref] = TakeBack(entry.ref, "no server could take it, and others wait that one could")
                elif limit.key.kind == "owner" and pools - {entry.pool}:
                    reason = f"no server of pool {entry.pool} has taken it, and its owner has others waiting"
                    found[entry.ref] = TakeBack(entry.ref, reason)
        return list(found.values())

    # What can be asked

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def owners_waiting(self) -> int:
        return len(self._waiting)

    def find(self, ref: TaskRef) -> TaskEntry | None:
        return self._entries.get(ref)

    def waits(self, at_least: int) -> dict[str, OwnerBacklog]:
        """Return what those owners have waiting, by token, who have at least so many."""
        found = {owner: OwnerBacklog(count, {}) for owner, count in self._waiting.items() if count >= at_least}
        for limit in self.room.limits():
            key = limit.key
            if key.kind == "window" and (limit.counted or limit.parked) and (waits := found.get(key.name[0])):
                # With others parked here a newcomer is to wait behind them, also while there is room.
                waits.queued[key.name[1]] = max(limit.counted, limit.bounds.concurrency or 0 if limit.parked else 0)
        return found

    # One task

    def _move(self, entry: TaskEntry, stage: Stage, *, granted: bool = False, at: float = 0.0) -> None:
        self.room.remove(entry)
        self._leave_gates(entry)
        self._wait(entry, -1)
        if entry.stage is Stage.HELD:
            self._leave_parents(entry)
        entry.stage, entry.granted, entry.granted_at = stage, granted, at
        if entry.stage is Stage.HELD:
            self._join_parents(entry)
        self._wait(entry, 1)
        for limit in entry.limits:
            limit.enter(entry)

    def _start(self, entry: TaskEntry, now: float) -> None:
        self._move(entry, Stage.RUNNING, granted=entry.granted)
        for limit in entry.limits[1:]:
            limit.started(now)

    def _end(self, entry: TaskEntry, outcome: ParentOutcome, sequence: int, now: float) -> None:
        self.room.remove(entry)
        self._leave_gates(entry)
        self._wait(entry, -1)
        for limit in entry.limits:
            limit.passing -= 1
            limit.members.pop(entry.ref, None)
        del self._entries[entry.ref]
        self._leave_parents(entry)
        self.parent_ended(entry.ref.id, outcome, sequence, now)

    def _leave_gates(self, entry: TaskEntry) -> None:
        for limit in entry.limits:
            if limit.leave(entry):
                self.room.may_open(limit)

    def _wait(self, entry: TaskEntry, change: Literal[1, -1]) -> None:
        """Count a task in or out as one that waits, if it does."""
        if entry.stage is Stage.RUNNING:
            return
        if entry.stage is Stage.HELD:
            self.held += change
        owner = entry.ref.owner
        count = self._waiting[owner] = self._waiting.get(owner, 0) + change
        if not count:
            del self._waiting[owner]

    def _hold(self, entry: TaskEntry, now: float) -> None:
        """Find out what holds a task."""
        if entry.attempt == 0 or entry.renewed_after:
            entry.parents = set(entry.plan.depends_on)
        self._join_parents(entry)
        for parent_id in entry.parents:
            if parse_task_id(parent_id) not in self._entries:
                self._due.append(AskParent(parent_id))
        self._look_at(entry, now)

    def _join_parents(self, entry: TaskEntry) -> None:
        """Have a held task told when one that it depends on ends, or goes on again."""
        for parent_id in entry.plan.depends_on:
            self._children.setdefault(parent_id, set()).add(entry.ref)

    def _leave_parents(self, entry: TaskEntry) -> None:
        for parent_id in entry.plan.depends_on:
            if children := self._children.get(parent_id):
                children.discard(entry.ref)
                if not children:
                    del self._children[parent_id]
        entry.parents = frozenset()

    def _goes_on(self, ref: TaskRef) -> None:
        """Have the held children of a task wait for it, also those for which it had ended before."""
        for child in self._children.get(ref.id, ()):
            entry = self._entries[child]
            entry.parents = {*entry.parents, ref.id}
            self.room.remove(entry)

    def _look_at(self, entry: TaskEntry, now: float) -> None:
        """Put a held task into its lane if it only waits for room, or have it looked at when its time comes."""
        if entry.flow is not None or entry.parents:
            return
        starts_at = entry.plan.not_before.timestamp() if entry.plan.not_before and entry.attempt == 0 else 0.0
        if starts_at > now:
            self._remind(starts_at, entry.ref)
        else:
            self.room.add(entry, now)

    def _remind(self, at: float, ref: TaskRef) -> None:
        heapq.heappush(self._clock, (at, ref))

    def _mind_key(self, entry: TaskEntry, now: float) -> None:
        """Do with a newcomer, or with those it replaces, as its type says."""
        if not entry.plan.concurrency_key:
            return
        limit = self.room.limit(LimitKey("key", (entry.ref.owner, entry.task_type, entry.plan.concurrency_key)), now)
        members = sorted(limit.members.values(), key=lambda member: member.created_sequence)
        new = [member for member in members if member.stage is Stage.HELD and member.attempt == 0]
        match self._rules.on_conflict(entry.task_type):
            case "wait":
                pass
            case "replace":
                waiting = [member for member in members if member.stage in (Stage.HELD, Stage.QUEUED)]
                self._due.extend(
                    Cancel(member.ref, f"replaced by {waiting[-1].ref.id}, which has the same concurrency key")
                    for member in waiting[:-1]
                    if member.attempt == 0
                )
            case "refuse":
                allowed = limit.bounds.concurrency or 1
                self._due.extend(
                    Cancel(member.ref, f"refused: {members[0].ref.id} has the same concurrency key")
                    for member in members[allowed:]
                    if member in new
                )
            case _ as never:
                assert_never(never)


def submitted(ref: TaskRef, sequence: int, event: TaskSubmitted, at: datetime) -> TaskEntry:
    """Return the entry of a task that was just submitted."""
    return TaskEntry(
        ref=ref,
        sequence=sequence,
        created_sequence=sequence,
        pool=event.pool,
        priority=event.priority,
        task_type=event.task_type,
        submitted_at=at.timestamp(),
        stage=Stage.HELD if event.held else Stage.QUEUED,
        plan=event.plan or NO_PLAN,
    )
