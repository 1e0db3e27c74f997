"""The API keys of servers, opened for the call and kept in memory only."""

from __future__ import annotations

from ..commands.server import Present
from ..events.subjects import server_token
from ..sealing import Sealer
from ..streams.buckets import Bucket


class ServerKeys:
    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer
        self._opened: dict[str, tuple[object, str]] = {}

    async def get(self, server: Present) -> str | None:
        """Return a server's key, None if it has none. Raises sealing errors where it does not open."""
        name = server_token(server.server_id)
        known = self._opened.get(name)
        if known and known[0] == server.registered_at:
            return known[1]
        entry = await self._bucket.get(f"server.{name}")
        if entry is None:
            return None
        key = self._sealer.open(entry.value, f"server:{server.server_id}")
        self._opened[name] = (server.registered_at, key)
        return key
