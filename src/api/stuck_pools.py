"""Pools whose oldest task could start on a server with a free slot, and nothing starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from ..clock import utc_now
from ..commands.server import Present
from ..container import Container
from ..events.ids import TaskRef, owner_token, token
from ..events.subjects import dispatched_ref, pool_filter, server_token
from ..events.task import NO_PLAN, PRIORITIES
from ..explain.situation import StuckPool
from ..index.lists import SERVICE
from ..instants import EPOCH
from ..projections.task_view import Listed, TaskView
from ..scheduling.eligibility import Standing, as_seen_by, considered_one
from ..streams.backlog import Backlog, backlogs, first_in_queue
from ..streams.jetstream.messages import read_some
from ..streams.topology.definitions import DISPATCH

MOST_POOLS = 20
"""Pools whose oldest tasks are looked at: those from which nothing was taken for longest."""
OLDEST = 50
"""Tasks of a queue that are looked at: the oldest, some of which may run."""
NEVER_TAKEN = Backlog(1, 0, 0)
"""Of a queue that no worker has ever taken from; it may be empty."""
MOST_PULLED = 20
"""Pulled servers whose open requests are asked for."""
QUIET_AFTER = timedelta(seconds=5)
"""How long nothing new must have been taken from a pool's queues before its tasks are looked at."""
REMEMBERED_FOR = timedelta(seconds=20)
"""How long a look counts as the one before the next."""


class StuckPools:
    """Remembers how far each queue has been delivered, and since when tasks could start.

    A task could start from the first of consecutive looks at which a server could take it: what ended before (a pause,
    a full server, maintenance) need not be known. So call `look` every few seconds. A queue stands still while nothing
    is delivered from it for the first time: what workers return and take again moves nothing.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._stood: dict[str, tuple[int, datetime]] = {}
        """By the queue's filter: the last message that was delivered, and since when it is the last."""
        self._able: dict[TaskRef, datetime] = {}
        """Tasks that a server could take, and since when."""
        self._looked_at: datetime | None = None

    async def look(self, queued: Mapping[str, int]) -> list[StuckPool]:
        """Return the pools from which nothing starts, although a server could take one of its oldest tasks.

        `queued`: how many tasks are in the queues of a pool. The work grows with the pools and the servers, and is
        bounded. Raises StoreError.
        """
        found = await backlogs(self._container.reading)
        now = utc_now()
        self._remember(found, now)
        if self._looked_at is None or now - self._looked_at > REMEMBERED_FOR:
            self._able.clear()
        self._looked_at = now
        before, self._able = self._able, {}
        waiting = {pool: await self._oldest(pool, found, now) for pool in self._standing_still(queued, now)}
        if not any(waiting.values()):
            return []
        servers = [server.server_id for server in self._container.fleet.servers()]
        running = await self._container.lists.running_now(servers, user=SERVICE)
        busy = {name for name, it in (await self._container.heartbeats.all_busy()).items() if it.since is not None}
        stuck = []
        for pool, tasks in waiting.items():
            able = [(task, server) for task in tasks if (server := await self._able_server(task, running, busy))]
            for task, _ in able:
                self._able[task.ref] = before.get(task.ref, now)
            if able:
                task, server = min(able, key=lambda each: self._able[each[0].ref])
                stuck.append(
                    StuckPool(
                        pool=pool,
                        task_id=task.ref.id,
                        since=max(self._able[task.ref], self._quiet_since(self._container.fleet.pools_of(server))),
                        server_id=server.server_id,
                        waiting=max(queued[pool], 1),
                    )
                )
        return stuck

    def _remember(self, found: Mapping[str, Backlog], now: datetime) -> None:
        stood, self._stood = self._stood, {}
        for subjects, backlog in found.items():
            before = stood.get(subjects)
            is_same = before is not None and before[0] == backlog.delivered
            self._stood[subjects] = before if before and is_same else (backlog.delivered, now)

    def _standing_still(self, queued: Collection[str], now: datetime) -> list[str]:
        """Return the pools from which nothing new was taken lately, the quietest first."""
        pools = [pool for pool in queued if not self._container.fleet.pool_waits(pool)]
        quiet = {pool: since for pool in pools if now - (since := self._quiet_since([pool])) >= QUIET_AFTER}
        return sorted(quiet, key=lambda pool: (quiet[pool], pool))[:MOST_POOLS]

    def _quiet_since(self, pools: Collection[str]) -> datetime:
        """Return since when nothing new was taken from any queue of these pools; long ago if they have none."""
        queues = (queue for pool in pools for queue in _queues_of(pool))
        return max((self._stood[queue][1] for queue in queues if queue in self._stood), default=EPOCH)

    async def _oldest(self, pool: str, found: Mapping[str, Backlog], now: datetime) -> list[Listed]:
        """Return tasks that wait in a pool's queues for a slot alone: the oldest, and those that were never taken."""
        refs: dict[TaskRef, None] = {}
        for subjects in _queues_of(pool):
            backlog = found.get(subjects, NEVER_TAKEN)
            if backlog.waiting or backlog.in_hand:
                oldest = await read_some(self._container.reading, DISPATCH, subjects, 1, OLDEST)
                refs |= dict.fromkeys(dispatched_ref(position.subject) for position in oldest)
            if backlog.waiting and (first := await first_in_queue(self._container.reading, subjects, backlog)):
                refs[dispatched_ref(first.subject)] = None
        return [
            task
            for task in await self._container.lists.views(list(refs), user=SERVICE)
            if task.view.status == "WAITING"
            and not task.view.held
            and (task.view.retry_at is None or task.view.retry_at <= now)
            and not self._container.fleet.type_waits(task.view.task_type)
        ]

    async def _able_server(self, task: Listed, running: Mapping[str, int], busy: Collection[str]) -> Present | None:
        """Return a server that could take a task now; None if there is none. Overflow servers do not count."""
        pulled: list[Present] = []
        for each in self._container.fleet.servers():
            server = as_seen_by(owner_token(task.view.owner), each)
            if server.settings.overflow is not None or server_token(server.server_id) in busy:
                continue
            if not _is_able(Standing(server, running.get(server.server_id, 0)), task.view):
                continue
            if not server.settings.is_pulled:
                return each
            pulled.append(each)
        asked = await self._container.pull_requests.reports([each.server_id for each in pulled[:MOST_PULLED]])
        return next((each for each in pulled if (report := asked.get(each.server_id)) and report.wants), None)


def _queues_of(pool: str) -> list[str]:
    """Return the filters of the queues of a pool."""
    return [pool_filter(token(pool), priority, bulk=bulk) for priority in PRIORITIES for bulk in (False, True)]


def _is_able(standing: Standing, view: TaskView) -> bool:
    return considered_one(standing, view.task_type, (view.plan or NO_PLAN).requirements).verdict == "able"
