"""How many tasks each server has, and whether it may get another: the state of dispatch in one worker."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from msgspec import Struct

from ...commands.server import CircuitIsClosed, CircuitIsOpen, Present
from ...events.ids import TaskRef
from ...events.subjects import server_token
from ...projections.fleet import Fleet
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...scheduling.redelivery import TaskKind
from .capacity import NO_LABELS, Opening, Openings
from .placement import Candidate, Policy

LONGEST_PAUSE = timedelta(minutes=5)
"""A server may ask to be left alone, but not for ever: one task's `Retry-After` is no verdict on all others."""

NOTHING: Counter[str] = Counter()

Verdict = Literal["well", "failing"]


class _Load(Struct):
    """What this worker knows about one server it speaks for."""

    server_id: str
    calls: set[TaskRef]
    """Attempts whose call this worker is making."""
    elsewhere: dict[TaskRef, float]
    """Attempts that run on the server without a call of ours (accepted ones, and those of a former holder) and since
    when that is known, monotonic."""
    paused_until: float = 0.0
    """Monotonic. The server said it was busy, or it keeps failing."""
    failures: int = 0
    """In a row."""
    accepting: bool = True
    """False while the lease is being handed over."""
    turn: int = 0
    """The number of the choice that last gave it a task."""
    allowance: int = 0
    """Of an overflow server: how many tasks it may still take before its queues are looked at again."""
    helping: bool = False
    """Of an overflow server: enough waited, when last looked, for it to take work."""

    @property
    def running(self) -> int:
        return len(self.calls) + len(self.elsewhere) - len(self.elsewhere.keys() & self.calls)


class Slots:
    """The servers this worker speaks for, by token, and the room each has."""

    def __init__(
        self, fleet: Fleet, policy: Policy[Any], now: Callable[[], datetime], in_force: Callable[[], bool]
    ) -> None:
        """`in_force` tells whether this worker's leases hold: if not, nothing is sent to any server."""
        self._fleet = fleet
        self._now = now
        self._in_force = in_force
        self._loads: dict[str, _Load] = {}
        self._openings = Openings(policy)
        self._opens_at: list[tuple[float, str]] = []
        """A heap of when servers are to be looked at again that are left alone for a time, monotonic."""
        self._turns = itertools.count(1)
        self.freed = asyncio.Event()
        """Set whenever there may be more room than before."""
        fleet.watch(self._on_fleet_change)

    # Which servers

    def add(self, server_id: str, running: Iterable[TaskRef]) -> None:
        """Speak for a server, on which these attempts are running already."""
        since = time.monotonic()
        self._loads[server_token(server_id)] = _Load(
            server_id=server_id, calls=set(), elsewhere=dict.fromkeys(running, since)
        )
        self._refresh(server_token(server_id))
        self.freed.set()

    def drop(self, name: str) -> None:
        """Speak for a server no longer; calls of ours to it go on."""
        load = self._loads.pop(name, None)
        if load is not None:
            self._openings.remove(load.server_id)
            labelled(metrics.running, load.server_id).set(0)

    def tokens(self) -> list[str]:
        return list(self._loads)

    def set_accepting(self, name: str, accepting: bool) -> None:
        load = self._loads.get(name)
        if load is not None and load.accepting != accepting:
            load.accepting = accepting
            self._refresh(name)
            self.freed.set()

    def speaks_for(self, server_id: str) -> bool:
        """Tell whether this worker speaks for a server."""
        return server_token(server_id) in self._loads

    def is_idle(self, name: str) -> bool:
        """Tell whether no call of ours to the server is under way."""
        load = self._loads.get(name)
        return load is None or not load.calls

    # What runs

    def begin(self, server_id: str, ref: TaskRef) -> None:
        """A call of ours to a server begins; it was the server's turn."""
        load = self._loads[server_token(server_id)]
        load.calls.add(ref)
        load.allowance = max(0, load.allowance - 1)
        load.turn = next(self._turns)
        self._has_changed(load)

    def end(self, server_id: str, ref: TaskRef, *, continues: bool = False) -> None:
        """A call of ours is over; `continues`: the server goes on with the task and will report."""
        load = self._loads.get(server_token(server_id))
        if load is None:
            return
        load.calls.discard(ref)
        if continues:
            load.elsewhere[ref] = time.monotonic()
        else:
            load.elsewhere.pop(ref, None)  # where the server was lost and taken again during the call
        self._has_changed(load)
        self.freed.set()

    def withdraw(self, server_id: str, ref: TaskRef) -> None:
        """A call of ours did not begin: the task was not to be started. An attempt of it may well run on the server."""
        load = self._loads.get(server_token(server_id))
        if load is not None:
            load.calls.discard(ref)
            self._has_changed(load)
            self.freed.set()

    def ended_elsewhere(self, name: str, ref: TaskRef) -> None:
        """The log says that an attempt on the server is over."""
        load = self._loads.get(name)
        if load is not None and ref in load.elsewhere:
            del load.elsewhere[ref]
            self._has_changed(load)
            self.freed.set()

    def running_elsewhere(self, name: str, known_by: float) -> frozenset[TaskRef]:
        """Return the attempts without a call of ours that were known by a time (monotonic)."""
        load = self._loads.get(name)
        if load is None:
            return frozenset()
        return frozenset(ref for ref, since in load.elsewhere.items() if since < known_by)

    def running(self, server_id: str) -> int:
        load = self._loads.get(server_token(server_id))
        return load.running if load else 0

    # How the server does

    def pause(self, server_id: str, pause: timedelta) -> None:
        """Send nothing to a server for a while: it said it was busy, or it keeps failing."""
        load = self._loads.get(server_token(server_id))
        if load is not None:
            seconds = min(pause, LONGEST_PAUSE).total_seconds()
            load.paused_until = max(load.paused_until, time.monotonic() + seconds)
            self._refresh(server_token(server_id))
            asyncio.get_running_loop().call_later(seconds, self.freed.set)

    def note(self, server_id: str, verdict: Verdict) -> int:
        """Count an attempt's verdict on the server; return the failures in a row."""
        load = self._loads.get(server_token(server_id))
        if load is None:
            return 0
        load.failures = load.failures + 1 if verdict == "failing" else 0
        return load.failures

    # Overflow

    def overflow_servers(self) -> list[Present]:
        """Return the servers this worker speaks for that take work only when much waits."""
        found = (self._fleet.by_token(name) for name in self._loads)
        return [server for server in found if server is not None and server.settings.overflow is not None]

    def is_helping(self, server_id: str) -> bool:
        """Tell whether an overflow server took work when its queues were last looked at."""
        load = self._loads.get(server_token(server_id))
        return load is not None and load.helping

    def allow(self, server_id: str, most: int) -> None:
        """Have an overflow server take so many tasks, or stand by (0); what it runs goes on."""
        load = self._loads.get(server_token(server_id))
        if load is not None and (load.allowance, load.helping) != (most, most > 0):
            load.allowance, load.helping = most, most > 0
            self._refresh(server_token(server_id))
            self.freed.set()

    # Room

    def choose(
        self,
        task_type: str,
        avoid: str = "",
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        kept: Iterable[TaskKind] = (),
    ) -> str | None:
        """Return the id of the server that gets the next task of a type; None if none has room.

        It has all labels that are required, and as many as any of those preferred. The one to `avoid` is chosen only
        where there is no other; none of those that are kept for tasks of some kinds.
        """
        if not self._is_open():
            return None
        return self._openings.choose(task_type, avoid, require, prefer, self._able(kept) if kept else ())

    def serves(self, pool: str) -> bool:
        """Tell whether a server that may be sent tasks runs a pool, whether or not it has room now."""
        return self._is_open() and self._openings.serves(pool)

    def free(self, pool: str, coming: Counter[str] = NOTHING, kept: Iterable[TaskKind] = ()) -> int:
        """Return how many more tasks of a pool can be placed now.

        `coming`: tasks by pool that will need room too; those of other pools count only where all servers together have
        no more. `kept`: kinds of tasks for which the servers are kept that can take them.
        """
        if not self._is_open():
            return 0
        room = min(self._openings.room(pool) - coming[pool], self._openings.room_in_all - coming.total())
        return room - self._openings.room_of(self._able(kept)) if kept else room

    def _able(self, kinds: Iterable[TaskKind]) -> set[str]:
        """Return the servers with room that can take tasks of some kinds."""
        return {name for kind in kinds for name in self._openings.able(kind.task_type, dict(kind.require))}

    def _is_open(self) -> bool:
        """Look at the servers whose time alone is up; tell whether tasks may be sent at all."""
        now = time.monotonic()
        while self._opens_at and self._opens_at[0][0] <= now:
            _, name = heapq.heappop(self._opens_at)
            self._refresh(name)
        return self._in_force()

    def _on_fleet_change(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._loads:
                self._refresh(name)

    def _has_changed(self, load: _Load) -> None:
        self._refresh(server_token(load.server_id))
        labelled(metrics.running, load.server_id).set(load.running)

    def _refresh(self, name: str) -> None:
        """Bring the openings up to date with what is known of a server."""
        load, server = self._loads.get(name), self._fleet.by_token(name)
        if load is None:
            return
        if server is None or not load.accepting or not server.online or server.maintenance:
            self._openings.remove(load.server_id)
            return
        opens_at = max(load.paused_until, self._circuit_open_until(server))
        if opens_at > time.monotonic():
            self._openings.remove(load.server_id)
            heapq.heappush(self._opens_at, (opens_at, name))
            return
        settings = server.settings
        capacity = settings.max_concurrent if isinstance(server.circuit, CircuitIsClosed) else 1
        if settings.overflow is not None:  # while it stands by, its queues are listened to all the same
            capacity = min(capacity, load.running + load.allowance)
        self._openings.put(
            Opening(
                server=Candidate(server.server_id, load.running, capacity, settings.weight, load.turn),
                types=settings.types,
                pools=frozenset(self._fleet.pools_of(server) if settings.types else ()),
                labels=settings.labels,
            )
        )

    def _circuit_open_until(self, server: Present) -> float:
        """Return when an attempt may be let through, monotonic; of a circuit that is not open, any time in the past."""
        if not isinstance(server.circuit, CircuitIsOpen):
            return 0.0
        return time.monotonic() + (server.circuit.until - self._now()).total_seconds()
