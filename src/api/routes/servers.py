"""Routes of servers: register, list, heartbeat, drain, remove. Admins change them; auditors read them, too."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, cast

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from ...backends.dialects import is_checked
from ...clock import utc_now
from ...commands.server import (
    MarkOnline,
    Present,
    Removed,
    ServerState,
    SetMaintenance,
)
from ...container import Container
from ...errors import IndexNotReady, InvalidInput
from ...events.subjects import TASK_SUBJECTS, server_token
from ...instants import iso
from ...projections.active import is_projected
from ...projections.heartbeats import Heartbeat
from ...streams.jetstream.messages import last_sequence_of_most
from ...streams.topology.definitions import TASKS
from ...wire.fields import filter_instant
from ..auth.access import READERS_OF_ALL, ApiRequest, Origin, acts_for, check_server, guarded, origin, tag
from ..auth.authenticator import Identity
from ..bodies import read_as
from ..parameters import Cursor, IfMatch, RemovedOnly, ServerId, ServerLimit, page_of
from ..routing import RouteHandler, Routes
from ..schemas.detection import DetectAnswer
from ..schemas.servers import (
    MOST_METRICS,
    CleanupAnswer,
    CleanupBody,
    DrainAnswer,
    HeartbeatAnswer,
    HeartbeatBody,
    MaintenanceAnswer,
    MaintenanceBody,
    RegisterAnswer,
    RegisterBody,
    RestoreBody,
    ServerPage,
    ServerPatch,
    ServerSummary,
    ShortServer,
    ShortServerPage,
    removed_info,
    server_summary,
    short_server,
)
from ..schemas.shared import DoneAnswer, ReasonBody
from ..server_detection import detect_dialect
from ..server_registration import change, command_server, find_server, read_registration, register
from ..server_removal import remove, remove_offline, restore, revive
from ..task_filter import instant_parameter

RemovedSince = Annotated[str | None, instant_parameter("since", "With `removed`: removed at or after this")]
KNOWN_AFTER = timedelta(seconds=2)
"""Age of a drain at which every worker knows of it, and attempts started before are in the log."""


async def show(container: Container, server: Present) -> ServerSummary:
    """Return what clients see of a registered server."""
    name, heartbeats = server.server_id, container.heartbeats
    running = await container.lists.running([name])
    asks = await container.pull_requests.report(name) if server.settings.is_pulled else None
    return server_summary(server, await heartbeats.get(name), await heartbeats.busy(name), running[name], asks=asks)


async def registered_page(container: Container, limit: int, cursor: str | None) -> ServerPage:
    """Return a page of the registered servers."""
    servers = {server.server_id: server for server in container.fleet.servers()}
    shown, following = page_of(servers, limit, cursor)
    heartbeats = await container.heartbeats.all()
    busy = await container.heartbeats.all_busy()
    tokens = {name: server_token(name) for name in shown}
    running = await container.lists.running(shown)
    asks = await container.pull_requests.reports(name for name in shown if servers[name].settings.is_pulled)
    return ServerPage(
        servers=[
            server_summary(servers[name], heartbeats.get(token), busy.get(token), running[name], asks=asks.get(name))
            for name, token in tokens.items()
        ],
        next_cursor=following,
    )


async def removed_page(
    container: Container, limit: int, cursor: str | None, since: datetime | None = None
) -> ServerPage:
    """Return a page of the servers that were removed at or after an instant."""
    removed = {
        server.server_id: server for server in container.fleet.removed() if since is None or server.removed_at >= since
    }
    shown, following = page_of(removed, limit, cursor)
    heartbeats = await container.heartbeats.all()
    checks = await container.heartbeats.all_removed()
    tokens = {name: server_token(name) for name in shown}
    running = await container.lists.running(shown)
    servers = []
    for name, token in tokens.items():
        state: ServerState = removed[name]
        if removed[name].before is None:  # its view was written before removals were kept
            state = (await container.commands.servers.load(name)).state
        if isinstance(state, Removed) and state.before is not None:
            before = replace(state.before, online=False)
            info = removed_info(state, checks.get(token))
            servers.append(server_summary(before, heartbeats.get(token), None, running[name], info))
    return ServerPage(servers=servers, next_cursor=following)


def read_since(given: str | None, *, removed: bool) -> datetime | None:
    """Return since when removed servers are listed, None for all. Raises InvalidInput."""
    if given is not None and not removed:
        raise InvalidInput("selects removed servers; send `removed=true` with it", "since")
    return filter_instant(given, utc_now(), "since")


async def count_running(container: Container, server_id: str) -> tuple[int, bool]:
    """Return how many tasks a server runs, and True if that is as of now."""
    try:
        return (await container.lists.running_now([server_id]))[server_id], True
    except IndexNotReady:
        last = await last_sequence_of_most(container.reading, TASKS, TASK_SUBJECTS)
        is_current = await is_projected(container.buckets.tasks, last)
        return (await container.lists.running([server_id]))[server_id], is_current


SERVERS_AND_ADMINS = ("admin", "service")
READERS_OF_SERVERS = (*READERS_OF_ALL, "service")


async def short_page(container: Container, user: Identity, limit: int, cursor: str | None) -> ShortServerPage:
    """Return a page of the servers that a `service` token acts for."""
    of = acts_for(user, container.fleet)
    servers = {one.server_id: one for one in container.fleet.servers() if of is None or one.server_id in of}
    shown, following = page_of(servers, limit, cursor)
    heartbeats = await container.heartbeats.all()
    return ShortServerPage(
        servers=[short_server(servers[name], heartbeats.get(server_token(name))) for name in shown],
        next_cursor=following,
    )


async def detected(container: Container, server_id: str, signed: Origin) -> DetectAnswer | None:
    """Find out what a server speaks, if it is registered with the dialect `auto` and that is not known; else None."""
    server = await find_server(container, server_id)
    return await detect_dialect(container, server, signed) if server.is_undetected else None


def server_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/servers", "Servers", roles=("admin",))
    depth = container.settings.max_json_depth

    @routes.post("/", "Register a server", "The server is registered; its first check has started", body=RegisterBody)
    async def register_server(request: ApiRequest) -> RegisterAnswer:
        """Register a backend server, or replace the one with this id. It is `offline` until a check succeeds.

        A replacement has the defaults of all settings that the body leaves out: `reset` lists them. To change one
        setting use PATCH. Fields of a server's present state, as GET returns them, are ignored.
        """
        body, given = await read_registration(request, depth)
        reset = await register(container, body, given, origin(request))
        found = await detected(container, body.id, origin(request))
        return RegisterAnswer(id=body.id, reset=reset, detected=found or UNSET)

    @routes.patch("/{server_id:str}", "Change a server", "The server's present state", body=ServerPatch, fails={412})
    async def change_server(
        request: ApiRequest,
        server_id: ServerId,
        if_match: IfMatch = None,  # noqa: ARG001 - read by `guarded`
    ) -> ServerSummary:
        """Change the settings in the body and leave the others, with the API key. The server is checked at once."""
        await change(container, server_id, await read_as(request, ServerPatch, depth), guarded(request))
        await detected(container, server_id, origin(request))
        server = await find_server(container, server_id)
        tag(request, server)
        return await show(container, server)

    @routes.post(
        "/{server_id:str}/restore",
        "Restore a removed server",
        "The server's present state",
        body=RestoreBody,
        fails=[409],
    )
    async def restore_server(request: ApiRequest, server_id: ServerId) -> ServerSummary:
        """Restore a removed server with its settings and maintenance. It is `offline` until a check succeeds.

        409 if its API key was destroyed: send `apiKey`. That is so after `DELETE`, and after
        TASKSTREAM_SERVER_FORGET_AFTER.
        """
        await restore(container, server_id, await read_as(request, RestoreBody, depth), origin(request))
        return await show(container, await find_server(container, server_id))

    @routes.post("/{server_id:str}/detect", "Detect a dialect", "What the probes found", fails=[409])
    async def detect_again(request: ApiRequest, server_id: ServerId) -> DetectAnswer:
        """Ask a server what it speaks: a few GET requests of 2 seconds each, which call no model.

        If it is registered with the dialect `auto`, what is found applies at once, also in place of what was found
        before. Otherwise nothing changes.
        """
        return await detect_dialect(container, await find_server(container, server_id), origin(request))

    @routes.post(
        "/{server_id:str}/heartbeat",
        "Send a heartbeat",
        "The heartbeat is recorded",
        body=HeartbeatBody,
        roles=SERVERS_AND_ADMINS,
    )
    async def send_heartbeat(request: ApiRequest, server_id: ServerId) -> HeartbeatAnswer:
        """Record a heartbeat. Heartbeats keep a server without a health address online, unless it is `misconfigured`.

        One restores a server that was removed for being offline; not one that an admin removed. A `service` token may
        send it for the servers that it acts for: those in its claim `servers`, or the one called like its `sub`; a
        token that names none, for any.
        """
        check_server(request.user, container.fleet, server_id)
        body = await read_as(request, HeartbeatBody, depth)
        if body.metrics is not None and len(msgspec.json.encode(body.metrics)) > MOST_METRICS:
            raise InvalidInput(f"must have at most {MOST_METRICS:,} bytes of JSON", "$.metrics")
        server = container.fleet.find(server_id) or await revive(container, server_id, origin(request))
        now = utc_now()
        last = await container.heartbeats.get(server_id) or Heartbeat(seen_at=now)
        heartbeat = replace(
            last, seen_at=now, checked_at=None, status=body.status, active_tasks=body.active_tasks, metrics=body.metrics
        )
        await container.heartbeats.put(server_id, heartbeat)
        if not (server.online or server.is_misconfigured) and not is_checked(server.settings):
            await command_server(container, server_id, MarkOnline(reason="heartbeat"), origin(request))
        return HeartbeatAnswer(id=server_id, last_heartbeat=iso(now))

    @routes.delete("/{server_id:str}", "Remove a server", "The server is removed")
    async def remove_server(request: ApiRequest, server_id: ServerId) -> DoneAnswer:
        """Remove a server and its sealed key. Tasks it runs go on; their reports are still accepted.

        No heartbeat or health check restores it; `POST /api/servers/{id}/restore` does, with its key.
        """
        await remove(container, server_id, f"removed by {request.user.subject}", origin(request))
        return DoneAnswer(id=server_id)

    @routes.post("/cleanup", "Remove servers that are long offline", "The ids of the removed servers", body=CleanupBody)
    async def clean_up(request: ApiRequest) -> CleanupAnswer:
        """Remove every server that has been offline for longer than `maxAgeMins`, until it answers again."""
        body = await read_as(request, CleanupBody, depth)
        await container.fleet.catch_up(container.reading)
        latest = utc_now() - timedelta(minutes=body.max_age_mins)
        removed = [
            server.server_id
            for server in list(container.fleet.servers())
            if not server.online
            and server.changed_at <= latest
            and await remove_offline(container, server, body.max_age_mins, origin(request))
        ]
        return CleanupAnswer(removed_servers=removed)

    _add_reading(routes, container)
    _add_maintenance(routes, container)
    return routes.handlers


def _add_reading(routes: Routes, container: Container) -> None:
    @routes.get("/", "List servers", "A page of servers, by id", roles=READERS_OF_SERVERS)
    async def list_servers(
        request: ApiRequest,
        limit: ServerLimit = 5000,
        cursor: Cursor = None,
        removed: RemovedOnly = False,
        since: RemovedSince = None,
    ) -> ServerPage:
        """List the registered servers by id, with their state and last heartbeat, or the removed ones.

        A `service` token gets those that it acts for, in short.
        """
        removed_since = read_since(since, removed=removed)
        await container.fleet.catch_up(container.reading)
        if not request.user.has(*READERS_OF_ALL):
            return cast(ServerPage, await short_page(container, request.user, limit, cursor))
        page = partial(removed_page, since=removed_since) if removed else registered_page
        return await page(container, limit, cursor)

    @routes.get("/{server_id:str}", "Read a server", "The server's present state", roles=READERS_OF_SERVERS)
    async def get_server(request: ApiRequest, server_id: ServerId) -> ServerSummary | ShortServer:
        """Return a server and its `status`: `online` or `offline`, with the reason.

        A `service` token gets a server that it acts for, in short.
        """
        reads_all = request.user.has(*READERS_OF_ALL)
        if not reads_all:
            check_server(request.user, container.fleet, server_id)
        found = await find_server(container, server_id)
        if not reads_all:
            return short_server(found, await container.heartbeats.get(server_id))
        tag(request, found)
        return await show(container, found)


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
        running, is_current = await count_running(container, server_id)
        drained = running == 0 and is_current and utc_now() - since > KNOWN_AFTER
        return DrainAnswer(id=server_id, since=iso(since), running=running, drained=drained)

    @routes.post("/{server_id:str}/resume", "End a drain", "The server gets tasks again", body=ReasonBody)
    async def resume_server(request: ApiRequest, server_id: ServerId) -> MaintenanceAnswer:
        """End a drain or maintenance: the server gets tasks again."""
        body = await read_as(request, ReasonBody, depth)
        await command_server(
            container, server_id, SetMaintenance(maintenance=False, reason=body.reason), origin(request)
        )
        return MaintenanceAnswer(id=server_id, maintenance=False)
