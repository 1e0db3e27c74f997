"""API keys of servers, and what happens to a server whose key cannot be read: it gets no tasks, and none fails."""

from __future__ import annotations

import time

import structlog

from ...commands.server import MISCONFIGURED, MarkOffline, Present
from ...container import Container
from ...errors import NotFound
from ...events.envelope import Actor
from ...events.server import ServerRegistered
from ...settings import variable
from ...vault.sealing import SealingError

log = structlog.get_logger(__name__)

MOST_WARNED = 1_000
"""Servers that are remembered for it; then all are forgotten, and logged again."""
WARNING_SECONDS = 60.0
"""At most one warning per server and process in this time."""


class Misconfigured(Exception):
    """A server cannot be called; the message is its status reason."""


class ServerKeys:
    """Reads the API keys of servers. One per process: it limits the warnings."""

    def __init__(self, container: Container) -> None:
        self._secrets = container.secrets
        self._servers = container.commands.servers
        self._fleet = container.fleet
        self._warned_at: dict[str, float] = {}

    async def of(self, server: ServerRegistered) -> str | None:
        """Return a server's API key, None if it has none. Raises Misconfigured if it cannot be read."""
        if not server.api_key_id:
            return None
        try:
            return await self._secrets.get(server.server_id, server.api_key_id)
        except SealingError:
            raise Misconfigured(
                f"{MISCONFIGURED}its API key cannot be decrypted: register the server again with its key, or put the "
                f"old seal key back into {variable('seal_keys')} (embedded NATS: seal.key)"
            ) from None

    async def mark(self, server: Present, reason: str, by: Actor) -> None:
        """Mark a server offline, unless it has another key by now, and wait until this process knows it."""
        server_id = server.server_id
        try:
            state = (await self._servers.load(server_id)).state
            if not isinstance(state, Present) or state.settings.api_key_id != server.settings.api_key_id:
                return
            self.warn(server_id, reason)
            handled = await self._servers.handle(server_id, MarkOffline(reason=reason), by=by)
        except NotFound:
            return
        await self._fleet.reached(handled.known.sequence)

    def warn(self, server_id: str, reason: str) -> None:
        """Log that a server is misconfigured, if that was not logged lately."""
        now = time.monotonic()
        if now - self._warned_at.get(server_id, -WARNING_SECONDS) >= WARNING_SECONDS:
            if len(self._warned_at) >= MOST_WARNED:
                self._warned_at.clear()
            self._warned_at[server_id] = now
            log.warning("server.misconfigured", server=server_id, reason=reason)
