"""How long tasks wait in the queues, looked at now and then: where they are passed over, and for overflow servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from ...commands.server import Present
from ...projections.fleet import Fleet
from ...runtime.service import Service
from ...scheduling.eligibility import allowance
from ...settings import Settings
from ...streams.backlog import Backlog, backlogs, waiting_since
from ...streams.client.connection import Connection
from ..fleet.slots import Slots
from .queues import PoolQueue, Queues

LOOKS_PER_AGEING = 20
"""How much longer a task may wait than the setting says: a twentieth of it, and LONGEST_PAUSE_SECONDS at most."""
LONGEST_PAUSE_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 0.1
OVERFLOW_PAUSE_SECONDS = 1.0
"""How often the queues of overflow servers are looked at."""


class Pressure(Service):
    """Looks at the queues that a worker has to know more of. Where there are none it asks NATS nothing."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        fleet: Fleet,
        slots: Slots,
        queues: Queues,
        held_back: Callable[[str], int],
        now: Callable[[], datetime],
    ) -> None:
        """`held_back`: tells how many tasks of a pool wait for room in their owner's window, before its queues."""
        self._ageing = settings.priority_ageing
        self._pause_seconds = min(max(self._ageing / LOOKS_PER_AGEING, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        if not self._ageing:
            self._pause_seconds = LONGEST_PAUSE_SECONDS
        super().__init__("pressure", period_seconds=min(self._pause_seconds, OVERFLOW_PAUSE_SECONDS))
        self._connection = connection
        self._fleet = fleet
        self._slots = slots
        self._queues = queues
        self._held_back = held_back
        self._now = now

    async def run_once(self) -> Mapping[str, int]:
        """Look once; return how many queues were looked at."""
        helpers = self._slots.overflow_servers()
        pools = {pool for server in helpers for pool in self._fleet.pools_of(server)}
        queues = [queue for queue in self._queues.in_order() if queue.pool in pools or self._is_passed_over(queue)]
        if queues:
            found = await backlogs(self._connection)
            for queue in queues:
                await self._look(queue, found.get(queue.filter))
        for server in helpers:
            self._allow(server, {pool for pool in self._fleet.pools_of(server) if not self._fleet.pool_waits(pool)})
        return {"queues": len(queues)}

    def _is_passed_over(self, queue: PoolQueue) -> bool:
        return (
            self._ageing > 0
            and queue.priority != "high"
            and queue.may_have_more
            and max(queue.fetched_at, queue.looked_at) < time.monotonic() - self._pause_seconds
            and self._slots.serves(queue.pool)
            and not self._fleet.pool_waits(queue.pool)
        )

    async def _look(self, queue: PoolQueue, backlog: Backlog | None) -> None:
        if backlog is not None:
            queue.looked(backlog, await waiting_since(self._connection, queue.filter, backlog))

    def _allow(self, server: Present, pools: set[str]) -> None:
        """Have an overflow server help out, or not, by what waits for its pools."""
        settings = server.settings
        assert settings.overflow is not None
        now = self._now()
        queues = [queue for queue in self._queues.in_order() if queue.pool in pools]
        waiting = sum(queue.waiting for queue in queues) + sum(map(self._held_back, pools))
        since = min((queue.oldest_at for queue in queues if queue.waiting and queue.oldest_at), default=now)
        helping = self._slots.is_helping(server.server_id)
        most = allowance(settings.overflow, waiting, now - since, settings.max_concurrent, helping=helping)
        self._slots.allow(server.server_id, most)
