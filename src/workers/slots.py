"""How many tasks each server has, and whether it may get another: the state of dispatch in one worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from .. import metrics
from ..commands.server import CircuitIsClosed, CircuitIsOpen, Present
from ..events.ids import TaskRef
from ..events.subjects import server_token
from ..projections.fleet import Fleet
from .placement import Candidate

PROJECTED_WITHIN_SECONDS = 5.0
LONGEST_PAUSE = timedelta(minutes=5)
"""A server may ask to be left alone, but not for ever: one task's `Retry-After` is no verdict on all others."""

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

    @property
    def running(self) -> int:
        return len(self.calls | self.elsewhere.keys())


class Slots:
    """The servers this worker speaks for, by token, and the room each has."""

    def __init__(self, fleet: Fleet, now: Callable[[], datetime], holds_lease: Callable[[str], bool]) -> None:
        self._fleet = fleet
        self._now = now
        self._holds_lease = holds_lease
        self._loads: dict[str, _Load] = {}
        self.freed = asyncio.Event()
        """Set whenever there may be more room than before."""

    # Which servers

    def add(self, server_id: str, running: Iterable[TaskRef]) -> None:
        """Speak for a server, on which these attempts are running already."""
        since = time.monotonic()
        self._loads[server_token(server_id)] = _Load(
            server_id=server_id, calls=set(), elsewhere=dict.fromkeys(running, since)
        )
        self.freed.set()

    def drop(self, name: str) -> None:
        """Speak for a server no longer; calls of ours to it go on."""
        load = self._loads.pop(name, None)
        if load is not None:
            metrics.running.labels(load.server_id).set(0)

    def tokens(self) -> list[str]:
        return list(self._loads)

    def set_accepting(self, name: str, accepting: bool) -> None:
        if name in self._loads:
            self._loads[name].accepting = accepting
            self.freed.set()

    def is_idle(self, name: str) -> bool:
        """Tell whether no call of ours to the server is under way."""
        load = self._loads.get(name)
        return load is None or not load.calls

    # What runs

    def begin(self, server_id: str, ref: TaskRef) -> None:
        load = self._loads[server_token(server_id)]
        load.calls.add(ref)
        self._gauge(load)

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
        self._gauge(load)
        self.freed.set()

    def ended_elsewhere(self, name: str, ref: TaskRef) -> None:
        """The log says that an attempt on the server is over."""
        load = self._loads.get(name)
        if load is not None and ref in load.elsewhere:
            del load.elsewhere[ref]
            self._gauge(load)
            self.freed.set()

    def has_elsewhere(self, name: str) -> bool:
        """Tell whether attempts without a call of ours run on a server."""
        load = self._loads.get(name)
        return load is not None and bool(load.elsewhere)

    def running_elsewhere(self, name: str) -> frozenset[TaskRef]:
        """Return the attempts without a call of ours that have been known for long enough to be projected."""
        load = self._loads.get(name)
        if load is None:
            return frozenset()
        known_by = time.monotonic() - PROJECTED_WITHIN_SECONDS
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
            asyncio.get_running_loop().call_later(seconds, self.freed.set)

    def note(self, server_id: str, verdict: Verdict) -> int:
        """Count an attempt's verdict on the server; return the failures in a row."""
        load = self._loads.get(server_token(server_id))
        if load is None:
            return 0
        load.failures = load.failures + 1 if verdict == "failing" else 0
        return load.failures

    # Room

    def candidates(self, task_type: str | None = None, pool: str | None = None) -> list[Candidate]:
        """Return the servers with room that serve a type, or a pool; of both None, all with room."""
        found = []
        now = self._now()
        for name, load in self._loads.items():
            server = self._fleet.by_token(name)
            if server is None or not self._may_send(name, load, server, now):
                continue
            if task_type is not None and server.settings.types and task_type not in server.settings.types:
                continue
            if pool is not None and pool not in self._fleet.pools_of(server):
                continue
            running = load.running
            capacity = server.settings.max_concurrent if isinstance(server.circuit, CircuitIsClosed) else 1
            if running < capacity:
                found.append(Candidate(server.server_id, running, capacity, server.settings.weight))
        return found

    def serves(self, pool: str) -> bool:
        """Tell whether a server that may be sent tasks runs a pool, whether or not it has room now."""
        now = self._now()
        for name, load in self._loads.items():
            server = self._fleet.by_token(name)
            if server and self._may_send(name, load, server, now) and pool in self._fleet.pools_of(server):
                return True
        return False

    def room(self, pool: str) -> int:
        """Return how many more tasks of a pool can be placed now."""
        return sum(candidate.capacity - candidate.running for candidate in self.candidates(pool=pool))

    def _may_send(self, name: str, load: _Load, server: Present, now: datetime) -> bool:
        if not load.accepting or not server.online or server.maintenance or not self._holds_lease(name):
            return False
        if load.paused_until > time.monotonic():
            return False
        return not (isinstance(server.circuit, CircuitIsOpen) and server.circuit.until > now)

    def _gauge(self, load: _Load) -> None:
        metrics.running.labels(load.server_id).set(load.running)
