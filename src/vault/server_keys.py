"""The API keys of servers: sealed in the `secrets` bucket, beside the log and never in it.

Each key has an id, which the registration names; so a call takes the key that was registered with the address it goes
to, also while the server is being registered anew. A key is destroyed when its registration is replaced, or its server
removed.
"""

from __future__ import annotations

from ..clock import unique_id
from ..events.server import ServerRegistered
from ..events.subjects import server_token
from ..streams.buckets import Bucket
from .sealing import DoesNotOpen, Sealer


class ServerKeys:
    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer

    async def keep(self, server_id: str, key: str, current: ServerRegistered | None) -> str:
        """Seal a key and return its id: that of the current registration where the key is the same.

        Raises SealingUnavailable where no key to seal with is configured.
        """
        if current is not None and await self._is_same(key, current):
            return current.api_key_id
        key_id = unique_id()
        await self._bucket.put(_name(server_id, key_id), self._sealer.seal(key, _purpose(server_id)))
        return key_id

    async def get(self, settings: ServerRegistered) -> str | None:
        """Return the key a server was registered with, None if it has none. Raises DoesNotOpen, also if it is gone."""
        if not settings.api_key_id:
            return None
        entry = await self._bucket.get(_name(settings.server_id, settings.api_key_id))
        if entry is None:
            raise DoesNotOpen(_purpose(settings.server_id))
        return self._sealer.open(entry.value, _purpose(settings.server_id))

    async def destroy(self, settings: ServerRegistered) -> None:
        """Remove the key of a registration that no longer holds."""
        if settings.api_key_id:
            await self._bucket.erase(_name(settings.server_id, settings.api_key_id))

    async def _is_same(self, key: str, current: ServerRegistered) -> bool:
        try:
            return await self.get(current) == key
        except DoesNotOpen:
            return False


def _name(server_id: str, key_id: str) -> str:
    return f"server.{server_token(server_id)}.{key_id}"


def _purpose(server_id: str) -> str:
    return f"server:{server_id}"
