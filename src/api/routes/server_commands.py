"""Commands about one server, which its path names."""

from __future__ import annotations

from ...commands.handler import Handled
from ...commands.server import ServerCommand, ServerState
from ...container import Container
from ...errors import NotFound
from ...events.server import ServerEvent
from ..auth.access import ApiRequest, actor
from ..middleware.edge import request_id


async def command_server(
    container: Container, request: ApiRequest, server_id: str, command: ServerCommand
) -> Handled[ServerState, ServerEvent]:
    """Give a command, and wait until this process knows of its events. Raises NotFound."""
    by, cause = actor(request.user), request_id(request.scope)
    try:
        handled = await container.commands.servers.handle(server_id, command, by=by, cause=cause)
    except NotFound:
        raise NotFound("server", server_id) from None  # the log does not know the name of what it does not have
    await container.fleet.reached(handled.known.sequence)
    return handled
