"""A KV bucket: the last value of each key, in the form every NATS client knows.

Reads that must be current go to the leader; the others may be answered by a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import NamedTuple

from nats.aio.msg import Msg

from ..errors import OutcomeUnknown, StoreError, StoreUnavailable
from .client.connection import REQUEST_TIMEOUT_SECONDS, Connection
from .jetstream.api import ApiError, api, stored_sequence
from .jetstream.messages import Position, TooMany, last_position, pages, read, read_last

MULTI_GET_KEYS = 1_000
"""JetStream answers at most 1,024 subjects in one multi-last get."""
MARKER_TTL = "60s"
"""How long the marker of a deleted key stays, for watchers; then the key costs nothing."""
WRITES_AT_ONCE = 256
EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class BucketEntry(NamedTuple):
    key: str
    value: bytes
    revision: int
    """Place in the bucket's stream; grows with every write."""


class Write(NamedTuple):
    """A value to put; None removes the key."""

    key: str
    value: bytes | None
    expected: int | None = None
    """Revision the key must have; 0: it must not exist. None: any."""
    marker_ttl: str = ""
    """How long the marker of a removed key stays; empty: MARKER_TTL."""


class Bucket:
    """One KV bucket. A deleted key reads like one that never existed."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.stream = f"KV_{name}"
        self.connection = connection
        self._prefix = f"$KV.{name}."

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        """Write a value and return its revision.

        With `expected` (a revision; 0: the key must not exist) raises Conflict if the key has another one.
        """
        return await self._write(Write(key, value, expected), headers)

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        """Remove a key and its value; safe to repeat. Raises as `put` does."""
        return await self._write(Write(key, None, expected))

    async def _write(self, write: Write, headers: dict[str, str] | None = None) -> int:
        headers = _headers(write) | (headers or {})
        answer = await self.connection.request(self._prefix + write.key, write.value or b"", headers)
        return self._revision(write.key, answer)

    async def put_many(self, writes: Sequence[Write]) -> list[int]:
        """Do many writes concurrently, each as `put` or `delete` does; return their revisions.

        Raises the error of the first failed write once all are answered. Other writes may have been done then.
        """
        revisions: list[int] = []
        for start in range(0, len(writes), WRITES_AT_ONCE):
            part = writes[start : start + WRITES_AT_ONCE]
            answers = await self._exchange(part)
            failures = []
            for write, answer in zip(part, answers, strict=True):
                try:
                    revisions.append(self._revision(write.key, answer))
                except StoreError as error:
                    failures.append(error)
            if failures:
                raise failures[0]
        return revisions

    async def _exchange(self, writes: Sequence[Write]) -> list[Msg]:
        """Send writes and return their answers. Raises as `Connection.request`."""
        answers: list[Msg | None] = [None] * len(writes)
        missing = len(writes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def receive(place: int, message: Msg | None) -> None:
            nonlocal missing
            answers[place] = message
            missing -= 1
            if (missing == 0 or message is None) and not done.done():
                done.set_result(None)

        connection = self.connection
        tokens = [connection.open_inbox(partial(receive, place)) for place in range(len(writes))]
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                for token, write in zip(tokens, writes, strict=True):
                    subject = self._prefix + write.key
                    await connection.publish(subject, write.value or b"", connection.inbox(token), _headers(write))
                await done
        except TimeoutError:
            raise OutcomeUnknown(f"no answer from NATS on {self.stream} in {REQUEST_TIMEOUT_SECONDS:g} s") from None
        finally:
            for token in tokens:
                connection.close_inbox(token)
        answered = [answer for answer in answers if answer is not None]
        if len(answered) < len(writes):
            raise OutcomeUnknown(f"the connection was lost before NATS answered on {self.stream}")
        return answered

    def _revision(self, key: str, answer: Msg) -> int:
        if not answer.data:
            raise StoreUnavailable(f"no responders for {self.name}.{key}")
        return stored_sequence(answer, f"{self.name}.{key}")

    async def erase(self, key: str) -> None:
        """Remove a key and overwrite its value on disk; safe to repeat.

        Raises ApiError if the bucket denies it (`deny_delete`), StoreUnavailable if NATS does not answer.
        """
        found = await self.get_with_revision(key)
        if found is not None:
            try:
                await api(self.connection, f"STREAM.MSG.DELETE.{self.stream}", {"seq": found.revision})
            except ApiError:
                if await self.get_with_revision(key) is not None:  # else another process was faster
                    raise

    async def get(self, key: str) -> BucketEntry | None:
        """Return the value of a key as the leader has it, None if there is none."""
        found = await self.get_with_revision(key)
        return None if found is None or not found.value else found

    async def get_with_revision(self, key: str) -> BucketEntry | None:
        """Return the same as `get`, but an empty value for a deleted key: its revision guards the next write."""
        found = await last_position(self.connection, self.stream, self._prefix + key)
        return BucketEntry(key, found.data, found.sequence) if found else None

    async def get_many(self, keys: Sequence[str]) -> dict[str, BucketEntry]:
        """Return the entries that exist, by key."""
        return {key: entry for key, entry in (await self.get_many_with_revisions(keys)).items() if entry.value}

    async def get_many_with_revisions(self, keys: Sequence[str]) -> dict[str, BucketEntry]:
        """Return the same as `get_many`, and an empty value for each key deleted less than MARKER_TTL ago."""
        found: dict[str, BucketEntry] = {}
        for start in range(0, len(keys), MULTI_GET_KEYS):
            subjects = [self._prefix + key for key in keys[start : start + MULTI_GET_KEYS]]
            entries = self._entries(await read_last(self.connection, self.stream, subjects))
            found |= {entry.key: entry for entry in entries}
        return found

    async def get_matching(self, *key_filters: str) -> list[BucketEntry] | None:
        """Return the entries on these filters, in no order; None if there are more than a thousand.

        Keys deleted less than MARKER_TTL ago count, too. Faster than a scan if few of many keys match.
        """
        try:
            positions = await read_last(self.connection, self.stream, [self._prefix + each for each in key_filters])
        except TooMany:
            return None
        return [entry for entry in self._entries(positions) if entry.value]

    async def count(self) -> int:
        """Return the number of keys; recently deleted ones may be counted."""
        info = await api(self.connection, f"STREAM.INFO.{self.stream}")
        return int(info["state"].get("num_subjects", 0))

    async def last_revision(self) -> int:
        """Return the revision of the last write to any key, as the leader knows it."""
        return int((await api(self.connection, f"STREAM.INFO.{self.stream}"))["state"]["last_seq"])

    async def pages(self) -> AsyncGenerator[list[BucketEntry], None]:
        """Yield all entries in order of their last write, at most a thousand at a time."""
        # Every subject is the bucket's. With a filter that says so, NATS would count the matches for each page.
        async for positions in pages(self.connection, self.stream, ">"):
            yield [entry for entry in self._entries(positions) if entry.value]

    async def scan(self, key_filter: str = ">", from_revision: int = 1, limit: int | None = None) -> list[BucketEntry]:
        """Return the entries on a filter in order of their last write, oldest first."""
        return [entry for entry in await self.scan_writes(key_filter, from_revision, limit) if entry.value]

    async def scan_writes(
        self, key_filter: str = ">", from_revision: int = 1, limit: int | None = None
    ) -> list[BucketEntry]:
        """Return the same as `scan`, and an empty value for each key deleted less than MARKER_TTL ago."""
        return self._entries(await read(self.connection, self.stream, self._prefix + key_filter, from_revision, limit))

    def _entries(self, positions: Sequence[Position]) -> list[BucketEntry]:
        """Return the entries of messages of the bucket's stream; a deleted key has an empty value."""
        cut = len(self._prefix)
        return [BucketEntry(position.subject[cut:], position.data, position.sequence) for position in positions]


def _headers(write: Write) -> dict[str, str]:
    headers = {"KV-Operation": "PURGE", "Nats-TTL": write.marker_ttl or MARKER_TTL} if write.value is None else {}
    if write.expected is not None:
        headers[EXPECTED] = str(write.expected)
    return headers


async def forget(bucket: Bucket, checkpoint: str) -> None:
    """Remove all keys of a projection, then set its checkpoint to the beginning of the log. Repeating is safe."""
    async for entries in bucket.pages():
        await bucket.put_many([Write(entry.key, None) for entry in entries if entry.key != checkpoint])
    await bucket.put(checkpoint, b"0")
