"""Pools: what waits in them and who serves them; paused and resumed by admins."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial

from litestar import Router, get, post

from ...commands.pool import PausePool, PoolCommand, ResumePool
from ...commands.server import CircuitIsClosed, Present
from ...container import Container
from ...errors import NotFound
from ...events.ids import token
from ...events.subjects import pool_filter, server_token
from ...events.task import PRIORITIES
from ...projections.active import count_running
from ...streams.backlog import Backlog, backlogs, waiting_since
from ...wire.fields import iso
from ..auth.access import ApiRequest, actor, requires
from ..bodies import described, read_as, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import PAUSE_EXAMPLES
from ..parameters import Cursor, Limit, PoolNameInPath, page_of
from ..problems import answers
from ..schemas.pools import PauseAnswer, PauseBody, PoolPage, PoolServer, PoolSummary, pause_info

SERVERS_SHOWN = 1_000
NOTHING = Backlog(0, 0, 0)


class Pools:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def page(self, limit: int, cursor: str | None) -> PoolPage:
        await self.container.fleet.catch_up(self.container.reading)
        shown, following = page_of(self.container.fleet.pools(), limit, cursor)
        return PoolPage(pools=await self._summaries(shown), next_cursor=following)

    async def get(self, name: str) -> PoolSummary:
        await self._must_be_known(name)
        [summary] = await self._summaries([name])
        return summary

    async def pause(self, request: ApiRequest, name: str) -> PauseAnswer:
        body = await read_as(request, PauseBody, self.container.settings.max_json_depth)
        return await self._command(request, name, PausePool(name=name, reason=body.reason))

    async def resume(self, request: ApiRequest, name: str) -> PauseAnswer:
        body = await read_as(request, PauseBody, self.container.settings.max_json_depth)
        return await self._command(request, name, ResumePool(name=name, reason=body.reason))

    async def _command(self, request: ApiRequest, name: str, command: PoolCommand) -> PauseAnswer:
        await self._must_be_known(name)
        handled = await self.container.commands.pools.handle(
            name, command, by=actor(request.user), cause=request_id(request.scope)
        )
        await self.container.fleet.reached(handled.known.sequence)
        return PauseAnswer(name=name, pause=pause_info(handled.known.state.pause))

    async def _must_be_known(self, name: str) -> None:
        """Raise NotFound for a pool that no type has or had."""
        await self.container.fleet.catch_up(self.container.reading)
        if name not in self.container.fleet.pools():
            raise NotFound("pool", name)

    async def _summaries(self, names: list[str]) -> list[PoolSummary]:
        container = self.container
        servers = sorted(container.fleet.servers(), key=lambda server: server.server_id)
        by_pool = {name: [server for server in servers if name in container.fleet.pools_of(server)] for name in names}
        shown = {server_token(server.server_id) for of_one in by_pool.values() for server in of_one[:SERVERS_SHOWN]}
        running = await count_running(container.buckets.tasks, sorted(shown))
        found = await backlogs(container.reading)
        return [await self._summary(name, by_pool[name], running, found) for name in names]

    async def _summary(
        self, name: str, servers: list[Present], running: dict[str, int], found: dict[str, Backlog]
    ) -> PoolSummary:
        fleet = self.container.fleet
        types = fleet.types_of(name)
        queues = {priority: found.get(pool_filter(token(name), priority), NOTHING) for priority in PRIORITIES}
        since = await self._oldest((pool_filter(token(name), priority), queues[priority]) for priority in PRIORITIES)
        return PoolSummary(
            name=name,
            pause=pause_info(fleet.pool_state(name).pause),
            types=types,
            paused_types=[each for each in types if fleet.type_state(each).pause is not None],
            servers=[_server(server, running[server_token(server.server_id)]) for server in servers[:SERVERS_SHOWN]],
            server_count=len(servers),
            waiting={priority: queue.waiting for priority, queue in queues.items()},
            in_hand={priority: queue.in_hand for priority, queue in queues.items()},
            oldest_waiting=iso(since) if since else None,
        )

    async def _oldest(self, queues: Iterable[tuple[str, Backlog]]) -> datetime | None:
        found = [await waiting_since(self.container.reading, subjects, backlog) for subjects, backlog in queues]
        return min((since for since in found if since is not None), default=None)


def _server(server: Present, running: int) -> PoolServer:
    available = server.online and not server.maintenance and isinstance(server.circuit, CircuitIsClosed)
    return PoolServer(
        id=server.server_id,
        available=available,
        running=running,
        room=max(0, server.settings.max_concurrent - running) if available else 0,
        overflow=server.settings.overflow is not None,
    )


def pool_router(container: Container) -> Router:
    """Return the routes."""
    pools = Pools(container)
    intervention = partial(
        post,
        status_code=200,
        operation_class=described(schema_of(PauseBody), PAUSE_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
    )

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of pools, by name",
        summary="List pools",
    )
    async def list_pools(
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> PoolPage:
        """List the pools by name: what waits in each, and which servers serve it."""
        return await pools.page(limit, cursor)

    @get(
        "/{name:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The pool as it is now",
        summary="Read a pool",
    )
    async def get_pool(name: PoolNameInPath) -> PoolSummary:
        """Return what waits in a pool, and which servers serve it."""
        return await pools.get(name)

    @intervention("/{name:str}/pause", response_description="The pool is paused", summary="Pause a pool")
    async def pause_pool(request: ApiRequest, name: PoolNameInPath) -> PauseAnswer:
        """Let the tasks of a pool wait; new ones are accepted, and what runs goes on."""
        return await pools.pause(request, name)

    @intervention("/{name:str}/resume", response_description="The pool is not paused", summary="Resume a pool")
    async def resume_pool(request: ApiRequest, name: PoolNameInPath) -> PauseAnswer:
        """End a pool's pause."""
        return await pools.resume(request, name)

    return Router(
        path="/pools",
        route_handlers=[list_pools, get_pool, pause_pool, resume_pool],
        opt=requires("admin"),
        tags=["Pools"],
    )
