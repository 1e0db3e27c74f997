"""Results of tasks: small ones in the event that ends the task, large ones in JetStream's object store.

Each object has a name of its own, so no other writer replaces or deletes it. Its description is stored before its
parts: whatever a killed process leaves is found by the description, and swept (`workers/result_sweeper.py`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Collection
from datetime import datetime
from typing import NamedTuple

import msgspec
import nats.errors
from msgspec import Raw, Struct, field
from nats.js.api import ObjectInfo
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore

from ..clock import unique_id, utc_now
from ..errors import NotFound, StoreError, StoreUnavailable
from ..events.ids import TaskRef
from ..events.json_text import compact
from ..events.task import StoredFile, StoredResult
from .client.connection import Connection
from .jetstream.api import api, stored_sequence
from .jetstream.messages import Position, read

BUCKET = "results"
STREAM = f"OBJ_{BUCKET}"
PART_BYTES = 128 * 1024
"""Size of one part; every official client of NATS has this default."""
PARTS_AT_ONCE = 8
"""Parts of a file held in memory."""


class Results:
    """The results of all tasks. `objects` holds those larger than `inline_bytes`."""

    def __init__(self, objects: Objects, inline_bytes: int) -> None:
        self._objects = objects
        self._inline_bytes = inline_bytes

    def inline(self, ending: bytes, *, has_file: bool) -> StoredResult | None:
        """Return a result in the form the event holds, without line breaks; None if it needs an object."""
        result = compact(ending)
        if has_file or len(result) > self._inline_bytes:
            return None
        return StoredResult(inline=Raw(result), size_bytes=len(result))

    async def store(self, ref: TaskRef, result: bytes, file: tuple[str, bytes] | None = None) -> StoredResult:
        """Store what of a result is too large for the event, and its file; return the form that the event holds.

        `file`: its media type and its bytes. Raises StoreUnavailable. Each call makes objects with new names.
        """
        result = compact(result)
        name = f"{ref.owner}.{ref.unique}.{unique_id()}"
        stored_file: StoredFile | None = None
        if file is not None:
            media_type, content = file
            stored_file = StoredFile(object_name=f"{name}.file", media_type=media_type, size_bytes=len(content))
            await self._objects.put(stored_file.object_name, content)
        if len(result) <= self._inline_bytes:
            return StoredResult(inline=Raw(result), size_bytes=len(result), file=stored_file)
        try:
            await self._objects.put(name, result)
        except StoreError:
            if stored_file is not None:
                with contextlib.suppress(StoreError):
                    await self._objects.delete(stored_file.object_name)
            raise
        return StoredResult(object_name=name, size_bytes=len(result), file=stored_file)

    async def discard(self, names: Collection[str]) -> None:
        """Delete objects. Raises StoreUnavailable; repeating is safe."""
        for name in names:
            await self._objects.delete(name)

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


class DescribedObject(NamedTuple):
    """An object, by its description."""

    sequence: int
    """Of the description, in the bucket's stream."""
    name: str
    nuid: str
    """Names the subject of its parts."""
    size_bytes: int
    stored_at: datetime
    """UTC, by the clock of the process that stored it."""


class _Description(Struct, kw_only=True):
    """An object's description, as all clients of NATS' object store write it."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: datetime
    options: dict[str, int] = field(default_factory=lambda: {"max_chunk_size": PART_BYTES})


_decode = msgspec.json.Decoder(_Description).decode


def described(position: Position) -> DescribedObject:
    """Return the object that a message of the bucket describes."""
    found = _decode(position.data)
    return DescribedObject(position.sequence, found.name, found.nuid, found.size, found.mtime)


def _description_subject(name: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _parts_subject(nuid: str) -> str:
    return f"$O.{BUCKET}.C.{nuid}"


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
        """Store an object under a name that was never used; it is on disk when this returns.

        Raises StoreUnavailable, and StoreFull: what was stored of it is deleted, or left to the sweeper.
        """
        parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
        description = _Description(
            name=name,
            bucket=BUCKET,
            nuid=f"{unique_id()}{unique_id()}",
            size=len(data),
            chunks=len(parts),
            digest=f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()}",
            mtime=utc_now(),
        )
        try:
            # First, so that whatever a crash leaves can be found by it. No event names the object before `put` returns.
            await self._publish(_description_subject(name), msgspec.json.encode(description))
            for part in parts:
                await self._publish(_parts_subject(description.nuid), part)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.delete(name)
            raise

    async def delete(self, name: str) -> None:
        """Delete an object. Raises StoreUnavailable; repeating is safe, also if there is no such object."""
        for found in await read(self._connection, STREAM, _description_subject(name)):
            await self.remove(described(found))

    async def remove(self, found: DescribedObject) -> None:
        """Delete an object, and not another that has its name since. Raises as `delete` does."""
        await self._purge({"filter": _parts_subject(found.nuid)})
        await self._purge({"filter": _description_subject(found.name), "seq": found.sequence + 1})

    async def descriptions(self, after: int, count: int) -> list[DescribedObject]:
        """Return up to `count` objects that were stored after a sequence of the bucket, in that order."""
        found = await read(self._connection, STREAM, f"$O.{BUCKET}.M.>", after + 1, count)
        return [described(position) for position in found]

    async def _publish(self, subject: str, data: bytes) -> None:
        stored_sequence(await self._connection.request(subject, data), "a part of a result")

    async def _purge(self, which: dict[str, object]) -> None:
        await api(self._connection, f"STREAM.PURGE.{STREAM}", which)

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
