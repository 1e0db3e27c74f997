"""Routes of pools: their waiting tasks and servers; pause and resume. Admins change them; auditors read them, too."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import datetime
from functools import partial

from ...clock import utc_now
from ...commands.pool import PausePool, PoolCommand, ResumePool
from ...commands.server import Present
from ...container import Container
from ...errors import IndexNotReady, NotFound
from ...events.ids import token
from ...events.subjects import pool_filter
from ...events.task import PRIORITIES, Priority
from ...index.lists import SERVICE
from ...index.loads import Load, loads
from ...instants import from_seconds, iso
from ...scheduling.depth import Reason
from ...streams.backlog import Backlog, backlogs, waiting_since
from ..auth.access import READERS_OF_ALL, ApiRequest, Origin, origin
from ..bodies import read_as
from ..parameters import Cursor, Limit, PoolNameInPath, page_of
from ..pool_demand import PoolSlots, demand_of, is_available
from ..routing import RouteHandler, Routes
from ..schemas.pools import PauseAnswer, PoolDemand, PoolPage, PoolServer, PoolSummary, pause_info
from ..schemas.shared import ReasonBody

SERVERS_SHOWN = 1_000
NOTHING = Backlog(0, 0, 0)


async def check_known(container: Container, name: str) -> None:
    """Raise NotFound for a pool that no type has or had."""
    await container.fleet.catch_up(container.reading)
    if name not in container.fleet.pools():
        raise NotFound("pool", name)


async def command_pool(container: Container, name: str, command: PoolCommand, signed: Origin) -> PauseAnswer:
    """Pause or resume a pool, and wait until this process has read the event. Raises NotFound."""
    await check_known(container, name)
    handled = await container.commands.pools.handle(name, command, **signed)
    await container.fleet.reached(handled.known.sequence)
    return PauseAnswer(name=name, pause=pause_info(handled.known.state.pause))


async def summaries(container: Container, names: list[str]) -> list[PoolSummary]:
    """Return the present state of pools, in the order of their names."""
    servers = sorted(container.fleet.servers(), key=lambda server: server.server_id)
    by_pool = {name: [server for server in servers if name in container.fleet.pools_of(server)] for name in names}
    shown = {server.server_id for of_one in by_pool.values() for server in of_one[:SERVERS_SHOWN]}
    running = await container.lists.running(sorted(shown))
    found = await backlogs(container.reading)
    present = await loads_of(container, names)
    return [await _summary(container, name, by_pool[name], running, found, present.get(name)) for name in names]


async def loads_of(container: Container, names: list[str]) -> dict[str, Load]:
    """Return the tasks of pools that wait and run, and how many start; empty without an index."""
    with contextlib.suppress(IndexNotReady):
        return await container.index.run(partial(loads, of="pool", values=names, now=utc_now()), SERVICE)
    return {}


async def _summary(
    container: Container,
    name: str,
    servers: list[Present],
    running: dict[str, int],
    found: dict[str, Backlog],
    load: Load | None,
) -> PoolSummary:
    fleet = container.fleet
    types = fleet.types_of(name)
    queues = {
        priority: {bulk: found.get(pool_filter(token(name), priority, bulk=bulk), NOTHING) for bulk in (False, True)}
        for priority in PRIORITIES
    }
    waiting, waiting_for, oldest, counted_at = await _waiting(container, name, queues)
    return PoolSummary(
        name=name,
        pause=pause_info(fleet.pool_state(name).pause),
        types=types,
        paused_types=[each for each in types if fleet.type_state(each).pause is not None],
        servers=[_server(server, running[server.server_id]) for server in servers[:SERVERS_SHOWN]],
        server_count=len(servers),
        waiting=waiting,
        waiting_for=waiting_for,
        counted_at=iso(counted_at) if counted_at else None,
        running=load.running if load else None,
        starts_per_minute=load.starts_per_minute if load else None,
        in_hand={priority: sum(queue.in_hand for queue in both.values()) for priority, both in queues.items()},
        oldest_waiting=iso(oldest) if oldest else None,
    )


async def _waiting(
    container: Container, name: str, queues: dict[Priority, dict[bool, Backlog]]
) -> tuple[dict[Priority, int], dict[Reason, int], datetime | None, datetime | None]:
    """Return the waiting tasks of a pool by priority and by reason, since when the oldest waits, and as of when.

    `queues`: by priority the first queue (False) and the bulk queue (True).
    Without a report of a scheduler: those in its queues.
    """
    depth = container.submissions.admission.depth()
    if depth.counted_at is None:
        waiting = {priority: sum(queue.waiting for queue in both.values()) for priority, both in queues.items()}
        since = [
            await waiting_since(container.reading, pool_filter(token(name), priority, bulk=bulk), queue)
            for priority, both in queues.items()
            for bulk, queue in both.items()
        ]
        queued = sum(waiting.values())
        oldest = min((instant for instant in since if instant is not None), default=None)
        return waiting, {"queued": queued} if queued else {}, oldest, None
    waiting = dict.fromkeys(queues, 0)
    reasons: Counter[Reason] = Counter()
    for each in depth.depths:
        if each.pool == name:
            waiting[each.priority] += each.count
            reasons[each.reason] += each.count
    first = depth.oldest.get(name)
    return waiting, dict(reasons), from_seconds(first) if first is not None else None, depth.counted_at


def _server(server: Present, running: int) -> PoolServer:
    available = is_available(server)
    return PoolServer(
        id=server.server_id,
        available=available,
        running=running,
        room=max(0, server.settings.max_concurrent - running) if available else 0,
        overflow=server.settings.overflow is not None,
    )


def pool_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/pools", "Pools", roles=("admin",))
    slots = PoolSlots(container.fleet)
    depth = container.settings.max_json_depth

    @routes.get("/", "List pools", "A page of pools, by name", roles=READERS_OF_ALL)
    async def list_pools(limit: Limit = 50, cursor: Cursor = None) -> PoolPage:
        """List the pools by name, with their waiting tasks and the servers that serve them."""
        await container.fleet.catch_up(container.reading)
        shown, following = page_of(container.fleet.pools(), limit, cursor)
        return PoolPage(pools=await summaries(container, shown), next_cursor=following)

    @routes.get("/{name:str}", "Read a pool", "The pool's present state", roles=READERS_OF_ALL)
    async def get_pool(name: PoolNameInPath) -> PoolSummary:
        """Return a pool, with its waiting tasks and the servers that serve it."""
        await check_known(container, name)
        [summary] = await summaries(container, [name])
        return summary

    @routes.get("/{name:str}/demand", "Read a pool's demand", "The demand of the pool", roles=READERS_OF_ALL)
    async def get_pool_demand(name: PoolNameInPath) -> PoolDemand:
        """Return how many slots a pool needs, for autoscalers such as KEDA. The answer costs the same with any number
        of tasks.

        It has a pool without servers, too, and one whose types are gone, as long as tasks wait or run in it.
        """
        return await demand_of(container, slots, name)

    @routes.post("/{name:str}/pause", "Pause a pool", "The pool is paused", body=ReasonBody)
    async def pause_pool(request: ApiRequest, name: PoolNameInPath) -> PauseAnswer:
        """Keep the tasks of a pool waiting. New ones are accepted, and running tasks go on."""
        body = await read_as(request, ReasonBody, depth)
        return await command_pool(container, name, PausePool(name=name, reason=body.reason), origin(request))

    @routes.post("/{name:str}/resume", "Resume a pool", "The pool is not paused", body=ReasonBody)
    async def resume_pool(request: ApiRequest, name: PoolNameInPath) -> PauseAnswer:
        """End a pool's pause."""
        body = await read_as(request, ReasonBody, depth)
        return await command_pool(container, name, ResumePool(name=name, reason=body.reason), origin(request))

    return routes.handlers
