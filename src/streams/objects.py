"""Results too large for the log, in JetStream's object store."""

from __future__ import annotations

import nats.errors
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore

from ..errors import NotFound, StoreUnavailable
from .client.connection import Connection
from .jetstream.messages import read

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
        """Return an object. Raises NotFound where it is past its retention, StoreUnavailable if NATS is away.

        Not by nats-py's own `get`, which waits for ever for a part that is gone.
        """
        try:
            info = await (await self._bucket()).get_info(name)
        except ObjectNotFoundError:
            raise NotFound("result", name) from None
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not answer: {error}") from error
        parts = await read(self._connection, f"OBJ_{BUCKET}", f"$O.{BUCKET}.C.{info.nuid}") if info.size else []
        data = b"".join(part.data for part in parts)
        if len(data) != info.size:
            raise StoreUnavailable(f"the object store has {len(data)} of the {info.size} bytes of {name}")
        return data

    async def delete(self, name: str) -> None:
        try:
            await (await self._bucket()).delete(name)
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not answer: {error}") from error
