"""Server assignment: which worker dispatches to which server, and the leases that make sure only one does.

Every worker computes the same assignment by rendezvous hashing over the live workers, so none has to ask another. A
server that belongs to another worker is handed over once no call of this worker to it is in progress. For a busy server
new calls are held back for HANDOVER_SECONDS to let that happen, then it is left alone for HANDOVER_PAUSE_SECONDS: no
server is idle for long only to change hands.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any

import structlog

from ...commands.task_state import Processing
from ...container import Container
from ...errors import UnreadableEvent
from ...events.ids import TaskRef
from ...events.server import ServerRegistered
from ...events.subjects import TASK_SUBJECTS, server_token
from ...projections.active import projected, projection_reaches, running_on
from ...runtime.service import Service
from ...streams.buckets import BucketEntry
from ...streams.jetstream.api import api
from ...streams.jetstream.messages import last_sequence_of_most
from ...streams.leases import Lease, Leases, Membership
from ...streams.topology.definitions import TASKS
from .slots import Slots

log = structlog.get_logger(__name__)

HANDOVER_SECONDS = 5.0
"""How long new calls to a busy server are held back so that it can change hands."""
HANDOVER_PAUSE_SECONDS = 30.0
"""How long it is then left alone."""
AT_ONCE = 64
"""How many servers are taken at the same time."""
NEWS_PAUSE_SECONDS = 0.05
"""Delay between a change of the fleet and the reaction to it: changes come in bursts."""
MARKS = 100
"""Positions of the log remembered until they are projected."""
PROJECTION_SECONDS = 5.0
"""How long a lagging projection may delay the start of dispatch to a server."""


def preferred(server_name: str, workers: Iterable[str]) -> str:
    """Return the worker that a server is assigned to, of those alive: the same in every process."""
    return max(workers, key=lambda worker: hashlib.sha256(f"{worker}\n{server_name}".encode()).digest())


class ServerAssignment(Service):
    """Takes and gives up the servers of one worker."""

    def __init__(self, container: Container, members: Membership, slots: Slots) -> None:
        super().__init__("server-assignment", period_seconds=members.period_seconds)
        self._members = members
        self._fleet = container.fleet
        self._heartbeats = container.heartbeats
        self._tasks_bucket = container.buckets.tasks
        self._connection = container.reading
        self._tasks = container.commands.tasks
        self._slots = slots
        self._entries = Leases(members.bucket, "server")
        self._leases: dict[str, Lease] = {}
        self._handovers: dict[str, float] = {}
        """By server, monotonic: since when new calls are held back, or (in the future) until when it is left alone."""
        self._confirmed_lapses = -1
        """The lapses of the presence when this worker last confirmed its leases."""
        self._known_servers: dict[str, ServerRegistered] = {}
        """The servers of the fleet, by token, at the last run."""
        self._workers: frozenset[str] = frozenset()
        self._assigned_here: dict[str, bool] = {}
        """By server: whether it is assigned to this worker, as long as the workers stay the same."""
        self._news = asyncio.Event()
        self._running = asyncio.Lock()
        """Held while servers are taken or given up."""
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        """When (monotonic) the log had which last sequence."""
        self._projected_by = -math.inf

    @property
    def in_force(self) -> bool:
        """True if this worker's leases hold for certain; False from a lapse until they are confirmed."""
        return self._members.is_current and self._confirmed_lapses == self._members.lapses

    def on_fleet_change(self, names: Collection[str]) -> None:
        """Run soon if any of these servers, by token, was registered or removed."""
        for name in names:
            server = self._fleet.by_token(name)
            if (server and server.settings) is not self._known_servers.get(name):
                self._news.set()
                return

    async def _prepare(self) -> None:
        await self._members.observed()

    async def _serve(self) -> None:
        self._news.clear()
        async with self._running:
            if not self._stopping.is_set():
                await self.run_once()

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until a server has come or gone, or the service is woken."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        await super()._pause(NEWS_PAUSE_SECONDS)

    def wake(self) -> None:
        """End the pause now."""
        super().wake()
        self._news.set()

    async def run_once(self) -> Mapping[str, int]:
        """Take and give once; return how many servers were taken and given up.

        Does nothing while the others do not count on this worker.
        """
        counts = {"taken": 0, "given_up": 0}
        if not self._members.is_current:
            return counts
        servers = {server_token(server.server_id): server.settings for server in self._fleet.servers()}
        self._known_servers = servers
        self._update_workers()
        await self._give_up(self._leases.keys() - servers.keys())
        lapses = self._members.lapses
        entries = await self._entries.read()
        if lapses != self._members.lapses:
            return counts  # this process was stopped meanwhile: what it has read may be old
        await self._drop_lost_leases(entries)
        if not self.in_force:
            self._confirmed_lapses = lapses
            self._slots.freed.set()  # its servers have free slots again
        await self._update_projected()
        for name in list(self._leases):
            if self._is_assigned_here(name):
                await self._serve_assigned(name)
        given = [name for name in self._leases if not self._is_assigned_here(name) and self._may_change_hands(name)]
        await self._give_up(given)
        others = servers.keys() - self._leases.keys()
        await self._take([name for name in others if self._may_take(name, _holder(entries.get(name)))], entries)
        return {"taken": len(self._leases.keys() & others), "given_up": len(given)}

    def _may_take(self, name: str, holder: str) -> bool:
        return self._is_assigned_here(name) or not self._members.is_alive(holder)

    def _update_workers(self) -> None:
        workers = frozenset({*self._members.alive("worker"), self._members.id})
        if workers != self._workers:
            self._workers = workers
            self._assigned_here.clear()

    def _is_assigned_here(self, name: str) -> bool:
        """Return True if a server is assigned to this worker."""
        mine = self._assigned_here.get(name)
        if mine is None:
            mine = self._assigned_here[name] = preferred(name, self._workers) == self._members.id
        return mine

    async def _drop_lost_leases(self, entries: dict[str, BucketEntry]) -> None:
        for name, lease in list(self._leases.items()):
            entry = entries.get(name)
            if _holder(entry) == self._members.id:
                await lease.acquire_from(entry)  # still ours, even after a lapse
            else:
                self._drop(name)

    async def _take(self, names: list[str], entries: dict[str, BucketEntry]) -> None:
        """Take the servers that no live worker holds, and begin to dispatch to them."""
        taken: list[str] = []

        async def take(name: str) -> None:
            lease = Lease(self._members, f"server.{name}")
            if await lease.acquire_from(entries.get(name)):
                self._leases[name] = lease
                taken.append(name)

        async def add_slots(name: str) -> None:
            server = self._fleet.by_token(name)
            if server is not None:
                busy = await self._heartbeats.busy(server.server_id)
                self._slots.add(server.server_id, await running_on(self._tasks_bucket, name), busy)

        try:
            await _run_all([take(name) for name in names])
            if taken:
                await self._projection_is_current()
                await _run_all([add_slots(name) for name in taken])
        except Exception:
            await self._give_up(taken)  # a lease without its slots would keep the server idle
            raise

    async def _projection_is_current(self) -> None:
        """Wait until the events of former holders are projected: what runs on a server is read from the projection."""
        last = int((await api(self._connection, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
        await projection_reaches(self._tasks_bucket, last, PROJECTION_SECONDS)

    async def _update_projected(self) -> None:
        """Learn up to which instant (monotonic) the log is projected; mark where the log is now."""
        reflected = await projected(self._tasks_bucket)
        while self._marks and self._marks[0][1] <= reflected:
            self._projected_by, _ = self._marks.popleft()
        now = time.monotonic()
        self._marks.append((now, await last_sequence_of_most(self._connection, TASKS, TASK_SUBJECTS)))

    async def _serve_assigned(self, name: str) -> None:
        slots = self._slots
        self._handovers.pop(name, None)
        slots.set_accepting(name, accepting=True)
        if elsewhere := slots.running_elsewhere(name, self._projected_by):
            # An attempt may have ended before its server was added here.
            still = set(await running_on(self._tasks_bucket, name))
            for ref in elsewhere.difference(still):
                # A killed NATS may have lost what was projected.
                if not await self._runs_on(name, ref):
                    slots.ended_elsewhere(name, ref)

    async def _runs_on(self, name: str, ref: TaskRef) -> bool:
        """Return True if the log says that a task takes a slot of a server, or an event of it does not decode."""
        try:
            state = (await self._tasks.load(ref)).state
        except UnreadableEvent:
            return True  # its slot stays taken: only a newer version knows better
        return isinstance(state, Processing) and server_token(state.occupied_server_id) == name

    def _may_change_hands(self, name: str) -> bool:
        """Return True if a server of another worker is idle here; for a busy one, hold back new calls for a while."""
        slots = self._slots
        if slots.is_idle(name):
            return True
        now = time.monotonic()
        since = self._handovers.setdefault(name, now)
        if since <= now - HANDOVER_SECONDS:
            self._handovers[name] = now + HANDOVER_PAUSE_SECONDS
        slots.set_accepting(name, accepting=self._handovers[name] > now)
        return False

    async def _give_up(self, names: Iterable[str]) -> None:
        """Stop dispatching to these servers, and release their leases."""

        async def give_up(name: str) -> None:
            lease = self._leases.get(name)
            self._drop(name)
            if lease is not None:
                await lease.release()

        await _run_all([give_up(name) for name in names])

    def _drop(self, name: str) -> None:
        self._leases.pop(name, None)
        self._handovers.pop(name, None)
        self._slots.drop(name)

    async def stop(self) -> None:
        """Give up every server and take no more: this worker ends."""
        await super().stop()
        self._news.set()
        async with self._running:
            await self._give_up(list(self._leases))


def _holder(entry: BucketEntry | None) -> str:
    """Return the worker that a lease's entry names, empty if it is free."""
    return entry.value.decode() if entry else ""


async def _run_all(works: list[Coroutine[Any, Any, None]]) -> None:
    """Run all works, AT_ONCE at a time; then raise the first error, if any."""
    places = asyncio.Semaphore(AT_ONCE)

    async def within_limit(work: Coroutine[Any, Any, None]) -> None:
        async with places:
            await work

    outcomes = await asyncio.gather(*map(within_limit, works), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
