"""Removals of servers, and what brings them back."""

from __future__ import annotations

from datetime import timedelta

from msgspec import UNSET, structs

from ..clock import utc_now
from ..commands.handler import Handled
from ..commands.server import (
    Present,
    RegisterServer,
    Removed,
    RemoveOffline,
    RemoveServer,
    RestoreServer,
    ServerCommand,
    ServerState,
    decide,
)
from ..container import Container
from ..errors import NotFound, RuleBroken
from ..events.server import ServerEvent, ServerRestored
from ..events.subjects import server_token
from ..runtime import fleet_log
from .auth.access import Origin
from .schemas.servers import RestoreBody
from .server_registration import check_soon, command_server, command_with_key, replaced, settings_before


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
    reason = f"restored by {signed['by'].id}"

    def restoration(key_id: str | None = None, is_kept: bool = False) -> ServerCommand:
        command = RestoreServer(reason=reason, api_key_id=key_id, keeps_key=is_kept)
        return restoring(container, command, known.state)

    if body.api_key is UNSET:
        handled = await command_server(container, server_id, restoration(), signed)
    else:
        handled = await command_with_key(container, server_id, body.api_key, restoration, signed)
    assert isinstance(handled.known.state, Present)
    in_use = handled.known.state.settings.api_key_id
    if not handled.appended:  # restored by another request
        return
    await replaced(container, await settings_before(container, server_id, handled), in_use)
    await _has_returned(container, handled, reason)


def restoring(container: Container, command: RestoreServer, state: ServerState) -> ServerCommand:
    """Return the command that restores a server.

    A view that an older version wrote of a removed server has no settings to restore, so the event must have them.
    """
    view = container.fleet.removed_by_token(server_token(state.server_id)) if isinstance(state, Removed) else None
    if view is None or view.before is not None:
        return command
    for event in decide(command, state, utc_now()):
        assert isinstance(event, ServerRestored)
        assert isinstance(state, Removed)
        assert state.before is not None
        return RegisterServer(settings=structs.replace(state.before.registered, api_key_id=event.api_key_id))
    return command


async def revive(container: Container, server_id: str, signed: Origin) -> Present:
    """Restore a server that was removed for being offline and sends a heartbeat. Raises NotFound for any other."""
    command = RestoreServer(reason="heartbeat", is_kept=True)
    handled = await command_server(container, server_id, command, signed)
    if handled.appended:
        await _has_returned(container, handled, command.reason)
    assert isinstance(handled.known.state, Present)
    return handled.known.state


async def _has_returned(container: Container, handled: Handled[ServerState, ServerEvent], reason: str) -> None:
    assert isinstance(handled.known.state, Present)
    server_id = handled.known.state.server_id
    fleet_log.restored(server_id, reason)
    await container.heartbeats.put_removed(server_id, None)
    await check_soon(container, server_id, handled.known.sequence)
