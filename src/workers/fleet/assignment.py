"""Which servers this worker speaks for: each server is one worker's at a time, and each worker has its share.

The share is by rendezvous hashing over the workers that are alive, so all agree without talking. A server that should
be another's is handed over when none of its calls is under way here; for a busy one, new calls are held back for a
while to let that happen, then tried again later: it is never idle for long only to change hands.
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

from ...commands.commands import Commands
from ...commands.task import Processing
from ...errors import UnreadableEvent
from ...events.ids import TaskRef
from ...events.server import ServerRegistered
from ...events.subjects import TASK_SUBJECTS, server_token
from ...projections.active import projected, projection_reaches, running_on
from ...projections.fleet import Fleet
from ...runtime.service import Service
from ...streams.buckets import Bucket, BucketEntry
from ...streams.client.connection import Connection
from ...streams.jetstream.api import api
from ...streams.jetstream.messages import last_sequence
from ...streams.leases import Lease, Leases, Membership
from ...streams.topology.definitions import TASKS
from .slots import Slots

log = structlog.get_logger(__name__)

HANDOVER_SECONDS = 5.0
"""How long new calls to a busy server are held back so that it can change hands."""
HANDOVER_PAUSE_SECONDS = 30.0
"""How long it is then left alone."""
AT_ONCE = 64
"""How many servers are taken side by side."""
NEWS_PAUSE_SECONDS = 0.05
"""How long after a change of the fleet its servers are looked at: a change seldom comes alone."""
MARKS = 100
"""Places in the log that are remembered until they are projected."""
PROJECTION_SECONDS = 5.0
"""How long a projection that lags may hold up the start of work on a server."""


def preferred(server_name: str, workers: Iterable[str]) -> str:
    """Return the worker that should speak for a server, of those alive: the same wherever it is asked."""
    return max(workers, key=lambda worker: hashlib.sha256(f"{worker}\n{server_name}".encode()).digest())


class ServerAssignment(Service):
    def __init__(
        self,
        members: Membership,
        fleet: Fleet,
        tasks_bucket: Bucket,
        consuming: Connection,
        commands: Commands,
        slots: Slots,
    ) -> None:
        super().__init__("server-assignment", period_seconds=members.period_seconds)
        self._members = members
        self._fleet = fleet
        self._tasks_bucket = tasks_bucket
        self._consuming = consuming
        self._commands = commands
        self._slots = slots
        self._entries = Leases(members.bucket, "server")
        self._leases: dict[str, Lease] = {}
        self._handovers: dict[str, float] = {}
        """By server, monotonic: since when new calls are held back, or (in the future) until when it is left alone."""
        self._lapses_seen = -1
        """As many as there had been when this worker last looked which leases are its own."""
        self._looked_at: dict[str, ServerRegistered] = {}
        """The servers of the fleet, by token, as they were then."""
        self._workers: frozenset[str] = frozenset()
        self._preferring_me: dict[str, bool] = {}
        """By server: whether it should be this worker's, as long as the workers stay the same."""
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        """Of whoever takes and gives."""
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        """Where the log was, and when."""
        self._projected_by = -math.inf

    @property
    def in_force(self) -> bool:
        """Whether what this worker holds is its own for certain: not after a lapse, until it has looked again."""
        return self._members.is_current and self._lapses_seen == self._members.lapses

    def look(self, names: Collection[str]) -> None:
        """Have the shares looked at soon if any of these servers, by token, has come, gone, or is registered anew."""
        for name in names:
            server = self._fleet.by_token(name)
            if (server and server.settings) is not self._looked_at.get(name):
                self._news.set()
                return

    async def _prepare(self) -> None:
        await self._members.observed()

    async def _serve(self) -> None:
        self._news.clear()
        async with self._turn:
            if not self._stopping.is_set():
                await self.run_once()

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until a server has come or gone."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        await super()._pause(NEWS_PAUSE_SECONDS)

    async def run_once(self) -> Mapping[str, int]:
        """Take and give once; return how many servers were taken and given up.

        Does nothing while the others do not count on this worker.
        """
        counts = {"taken": 0, "given": 0}
        if not self._members.is_current:
            return counts
        servers = {server_token(server.server_id): server.settings for server in self._fleet.servers()}
        self._looked_at = servers
        self._count_workers()
        await self._give(self._leases.keys() - servers.keys())
        lapses = self._members.lapses
        entries = await self._entries.read()
        if lapses != self._members.lapses:
            return counts  # this process was stopped meanwhile: what it has read may be old
        await self._drop_lost(entries)
        self._lapses_seen = lapses
        await self._learn_what_is_projected()
        for name in list(self._leases):
            if self._prefers_me(name):
                await self._keep(name)
        given = [name for name in self._leases if not self._prefers_me(name) and self._may_change_hands(name)]
        await self._give(given)
        others = servers.keys() - self._leases.keys()
        await self._take([name for name in others if self._may_take(name, _holder(entries.get(name)))], entries)
        return {"taken": len(self._leases.keys() & others), "given": len(given)}

    def _may_take(self, name: str, holder: str) -> bool:
        return self._prefers_me(name) or not self._members.is_alive(holder)

    def _count_workers(self) -> None:
        workers = frozenset({*self._members.alive("worker"), self._members.id})
        if workers != self._workers:
            self._workers = workers
            self._preferring_me.clear()

    def _prefers_me(self, name: str) -> bool:
        """Tell whether a server should be this worker's."""
        mine = self._preferring_me.get(name)
        if mine is None:
            mine = self._preferring_me[name] = preferred(name, self._workers) == self._members.id
        return mine

    async def _drop_lost(self, entries: dict[str, BucketEntry]) -> None:
        for name, lease in list(self._leases.items()):
            entry = entries.get(name)
            if _holder(entry) == self._members.id:
                await lease.acquire_from(entry)  # still ours, also if our presence had lapsed
            else:
                self._lose(name)

    async def _take(self, names: list[str], entries: dict[str, BucketEntry]) -> None:
        """Take those servers that nobody holds who is alive, and begin to speak for them."""
        taken: list[str] = []

        async def take(name: str) -> None:
            lease = Lease(self._members, f"server.{name}")
            if await lease.acquire_from(entries.get(name)):
                self._leases[name] = lease
                taken.append(name)

        async def speak_for(name: str) -> None:
            server = self._fleet.by_token(name)
            if server is not None:
                self._slots.add(server.server_id, await running_on(self._tasks_bucket, name))

        try:
            await _side_by_side([take(name) for name in names])
            if taken:
                await self._projection_is_current()
                await _side_by_side([speak_for(name) for name in taken])
        except Exception:
            await self._give(taken)  # a lease without its slots would keep the server idle
            raise

    async def _projection_is_current(self) -> None:
        """Wait until what the former holders did is projected: what runs on a server is read from there."""
        last = int((await api(self._consuming, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
        await projection_reaches(self._tasks_bucket, last, PROJECTION_SECONDS)

    async def _learn_what_is_projected(self) -> None:
        """Find out up to when (monotonic) all that was in the log is projected; mark where the log is now."""
        reflected = await projected(self._tasks_bucket)
        while self._marks and self._marks[0][1] <= reflected:
            self._projected_by, _ = self._marks.popleft()
        now = time.monotonic()
        self._marks.append((now, await last_sequence(self._consuming, TASKS, TASK_SUBJECTS)))

    async def _keep(self, name: str) -> None:
        slots = self._slots
        self._handovers.pop(name, None)
        slots.set_accepting(name, accepting=True)
        if elsewhere := slots.running_elsewhere(name, self._projected_by):
            # News of an end can be lost on the way; the projection has it.
            still = set(await running_on(self._tasks_bucket, name))
            for ref in elsewhere.difference(still):
                # A killed NATS may have forgotten what was projected.
                if not await self._runs_on(name, ref):
                    slots.ended_elsewhere(name, ref)

    async def _runs_on(self, name: str, ref: TaskRef) -> bool:
        """Return True if the log says that a server works on a task, or an event of it does not decode."""
        try:
            state = (await self._commands.tasks.load(ref)).state
        except UnreadableEvent:
            return True  # its slot stays taken: only a newer version knows better
        return isinstance(state, Processing) and server_token(state.server_id) == name

    def _may_change_hands(self, name: str) -> bool:
        """Tell whether a server that should be another's is idle here; for a busy one, see that it comes to be."""
        slots = self._slots
        if slots.is_idle(name):
            return True
        now = time.monotonic()
        since = self._handovers.setdefault(name, now)
        if since <= now - HANDOVER_SECONDS:
            self._handovers[name] = now + HANDOVER_PAUSE_SECONDS
        slots.set_accepting(name, accepting=self._handovers[name] > now)
        return False

    async def _give(self, names: Iterable[str]) -> None:
        """Speak for these servers no longer, and let others have them."""

        async def give(name: str) -> None:
            lease = self._leases.get(name)
            self._lose(name)
            if lease is not None:
                await lease.release()

        await _side_by_side([give(name) for name in names])

    def _lose(self, name: str) -> None:
        self._leases.pop(name, None)
        self._handovers.pop(name, None)
        self._slots.drop(name)

    async def stop(self) -> None:
        """Give every server up, and take none any more: this worker ends."""
        await super().stop()
        self._news.set()
        async with self._turn:
            await self._give(list(self._leases))


def _holder(entry: BucketEntry | None) -> str:
    """Return the worker that a lease's entry names, empty if it is free."""
    return entry.value.decode() if entry else ""


async def _side_by_side(works: list[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, AT_ONCE at a time; then raise the first error, if there was one."""
    places = asyncio.Semaphore(AT_ONCE)

    async def wait_for_place(work: Coroutine[Any, Any, None]) -> None:
        async with places:
            await work

    outcomes = await asyncio.gather(*map(wait_for_place, works), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
