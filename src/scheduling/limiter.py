"""Room: the gates that tasks pass on their way into a queue, and the lanes of those that wait for it.

A lane is a candidate, or parked at the gate that has no room for it; when a gate has room again, the lane whose turn it
is becomes a candidate. So each choice costs the same, however many tasks wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from ..events.task_type import OnConflict
from .fair_queue import Line
from .limit import Bounds, Entry, Gate, GateKey, GateKind, Lane
from .windows import labels

SERVERS = 1
"""Place of the servers among the gates of a task; its owner's window is the first."""
ENOUGH = 1.0 - 1e-9
"""Room for one, but for how numbers are rounded."""


class Rules(Protocol):
    """What the settings say at the moment."""

    def bounds(self, gate: GateKey) -> Bounds:
        """Return the limits of a gate. A window's depends on how fast its pool takes tasks.

        Servers have none, or 0 where none of those that are there could take such a task.
        """

    def on_conflict(self, task_type: str) -> OnConflict:
        """Return what becomes of a newcomer whose concurrency key is taken."""


class Room:
    def __init__(self, rules: Rules, ageing_seconds: float, began_at: float) -> None:
        """`began_at`: since when all that starts is counted here."""
        self._rules = rules
        self._ageing_seconds = ageing_seconds
        self._began_at = began_at
        self._gates: dict[GateKey, Gate] = {}
        self._lanes: dict[tuple[Gate, ...], Lane] = {}
        self._candidates: Line[Lane] = Line(ageing_seconds)
        self._may_open: set[Gate] = set()
        """Gates that may have room again, and have lanes parked."""
        self._opens_at: list[tuple[float, int, GateKey]] = []
        """A heap of when time alone may make room; with outdated ones."""
        self._tiebreak = itertools.count()

    # Gates

    def __len__(self) -> int:
        """Return how many limits are kept in mind, those that nothing bounds included."""
        return len(self._gates)

    def gates(self) -> Iterable[Gate]:
        return self._gates.values()

    def gate(self, key: GateKey, now: float) -> Gate:
        gate = self._gates.get(key)
        if gate is None:
            known_for = max(0.0, now - self._began_at)
            gate = self._gates[key] = Gate(key, self._rules.bounds(key), self._ageing_seconds, now, known_for)
        return gate

    def gates_of(self, entry: Entry, now: float) -> tuple[Gate, ...]:
        """Return what a task passes, in the order of `gate_keys`."""
        return tuple(self.gate(key, now) for key in gate_keys(entry))

    def held_back(self) -> Counter[str]:
        """Return how many tasks wait for room in their owner's window, by pool."""
        found: Counter[str] = Counter()
        for gate in self._gates.values():
            if gate.key.kind == "window" and gate.parked:
                found[gate.key.name[2]] += sum(map(len, gate.parked))
        return found

    def begin(self, now: float) -> None:
        """Note that all active tasks are counted: from now on what starts is known."""
        self._began_at = now
        for gate in self._gates.values():
            gate.resume(now)

    def refresh(self, now: float, only: GateKind | None = None) -> None:
        """Heed that the rules have changed: of all gates, or of those of one kind."""
        for gate in self._gates.values():
            if only in (None, gate.key.kind):
                gate.set_bounds(self._rules.bounds(gate.key), now)
                self.may_open(gate)

    def tidy(self, now: float) -> None:
        """Forget gates that nothing passes any more."""
        for key in [key for key, gate in self._gates.items() if gate.is_unused(now)]:
            self._may_open.discard(self._gates.pop(key))

    def may_open(self, gate: Gate) -> None:
        """Have a gate looked at that may have room again."""
        if len(gate.parked):
            self._may_open.add(gate)

    # Those that wait

    def add(self, entry: Entry, now: float, *, first: bool = False) -> None:
        """Have a task wait for room; `first`: before the others of its lane, from which it was taken."""
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

    def remove(self, entry: Entry) -> None:
        """Have a task wait no more; one that does not is no error."""
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
        del self._lanes[lane.gates]

    def pop(self, now: float) -> Entry | None:
        """Take out the task whose turn it is, and for which all its gates have room; None if there is none.

        The caller counts it in at its gates before the next is asked for.
        """
        while (lane := self._next_lane(now)) is not None:
            shut = next((gate for gate in lane.gates if gate.room(now) < ENOUGH), None)
            if shut is not None:
                self._park(lane, shut, now)
                continue
            entry = lane.first()
            lane.remove(entry)
            entry.lane = None
            if lane:
                self._line_up(lane, now)
            else:
                del self._lanes[lane.gates]
            return entry
        return None

    def next_at(self) -> float | None:
        """Return when time alone may make room, None if it will not."""
        return self._opens_at[0][0] if self._opens_at else None

    def heed(self, now: float) -> None:
        """Look at the gates for which time alone may have made room."""
        while self._opens_at and self._opens_at[0][0] <= now:
            _, _, key = heapq.heappop(self._opens_at)
            if gate := self._gates.get(key):
                self.may_open(gate)

    def _line_up(self, lane: Lane, now: float) -> None:
        """Make a lane a candidate, or have it wait behind those that are parked where it will pass."""
        gate = next((gate for gate in lane.gates if len(gate.parked)), None)
        if gate is None:
            self._candidates.put(lane)
        else:
            self._park(lane, gate, now)
            self._may_open.add(gate)

    def _next_lane(self, now: float) -> Lane | None:
        while self._may_open:
            gate = self._may_open.pop()
            if gate.room(now) < ENOUGH:
                self._remind(gate, now)
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
        self._remind(gate, now)

    def _remind(self, gate: Gate, now: float) -> None:
        if len(gate.parked) and (opens_at := gate.opens_at(now)) is not None:
            heapq.heappush(self._opens_at, (opens_at, next(self._tiebreak), gate.key))


def gate_keys(entry: Entry) -> list[GateKey]:
    """Return the names of the gates that a task passes."""
    owner = entry.ref.owner
    keys = [
        GateKey("window", (owner, entry.window, entry.pool)),
        GateKey("servers", (entry.pool, entry.task_type, *labels(entry.plan))),
        GateKey("owner", (owner,)),
        GateKey("type", (entry.task_type,)),
    ]
    if entry.plan.concurrency_key:
        keys.append(GateKey("key", (owner, entry.task_type, entry.plan.concurrency_key)))
    return keys
