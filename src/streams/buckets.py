"""A KV bucket: the last value of each key, in the form every NATS client knows.

Reads that must be current go to the leader; the others may be answered by a replica.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..errors import Conflict, StoreFull, StoreUnavailable
from .committer import NO_ROOM, WRONG_LAST_SEQUENCE
from .connection import ApiError, Connection, api, status_of
from .log import NO_MESSAGE_FOUND, position_of, read

MULTI_GET_KEYS = 1_000
"""JetStream answers at most 1,024 subjects in one multi-last get."""
MARKER_TTL = "60s"
"""How long the mark of a deleted key is kept, for those who watch; then the key costs nothing."""


class Entry(NamedTuple):
    key: str
    value: bytes
    revision: int
    """Place in the bucket's stream; grows with every write."""


class Bucket:
    """One KV bucket. A deleted key reads like one that never was."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.stream = f"KV_{name}"
        self._connection = connection
        self._prefix = f"$KV.{name}."

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        """Write a value and return its revision.

        With `expected` (a revision; 0: the key must not exist) raises Conflict if the key has another one.
        """
        headers = dict(headers or {})
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        answer = await self._connection.request(self._prefix + key, value, headers)
        ack = msgspec.json.decode(answer.data)
        if error := ack.get("error"):
            code = error.get("err_code")
            if code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{self.name}.{key}: {error.get('description')}")
            if code in NO_ROOM:
                raise StoreFull(f"NATS has no room: {error.get('description')} ({code})")
            raise StoreUnavailable(f"NATS refused {self.name}.{key}: {error.get('description')} ({code})")
        return int(ack["seq"])

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        """Remove a key and its value; removing one that is not there is no error."""
        return await self.put(key, b"", expected=expected, headers={"KV-Operation": "PURGE", "Nats-TTL": MARKER_TTL})

    async def erase(self, key: str) -> None:
        """Remove a key and overwrite its value on disk; erasing one that is not there is no error.

        Raises ApiError where the bucket denies it (`deny_delete`), StoreUnavailable if NATS does not answer.
        """
        found = await self.get_with_revision(key)
        if found is not None:
            try:
                await api(self._connection, f"STREAM.MSG.DELETE.{self.stream}", {"seq": found.revision})
            except ApiError:
                if await self.get_with_revision(key) is not None:  # else another was quicker
                    raise

    async def get(self, key: str) -> Entry | None:
        """Return the value the leader has, None if there is none."""
        found = await self.get_with_revision(key)
        return None if found is None or not found.value else found

    async def get_with_revision(self, key: str) -> Entry | None:
        """As `get`, but a deleted key is an Entry with an empty value: its revision guards the next write."""
        try:
            answer = await api(self._connection, f"STREAM.MSG.GET.{self.stream}", {"last_by_subj": self._prefix + key})
        except ApiError as error:
            if error.code == NO_MESSAGE_FOUND:
                return None
            raise
        message = answer["message"]
        return Entry(key, base64.b64decode(message.get("data", "")), int(message["seq"]))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that exist, by key."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), MULTI_GET_KEYS):
            subjects = [self._prefix + key for key in keys[start : start + MULTI_GET_KEYS]]
            request = msgspec.json.encode({"multi_last": subjects, "batch": MULTI_GET_KEYS})
            for answer in await self._connection.request_many(f"$JS.API.DIRECT.GET.{self.stream}", request):
                if answer.data and not status_of(answer):
                    position = position_of(answer)
                    key = position.subject[len(self._prefix) :]
                    found[key] = Entry(key, position.data, position.sequence)
        return found

    async def scan(self, key_filter: str = ">", from_revision: int = 1, limit: int | None = None) -> list[Entry]:
        """Return the entries on a filter in order of their last write, oldest first."""
        positions = await read(self._connection, self.stream, self._prefix + key_filter, from_revision, limit)
        cut = len(self._prefix)
        return [
            Entry(position.subject[cut:], position.data, position.sequence) for position in positions if position.data
        ]
