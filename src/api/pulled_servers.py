"""Pulled servers as their pullers' requests show them: alive, as long as one asks or renews."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from ..commands.server import PULLERS_ALIVE, MarkOnline, Present
from ..container import Container
from ..errors import InvalidInput, NotFound, StoreError
from .auth.access import ApiRequest, Origin
from .middleware import MAY_TAKE_LONG, until_gone
from .server_registration import command_server
from .server_removal import revive


async def pulled_server(container: Container, server_id: str, signed: Origin) -> Present:
    """Return a pulled server; one that was removed for being offline is restored. Raises NotFound, InvalidInput."""
    server = container.fleet.find(server_id) or await revive(container, server_id, signed)
    if not server.settings.is_pulled:
        raise InvalidInput("is a server that tasks are sent to; register it with `mode: pull`", "$.server")
    return server


async def record_sign_of_life(container: Container, server_id: str, signed: Origin) -> None:
    """Record that a puller of a server is alive, and mark an offline server online. Without NATS, do nothing."""
    with contextlib.suppress(StoreError, NotFound):
        await container.heartbeats.note(server_id)
        server = container.fleet.find(server_id)
        if server is not None and not (server.online or server.is_misconfigured):
            await command_server(container, server_id, MarkOnline(reason=PULLERS_ALIVE), signed)


@contextlib.asynccontextmanager
async def held_open(request: ApiRequest) -> AsyncIterator[asyncio.Future[None]]:
    """Yield what is done once the client has hung up. The body must have been read."""
    cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
    gone = asyncio.ensure_future(until_gone(request.receive))
    try:
        yield gone
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
