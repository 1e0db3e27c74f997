"""The fleet of the task surface (contract, section 1): admins only."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import msgspec
from litestar import Router, delete, get, post
from msgspec.structs import replace

from ...clock import utc_now
from ...commands.server import MarkOnline, Present, RegisterServer, RemoveServer
from ...container import Container
from ...errors import InvalidInput, NotFound
from ...events.server import Overflow, ServerRegistered
from ...events.subjects import server_token
from ...projections.heartbeats import Heartbeat
from ...wire.addresses import BadAddress
from ...wire.fields import iso
from ..auth.access import ApiRequest, requires
from ..bodies import described, read_as, schema_of
from ..openapi.examples import CLEANUP_EXAMPLES, HEARTBEAT_EXAMPLES, REGISTER_EXAMPLES
from ..parameters import Cursor, ServerId, ServerLimit, page_of
from ..problems import answers
from ..schemas.servers import (
    CleanupAnswer,
    CleanupBody,
    HeartbeatAnswer,
    HeartbeatBody,
    OverflowBody,
    RegisterBody,
    ServerDone,
    ServerPage,
    ServerSummary,
    server_summary,
)
from .server_commands import command_server


class Servers:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def register(self, request: ApiRequest) -> ServerDone:
        container = self.container
        body = await read_as(request, RegisterBody, container.settings.max_json_depth)
        await self._check_url(body.endpoints.predict, "$.endpoints.predict")
        if body.endpoints.health:
            await self._check_url(body.endpoints.health, "$.endpoints.health")
        before = await self._registration(body.id)
        current_id = before.api_key_id if before else ""
        key_id = await container.secrets.put(body.id, body.api_key, current_id) if body.api_key else ""
        registered = ServerRegistered(
            server_id=body.id,
            name=body.name,
            provider=body.provider,
            predict_url=body.endpoints.predict,
            health_url=body.endpoints.health or None,
            is_async=body.is_async,
            callback=body.callback,
            types=tuple(dict.fromkeys(body.types)),
            max_concurrent=body.max_concurrent,
            weight=body.weight,
            api_key_id=key_id,
            labels=body.labels,
            overflow=_overflow(body.overflow),
        )
        handled = await command_server(self.container, request, body.id, RegisterServer(settings=registered))
        if before is not None and before.api_key_id != key_id:
            await container.secrets.destroy(body.id, before.api_key_id)
        first_check = msgspec.json.encode({"sequence": handled.known.sequence})
        await container.timers.check_server(body.id, utc_now(), first_check)
        return ServerDone(id=body.id)

    async def _registration(self, server_id: str) -> ServerRegistered | None:
        """Return a server's registration as the log has it, None if it is not registered."""
        state = (await self.container.commands.servers.load(server_id)).state
        return state.settings if isinstance(state, Present) else None

    async def _check_url(self, url: str, path: str) -> None:
        try:
            await self.container.egress.check_url(url)
        except BadAddress as error:
            raise InvalidInput(str(error), path) from None

    async def present(self, server_id: str) -> Present:
        """Return a server as the log has it. Raises NotFound."""
        state = (await self.container.commands.servers.load(server_id)).state
        if not isinstance(state, Present):
            raise NotFound("server", server_id)
        return state

    async def summary(self, server_id: str) -> ServerSummary:
        return server_summary(await self.present(server_id), await self.container.heartbeats.get(server_id))

    async def page(self, limit: int, cursor: str | None) -> ServerPage:
        await self.container.fleet.catch_up(self.container.reading)
        servers = {server.server_id: server for server in self.container.fleet.servers()}
        shown, following = page_of(servers, limit, cursor)
        heartbeats = await self.container.heartbeats.all()
        return ServerPage(
            servers=[server_summary(servers[name], heartbeats.get(server_token(name))) for name in shown],
            next_cursor=following,
        )

    async def heartbeat(self, request: ApiRequest, server_id: str) -> HeartbeatAnswer:
        container = self.container
        body = await read_as(request, HeartbeatBody, container.settings.max_json_depth)
        server = container.fleet.find(server_id) or await self.present(server_id)
        now = utc_now()
        last = await container.heartbeats.get(server_id) or Heartbeat(seen_at=now)
        heartbeat = replace(
            last, seen_at=now, checked_at=None, status=body.status, active_tasks=body.active_tasks, metrics=body.metrics
        )
        await container.heartbeats.put(server_id, heartbeat)
        if not server.online and server.settings.health_url is None:
            await command_server(self.container, request, server_id, MarkOnline(reason="heartbeat"))
        return HeartbeatAnswer(id=server_id, last_heartbeat=iso(now))

    async def remove(self, request: ApiRequest, server_id: str, reason: str) -> None:
        registration = await self._registration(server_id)
        await command_server(self.container, request, server_id, RemoveServer(reason=reason))
        if registration is not None:
            await self.container.secrets.destroy(server_id, registration.api_key_id)
        await self.container.heartbeats.forget(server_id)

    async def cleanup(self, request: ApiRequest) -> CleanupAnswer:
        body = await read_as(request, CleanupBody, self.container.settings.max_json_depth)
        await self.container.fleet.catch_up(self.container.reading)
        latest = utc_now() - timedelta(minutes=body.max_age_mins)
        removed = []
        for server in list(self.container.fleet.servers()):
            if not server.online and server.changed_at <= latest:
                with contextlib.suppress(NotFound):  # somebody else was faster
                    await self.remove(request, server.server_id, f"offline for more than {body.max_age_mins:g} min")
                    removed.append(server.server_id)
        return CleanupAnswer(removed_servers=removed)


def _overflow(body: OverflowBody | None) -> Overflow | None:
    if body is None:
        return None
    if body.waiting is None and body.oldest is None:
        raise InvalidInput("say when it takes work: `waiting`, `oldest` or both", "$.overflow")
    return Overflow(waiting=body.waiting, oldest=timedelta(seconds=body.oldest) if body.oldest is not None else None)


def server_router(container: Container) -> Router:
    """Return the routes."""
    servers = Servers(container)

    @post(
        "/",
        status_code=200,
        operation_class=described(schema_of(RegisterBody), REGISTER_EXAMPLES),
        responses=answers(400, 401, 403, 413, 415, 503),
        response_description="The server is registered, and its first check under way",
        summary="Register a server",
    )
    async def register_server(request: ApiRequest) -> ServerDone:
        """Register a backend server, or replace the one with this id. It is `offline` until a check succeeds."""
        return await servers.register(request)

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of servers, by id",
        summary="List servers",
    )
    async def list_servers(limit: ServerLimit = 5000, cursor: Cursor = None) -> ServerPage:
        """List the registered servers by id, with their state and last heartbeat."""
        return await servers.page(limit, cursor)

    @get(
        "/{server_id:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The server as it is now",
        summary="Read a server",
    )
    async def get_server(server_id: ServerId) -> ServerSummary:
        """Return a server and its `status`: `online` or `offline`, with the reason."""
        return await servers.summary(server_id)

    @post(
        "/{server_id:str}/heartbeat",
        status_code=200,
        operation_class=described(schema_of(HeartbeatBody), HEARTBEAT_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description="Noted",
        summary="Send a heartbeat",
    )
    async def send_heartbeat(request: ApiRequest, server_id: ServerId) -> HeartbeatAnswer:
        """Note a sign of life. It keeps a server without a health address online."""
        return await servers.heartbeat(request, server_id)

    @delete(
        "/{server_id:str}",
        status_code=200,
        responses=answers(400, 401, 403, 404, 503),
        response_description="The server is gone",
        summary="Remove a server",
    )
    async def remove_server(request: ApiRequest, server_id: ServerId) -> ServerDone:
        """Remove a server and its sealed key. Tasks it has go on; their reports are still taken."""
        await servers.remove(request, server_id, f"removed by {request.user.subject}")
        return ServerDone(id=server_id)

    @post(
        "/cleanup",
        status_code=200,
        operation_class=described(schema_of(CleanupBody), CLEANUP_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 413, 415, 503),
        response_description="The ids of those removed",
        summary="Remove servers that are long offline",
    )
    async def clean_up(request: ApiRequest) -> CleanupAnswer:
        """Remove every server that has been offline for longer than `maxAgeMins`."""
        return await servers.cleanup(request)

    return Router(
        path="/servers",
        route_handlers=[
            register_server, list_servers, get_server, send_heartbeat, remove_server, clean_up,
        ],
        opt=requires("admin"),
        tags=["Servers"],
    )  # fmt: skip
