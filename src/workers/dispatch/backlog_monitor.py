"""Measurements of how long tasks wait: in queues that lower priority delays, and for overflow servers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ...clock import utc_now
from ...commands.server import Present
from ...container import Container
from ...runtime.service import Service
from ...scheduling.eligibility import allowance
from ...streams.backlog import Backlog, backlogs, waiting_since
from ..fleet.slots import Slots
from .queues import PoolQueue, Queues

PER_AGEING = 20
"""Measurements per ageing time: a task waits at most a twentieth longer than the setting says."""
LONGEST_PAUSE_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 0.1
OVERFLOW_PAUSE_SECONDS = 1.0
"""How often the queues of overflow servers are measured."""


class BacklogMonitor(Service):
    """Measures the queues whose backlog decides what happens. Asks NATS nothing where there are none."""

    def __init__(self, container: Container, slots: Slots, queues: Queues) -> None:
        self._ageing = container.settings.priority_ageing
        self._pause_seconds = min(max(self._ageing / PER_AGEING, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        if not self._ageing:
            self._pause_seconds = LONGEST_PAUSE_SECONDS
        super().__init__("backlog-monitor", period_seconds=min(self._pause_seconds, OVERFLOW_PAUSE_SECONDS))
        self._connection = container.consuming
        self._fleet = container.fleet
        self._held_back = container.submissions.admission.held_back
        self._slots = slots
        self._queues = queues

    async def run_once(self) -> Mapping[str, int]:
        """Measure once; return how many queues were measured."""
        helpers = self._slots.overflow_servers()
        pools = {pool for server in helpers for pool in self._fleet.pools_of(server)}
        queues = [queue for queue in self._queues.in_order() if queue.pool in pools or self._is_passed_over(queue)]
        if queues:
            found = await backlogs(self._connection)
            for queue in queues:
                await self._measure(queue, found.get(queue.filter))
        for server in helpers:
            self._allow(server, {pool for pool in self._fleet.pools_of(server) if not self._fleet.pool_waits(pool)})
        return {"queues": len(queues)}

    def _is_passed_over(self, queue: PoolQueue) -> bool:
        return (
            self._ageing > 0
            and queue.priority != "high"
            and queue.may_have_more
            and max(queue.fetched_at, queue.measured_at) < time.monotonic() - self._pause_seconds
            and self._slots.serves(queue.pool)
            and not self._fleet.pool_waits(queue.pool)
        )

    async def _measure(self, queue: PoolQueue, backlog: Backlog | None) -> None:
        if backlog is not None:
            queue.measured(backlog, await waiting_since(self._connection, queue.filter, backlog))

    def _allow(self, server: Present, pools: set[str]) -> None:
        """Let an overflow server take tasks, or not, by what waits for its pools."""
        settings = server.settings
        assert settings.overflow is not None
        now = utc_now()
        queues = [queue for queue in self._queues.in_order() if queue.pool in pools]
        waiting = sum(queue.waiting for queue in queues) + sum(map(self._held_back, pools))
        since = min((queue.oldest_at for queue in queues if queue.waiting and queue.oldest_at), default=now)
        helping = self._slots.is_helping(server.server_id)
        most = allowance(settings.overflow, waiting, now - since, settings.max_concurrent, helping=helping)
        self._slots.allow(server.server_id, most)
