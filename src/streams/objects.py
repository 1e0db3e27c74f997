"""Results too large for the log, in JetStream's object store."""

from __future__ import annotations

import nats.errors
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore

from ..errors import NotFound, StoreUnavailable
from .connection import Connection

BUCKET = "results"


class Objects:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store: ObjectStore | None = None

    async def _bucket(self) -> ObjectStore:
        if self._store is None:
            self._store = await self._connection.client.jetstream().object_store(BUCKET)
        return self._store

    async def put(self, name: str, data: bytes) -> None:
        """Store an object; it is on disk when this returns. Raises StoreUnavailable."""
        try:
            await (await self._bucket()).put(name, data)
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not take {name}: {error}") from error

    async def get(self, name: str) -> bytes:
        """Return an object. Raises NotFound where it is past its retention, StoreUnavailable if NATS is away."""
        try:
            return (await (await self._bucket()).get(name)).data or b""
        except ObjectNotFoundError:
            raise NotFound("result", name) from None
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not answer: {error}") from error

    async def delete(self, name: str) -> None:
        try:
            await (await self._bucket()).delete(name)
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not answer: {error}") from error
