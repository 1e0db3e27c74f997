"""The API keys of servers, opened for the call."""

from __future__ import annotations

from ..commands.server import Present
from ..events.subjects import server_token
from ..sealing import Sealer
from ..streams.buckets import Bucket


class ServerKeys:
    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer

    async def get(self, server: Present) -> str | None:
        """Return a server's key, None if it has none. Raises sealing errors where it does not open.

        Read for every call: a key may be changed without any event, and one that was changed is refused.
        """
        if not server.settings.has_api_key:
            return None
        entry = await self._bucket.get(f"server.{server_token(server.server_id)}")
        return None if entry is None else self._sealer.open(entry.value, f"server:{server.server_id}")
