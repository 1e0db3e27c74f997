"""Objects of JetStream's object store: each in parts, with a description.

Each object has a name of its own, so no other writer replaces or deletes it. Its description is stored before its
parts: whatever a killed process leaves is found by the description, and swept.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from ..clock import unique_id, utc_now
from ..errors import NotFound, StoreError, StoreFull, StoreUnavailable
from ..instants import EPOCH
from .client.connection import Connection
from .jetstream.api import api, stored_sequence
from .jetstream.messages import Position, last_position, read, read_with_rest
from .turns import Turns

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
    """Not to be read: it is being stored, or a client of NATS deleted it and left its description."""


class PutObject(NamedTuple):
    """An object that was stored from a stream of bytes."""

    size_bytes: int
    sha256: str
    """Hex."""


class _Description(Struct, kw_only=True):
    """An object's description, as all clients of NATS' object store write it."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: datetime
    deleted: bool = False
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


class Objects:
    """A bucket of JetStream's object store.

    `connection` has no other use: NATS cuts a connection that has too many bytes to receive. All buckets that are read
    over it share the `turns`.
    """

    def __init__(self, connection: Connection, bucket: str, turns: Turns | None = None) -> None:
        self.turns = turns or Turns(WINDOWS_AT_ONCE, WINDOWS_OF_ONE_USER, MOST_WAITING)
        self.bucket = bucket
        self.stream = f"OBJ_{bucket}"
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
        description = self._description(name)
        parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
        description.size, description.chunks = len(data), len(parts)
        description.digest = _digest(hashlib.sha256(data).digest())
        try:
            # First, so that whatever a crash leaves can be found by it. No event names the object before `put` returns.
            await self._publish(self.description_subject(name), msgspec.json.encode(description))
            for part in parts:
                await self._publish(self.parts_subject(description.nuid), part)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.delete(name)
            raise

    async def put_stream(
        self, name: str, content: AsyncIterator[bytes], check: Callable[[int], Awaitable[None]]
    ) -> PutObject:
        """Store an object from a stream of bytes; it is on disk when this returns. Holds PART_BYTES and one chunk.

        `check`: called with the bytes so far, before each part is stored; raises to end it. Raises StoreUnavailable,
        StoreFull, and what `check` and `content` raise: what was stored of it is deleted, or left to the sweeper.
        """
        description = self._description(name)
        description.deleted = True  # no client of NATS reads what is not complete
        digest = hashlib.sha256()
        try:
            await self._publish(self.description_subject(name), msgspec.json.encode(description))
            async for part in _parts(content):
                await check(description.size + len(part))
                await self._publish(self.parts_subject(description.nuid), part)
                digest.update(part)
                description.size += len(part)
                description.chunks += 1
            description.digest, description.deleted = _digest(digest.digest()), False
            await self._publish(
                self.description_subject(name), msgspec.json.encode(description), {"Nats-Rollup": "sub"}
            )
        except BaseException:
            with contextlib.suppress(StoreError):
                await asyncio.shield(self.delete(name))
            raise
        return PutObject(description.size, digest.hexdigest())

    def _description(self, name: str) -> _Description:
        return _Description(name=name, bucket=self.bucket, nuid=f"{unique_id()}{unique_id()}", mtime=utc_now())

    def description_subject(self, name: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def parts_subject(self, nuid: str) -> str:
        return f"$O.{self.bucket}.C.{nuid}"

    async def delete(self, name: str) -> None:
        """Delete an object. Raises StoreUnavailable; repeating is safe, also if there is no such object."""
        for found in await read(self._connection, self.stream, self.description_subject(name)):
            await self.remove(described(found))

    async def remove(self, found: DescribedObject) -> None:
        """Delete an object, and not another that has its name since. Raises as `delete` does."""
        await self._purge({"filter": self.parts_subject(found.nuid)})
        await self._purge({"filter": self.description_subject(found.name), "seq": found.sequence + 1})

    async def descriptions(self, after: int, count: int) -> list[DescribedObject]:
        """Return up to `count` objects that were stored after a sequence of the bucket, in that order."""
        found = await read(self._connection, self.stream, f"$O.{self.bucket}.M.>", after + 1, count)
        return [described(position) for position in found]

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        stored_sequence(await self._connection.request(subject, data, headers), "a part of an object")

    async def _purge(self, which: dict[str, object]) -> None:
        await api(self._connection, f"STREAM.PURGE.{self.stream}", which)

    @contextlib.asynccontextmanager
    async def opened(
        self, name: str, user: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an object for a user, and yield an iterator of its bytes in parts, the first of which are read by then.

        `start`, `end`: only the bytes from one to before the other; what is before and after is not read.

        Raises NotFound if it is past its retention, TooManyReads if the user gets no turn in time, StoreUnavailable if
        NATS does not answer; the last two also later, from the iterator.
        """
        reading = _Reading(self, self._connection, self.turns, user)
        try:
            await reading.take_turn(PATIENCE_SECONDS, is_first=True)
            await reading.begin(await self._describe(name), start, end)
            yield reading.parts()
        finally:
            reading.give_turn_back()

    async def _describe(self, name: str) -> DescribedObject:
        found = await last_position(self._connection, self.stream, self.description_subject(name))
        if found is None or (known := described(found)).is_deleted:
            raise NotFound("large result or file", "past its retention")
        return known


def _digest(sha256: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(sha256).decode()}"


async def _parts(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in parts of PART_BYTES; the last one is shorter."""
    held = bytearray()
    async for chunk in content:
        view = memoryview(chunk)
        while view:
            taken = view[: PART_BYTES - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) == PART_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


class _Reading:
    """One object that is read, window by window. It has a turn only while it has a window in memory."""

    def __init__(self, objects: Objects, connection: Connection, turns: Turns, user: str) -> None:
        self._objects = objects
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
        self._subject = self._objects.parts_subject(found.nuid)
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

        Parts of an object that is stored alone have contiguous sequences: before its description if it came as a
        stream, else after it. With other messages between them, the part that is found says how many follow it.
        """
        first, _ = await read_with_rest(self._connection, self._objects.stream, self._subject, 1)
        if first is None:
            raise StoreUnavailable("the object store does not have the parts of an object")
        low = first.sequence + number
        high = found.sequence if first.sequence < found.sequence else None
        """The part is at `low` at the earliest, and before `high` if that is known."""
        at = low
        for probe in range(MOST_PROBES):
            part, following = await read_with_rest(self._connection, self._objects.stream, self._subject, at)
            place = found.parts if part is None else found.parts - 1 - following
            if part is not None and place == number:
                return part.sequence
            if part is None or place > number:
                high = at - (place - number) + 1
            else:
                low = part.sequence + number - place
            if high is not None and low >= high:
                break
            at = low if high is None or probe % 2 else (low + high) // 2
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
        found = await read(self._connection, self._objects.stream, self._subject, self._last + 1, most)
        size = sum(len(part.data) for part in found)
        if not found or (len(found) < most and size < missing):
            raise StoreUnavailable(f"the object store has {size} of the {missing} missing bytes of an object")
        self._window.extend(found)
        self._drop = asyncio.get_running_loop().call_later(HELD_SECONDS, self.give_turn_back)
