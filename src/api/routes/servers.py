"""Routes of servers: register, list, heartbeat, drain, remove. Admins only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import Any

import msgspec
from litestar import Router
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple, replace

from ...clock import utc_now
from ...commands.handler import Handled
from ...commands.server import (
    ChangeServer,
    MarkOnline,
    Present,
    RegisterServer,
    Removed,
    RemoveOffline,
    RemoveServer,
    RestoreServer,
    ServerChange,
    ServerCommand,
    ServerState,
    SetMaintenance,
)
from ...container import Container
from ...errors import InvalidInput, NotFound, RuleBroken
from ...events.server import Overflow, ServerEvent, ServerRegistered
from ...events.subjects import server_token
from ...instants import iso
from ...projections.active import count_running as running_counts
from ...projections.active import projection_reaches, running_on
from ...projections.heartbeats import Heartbeat
from ...runtime import fleet_log
from ...streams.jetstream.api import api
from ...streams.topology.definitions import TASKS
from ...submission.body import parse_json_object
from ...wire.addresses import BadAddress
from ..auth.access import ApiRequest, Origin, origin
from ..bodies import decoded_as, read_as, read_body
from ..parameters import Cursor, RemovedOnly, ServerId, ServerLimit, page_of
from ..routing import Routes
from ..schemas.servers import (
    PRESENT_STATE,
    CleanupAnswer,
    CleanupBody,
    DrainAnswer,
    EndpointsChange,
    HeartbeatAnswer,
    HeartbeatBody,
    MaintenanceAnswer,
    MaintenanceBody,
    OverflowBody,
    RegisterAnswer,
    RegisterBody,
    RestoreBody,
    ServerPage,
    ServerPatch,
    ServerSummary,
    expectation,
    removed_info,
    server_summary,
)
from ..schemas.shared import DoneAnswer, ReasonBody

PROJECTION_SECONDS = 2.0
"""Longest wait of a drain for the projection that counts running tasks."""
KNOWN_AFTER = timedelta(seconds=2)
"""Age of a drain at which every worker knows of it, and attempts started before are in the log."""

HEADERS_IN_USE = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
        "host", "idempotency-key", "keep-alive", "range", "te", "traceparent", "tracestate", "trailer",
        "transfer-encoding", "upgrade", "user-agent", "x-request-id",
    }
)  # fmt: skip
"""Headers of calls that an API key in them would break."""
FIELDS = {field.name: field.encode_name for field in msgspec.structs.fields(RegisterBody)} | {
    "api_key_id": "apiKey",
    "is_permanent": "removeAfter",
}
"""Fields of a registration as clients name them."""
RESETTABLE = {field.encode_name for field in msgspec.structs.fields(RegisterBody) if not field.required}


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


async def read_registration(request: ApiRequest, max_depth: int) -> tuple[RegisterBody, frozenset[str]]:
    """Return a registration and the names of its fields, without those of a server's present state."""
    body = (await read_body(request)).strip() or b"{}"
    given = parse_json_object(body, max_depth)
    settings = {name: value for name, value in given.items() if name not in PRESENT_STATE}
    if len(settings) < len(given):
        body = msgspec.json.encode(settings)
    return decoded_as(body, RegisterBody, max_depth), frozenset(settings)


async def register(container: Container, body: RegisterBody, given: Collection[str], signed: Origin) -> list[str]:
    """Register a server, or replace the one with its id, and start its first check. Raises InvalidInput.

    `given`: the names of the fields that were sent. Returns those that were not and had other values before.
    """
    await check_url(container, body.endpoints.predict, "$.endpoints.predict")
    if body.endpoints.health:
        await check_url(container, body.endpoints.health, "$.endpoints.health")
    key_id = await seal_key(container, body.id, body.api_key)
    registered = ServerRegistered(
        server_id=body.id,
        name=body.name,
        provider=body.provider,
        predict_url=body.endpoints.predict,
        health_url=body.endpoints.health,
        is_async=body.is_async,
        callback=body.callback,
        types=distinct(body.types),
        max_concurrent=body.max_concurrent,
        weight=body.weight,
        api_key_id=key_id,
        labels=body.labels,
        overflow=_overflow(body.overflow),
        busy_status=statuses(body.busy_status),
        auth_header=auth_header(body.auth_header),
        health_auth=body.health_auth,
        health_expect=expectation(body.health_expect),
        remove_after=removal(body.remove_after),
        is_permanent=body.remove_after is None,
    )
    handled = await command_server(container, body.id, RegisterServer(settings=registered), signed)
    before = await settings_before(container, body.id, handled)
    await replaced(container, before, key_id)
    await check_soon(container, body.id, handled.known.sequence)
    return [] if before is None else reset_fields(before, registered, given)


async def change(container: Container, server_id: str, body: ServerPatch, signed: Origin) -> None:
    """Change settings of a server, and check it. Raises NotFound and InvalidInput."""
    endpoints = body.endpoints if isinstance(body.endpoints, EndpointsChange) else EndpointsChange()
    for name, url in (("predict", endpoints.predict), ("health", endpoints.health)):
        if isinstance(url, str):
            await check_url(container, url, f"$.endpoints.{name}")
    changes: dict[str, Any] = {
        "name": body.name,
        "provider": body.provider,
        "predict_url": endpoints.predict,
        "health_url": endpoints.health,
        "is_async": body.is_async,
        "callback": body.callback,
        "types": _read(body.types, distinct),
        "max_concurrent": body.max_concurrent,
        "weight": body.weight,
        "labels": body.labels,
        "overflow": _read(body.overflow, _overflow),
        "busy_status": _read(body.busy_status, statuses),
        "auth_header": _read(body.auth_header, auth_header),
        "health_auth": body.health_auth,
        "health_expect": _read(body.health_expect, expectation),
        "remove_after": _read(body.remove_after, removal),
        "is_permanent": _read(body.remove_after, lambda seconds: seconds is None),
    }
    await find_server(container, server_id)  # before a key is sealed for it
    if body.api_key is not UNSET:
        changes["api_key_id"] = await seal_key(container, server_id, body.api_key)
    handled = await command_server(container, server_id, ChangeServer(change=ServerChange(**changes)), signed)
    if handled.appended:
        assert isinstance(handled.known.state, Present)
        before = await settings_before(container, server_id, handled)
        await replaced(container, before, handled.known.state.settings.api_key_id)
        await check_soon(container, server_id, handled.known.sequence)


async def seal_key(container: Container, server_id: str, api_key: str | None) -> str:
    """Seal an API key and return its id, that of the present one if it is the same; empty for none."""
    if api_key is None:
        return ""
    state = (await container.commands.servers.load(server_id)).state
    current = settings_of(state)
    return await container.secrets.put(server_id, api_key, current.api_key_id if current else "")


def settings_of(state: ServerState) -> ServerRegistered | None:
    """Return the settings of a server that is registered, or was removed and can come back."""
    match state:
        case Present():
            return state.settings
        case Removed(before=Present() as before, is_kept=True):
            return before.settings
        case _:
            return None


async def settings_before(
    container: Container, server_id: str, handled: Handled[ServerState, ServerEvent]
) -> ServerRegistered | None:
    """Return the settings that a command replaced, None if it replaced none."""
    if not handled.appended:
        return None
    first = handled.appended[0].sequence
    servers = container.commands.servers
    history = [stored for stored in await servers.history(server_id) if stored.sequence < first]
    return settings_of(servers.fold(history).state)


async def replaced(container: Container, before: ServerRegistered | None, key_id: str) -> None:
    """Destroy the API key of replaced settings, unless it is still in use."""
    if before is not None and before.api_key_id != key_id:
        await container.secrets.destroy(before.server_id, before.api_key_id)


async def check_soon(container: Container, server_id: str, sequence: int) -> None:
    """Have a server checked now, by a worker that knows the event at `sequence`."""
    await container.timers.check_server(server_id, utc_now(), msgspec.json.encode({"sequence": sequence}))


async def check_url(container: Container, url: str, path: str) -> None:
    """Raise InvalidInput, with the path in the body, unless backends may have this address."""
    try:
        await container.egress.check_url(url)
    except BadAddress as error:
        raise InvalidInput(str(error), path) from None


def reset_fields(before: ServerRegistered, after: ServerRegistered, given: Collection[str]) -> list[str]:
    """Return the fields that a registration left out, and thereby set to their defaults."""
    values = zip(ServerRegistered.__struct_fields__, astuple(before), astuple(after), strict=True)
    names = {FIELDS.get(name, name) for name, old, new in values if old != new}
    return sorted(names & RESETTABLE - set(given)) + ["endpoints.health"] * (
        before.health_url is not None and after.health_url is None
    )


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def statuses(given: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(sorted(set(given)))


def removal(seconds: float | UnsetType | None) -> timedelta | None:
    return timedelta(seconds=seconds) if isinstance(seconds, int | float) else None


def auth_header(name: str | None) -> str:
    """Return the header that carries the API key, empty for the default. Raises InvalidInput for one in use."""
    if name is not None and (name.lower() in HEADERS_IN_USE or name.lower().startswith(("x-ai-", "proxy-", "sec-"))):
        raise InvalidInput(
            "is a header that calls have for another purpose; send the key in one of its own", "$.authHeader"
        )
    return name or ""


def _read(given: Any, read: Callable[[Any], Any]) -> Any:
    """Return what a field of a change is read as; UNSET if it is left out."""
    return UNSET if given is UNSET else read(given)


def _overflow(body: OverflowBody | None) -> Overflow | None:
    if body is None:
        return None
    if body.waiting is None and body.oldest is None:
        raise InvalidInput("must have `waiting`, `oldest` or both: when the server takes work", "$.overflow")
    return Overflow(waiting=body.waiting, oldest=timedelta(seconds=body.oldest) if body.oldest is not None else None)


# Removal


async def remove(container: Container, server_id: str, reason: str, signed: Origin) -> None:
    """Remove a server for good, with its sealed key and its heartbeat. Raises NotFound."""
    handled = await command_server(container, server_id, RemoveServer(reason=reason), signed)
    fleet_log.removed(server_id, "deleted", reason)
    state = handled.known.state
    assert isinstance(state, Removed)
    if state.before is not None:
        await container.secrets.destroy(server_id, state.before.settings.api_key_id)
    await container.heartbeats.forget(server_id)


async def remove_offline(container: Container, server: Present, minutes: float, signed: Origin) -> bool:
    """Remove a server that has been offline for so long, until it answers; return False if it has not."""
    reason = f"offline for more than {minutes:g} min"
    command = RemoveOffline(reason=reason, since=utc_now() - timedelta(minutes=minutes))
    try:
        handled = await command_server(container, server.server_id, command, signed)
    except NotFound:  # removed by another request meanwhile
        return False
    if handled.appended:
        fleet_log.removed(server.server_id, "cleanup", reason)
        await check_soon(container, server.server_id, handled.known.sequence)
    return bool(handled.appended)


async def restore(container: Container, server_id: str, body: RestoreBody, signed: Origin) -> None:
    """Restore a removed server, and check it. Raises NotFound, and RuleBroken if its key must be given."""
    known = await container.commands.servers.load(server_id)
    if isinstance(known.state, Present):
        if body.api_key is UNSET:
            return
        raise RuleBroken(f"{server_id!r} is registered; change its key with PATCH")
    key_id = None if body.api_key is UNSET else await seal_key(container, server_id, body.api_key)
    command = RestoreServer(reason=f"restored by {signed['by'].id}", api_key_id=key_id)
    try:
        handled = await command_server(container, server_id, command, signed)
    except NotFound:
        await container.secrets.destroy(server_id, key_id or "")
        raise
    if handled.appended:
        fleet_log.restored(server_id, command.reason)
        assert isinstance(handled.known.state, Present)
        before = await settings_before(container, server_id, handled)
        await replaced(container, before, handled.known.state.settings.api_key_id)
        await container.heartbeats.put_removed(server_id, None)
        await check_soon(container, server_id, handled.known.sequence)


async def revive(container: Container, server_id: str, signed: Origin) -> Present:
    """Restore a server that was removed for being offline and sends a heartbeat. Raises NotFound for any other."""
    command = RestoreServer(reason="heartbeat", is_kept=True)
    handled = await command_server(container, server_id, command, signed)
    if handled.appended:
        fleet_log.restored(server_id, command.reason)
        await container.heartbeats.put_removed(server_id, None)
        await check_soon(container, server_id, handled.known.sequence)
    assert isinstance(handled.known.state, Present)
    return handled.known.state


# Lists


async def show(container: Container, server: Present) -> ServerSummary:
    """Return what clients see of a registered server."""
    name = server_token(server.server_id)
    running = await running_counts(container.buckets.tasks, [name])
    heartbeats = container.heartbeats
    return server_summary(
        server, await heartbeats.get(server.server_id), await heartbeats.busy(server.server_id), running[name]
    )


async def registered_page(container: Container, limit: int, cursor: str | None) -> ServerPage:
    servers = {server.server_id: server for server in container.fleet.servers()}
    shown, following = page_of(servers, limit, cursor)
    heartbeats = await container.heartbeats.all()
    busy = await container.heartbeats.all_busy()
    tokens = {name: server_token(name) for name in shown}
    running = await running_counts(container.buckets.tasks, list(tokens.values()))
    return ServerPage(
        servers=[
            server_summary(servers[name], heartbeats.get(token), busy.get(token), running[token])
            for name, token in tokens.items()
        ],
        next_cursor=following,
    )


async def removed_page(container: Container, limit: int, cursor: str | None) -> ServerPage:
    removed = {server.server_id: server for server in container.fleet.removed()}
    shown, following = page_of(removed, limit, cursor)
    heartbeats = await container.heartbeats.all()
    checks = await container.heartbeats.all_removed()
    tokens = {name: server_token(name) for name in shown}
    running = await running_counts(container.buckets.tasks, list(tokens.values()))
    servers = []
    for name, token in tokens.items():
        state: ServerState = removed[name]
        if removed[name].before is None:  # its view was written before removals were kept
            state = (await container.commands.servers.load(name)).state
        if isinstance(state, Removed) and state.before is not None:
            before = replace(state.before, online=False)
            info = removed_info(state, checks.get(token))
            servers.append(server_summary(before, heartbeats.get(token), None, running[token], info))
    return ServerPage(servers=servers, next_cursor=following)


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
    async def register_server(request: ApiRequest) -> RegisterAnswer:
        """Register a backend server, or replace the one with this id. It is `offline` until a check succeeds.

        A replacement has the defaults of all settings that the body leaves out: `reset` lists them. To change one
        setting use PATCH. Fields of a server's present state, as GET returns them, are ignored.
        """
        body, given = await read_registration(request, depth)
        return RegisterAnswer(id=body.id, reset=await register(container, body, given, origin(request)))

    @routes.get("/", "List servers", "A page of servers, by id")
    async def list_servers(
        limit: ServerLimit = 5000, cursor: Cursor = None, removed: RemovedOnly = False
    ) -> ServerPage:
        """List the registered servers by id, with their state and last heartbeat, or the removed ones."""
        await container.fleet.catch_up(container.reading)
        return await (removed_page if removed else registered_page)(container, limit, cursor)

    @routes.get("/{server_id:str}", "Read a server", "The server's present state")
    async def get_server(server_id: ServerId) -> ServerSummary:
        """Return a server and its `status`: `online` or `offline`, with the reason."""
        return await show(container, await find_server(container, server_id))

    @routes.patch("/{server_id:str}", "Change a server", "The server's present state", body=ServerPatch)
    async def change_server(request: ApiRequest, server_id: ServerId) -> ServerSummary:
        """Change the settings in the body and leave the others, with the API key. The server is checked at once."""
        await change(container, server_id, await read_as(request, ServerPatch, depth), origin(request))
        return await show(container, await find_server(container, server_id))

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

    @routes.post("/{server_id:str}/heartbeat", "Send a heartbeat", "The heartbeat is recorded", body=HeartbeatBody)
    async def send_heartbeat(request: ApiRequest, server_id: ServerId) -> HeartbeatAnswer:
        """Record a heartbeat. Heartbeats keep a server without a health address online.

        One restores a server that was removed for being offline; not one that an admin removed.
        """
        body = await read_as(request, HeartbeatBody, depth)
        server = container.fleet.find(server_id) or await revive(container, server_id, origin(request))
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
