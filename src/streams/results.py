"""Results of tasks: small ones in the event that ends the task, large ones in JetStream's object store."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import nats.errors
from msgspec import Raw
from nats.js.api import ObjectInfo
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore

from ..errors import NotFound, StoreUnavailable
from ..events.ids import TaskRef
from ..events.json_text import compact
from ..events.task import StoredFile, StoredResult
from .client.connection import Connection
from .jetstream.messages import Position, read

BUCKET = "results"
PARTS_AT_ONCE = 8
"""Parts of a file held in memory, of 128 KiB each as nats-py stores them."""


class Results:
    """The results of all tasks. `objects` holds those larger than `inline_bytes`."""

    def __init__(self, objects: Objects, inline_bytes: int) -> None:
        self._objects = objects
        self._inline_bytes = inline_bytes

    async def store(
        self, ref: TaskRef, mark: str, result: bytes, file: tuple[str, bytes] | None = None
    ) -> StoredResult:
        """Return a result in the form the event holds, without line breaks.

        A large one, and its file, are on disk by then. `mark` distinguishes the results of one task. `file`: its media
        type and its bytes. Raises StoreUnavailable; repeating is safe.
        """
        result = compact(result)
        name = f"{ref.owner}.{ref.unique}.{mark}"
        stored_file: StoredFile | None = None
        if file is not None:
            media_type, content = file
            stored_file = StoredFile(object_name=f"{name}.file", media_type=media_type, size_bytes=len(content))
            await self._objects.put(stored_file.object_name, content)
        if len(result) <= self._inline_bytes:
            return StoredResult(inline=Raw(result), size_bytes=len(result), file=stored_file)
        await self._objects.put(name, result)
        return StoredResult(object_name=name, size_bytes=len(result), file=stored_file)

    async def open(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """Return the bytes of a file in parts, which are read a few at a time.

        Raises NotFound if it is past its retention, StoreUnavailable if NATS does not answer, then or later.
        """
        return await self._objects.open(file.object_name)

    async def read(self, stored: StoredResult) -> Raw | None:
        """Return a result. Raises NotFound if it is past its retention, StoreUnavailable if NATS does not answer."""
        if stored.object_name is None:
            return stored.inline
        return Raw(await self._objects.get(stored.object_name))


class Objects:
    """The `results` bucket of JetStream's object store."""

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
            raise StoreUnavailable(f"the object store did not accept {name}: {error}") from error

    async def get(self, name: str) -> bytes:
        """Return an object. Raises NotFound if it is past its retention, StoreUnavailable if NATS does not answer.

        nats-py's own `get` would wait without a limit for a missing part.
        """
        info = await self._info(name)
        parts = await read(self._connection, f"OBJ_{BUCKET}", f"$O.{BUCKET}.C.{info.nuid}") if info.size else []
        data = b"".join(part.data for part in parts)
        if len(data) != info.size:
            raise StoreUnavailable(f"the object store has {len(data)} of the {info.size} bytes of {name}")
        return data

    async def open(self, name: str) -> AsyncGenerator[bytes, None]:
        """Return the parts of an object, which are read a few at a time. Raises what `get` raises, then or later."""
        info = await self._info(name)
        return self._parts(name, info, await self._read_parts(name, info, 1))

    async def _parts(self, name: str, info: ObjectInfo, parts: list[Position]) -> AsyncGenerator[bytes, None]:
        missing = info.size or 0
        while True:
            for part in parts:
                missing -= len(part.data)
                yield part.data
            if missing <= 0:
                return
            parts = await self._read_parts(name, info, parts[-1].sequence + 1)

    async def _read_parts(self, name: str, info: ObjectInfo, from_sequence: int) -> list[Position]:
        """Return the next parts. Raises StoreUnavailable if there are none: one more is expected."""
        subject = f"$O.{BUCKET}.C.{info.nuid}"
        parts = await read(self._connection, f"OBJ_{BUCKET}", subject, from_sequence, PARTS_AT_ONCE)
        if not parts:
            raise StoreUnavailable(f"the object store lacks parts of {name}")
        return parts

    async def _info(self, name: str) -> ObjectInfo:
        try:
            return await (await self._bucket()).get_info(name)
        except ObjectNotFoundError:
            raise NotFound("result", name) from None
        except (nats.errors.Error, TimeoutError) as error:
            raise StoreUnavailable(f"the object store did not answer: {error}") from error
