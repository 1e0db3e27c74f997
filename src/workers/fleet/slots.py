"""The slots of each server that this worker dispatches to: which are taken, which are free."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, assert_never

from msgspec import Struct, field

from ...clock import jitter
from ...commands.server import CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present
from ...events.ids import TaskRef
from ...events.subjects import server_token
from ...projections.fleet import Fleet
from ...projections.heartbeats import BusyServer
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...scheduling.asks import AskMessage, AskReport, OpenAsk, OpenAsks
from ...scheduling.eligibility import is_there_for
from ...scheduling.redelivery import TaskKind
from ...scheduling.server_failures import Verdict
from .busy import Begun, Busyness
from .capacity import NO_LABELS, Candidate, Capacity, Policy, ServerCapacity
from .local_circuit import CircuitChange, LocalCircuit, Shut

RECHECK_TOLERANCE_SECONDS = 0.001
"""An instant read from the wall clock moves by less than that between two looks."""

NOTHING: Counter[str] = Counter()


CIRCUITS = {"closed": CircuitIsClosed, "open": CircuitIsOpen, "half-open": CircuitIsHalfOpen}


class _Load(Struct):
    """What this worker knows about one server assigned to it."""

    server_id: str
    name: str
    """The server's token."""
    calls: set[TaskRef]
    """Attempts whose call this worker is making."""
    elsewhere: dict[TaskRef, float]
    """Attempts that run on the server without a call of ours (accepted ones, and those of a former holder) and since
    when that is known, monotonic."""
    circuit: LocalCircuit
    busy: Busyness
    begun: dict[TaskRef, Begun] = field(default_factory=dict)
    """Of the calls: how it was when each began."""
    taken: set[TaskRef] = field(default_factory=set)
    """Calls whose task the server has taken, though they have not ended."""
    noted: tuple[datetime | None, int | None, float] = (None, None, 0.0)
    """The part of `busy` that was last reported."""
    rechecked_at: float = math.inf
    """When the server's capacity is computed again without any event, monotonic."""
    accepting: bool = True
    """False while the lease is being handed over."""
    last_choice: int = 0
    """Number of the choice that last gave it a task."""
    allowance: int = 0
    """Of an overflow server: how many tasks it may still take before its queues are measured again."""
    helping: bool = False
    """Of an overflow server: enough waited at the last measurement for it to take work."""
    asks: OpenAsks = field(default_factory=OpenAsks)
    """Of a pulled server: the open requests of its pullers. It has as many free slots as these want."""

    @property
    def running(self) -> int:
        calls, elsewhere = self.calls, self.elsewhere
        return len(calls) + len(elsewhere) - len(elsewhere.keys() & calls) if elsewhere else len(calls)

    def forget(self, ref: TaskRef) -> None:
        """Forget a call that is over."""
        self.calls.discard(ref)
        self.begun.pop(ref, None)
        self.taken.discard(ref)


class Slots:
    """The servers assigned to this worker, by token, and their slots."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        now: Callable[[], datetime],
        in_force: Callable[[], bool],
        circuit_failures: int = 5,
        circuit_cooldown_seconds: float = 15.0,
        chance: Callable[[], float] = jitter,
    ) -> None:
        """`in_force` returns False while this worker's leases may be lost; then no server has a free slot."""
        self._chance = chance
        self._fleet = fleet
        self._circuit_failures = circuit_failures
        self._circuit_cooldown_seconds = circuit_cooldown_seconds
        self._now = now
        self._in_force = in_force
        self._loads: dict[str, _Load] = {}
        """By token."""
        self._of_server: dict[str, _Load] = {}
        """The same, by id."""
        self._changed: set[str] = set()
        """Tokens of the servers whose calls have begun or ended since their capacity was computed. It is computed when
        it is asked for, often after several calls."""
        self._capacity = Capacity(policy)
        self._opens_at: list[tuple[float, str]] = []
        """A heap of instants at which a pause or an open circuit ends, monotonic, each with the server."""
        self._on_trial: set[str] = set()
        """Names of the servers whose circuit is not closed and that may have a trial."""
        self._refusing: set[str] = set()
        """Names of the servers that have refused tasks of some owners."""
        self._busy_news: set[str] = set()
        """Ids of servers whose assumptions have changed since they were last reported."""
        self._choices = itertools.count(1)
        self._pulled: set[str] = set()
        """Names of the pulled servers whose pullers ask for tasks."""
        self.freed = asyncio.Event()
        """Set whenever more slots may be free than before."""
        self.on_assignment: Callable[[], None] = lambda: None
        """Called when a server was added or dropped."""
        fleet.watch(self._on_fleet_change)

    # Which servers

    def add(self, server_id: str, running: Iterable[TaskRef], busy: BusyServer | None = None) -> None:
        """Add a server assigned to this worker, on which these attempts are running already.

        `busy`: the assumptions of the worker that had it before.
        """
        since = time.monotonic()
        name = server_token(server_id)
        load = self._loads[name] = self._of_server[server_id] = _Load(
            server_id=server_id,
            name=name,
            calls=set(),
            elsewhere=dict.fromkeys(running, since),
            circuit=LocalCircuit(self._circuit_failures, self._circuit_cooldown_seconds),
            busy=self._restored(busy, since),
        )
        labelled(metrics.running, server_id).set_function(lambda: load.running)
        self._refresh(name)
        self.freed.set()
        self.on_assignment()

    def drop(self, name: str) -> None:
        """Remove a server that is no longer assigned to this worker; its calls go on."""
        load = self._loads.pop(name, None)
        if load is not None:
            del self._of_server[load.server_id]
            self._remove(name, load)
            self._refusing.discard(name)
            self._pulled.discard(name)
            labelled(metrics.running, load.server_id).set_function(lambda: 0)
            self.on_assignment()

    def set_accepting(self, name: str, accepting: bool) -> None:
        load = self._loads.get(name)
        if load is not None and load.accepting != accepting:
            load.accepting = accepting
            self._refresh(name)
            self.freed.set()

    def observe(self, pools: Collection[str]) -> None:
        """Update the metrics of the servers assigned to this worker."""
        self._is_open()
        used = unavailable = 0
        metrics.server_online.clear()
        metrics.server_maintenance.clear()
        metrics.server_circuit.clear()
        for name, load in self._loads.items():
            used += load.running
            server = self._fleet.by_token(name)
            if server is None:
                continue
            unavailable += max(0, server.settings.max_concurrent - load.running)
            metrics.server_online.labels(load.server_id).set(server.online)
            metrics.server_maintenance.labels(load.server_id).set(server.maintenance)
            for state, kind in CIRCUITS.items():
                metrics.server_circuit.labels(load.server_id, state).set(isinstance(server.circuit, kind))
        free = self._capacity.total_free_slots if self._in_force() else 0
        metrics.slots.labels("used").set(used)
        metrics.slots.labels("free").set(free)
        metrics.slots.labels("unavailable").set(max(0, unavailable - free))
        metrics.pool_free_slots.clear()
        for pool in pools:
            metrics.pool_free_slots.labels(pool).set(self.free(pool))

    def is_assigned(self, server_id: str) -> bool:
        """Return True if a server is assigned to this worker."""
        return server_id in self._of_server

    def is_idle(self, name: str) -> bool:
        """Return True if this worker makes no call to the server now."""
        load = self._loads.get(name)
        return load is None or not load.calls

    # What runs

    def begin(self, server_id: str, ref: TaskRef) -> None:
        """Take a slot for a call that this worker begins."""
        load = self._of_server[server_id]
        now = time.monotonic()
        load.circuit.start(ref, now)
        load.begun[ref] = load.busy.begin(ref.owner, load.running, now)
        load.calls.add(ref)
        load.allowance = max(0, load.allowance - 1)
        load.last_choice = next(self._choices)
        self._changed.add(load.name)

    def end(self, server_id: str, ref: TaskRef, *, continues: bool = False) -> None:
        """Free the slot of a call that is over; keep it taken if the server goes on with the task (`continues`)."""
        load = self._of_server.get(server_id)
        if load is None:
            return
        load.circuit.end(ref, "neutral", time.monotonic())  # unless it was judged
        load.forget(ref)
        if continues:
            load.elsewhere[ref] = time.monotonic()
        else:
            load.elsewhere.pop(ref, None)  # where the server was lost and taken again during the call
        self._changed.add(load.name)
        self.freed.set()

    def withdraw(self, server_id: str, ref: TaskRef) -> None:
        """Free the slot of a call that did not begin; another attempt of the task may run on the server."""
        load = self._of_server.get(server_id)
        if load is not None:
            load.circuit.end(ref, "neutral", time.monotonic())
            load.forget(ref)
            self._changed.add(load.name)
            self.freed.set()

    def ended_elsewhere(self, name: str, ref: TaskRef) -> None:
        """Free the slot of an attempt without a call of this worker, as the log says it has ended."""
        load = self._loads.get(name)
        if load is not None and ref in load.elsewhere:
            del load.elsewhere[ref]
            self._changed.add(load.name)
            self.freed.set()

    def running_elsewhere(self, name: str, known_by: float) -> frozenset[TaskRef]:
        """Return the attempts without a call of this worker that were known by an instant (monotonic)."""
        load = self._loads.get(name)
        if load is None:
            return frozenset()
        return frozenset(ref for ref, since in load.elsewhere.items() if since < known_by)

    def running(self, server_id: str) -> int:
        load = self._of_server.get(server_id)
        return load.running if load else 0

    # How the server does

    def refuse(self, server_id: str, ref: TaskRef, retry_after: timedelta | None) -> None:
        """Record a busy answer to a call, before its slot is free."""
        load = self._of_server.get(server_id)
        begun = load.begun.get(ref) if load is not None else None
        if load is None or begun is None:
            return  # the server was handed over meanwhile
        others = load.running - 1
        load.busy.refuse(ref.owner, begun, others, retry_after, time.monotonic(), self._now(), self._chance())
        self._refusing.add(load.name)
        self._refresh(load.name)

    def take(self, server_id: str, ref: TaskRef) -> None:
        """Record that a server took the task of a call."""
        load = self._of_server.get(server_id)
        begun = load.begun.get(ref) if load is not None else None
        if load is None or begun is None or ref in load.taken:
            return
        if (server := self._fleet.by_token(load.name)) is not None:
            load.busy.take(ref.owner, begun, time.monotonic(), server.settings.max_concurrent)

    def rest(self, server_id: str) -> None:
        """Send nothing to a server for a while: this process could not send a request."""
        load = self._of_server.get(server_id)
        if load is not None:
            load.busy.rest(time.monotonic(), self._chance())
            self._refresh(load.name)

    def busy_news(self) -> dict[str, BusyServer | None]:
        """Return the new assumptions about servers since the last call; None: none are left."""
        self._catch_up()
        names, self._busy_news = self._busy_news, set()
        loads = {name: load for name in names if (load := self._of_server.get(name)) is not None}
        return {name: self._reported(load) for name, load in loads.items()}

    def rests_in(self, ref: TaskRef, task_type: str, require: Mapping[str, str]) -> float:
        """Return in how many seconds a server that refused a task's owner may be sent the task; 0: there is none."""
        now = time.monotonic()
        waits = [
            wait
            for name in self._refusing
            if (wait := self._loads[name].busy.rests_until(ref.owner) - now) > 0
            and (server := self._fleet.by_token(name)) is not None
            and is_there_for(server, task_type, require)
        ]
        return min(waits, default=0.0)

    def judge(self, server_id: str, ref: TaskRef, verdict: Verdict) -> CircuitChange:
        """Record the verdict of a call on its server, before its slot is free; return how its circuit changes."""
        load = self._of_server.get(server_id)
        if load is None:
            return None
        change = load.circuit.end(ref, verdict, time.monotonic())
        # The success of a call that was no trial, on a server without a limit of its own, changes nothing.
        if verdict != "success" or change is not None or load.busy.limit is not None:
            self._refresh(load.name)
        return change

    def doubt(self, ref: TaskRef) -> int:
        """Return how much speaks against a task as a trial, from 0 to 2."""
        now = time.monotonic()
        return max((self._loads[name].circuit.doubt(ref, now) for name in self._on_trial), default=0)

    def admitted_in(self, ref: TaskRef) -> float:
        """Return in how many seconds a task may be the trial of some server whose circuit is not closed.

        0: it may be now, or no such server may have a trial.
        """
        now = time.monotonic()
        waits = (self._loads[name].circuit.admits_at(ref, now) - now for name in self._on_trial)
        return max(0.0, min(waits, default=0.0))

    # Overflow

    def overflow_servers(self) -> list[Present]:
        """Return the assigned servers that take work only when many tasks wait."""
        found = (self._fleet.by_token(name) for name in self._loads)
        return [server for server in found if server is not None and server.settings.overflow is not None]

    def is_helping(self, server_id: str) -> bool:
        """Return True if an overflow server took work when its queues were last measured."""
        load = self._of_server.get(server_id)
        return load is not None and load.helping

    def allow(self, server_id: str, most: int) -> None:
        """Let an overflow server take so many tasks; 0: it stands by, and what it runs goes on."""
        load = self._of_server.get(server_id)
        if load is not None and (load.allowance, load.helping) != (most, most > 0):
            load.allowance, load.helping = most, most > 0
            self._refresh(load.name)
            self.freed.set()

    # Pulled servers

    def pulled_servers(self) -> list[str]:
        """Return the ids of the assigned servers that are pulled."""
        found = (self._fleet.by_token(name) for name in self._loads)
        return [server.server_id for server in found if server is not None and server.settings.is_pulled]

    def ask(self, server_id: str, message: AskMessage, reply: str) -> None:
        """Record what an API process says of an open request of a server's puller."""
        load = self._of_server.get(server_id)
        if load is not None and load.asks.put(message, reply, time.monotonic()):
            self._asks_changed(load)

    def forget_silent_asks(self) -> None:
        """Forget the requests of pullers of which no process has said anything for a while."""
        now = time.monotonic()
        for load in [self._loads[name] for name in self._pulled]:
            if load.asks.forget_silent(now):
                self._asks_changed(load)

    def ask_report(self, server_id: str) -> AskReport | None:
        """Return how many requests of a server's pullers are open; None if the server is not assigned here."""
        load = self._of_server.get(server_id)
        return load.asks.report(time.monotonic()) if load else None

    def reserve_ask(self, server_id: str, task_type: str, require: Mapping[str, str]) -> OpenAsk | None:
        """Take an open request for a task that starts on a pulled server; None: none is open for it."""
        load = self._of_server.get(server_id)
        ask = load.asks.reserve(task_type, require, time.monotonic()) if load else None
        if load is not None:
            self._changed.add(load.name)
        return ask

    def end_ask(self, server_id: str, ask: OpenAsk, how: Literal["served", "unused", "gone"]) -> None:
        """Record that a reserved request has its attempt, was not needed, or was over when the attempt came."""
        load = self._of_server.get(server_id)
        if load is None:
            return
        match how:
            case "served":
                load.asks.served(ask)
            case "unused":
                load.asks.give_back(ask)
            case "gone":
                load.asks.close(ask)
        self._asks_changed(load)

    def _asks_changed(self, load: _Load) -> None:
        (self._pulled.add if len(load.asks) else self._pulled.discard)(load.name)
        self._changed.add(load.name)
        self.freed.set()

    def _unasked(self, task_type: str, require: Mapping[str, str]) -> set[str]:
        """Return the pulled servers of which no puller asks for such a task."""
        loads = (self._loads[name] for name in self._pulled)
        return {load.server_id for load in loads if not load.asks.fit(task_type, require)}

    # Free slots

    def choose(
        self,
        task_type: str,
        avoid: str = "",
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        kept: Iterable[TaskKind] = (),
        ref: TaskRef | None = None,
        session: str = "",
    ) -> str | None:
        """Return the id of the server that gets the next task of a type; None if none has a free slot.

        It has all required labels, and no other has more of the preferred ones; of several, it is the one that the
        session is attached to. The one to `avoid` is chosen only if
        there is no other; not chosen are servers kept for tasks of some kinds, those whose trial is kept from the task
        `ref`, and those that have refused its owner.
        """
        if not self._is_open():
            return None
        closed = self._able(kept) if kept else set()
        if self._on_trial and ref is not None:
            closed |= self._kept_trials(ref)
        if self._refusing and ref is not None:
            now = time.monotonic()
            loads = (self._loads[name] for name in self._refusing)
            closed |= {load.server_id for load in loads if load.busy.rests_until(ref.owner) > now}
        if self._pulled:
            closed |= self._unasked(task_type, require)
        return self._capacity.choose(task_type, avoid, require, prefer, closed, session)

    def serves(self, pool: str) -> bool:
        """Return True if a server that may be sent tasks serves a pool, whether or not it has a free slot."""
        return self._is_open() and self._capacity.serves(pool)

    def free(self, pool: str, coming: Counter[str] = NOTHING, kept: Iterable[TaskKind] = ()) -> int:
        """Return how many slots are free for a pool.

        `coming`: tasks by pool that will need a slot too; those of other pools count only where all servers together
        have no more. `kept`: kinds of tasks for which the servers are kept that can take them.
        """
        if not self._is_open():
            return 0
        free = min(self._capacity.free_slots(pool) - coming[pool], self._capacity.total_free_slots - coming.total())
        return free - self._capacity.free_slots_of(self._able(kept)) if kept else free

    def next_change_in(self) -> float:
        """Return in how many seconds a pause or an open circuit ends; infinite if none will."""
        self._is_open()
        return self._opens_at[0][0] - time.monotonic() if self._opens_at else math.inf

    def _able(self, kinds: Iterable[TaskKind]) -> set[str]:
        """Return the servers with a free slot that can take tasks of some kinds."""
        return {
            name
            for kind in kinds
            for name in self._capacity.able(kind.task_type, dict(kind.require))
            if not self._pulled or name not in self._unasked(kind.task_type, dict(kind.require))
        }

    def _kept_trials(self, ref: TaskRef) -> set[str]:
        """Return the servers whose trial is kept from a task."""
        now = time.monotonic()
        loads = (self._loads[name] for name in self._on_trial)
        return {load.server_id for load in loads if load.circuit.admits_at(ref, now) > now}

    def _is_open(self) -> bool:
        """Bring back the servers whose pause has ended; return True if tasks may be sent at all."""
        self._catch_up()
        now = time.monotonic()
        while self._opens_at and self._opens_at[0][0] <= now:
            _, name = heapq.heappop(self._opens_at)
            if name in self._loads:
                self._loads[name].rechecked_at = math.inf
            self._refresh(name)
            self.freed.set()  # whoever looked may have had another reason than to start tasks
        return self._in_force()

    def _on_fleet_change(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._loads:
                self._refresh(name)

    def _catch_up(self) -> None:
        """Compute the capacity of the servers that have changed."""
        while self._changed:
            self._refresh(self._changed.pop())

    def _refresh(self, name: str) -> None:
        """Update the capacity with what is known of a server."""
        load, server = self._loads.get(name), self._fleet.by_token(name)
        if load is None:
            return
        if server is None or not load.accepting or not server.online or server.maintenance:
            self._remove(name, load)
            return
        now = time.monotonic()
        settings, running = server.settings, load.running
        most = self._busy_limit(name, load, settings.max_concurrent, now)
        if load.busy.paused_until > now:
            self._remove(name, load)
            self._recheck(name, load, load.busy.paused_until)
            return
        load.circuit.record(self._shut(server, now))
        capacity = load.circuit.capacity(running, most, now)
        if (changes_at := load.circuit.changes_at(now)) is not None:
            self._recheck(name, load, changes_at)
        if not capacity:
            self._remove(name, load)
            return
        if load.circuit.shut(now) is None:
            self._on_trial.discard(name)
        else:
            self._on_trial.add(name)
        if settings.overflow is not None:  # on standby its queues are still listened to
            capacity = min(capacity, running + load.allowance)
        types = settings.types
        if settings.is_pulled:
            capacity = min(capacity, running + load.asks.wanted)
            types = load.asks.types(settings)
        self._capacity.put(
            ServerCapacity(
                candidate=Candidate(server.server_id, running, capacity, settings.weight, load.last_choice),
                types=types,
                pools=frozenset(self._fleet.pools_of_types(types)),
                labels=settings.labels,
                models=server.models or (),
            )
        )

    def _busy_limit(self, name: str, load: _Load, most: int, now: float) -> int:
        """Return how many tasks a server is sent at a time, of `most` registered."""
        busy = load.busy
        if not busy.refuses_owners:
            self._refusing.discard(name)
        if busy.limit is not None:
            for ref, begun in load.begun.items():
                if begun.at + busy.taken_after <= now and ref not in load.taken:
                    load.taken.add(ref)
                    busy.take(ref.owner, begun, now, most)
            busy.probe(now, load.running, most)
        if busy.limit is not None:
            waits = [
                begun.at + busy.taken_after
                for ref, begun in load.begun.items()
                if begun.round == busy.round and ref not in load.taken
            ]
            if load.running >= busy.limit and busy.probes_at > now:
                waits.append(busy.probes_at)
            if waits:
                self._recheck(name, load, min(waits))
        state = (busy.since, busy.limit, busy.paused_until if busy.since else 0.0)
        if state != load.noted:
            load.noted = state
            self._busy_news.add(load.server_id)
        return most if busy.limit is None else min(busy.limit, most)

    def _reported(self, load: _Load) -> BusyServer | None:
        busy, now = load.busy, self._now()
        if busy.since is None and busy.limit is None:
            return None
        until = now + timedelta(seconds=max(0.0, busy.paused_until - time.monotonic())) if busy.since else None
        return BusyServer(seen_at=now, since=busy.since, next_try_at=until, limit=busy.limit)

    def _restored(self, before: BusyServer | None, now: float) -> Busyness:
        if before is None:
            return Busyness()
        left = (before.next_try_at - self._now()).total_seconds() if before.next_try_at else 0.0
        return Busyness.restored(before.since, before.limit, now + left, now)

    def _remove(self, name: str, load: _Load) -> None:
        self._capacity.remove(load.server_id)
        self._on_trial.discard(name)

    def _recheck(self, name: str, load: _Load, at: float) -> None:
        if at < load.rechecked_at - RECHECK_TOLERANCE_SECONDS:
            load.rechecked_at = at
            heapq.heappush(self._opens_at, (at, name))

    def _shut(self, server: Present, now: float) -> Shut | None:
        """Return the state of a server's circuit in the log; None: closed."""
        match server.circuit:
            case CircuitIsClosed():
                return None
            case CircuitIsHalfOpen():
                return Shut(0.0)
            case CircuitIsOpen(until=until, owner=owner):
                return Shut(now + (until - self._now()).total_seconds(), owner)
            case _:
                assert_never(server.circuit)
