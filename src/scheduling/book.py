"""The keeper's book: every task that has not ended, what holds it, and which held ones go next.

It is kept from the log alone, and can be begun from the views of the active tasks. It does nothing itself: `release`
says what to queue, and `take_due` what else is to be done.

A held task waits, in this order, for its time, for its parents, and for room. Those that wait for room stand in
*lanes*, one for all that the same limits stop. A lane is a candidate, or parked at the *gate* that has no room for it;
when a gate has room again, the lane whose turn it is becomes a candidate. So each release costs the same, however many
tasks wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias, assert_never

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
from ..events.task_type import OnConflict
from .entry import Entry, Stage
from .gate import Bounds, Gate, GateKey
from .lane import Lane
from .line import Line

Outcome: TypeAlias = Literal["succeeded", "failed", "was cancelled"]
ENOUGH = 1.0 - 1e-9
"""Room for one, but for how numbers are rounded."""


class Expire(NamedTuple):
    """The task's time may be up."""

    ref: TaskRef


class Cancel(NamedTuple):
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
    """The book does not know a task that goes on."""

    ref: TaskRef


class TakeBack(NamedTuple):
    """A task was granted its start long ago and has not started, while others could."""

    ref: TaskRef
    reason: str


Due: TypeAlias = Expire | Cancel | FailChild | AskParent | Reread | TakeBack


class Rules(Protocol):
    """What the settings say at the moment."""

    def bounds(self, gate: GateKey) -> Bounds:
        """Return the limits of a gate. A window's depends on how fast its pool takes tasks."""

    def on_conflict(self, task_type: str) -> OnConflict:
        """Return what becomes of a newcomer whose concurrency key is taken."""


class Waits(NamedTuple):
    """What one owner has waiting, for those who admit more."""

    waiting: int
    queued: dict[str, int]
    """In the queue, by window."""


class Book:
    def __init__(self, rules: Rules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when all that starts is entered here."""
        self._rules = rules
        self._began_at = began_at
        self._ageing_seconds = ageing_seconds
        self._entries: dict[TaskRef, Entry] = {}
        self._lanes: dict[tuple[Gate, ...], Lane] = {}
        self._gates: dict[GateKey, Gate] = {}
        self._children: dict[str, set[TaskRef]] = {}
        """Held tasks by the id of a parent that they wait for."""
        self._candidates = Line(ageing_seconds)
        self._may_open: set[Gate] = set()
        """Gates that may have room again, and have lanes parked."""
        self._clock: list[tuple[float, int, TaskRef | GateKey]] = []
        """A heap of when something is to be looked at again; with outdated ones."""
        self._tiebreak = itertools.count()
        self._due: list[Due] = []
        self._waiting: dict[str, int] = {}
        """Tasks that wait, by owner token."""

    # What the log says

    def add(self, entry: Entry, now: float) -> None:
        """Enter an active task: as it was submitted, or as its view says."""
        self._entries[entry.ref] = entry
        entry.gates = tuple(self._gate(key, now) for key in gate_keys(entry))
        for gate in entry.gates:
            gate.passing += 1
            gate.enter(entry)
            if gate.key.kind == "key":
                gate.members[entry.ref] = entry
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
            if isinstance(event, TaskHeld | TaskQueued | AttemptStarted | AttemptFailed | AttemptReturned):
                self._due.append(Reread(ref))  # retried after its end, or forgotten by a killed NATS
            return
        if sequence <= entry.sequence:
            return
        match event:
            case TaskHeld():
                self._move(entry, Stage.HELD)
                self._hold(entry, now)
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
                self._end(entry, "succeeded", now)
            case TaskFailed():
                self._end(entry, "failed", now)
            case TaskCancelled():
                self._end(entry, "was cancelled", now)
            case ProgressReported() | AttemptAccepted() | TaskDeleted():
                pass
            case _:
                assert_never(event)
        entry.sequence = sequence

    def parent_ended(self, parent_id: str, outcome: Outcome, now: float) -> None:
        """Tell the children of a task that it has ended."""
        for ref in self._children.pop(parent_id, set()):
            child = self._entries[ref]
            if outcome != "succeeded" and child.plan.on_parent_failure != "run":
                self._due.append(FailChild(ref, parent_id, outcome))
                continue
            child.parents -= {parent_id}
            self._look_at(child, now)

    # What is to be done

    def release(self, now: float, most: int) -> list[Entry]:
        """Choose held tasks to be queued, and count them in as if they were: `released` or `put_back` must follow."""
        chosen: list[Entry] = []
        while len(chosen) < most and (lane := self._next_lane(now)) is not None:
            shut = next((gate for gate in lane.gates if gate.room(now) < ENOUGH), None)
            if shut is not None:
                self._park(lane, shut, now)
                continue
            entry = lane.first()
            lane.remove(entry)
            entry.lane = None
            self._move(entry, Stage.QUEUED, granted=True, at=now)
            chosen.append(entry)
            if lane:
                self._line_up(lane, now)
            else:
                self._close(lane)
        return chosen

    def released(self, entries: Iterable[Entry], first_sequence: int) -> None:
        """Note that chosen tasks are in the log as queued, one after the other."""
        for sequence, entry in enumerate(entries, first_sequence):
            entry.sequence = sequence

    def put_back(self, entries: Iterable[Entry], now: float) -> None:
        """Undo a choice: nothing was stored."""
        for entry in reversed(list(entries)):
            if entry.ref in self._entries and entry.stage is Stage.QUEUED:
                self._move(entry, Stage.HELD)
                self._into_lane(entry, now, first=True)

    def take_due(self, now: float) -> list[Due]:
        """Return what else is to be done by now, each once."""
        while self._clock and self._clock[0][0] <= now:
            _, _, name = heapq.heappop(self._clock)
            if isinstance(name, GateKey):
                if gate := self._gates.get(name):
                    self._may_open.add(gate)
                continue
            entry = self._entries.get(name)
            if entry is None:
                continue
            last = last_start(entry.plan)
            if last is not None and last.timestamp() <= now:
                self._due.append(Expire(entry.ref))
                if (ends_by := entry.plan.ends_by) is not None and ends_by.timestamp() > now:
                    self._remind(ends_by.timestamp(), entry.ref)
            elif entry.stage is Stage.HELD:
                self._look_at(entry, now)
        due, self._due = self._due, []
        return due

    def next_at(self) -> float | None:
        """Return when time alone will give something to do, None if it will not."""
        return self._clock[0][0] if self._clock else None

    def stuck(self, since: float) -> list[TakeBack]:
        """Return grants of owners at their limit that have not started since, where other pools wait for them."""
        found = []
        for gate in self._gates.values():
            if gate.key.kind != "owner" or not len(gate.parked):
                continue
            pools = {lane.first().pool for lane in gate.parked}
            found += [
                TakeBack(entry.ref, f"no server of pool {entry.pool} has taken it, and its owner has others waiting")
                for entry in gate.pending.values()
                if entry.granted_at <= since and pools - {entry.pool}
            ]
        return found

    def begin(self, now: float) -> None:
        """Note that all active tasks are entered: from now on what starts is known."""
        self._began_at = now
        for gate in self._gates.values():
            gate.resume(now)

    def tidy(self, now: float) -> None:
        """Forget gates that nothing passes any more."""
        for key in [key for key, gate in self._gates.items() if gate.is_unused(now)]:
            self._may_open.discard(self._gates.pop(key))

    def refresh(self, now: float) -> None:
        """Heed that the rules have changed."""
        for gate in self._gates.values():
            gate.set_bounds(self._rules.bounds(gate.key), now)
            if len(gate.parked):
                self._may_open.add(gate)

    # What can be asked

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def gate_count(self) -> int:
        """How many limits are kept in mind, those that nothing bounds included."""
        return len(self._gates)

    @property
    def owners_waiting(self) -> int:
        return len(self._waiting)

    def find(self, ref: TaskRef) -> Entry | None:
        return self._entries.get(ref)

    def waits(self, at_least: int) -> dict[str, Waits]:
        """Return what those owners have waiting, by token, who have at least so many."""
        found = {owner: Waits(count, {}) for owner, count in self._waiting.items() if count >= at_least}
        for key, gate in self._gates.items():
            if key.kind == "window" and (gate.counted or gate.parked) and (waits := found.get(key.name[0])):
                # With others parked here a newcomer is to wait behind them, also while there is room.
                waits.queued[key.name[1]] = max(gate.counted, gate.bounds.concurrency or 0 if gate.parked else 0)
        return found

    # One task

    def _move(self, entry: Entry, stage: Stage, *, granted: bool = False, at: float = 0.0) -> None:
        self._out_of_lane(entry)
        self._leave_gates(entry)
        self._wait(entry, -1)
        entry.stage, entry.granted, entry.granted_at = stage, granted, at
        self._wait(entry, 1)
        for gate in entry.gates:
            gate.enter(entry)

    def _start(self, entry: Entry, now: float) -> None:
        self._move(entry, Stage.RUNNING, granted=entry.granted)
        for gate in entry.gates[1:]:
            gate.started(now)

    def _end(self, entry: Entry, outcome: Outcome, now: float) -> None:
        self._out_of_lane(entry)
        self._leave_gates(entry)
        self._wait(entry, -1)
        for gate in entry.gates:
            gate.passing -= 1
            gate.members.pop(entry.ref, None)
        del self._entries[entry.ref]
        for parent_id in entry.parents:
            if children := self._children.get(parent_id):
                children.discard(entry.ref)
        self.parent_ended(entry.ref.id, outcome, now)

    def _leave_gates(self, entry: Entry) -> None:
        for gate in entry.gates:
            if gate.leave(entry) and len(gate.parked):
                self._may_open.add(gate)

    def _wait(self, entry: Entry, change: Literal[1, -1]) -> None:
        """Count a task in or out as one that waits, if it does."""
        if entry.stage is Stage.RUNNING:
            return
        owner = entry.ref.owner
        count = self._waiting[owner] = self._waiting.get(owner, 0) + change
        if not count:
            del self._waiting[owner]

    def _hold(self, entry: Entry, now: float) -> None:
        """Find out what holds a task."""
        if entry.plan.depends_on and entry.attempt == 0:
            entry.parents = set(entry.plan.depends_on)
        for parent_id in entry.parents:
            self._children.setdefault(parent_id, set()).add(entry.ref)
            if parse_task_id(parent_id) not in self._entries:
                self._due.append(AskParent(parent_id))
        self._look_at(entry, now)

    def _look_at(self, entry: Entry, now: float) -> None:
        """Put a held task into its lane if it only waits for room, or have it looked at when its time comes."""
        if entry.lane is not None or entry.parents:
            return
        starts_at = entry.plan.not_before.timestamp() if entry.plan.not_before and entry.attempt == 0 else 0.0
        if starts_at > now:
            self._remind(starts_at, entry.ref)
        else:
            self._into_lane(entry, now)

    def _mind_key(self, entry: Entry, now: float) -> None:
        """Do with a newcomer, or with those it replaces, as its type says."""
        if not entry.plan.concurrency_key:
            return
        gate = self._gate(GateKey("key", (entry.ref.owner, entry.task_type, entry.plan.concurrency_key)), now)
        members = sorted(gate.members.values(), key=lambda member: member.created_sequence)
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
                allowed = gate.bounds.concurrency or 1
                self._due.extend(
                    Cancel(member.ref, f"refused: {members[0].ref.id} has the same concurrency key")
                    for member in members[allowed:]
                    if member in new
                )
            case _ as never:
                assert_never(never)

    # Lanes and gates

    def _into_lane(self, entry: Entry, now: float, *, first: bool = False) -> None:
        lane = self._lanes.get(entry.gates)
        if lane is None:
            lane = self._lanes[entry.gates] = Lane(entry.ref.owner, entry.priority, entry.gates)
        if first:
            lane.put_back(entry)
        else:
            lane.append(entry)
        entry.lane = lane
        if lane.line is None:
            self._line_up(lane, now)
        elif first:
            lane.line.note(lane)

    def _line_up(self, lane: Lane, now: float) -> None:
        """Make a lane a candidate, or have it wait behind those that are parked where it will pass."""
        gate = next((gate for gate in lane.gates if len(gate.parked)), None)
        if gate is None:
            self._candidates.put(lane)
        else:
            self._park(lane, gate, now)
            self._may_open.add(gate)

    def _out_of_lane(self, entry: Entry) -> None:
        lane, entry.lane = entry.lane, None
        if lane is None:
            return
        was_first = lane.first() is entry
        lane.remove(entry)
        if lane:
            if was_first and lane.line is not None:
                lane.line.note(lane)
            return
        if lane.line is not None:
            lane.line.remove(lane)
        self._close(lane)

    def _close(self, lane: Lane) -> None:
        del self._lanes[lane.gates]

    def _next_lane(self, now: float) -> Lane | None:
        while self._may_open:
            gate = self._may_open.pop()
            if gate.room(now) < ENOUGH:
                self._remind_gate(gate, now)
            elif (parked := gate.parked.pop(now)) is not None:
                parked.via = gate
                self._candidates.put(parked)
        lane = self._candidates.pop(now)
        if lane is not None and lane.via is not None:
            self._may_open.add(lane.via)
            lane.via = None
        return lane

    def _park(self, lane: Lane, gate: Gate, now: float) -> None:
        gate.parked.put(lane)
        self._remind_gate(gate, now)

    def _remind_gate(self, gate: Gate, now: float) -> None:
        if len(gate.parked) and (opens_at := gate.opens_at(now)) is not None:
            self._remind(opens_at, gate.key)

    def _remind(self, at: float, name: TaskRef | GateKey) -> None:
        heapq.heappush(self._clock, (at, next(self._tiebreak), name))

    def _gate(self, key: GateKey, now: float) -> Gate:
        gate = self._gates.get(key)
        if gate is None:
            known_for = max(0.0, now - self._began_at)
            gate = self._gates[key] = Gate(key, self._rules.bounds(key), self._ageing_seconds, now, known_for)
        return gate


def gate_keys(entry: Entry) -> list[GateKey]:
    """Return the names of the gates that a task passes."""
    owner = entry.ref.owner
    keys = [
        GateKey("window", (owner, entry.window, entry.pool)),
        GateKey("owner", (owner,)),
        GateKey("type", (entry.task_type,)),
    ]
    if entry.plan.concurrency_key:
        keys.append(GateKey("key", (owner, entry.task_type, entry.plan.concurrency_key)))
    return keys


def submitted(ref: TaskRef, sequence: int, event: TaskSubmitted, at: datetime) -> Entry:
    """Return the entry of a task that was just submitted."""
    return Entry(
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
