"""The demand of a pool, for autoscalers: it costs the same with any number of tasks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

from ..clock import utc_now
from ..commands.server import CircuitIsClosed, Present
from ..container import Container
from ..errors import IndexNotReady, NotFound
from ..events.ids import token
from ..events.subjects import pool_filter
from ..events.task import PRIORITIES
from ..index import loads
from ..index.lists import SERVICE
from ..instants import from_seconds, iso
from ..projections.fleet import Fleet
from ..scheduling.depth import Reason
from ..streams.backlog import Backlog, backlogs, waiting_since
from ..submission.admission import QueueDepth
from .schemas.pools import PoolDemand

ELIGIBLE: Collection[Reason] = ("queued", "turn", "window", "no-server")
"""What a task waits for that starts as soon as there is a free slot."""
LONGEST_BELIEVED = timedelta(seconds=30)
"""Age of the scheduler's last report at which the queue is asked instead."""
NOTHING = Backlog(0, 0, 0)


def is_available(server: Present) -> bool:
    """Return True if a server can get tasks."""
    return server.online and not server.maintenance and isinstance(server.circuit, CircuitIsClosed)


class PoolSlots:
    """The slots of the available servers of each pool, counted again after a change of the fleet only."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._counted: dict[str, int] | None = None
        fleet.watch(self._forget)

    def _forget(self, _: Collection[str]) -> None:
        self._counted = None

    def of(self, pool: str) -> int:
        """Return how many tasks the available servers of a pool run at once, together."""
        if self._counted is None:
            self._counted = {}
            for server in filter(is_available, self._fleet.servers()):
                for each in self._fleet.pools_of(server):
                    self._counted[each] = self._counted.get(each, 0) + server.settings.max_concurrent
        return self._counted.get(pool, 0)


async def demand_of(container: Container, slots: PoolSlots, name: str) -> PoolDemand:
    """Return the demand of a pool. Raises NotFound for one that no type has or had, and in which there are no tasks."""
    now = utc_now()
    depth = container.submissions.admission.depth()
    running = await _running(container, name)
    if depth.counted_at is not None and now - depth.counted_at <= LONGEST_BELIEVED:
        eligible, oldest = _reported(depth, name)
        waits = any(each.pool == name for each in depth.depths)
        counted_at: datetime | None = depth.counted_at
    else:
        found = await backlogs(container.reading)
        queued, oldest, in_hand = await _queued(container, name, found)
        running = in_hand if running is None else running
        returned = max(0, in_hand - running)  # taken from the queue and not started, or not any more
        eligible = 0 if container.fleet.pool_waits(name) else queued + returned
        waits, counted_at = eligible > 0, None
    if not (waits or running) and name not in container.fleet.pools():
        await container.fleet.catch_up(container.reading)
        if name not in container.fleet.pools():
            raise NotFound("pool", name)
    return PoolDemand(
        eligible=eligible,
        running=running or 0,
        slots=slots.of(name),
        oldest_seconds=max(0.0, round((now - oldest).total_seconds(), 1)) if oldest and eligible else 0.0,
        desired=eligible + (running or 0),
        counted_at=iso(counted_at) if counted_at else None,
    )


async def _running(container: Container, name: str) -> int | None:
    """Return how many tasks of a pool run; None: the index does not know."""
    try:
        return await container.index.run(partial(loads.running, of="pool", value=name), SERVICE, current=False)
    except IndexNotReady:
        return None


def _reported(depth: QueueDepth, name: str) -> tuple[int, datetime | None]:
    """Return the eligible tasks of a pool, and since when the oldest that could start waits, as last reported."""
    count = sum(each.count for each in depth.depths if each.pool == name and each.reason in ELIGIBLE)
    since = depth.oldest.get(name)
    return count, None if since is None else from_seconds(since)


async def _queued(container: Container, name: str, found: dict[str, Backlog]) -> tuple[int, datetime | None, int]:
    """Return how many tasks are in a pool's queues, since when the oldest is, and how many were taken from there."""
    filters = [pool_filter(token(name), priority, bulk=bulk) for priority in PRIORITIES for bulk in (False, True)]
    queues = {each: found.get(each, NOTHING) for each in filters}
    in_hand = sum(queue.in_hand for queue in queues.values())
    since = [await waiting_since(container.reading, each, queue) for each, queue in queues.items()]
    oldest = min((instant for instant in since if instant is not None), default=None)
    return sum(queue.waiting for queue in queues.values()), oldest, in_hand
