"""Which servers this worker speaks for: each server is one worker's at a time, and each worker has its share.

The share is by rendezvous hashing over the workers that are alive, so all agree without talking. A server that should
be another's is handed over when none of its calls is under way here; for a busy one, new calls are held back for a
while to let that happen, then tried again later: it is never idle for long only to change hands.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..errors import StoreError
from ..events.subjects import server_token, task_ref
from ..projections.active import projected, running_on
from ..projections.fleet import Fleet
from ..streams.buckets import Bucket
from ..streams.connection import Connection, api
from ..streams.leases import Lease, Membership
from ..streams.topology import TASKS
from .slots import Slots

log = structlog.get_logger(__name__)

HANDOVER_SECONDS = 5.0
"""How long new calls to a busy server are held back so that it can change hands."""
HANDOVER_PAUSE_SECONDS = 30.0
"""How long it is then left alone."""
PROJECTION_SECONDS = 5.0
"""How long a projection that lags may hold up the start of work on a server."""
ENDINGS = frozenset({"succeeded", "failed", "cancelled", "attempt_failed", "attempt_returned"})
"""Events that free a slot on the server they name."""


def preferred(server_name: str, workers: Iterable[str]) -> str:
    """Return the worker that should speak for a server, of those alive: the same wherever it is asked."""
    return max(workers, key=lambda worker: hashlib.sha256(f"{worker}\n{server_name}".encode()).digest())


class Shares:
    def __init__(
        self,
        members: Membership,
        fleet: Fleet,
        tasks_bucket: Bucket,
        consuming: Connection,
    ) -> None:
        self._members = members
        self._fleet = fleet
        self._tasks_bucket = tasks_bucket
        self._consuming = consuming
        self._slots: Slots | None = None
        self._leases: dict[str, Lease] = {}
        self._endings: dict[str, Subscription] = {}
        self._handovers: dict[str, float] = {}
        """By server, monotonic: since when new calls are held back, or (in the future) until when it is left alone."""
        self._current_until = 0.0
        self._news = asyncio.Event()

    def bind(self, slots: Slots) -> None:
        """Say where room is kept; the two know each other."""
        self._slots = slots

    def holds(self, name: str) -> bool:
        lease = self._leases.get(name)
        return lease is not None and lease.held

    def look(self) -> None:
        """Have the shares looked at soon: the fleet has changed."""
        self._news.set()

    async def run(self) -> None:
        """Take and give servers, for ever."""
        await self._members.observed()
        while True:
            self._news.clear()
            try:
                await self.run_once()
            except (StoreError, nats.errors.Error, TimeoutError) as error:
                log.warning("shares.wait", reason=str(error))
            try:
                await asyncio.wait_for(self._news.wait(), self._members.period_seconds)
            except TimeoutError:
                continue
            await asyncio.sleep(0.05)  # a change of the fleet seldom comes alone

    async def run_once(self) -> None:
        """Take and give once. Does nothing while the others do not count on this worker."""
        if not self._members.is_current:
            return
        workers = {*self._members.alive("worker"), self._members.id}
        servers = {server_token(server.server_id): server for server in self._fleet.servers()}
        for name in self._leases.keys() - servers.keys():
            await self._give(name)
        lapses = self._members.lapses
        entries = {entry.key: entry for entry in await self._members.bucket.scan("lease.server.*")}
        if lapses != self._members.lapses:
            return  # this process was stopped meanwhile: what it has read may be old
        for name, server in servers.items():
            mine = preferred(name, workers) == self._members.id
            entry = entries.get(f"lease.server.{name}")
            if name in self._leases and (entry is None or entry.value.decode() != self._members.id):
                await self._lose(name)
            if name in self._leases:
                await self._leases[name].acquire_from(entry)  # still ours, also if our presence had lapsed
                await self._hear_endings(name, is_async=server.settings.is_async)
                await (self._keep(name) if mine else self._hand_over(name))
            elif mine or entry is None or not self._members.is_alive(entry.value.decode()):
                await self._take(name, server.server_id, is_async=server.settings.is_async)

    async def _take(self, name: str, server_id: str, *, is_async: bool) -> None:
        lease = Lease(self._members, f"server.{name}")
        if not await lease.acquire():
            return
        self._leases[name] = lease
        try:
            await self._subscribe(name)
            await self._projection_is_current()
            self._require_slots().add(server_id, await running_on(self._tasks_bucket, name))
            await self._hear_endings(name, is_async=is_async)
        except Exception:
            await self._give(name)  # a lease without its slots would keep the server idle
            raise

    async def _subscribe(self, name: str) -> None:
        self._endings[name] = await self._consuming.subscribe(f"task.*.*.*.{name}", self._on_event)
        await self._consuming.flush()

    async def _hear_endings(self, name: str, *, is_async: bool) -> None:
        """Listen to the log's own messages as long as attempts may end on a server without a call of ours.

        Callbacks come to the API, and calls that a former holder made end with it.
        """
        wanted = is_async or self._require_slots().has_elsewhere(name)
        if wanted and name not in self._endings:
            await self._subscribe(name)
        elif not wanted and (endings := self._endings.pop(name, None)):
            await endings.unsubscribe()

    async def _projection_is_current(self) -> None:
        """Wait until what the former holder did is projected: what runs on a server is read from there."""
        if self._current_until > time.monotonic():
            return
        last = int((await api(self._consuming, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
        give_up_at = time.monotonic() + PROJECTION_SECONDS
        while await projected(self._tasks_bucket) < last and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._current_until = time.monotonic() + self._members.period_seconds

    async def _keep(self, name: str) -> None:
        slots = self._require_slots()
        self._handovers.pop(name, None)
        slots.set_accepting(name, accepting=True)
        if elsewhere := slots.running_elsewhere(name):
            # News of an end can be lost on the way; the projection has it.
            still = set(await running_on(self._tasks_bucket, name))
            for ref in elsewhere.difference(still):
                slots.ended_elsewhere(name, ref)

    async def _hand_over(self, name: str) -> None:
        slots = self._require_slots()
        if slots.is_idle(name):
            await self._give(name)
            return
        now = time.monotonic()
        since = self._handovers.setdefault(name, now)
        if since <= now - HANDOVER_SECONDS:
            self._handovers[name] = now + HANDOVER_PAUSE_SECONDS
        slots.set_accepting(name, accepting=self._handovers[name] > now)

    async def _give(self, name: str) -> None:
        lease = self._leases.get(name)
        await self._lose(name)
        if lease is not None:
            await lease.release()

    async def _lose(self, name: str) -> None:
        self._leases.pop(name, None)
        self._handovers.pop(name, None)
        self._require_slots().drop(name)
        endings = self._endings.pop(name, None)
        if endings is not None:
            await endings.unsubscribe()

    async def give_all(self) -> None:
        """Give every server up: this worker ends."""
        for name in list(self._leases):
            await self._give(name)

    async def _on_event(self, message: Msg) -> None:
        _, _, _, event, name = message.subject.split(".")
        if event in ENDINGS:
            self._require_slots().ended_elsewhere(name, task_ref(message.subject))

    def _require_slots(self) -> Slots:
        assert self._slots is not None
        return self._slots
