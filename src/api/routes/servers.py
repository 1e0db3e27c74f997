"""Routes of servers: register, list, heartbeat, drain, remove. Admins only."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import msgspec
from litestar import Router
from msgspec.structs import replace

from ...clock import utc_now
from ...commands.handler import Handled
from ...commands.server import (
    MarkOnline,
    Present,
    RegisterServer,
    RemoveServer,
    ServerCommand,
    ServerState,
    SetMaintenance,
)
from ...container import Container
from ...errors import InvalidInput, NotFound
from ...events.server import Overflow, ServerEvent, ServerRegistered
from ...events.subjects import server_token
from ...instants import iso
from ...projections.active import projection_reaches, running_on
from ...projections.heartbeats import Heartbeat
from ...streams.jetstream.api import api
from ...streams.topology.definitions import TASKS
from ...wire.addresses import BadAddress
from ..auth.access import ApiRequest, Origin, origin
from ..bodies import read_as
from ..parameters import Cursor, ServerId, ServerLimit, page_of
from ..routing import Routes
from ..schemas.servers import (
    CleanupAnswer,
    CleanupBody,
    DrainAnswer,
    HeartbeatAnswer,
    HeartbeatBody,
    MaintenanceAnswer,
    MaintenanceBody,
    OverflowBody,
    RegisterBody,
    ServerPage,
    ServerSummary,
    server_summary,
)
from ..schemas.shared import DoneAnswer, ReasonBody

PROJECTION_SECONDS = 2.0
"""Longest wait of a drain for the projection that counts running tasks."""
KNOWN_AFTER = timedelta(seconds=2)
"""Age of a drain at which every worker knows of it, and attempts started before are in the log."""


async def command_server(
    container: Container, server_id: str, command: ServerCommand, signed: Origin
) -> Handled[ServerState, ServerEvent]:
    """Give a command, and wait until this process has read its events. Raises NotFound."""
    try:
        handled = await container.commands.servers.handle(server_id, command, **signed)
    except NotFound:
        raise NotFound("server", server_id) from None  # the log cannot name a server that it does not have
    await container.fleet.reached(handled.known.sequence)
    return handled


async def find_server(container: Container, server_id: str) -> Present:
    """Return a server as it is in the log. Raises NotFound."""
    state = (await container.commands.servers.load(server_id)).state
    if not isinstance(state, Present):
        raise NotFound("server", server_id)
    return state


async def registration(container: Container, server_id: str) -> ServerRegistered | None:
    """Return a server's registration, None if it is not registered."""
    state = (await container.commands.servers.load(server_id)).state
    return state.settings if isinstance(state, Present) else None


async def register(container: Container, body: RegisterBody, signed: Origin) -> None:
    """Register a server, or replace the one with its id, and start its first check. Raises InvalidInput."""
    await check_url(container, body.endpoints.predict, "$.endpoints.predict")
    if body.endpoints.health:
        await check_url(container, body.endpoints.health, "$.endpoints.health")
    before = await registration(container, body.id)
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
        busy_status=None if body.busy_status is None else tuple(sorted(set(body.busy_status))),
    )
    handled = await command_server(container, body.id, RegisterServer(settings=registered), signed)
    if before is not None and before.api_key_id != key_id:
        await container.secrets.destroy(body.id, before.api_key_id)
    first_check = msgspec.json.encode({"sequence": handled.known.sequence})
    await container.timers.check_server(body.id, utc_now(), first_check)


async def check_url(container: Container, url: str, path: str) -> None:
    """Raise InvalidInput, with the path in the body, unless backends may have this address."""
    try:
        await container.egress.check_url(url)
    except BadAddress as error:
        raise InvalidInput(str(error), path) from None


def _overflow(body: OverflowBody | None) -> Overflow | None:
    if body is None:
        return None
    if body.waiting is None and body.oldest is None:
        raise InvalidInput("must have `waiting`, `oldest` or both: when the server takes work", "$.overflow")
    return Overflow(waiting=body.waiting, oldest=timedelta(seconds=body.oldest) if body.oldest is not None else None)


async def remove(container: Container, server_id: str, reason: str, signed: Origin) -> None:
    """Remove a server, its sealed key and its heartbeat. Raises NotFound."""
    found = await registration(container, server_id)
    await command_server(container, server_id, RemoveServer(reason=reason), signed)
    if found is not None:
        await container.secrets.destroy(server_id, found.api_key_id)
    await container.heartbeats.forget(server_id)


async def count_running(container: Container, server_id: str) -> int:
    """Return how many tasks a server runs, as of now if the projection catches up within PROJECTION_SECONDS."""
    bucket = container.buckets.tasks
    last = int((await api(container.reading, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
    await projection_reaches(bucket, last, PROJECTION_SECONDS)
    return len(await running_on(bucket, server_token(server_id)))


def server_router(container: Container) -> Router:
    routes = Routes("/servers", "Servers", roles=("admin",))
    depth = container.settings.max_json_depth

    @routes.post("/", "Register a server", "The server is registered; its first check has started", body=RegisterBody)
    async def register_server(request: ApiRequest) -> DoneAnswer:
        """Register a backend server, or replace the one with this id. It is `offline` until a check succeeds."""
        body = await read_as(request, RegisterBody, depth)
        await register(container, body, origin(request))
        return DoneAnswer(id=body.id)

    @routes.get("/", "List servers", "A page of servers, by id")
    async def list_servers(limit: ServerLimit = 5000, cursor: Cursor = None) -> ServerPage:
        """List the registered servers by id, with their state and last heartbeat."""
        await container.fleet.catch_up(container.reading)
        servers = {server.server_id: server for server in container.fleet.servers()}
        shown, following = page_of(servers, limit, cursor)
        heartbeats = await container.heartbeats.all()
        busy = await container.heartbeats.all_busy()
        tokens = {name: server_token(name) for name in shown}
        return ServerPage(
            servers=[
                server_summary(servers[name], heartbeats.get(tokens[name]), busy.get(tokens[name])) for name in shown
            ],
            next_cursor=following,
        )

    @routes.get("/{server_id:str}", "Read a server", "The server's present state")
    async def get_server(server_id: ServerId) -> ServerSummary:
        """Return a server and its `status`: `online` or `offline`, with the reason."""
        heartbeats = container.heartbeats
        found = await find_server(container, server_id)
        return server_summary(found, await heartbeats.get(server_id), await heartbeats.busy(server_id))

    @routes.post("/{server_id:str}/heartbeat", "Send a heartbeat", "The heartbeat is recorded", body=HeartbeatBody)
    async def send_heartbeat(request: ApiRequest, server_id: ServerId) -> HeartbeatAnswer:
        """Record a heartbeat. Heartbeats keep a server without a health address online."""
        body = await read_as(request, HeartbeatBody, depth)
        server = container.fleet.find(server_id) or await find_server(container, server_id)
        now = utc_now()
        last = await container.heartbeats.get(server_id) or Heartbeat(seen_at=now)
        heartbeat = replace(
            last, seen_at=now, checked_at=None, status=body.status, active_tasks=body.active_tasks, metrics=body.metrics
        )
        await container.heartbeats.put(server_id, heartbeat)
        if not server.online and server.settings.health_url is None:
            await command_server(container, server_id, MarkOnline(reason="heartbeat"), origin(request))
        return HeartbeatAnswer(id=server_id, last_heartbeat=iso(now))

    @routes.delete("/{server_id:str}", "Remove a server", "The server is removed")
    async def remove_server(request: ApiRequest, server_id: ServerId) -> DoneAnswer:
        """Remove a server and its sealed key. Tasks it runs go on; their reports are still accepted."""
        await remove(container, server_id, f"removed by {request.user.subject}", origin(request))
        return DoneAnswer(id=server_id)

    @routes.post("/cleanup", "Remove servers that are long offline", "The ids of the removed servers", body=CleanupBody)
    async def clean_up(request: ApiRequest) -> CleanupAnswer:
        """Remove every server that has been offline for longer than `maxAgeMins`."""
        body = await read_as(request, CleanupBody, depth)
        await container.fleet.catch_up(container.reading)
        latest = utc_now() - timedelta(minutes=body.max_age_mins)
        reason = f"offline for more than {body.max_age_mins:g} min"
        removed = []
        for server in list(container.fleet.servers()):
            if not server.online and server.changed_at <= latest:
                with contextlib.suppress(NotFound):  # removed by another request meanwhile
                    await remove(container, server.server_id, reason, origin(request))
                    removed.append(server.server_id)
        return CleanupAnswer(removed_servers=removed)

    _add_maintenance(routes, container)
    return routes.router()


def _add_maintenance(routes: Routes, container: Container) -> None:
    depth = container.settings.max_json_depth

    @routes.post(
        "/{server_id:str}/maintenance",
        "Begin or end maintenance",
        "Maintenance has begun or ended",
        body=MaintenanceBody,
    )
    async def set_maintenance(request: ApiRequest, server_id: ServerId) -> MaintenanceAnswer:
        """Begin or end maintenance. In maintenance a server finishes the tasks it runs and gets no new ones."""
        body = await read_as(request, MaintenanceBody, depth)
        asked = SetMaintenance(maintenance=body.maintenance, reason=body.reason)
        await command_server(container, server_id, asked, origin(request))
        return MaintenanceAnswer(id=server_id, maintenance=body.maintenance)

    @routes.post("/{server_id:str}/drain", "Drain a server", "How many tasks the server still runs", body=ReasonBody)
    async def drain_server(request: ApiRequest, server_id: ServerId) -> DrainAnswer:
        """Begin maintenance and return how many tasks still run. Repeat until `drained` is true; then resume it."""
        body = await read_as(request, ReasonBody, depth)
        asked = SetMaintenance(maintenance=True, reason=body.reason)
        state = (await command_server(container, server_id, asked, origin(request))).known.state
        assert isinstance(state, Present)
        since = state.maintenance_since or utc_now()
        running = await count_running(container, server_id)
        drained = running == 0 and utc_now() - since > KNOWN_AFTER
        return DrainAnswer(id=server_id, since=iso(since), running=running, drained=drained)

    @routes.post("/{server_id:str}/resume", "End a drain", "The server gets tasks again", body=ReasonBody)
    async def resume_server(request: ApiRequest, server_id: ServerId) -> MaintenanceAnswer:
        """End a drain or maintenance: the server gets tasks again."""
        body = await read_as(request, ReasonBody, depth)
        await command_server(
            container, server_id, SetMaintenance(maintenance=False, reason=body.reason), origin(request)
        )
        return MaintenanceAnswer(id=server_id, maintenance=False)
