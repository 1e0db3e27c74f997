"""Results of tasks: small ones in the event that ends the task, large ones in JetStream's object store.

Each object has a name of its own, so no other writer replaces or deletes it. Its description is stored before its
parts: whatever a killed process leaves is found by the description, and swept (`workers/result_sweeper.py`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Raw, Struct, field

from ..clock import unique_id, utc_now
from ..errors import NotFound, StoreError, StoreFull, StoreUnavailable
from ..events.envelope import NULL
from ..events.ids import TaskRef
from ..events.json_text import compact
from ..events.task import StoredFile, StoredResult
from ..instants import EPOCH
from .client.connection import Connection
from .jetstream.api import api, stored_sequence
from .jetstream.messages import Position, last_position, read, read_with_rest
from .turns import Turns

FileContent: TypeAlias = tuple[str, bytes]
"""The media type of a file, and its bytes."""

BUCKET = "results"
PARTIAL = ".partial"
"""End of the names of objects that progress reports refer to."""
STREAM = f"OBJ_{BUCKET}"
PART_BYTES = 128 * 1024
"""Size of one part; every official client of NATS has this default."""
PARTS_AT_ONCE = 8
"""Parts of an object in a window."""
WINDOWS_AT_ONCE = 12
"""Windows in memory, and on their way from NATS: 12 MiB. NATS cuts a connection at 64 MiB."""
WINDOWS_OF_ONE_USER = 3
MOST_WAITING = 64
"""Reads of one user that may wait to begin; further ones are refused at once."""
PATIENCE_SECONDS = 10.0
"""How long a read may wait to begin."""
LONGER_PATIENCE_SECONDS = 60.0
"""How long a read that has begun may wait for its next turn, and an object to be stored; then it breaks off."""
ALONE_SECONDS = 60.0
"""How long objects are stored one at a time after there was no space for one. Together, each would take space that
another needs to be complete, and none would be, though there is space for several."""
MOST_PROBES = 64
"""Requests in which the part with the first byte of a range is found; usually one."""
HELD_SECONDS = 5.0
"""How long a window stays in memory. The rest of it is read again for a client that takes longer."""


class Results:
    """The results of all tasks. `objects` holds those larger than `inline_bytes`."""

    def __init__(self, objects: Objects, inline_bytes: int) -> None:
        self._objects = objects
        self._inline_bytes = inline_bytes

    def inline(self, ending: bytes, *, has_file: bool = False, most_bytes: int | None = None) -> StoredResult | None:
        """Return a result in the form the event holds, without line breaks; None if it needs an object.

        `most_bytes`: a limit below that of all results.
        """
        result = compact(ending)
        if has_file or len(result) > min(self._inline_bytes, most_bytes or self._inline_bytes):
            return None
        return StoredResult(inline=Raw(result), size_bytes=len(result))

    async def store(
        self, ref: TaskRef, result: bytes, file: FileContent | None = None, files: Sequence[FileContent] = ()
    ) -> StoredResult:
        """Store what of a result is too large for the event, and its files; return the form that the event holds.

        Raises StoreUnavailable: then nothing is stored. Each call makes objects with new names.
        """
        result = compact(result)
        name = f"{ref.owner}.{ref.unique}.{unique_id()}"
        is_inline = len(result) <= self._inline_bytes
        contents = {} if file is None else {f"{name}.file": file}
        contents |= {f"{name}.file.{number}": each for number, each in enumerate(files)}
        stored = tuple(
            StoredFile(object_name=file_name, media_type=media_type, size_bytes=len(content))
            for file_name, (media_type, content) in contents.items()
        )
        objects = [(file_name, content) for file_name, (_, content) in contents.items()]
        await self._put_all(objects if is_inline else [*objects, (name, result)])
        return StoredResult(
            inline=Raw(result) if is_inline else NULL,
            object_name=None if is_inline else name,
            size_bytes=len(result),
            file=None if file is None else stored[0],
            files=stored if file is None else stored[1:],
        )

    async def _put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store objects by name, all or none. Raises StoreUnavailable; what then cannot be deleted is swept."""
        for place, (name, data) in enumerate(objects):
            try:
                await self._objects.put(name, data)
            except StoreError:
                with contextlib.suppress(StoreError):
                    await self.discard([stored for stored, _ in objects[:place]])
                raise

    async def store_partial(self, ref: TaskRef, data: bytes) -> StoredResult:
        """Store the data of a progress report in an object; return the form that the event holds.

        Raises StoreUnavailable. Each call makes an object with a new name.
        """
        data = compact(data)
        name = f"{ref.owner}.{ref.unique}.{unique_id()}{PARTIAL}"
        await self._objects.put(name, data)
        return StoredResult(object_name=name, size_bytes=len(data))

    async def discard(self, names: Collection[str]) -> None:
        """Delete objects. Raises StoreUnavailable; repeating is safe."""
        for name in names:
            await self._objects.delete(name)

    def opened(
        self, object_name: str, user: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Return a context manager of a large result's parts, or a file's. `Objects.opened` says what it raises."""
        return self._objects.opened(object_name, user, start, end)


class DescribedObject(NamedTuple):
    """An object, by its description."""

    sequence: int
    """Of the description, in the bucket's stream."""
    name: str
    nuid: str
    """Names the subject of its parts."""
    size_bytes: int
    parts: int
    stored_at: datetime
    """UTC, by the clock of the process that stored it."""
    is_deleted: bool = False
    """A client of NATS deleted the object, and left its description."""


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


class _Known(Struct):
    """What is read of a description."""

    name: str
    nuid: str
    size: int = 0
    chunks: int = 0
    mtime: str = ""
    """Empty in what some clients leave of a deleted object."""
    deleted: bool = False


_decode = msgspec.json.Decoder(_Known).decode


def described(position: Position) -> DescribedObject:
    """Return the object that a message of the bucket describes."""
    found = _decode(position.data)
    stored_at = msgspec.convert(found.mtime, datetime) if found.mtime else EPOCH
    return DescribedObject(
        position.sequence, found.name, found.nuid, found.size, found.chunks, stored_at, found.deleted
    )


def _description_subject(name: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _parts_subject(nuid: str) -> str:
    return f"$O.{BUCKET}.C.{nuid}"


class Objects:
    """The `results` bucket of JetStream's object store.

    `connection` has no other use: NATS cuts a connection that has too many bytes to receive.
    """

    def __init__(self, connection: Connection) -> None:
        self.turns = Turns(WINDOWS_AT_ONCE, WINDOWS_OF_ONE_USER, MOST_WAITING)
        self._connection = connection
        self._alone = asyncio.Lock()
        self._alone_until = float("-inf")

    async def put(self, name: str, data: bytes) -> None:
        """Store an object under a name that was never used; it is on disk when this returns.

        Raises StoreUnavailable, and StoreFull: what was stored of it is deleted, or left to the sweeper. For
        ALONE_SECONDS after StoreFull, objects are stored one at a time.
        """
        try:
            if time.monotonic() >= self._alone_until:
                await self._put(name, data)
                return
            try:
                async with asyncio.timeout(LONGER_PATIENCE_SECONDS):
                    await self._alone.acquire()
            except TimeoutError:
                raise StoreUnavailable("the store had no space lately, so large results are stored in turn") from None
            try:
                await self._put(name, data)
            finally:
                self._alone.release()
        except StoreFull:
            self._alone_until = time.monotonic() + ALONE_SECONDS
            raise

    async def _put(self, name: str, data: bytes) -> None:
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

    @contextlib.asynccontextmanager
    async def opened(
        self, name: str, user: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an object for a user, and yield an iterator of its bytes in parts, the first of which are read by then.

        `start`, `end`: only the bytes from one to before the other; what is before and after is not read.

        Raises NotFound if it is past its retention, TooManyReads if the user gets no turn in time, StoreUnavailable if
        NATS does not answer; the last two also later, from the iterator.
        """
        reading = _Reading(self._connection, self.turns, user)
        try:
            await reading.take_turn(PATIENCE_SECONDS, is_first=True)
            await reading.begin(await self._describe(name), start, end)
            yield reading.parts()
        finally:
            reading.give_turn_back()

    async def _describe(self, name: str) -> DescribedObject:
        found = await last_position(self._connection, STREAM, _description_subject(name))
        if found is None or (known := described(found)).is_deleted:
            raise NotFound("large result or file", "past its retention")
        return known


class _Reading:
    """One object that is read, window by window. It has a turn only while it has a window in memory."""

    def __init__(self, connection: Connection, turns: Turns, user: str) -> None:
        self._connection = connection
        self._turns = turns
        self._user = user
        self._subject = ""
        self._start = 0
        """Place in the object of the first byte to yield."""
        self._end = 0
        """Place after the last byte to yield."""
        self._at = 0
        """Place of the next part."""
        self._part_bytes = 0
        """Size of each part but the last; 0: unknown."""
        self._last = 0
        """Sequence of the last part that was yielded."""
        self._window: deque[Position] = deque()
        self._has_turn = False
        self._drop: asyncio.TimerHandle | None = None
        """The end of its turn, while it has a window."""

    async def take_turn(self, patience_seconds: float, *, is_first: bool) -> None:
        await self._turns.take(self._user, patience_seconds, is_first=is_first)
        self._has_turn = True

    def give_turn_back(self) -> None:
        """Drop the window, and end the turn if it has one."""
        self._window.clear()
        if self._drop is not None:
            self._drop.cancel()
            self._drop = None
        if self._has_turn:
            self._has_turn = False
            self._turns.give_back(self._user)

    async def begin(self, found: DescribedObject, start: int = 0, end: int | None = None) -> None:
        """Read the first window that has the byte at `start`."""
        self._subject = _parts_subject(found.nuid)
        self._end = found.size_bytes if end is None else min(end, found.size_bytes)
        if found.parts == -(-found.size_bytes // PART_BYTES):  # as we store objects
            first, self._part_bytes = start // PART_BYTES, PART_BYTES
            if first:
                self._last = await self._sequence_of(first, found) - 1
        else:
            first = 0
        self._at = first * PART_BYTES
        self._start = start
        await self._read()

    async def _sequence_of(self, number: int, found: DescribedObject) -> int:
        """Return the sequence of a part, by its number from 0.

        Parts of an object that is stored alone have contiguous sequences, after its description. Other messages between
        them are skipped: the part that is found says how many follow it.
        """
        at = found.sequence + 1 + number
        for _ in range(MOST_PROBES):
            part, following = await read_with_rest(self._connection, STREAM, self._subject, at)
            if part is None:
                break
            place = found.parts - 1 - following
            if place == number:
                return part.sequence
            if place > number:
                break
            at = part.sequence + number - place
        raise StoreUnavailable("the object store does not have the parts of an object in their order")

    async def parts(self) -> AsyncIterator[bytes]:
        while self._at < self._end:
            if not self._window:
                self.give_turn_back()
                await self.take_turn(LONGER_PATIENCE_SECONDS, is_first=False)
                await self._read()
            part = self._window.popleft()
            self._last = part.sequence
            if not self._window:
                self.give_turn_back()
            content = part.data[max(0, self._start - self._at) : max(0, self._end - self._at)]
            self._at += len(part.data)
            if content:
                yield content

    async def _read(self) -> None:
        """Read the next window. Raises StoreUnavailable if it is not whole."""
        missing = self._end - self._at
        if missing <= 0:
            return
        most = PARTS_AT_ONCE if not self._part_bytes else min(PARTS_AT_ONCE, -(-missing // self._part_bytes))
        found = await read(self._connection, STREAM, self._subject, self._last + 1, most)
        size = sum(len(part.data) for part in found)
        if not found or (len(found) < most and size < missing):
            raise StoreUnavailable(f"the object store has {size} of the {missing} missing bytes of an object")
        self._window.extend(found)
        self._drop = asyncio.get_running_loop().call_later(HELD_SECONDS, self.give_turn_back)
