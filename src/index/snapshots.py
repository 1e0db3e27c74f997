"""Snapshots of the index in NATS' object store, from which a new process starts instead of the whole log.

The bucket `index` has at most KEPT objects, each a compressed SQLite file named `<format>-<epoch>-<sequence>`. Its
parts are stored before its description, so an object that is listed is whole. What a crash leaves has no description,
and the next snapshot removes it. All is derived: whatever does not fit is ignored.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct, field

from ..clock import unique_id, utc_now
from ..errors import Conflict
from ..instants import milliseconds
from ..streams.buckets import EXPECTED
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api, stored_sequence
from ..streams.jetstream.messages import last_position, list_subjects, read, read_some
from ..streams.topology.epochs import LogExtent
from .files import FileUnusable
from .schema import FORMAT, connect, has_schema
from .task_index import read_checkpoint, store_checkpoint

log = structlog.get_logger(__name__)

BUCKET = "index"
STREAM = f"OBJ_{BUCKET}"
KEPT = 2
PART_BYTES = 128 * 1024
PARTS_AT_ONCE = 8
PAUSE_SECONDS = 0.02
"""Pause after each stored part: at most about 6 MB a second, so tasks hardly notice."""
READ_BYTES = 1024 * 1024
LEAST_EVENTS = 50_000
"""Events since the last snapshot from which a new one may be made. A tail of so many is folded in two seconds."""
ROWS_SHARE = 4
"""Likewise, a quarter of the rows."""
LEAST_SECONDS = 600.0
"""Time between two snapshots."""
_TURN = f"$O.{BUCKET}.C.turn"
"""Subject of the message that says when a snapshot was begun last. No object's parts have this name."""


class _SnapshotDescription(Struct, kw_only=True):
    """An object's description, as all clients of NATS' object store write it."""

    name: str
    bucket: str = BUCKET
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    """`bytes`: size of the file before it was compressed."""
    options: dict[str, int] = field(default_factory=lambda: {"max_chunk_size": PART_BYTES})


class IndexSnapshot(NamedTuple):
    """A snapshot that is stored."""

    name: str
    nuid: str
    epoch: str
    sequence: int
    """Of the last event that it reflects."""
    size_bytes: int
    file_bytes: int
    """Size of the file, uncompressed."""
    digest: str


class IndexSnapshots:
    """The bucket. `connection` is the one for large objects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def listed(self) -> list[IndexSnapshot]:
        """Return the snapshots of this format, newest first. Raises StoreUnavailable."""
        found = []
        for position in await read(self._connection, STREAM, f"$O.{BUCKET}.M.>"):
            with contextlib.suppress(msgspec.MsgspecError, ValueError, KeyError):
                told = msgspec.json.decode(position.data, type=_SnapshotDescription)
                number, epoch, sequence = told.name.split("-")
                if number == str(FORMAT):
                    file_bytes = int(told.metadata["bytes"])
                    found.append(
                        IndexSnapshot(told.name, told.nuid, epoch, int(sequence), told.size, file_bytes, told.digest)
                    )
        return sorted(found, key=lambda snapshot: snapshot.sequence, reverse=True)

    async def latest(self, extent: LogExtent) -> IndexSnapshot | None:
        """Return the newest snapshot of a log that can be continued from it; None: there is none."""
        for snapshot in await self.listed():
            if extent.has(snapshot.epoch, snapshot.sequence) and snapshot.sequence >= extent.first - 1:
                return snapshot
        return None

    async def take_turn(self) -> bool:
        """Return True if this process is to make a snapshot now: no other has begun one for LEAST_SECONDS."""
        last = await last_position(self._connection, STREAM, _TURN)
        now = milliseconds(utc_now())
        with contextlib.suppress(ValueError):
            if last is not None and now - int(last.data) < LEAST_SECONDS * 1_000:
                return False
        headers = {EXPECTED: str(last.sequence if last else 0)}
        try:
            stored_sequence(await self._connection.request(_TURN, b"%d" % now, headers), "the turn of a snapshot")
        except Conflict:
            return False
        return True

    async def store(self, copy: Path, epoch: str, sequence: int) -> None:
        """Store a file, compressed, and remove older snapshots. Raises StoreError, OSError."""
        nuid = f"{unique_id()}{unique_id()}"
        digest, size, chunks = hashlib.sha256(), 0, 0
        file_bytes = await asyncio.to_thread(os.path.getsize, copy)
        packed = _compressed(copy)
        while part := await asyncio.to_thread(next, packed, b""):
            digest.update(part)
            size += len(part)
            chunks += 1
            stored_sequence(await self._connection.request(f"$O.{BUCKET}.C.{nuid}", part), "a part of a snapshot")
            await asyncio.sleep(PAUSE_SECONDS)
        description = _SnapshotDescription(
            name=f"{FORMAT}-{epoch}-{sequence}",
            nuid=nuid,
            size=size,
            chunks=chunks,
            digest=f"SHA-256={base64.urlsafe_b64encode(digest.digest()).decode()}",
            mtime=utc_now(),
            metadata={"bytes": str(file_bytes)},
        )
        subject = _description_subject(description.name)
        stored_sequence(await self._connection.request(subject, msgspec.json.encode(description)), "a snapshot")
        log.info("index.snapshot-stored", sequence=sequence, size_bytes=size)
        await self._remove_old()

    async def _remove_old(self) -> None:
        """Remove all but the newest snapshots, and parts without a description."""
        kept = (await self.listed())[:KEPT]
        names = {_description_subject(snapshot.name) for snapshot in kept}
        parts = {_TURN, *(f"$O.{BUCKET}.C.{snapshot.nuid}" for snapshot in kept)}
        for subject in await list_subjects(self._connection, STREAM, f"$O.{BUCKET}.>"):
            if subject not in names and subject not in parts:
                await api(self._connection, f"STREAM.PURGE.{STREAM}", {"filter": subject})
            elif subject in names or subject == _TURN:
                await api(self._connection, f"STREAM.PURGE.{STREAM}", {"filter": subject, "keep": 1})

    async def load(self, snapshot: IndexSnapshot, path: Path) -> None:
        """Store the file of a snapshot under a path that does not exist.

        Raises FileUnusable for one that is damaged or is no index, StoreUnavailable, OSError.
        """
        if shutil.disk_usage(path.parent).free < 2 * snapshot.file_bytes:
            raise FileUnusable(f"{path.parent} has no space for {snapshot.file_bytes:,} bytes twice")
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                unpacked = _Unpacked(snapshot, file.write)
                after = 0
                while unpacked.missing > 0:
                    parts = await read_some(
                        self._connection, STREAM, f"$O.{BUCKET}.C.{snapshot.nuid}", after + 1, PARTS_AT_ONCE
                    )
                    if not parts:
                        raise FileUnusable(f"{unpacked.missing:,} bytes are missing")
                    for part in parts:
                        await asyncio.to_thread(unpacked.add, part.data)
                    after = parts[-1].sequence
                unpacked.finish()
            await asyncio.to_thread(_check, partial, snapshot)
            partial.rename(path)
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)


class _Unpacked:
    """The content of a snapshot that arrives part by part: never more of it than it announced."""

    def __init__(self, snapshot: IndexSnapshot, write: Callable[[bytes], object]) -> None:
        self.missing = snapshot.size_bytes
        """Compressed bytes that have not come yet."""
        self._snapshot = snapshot
        self._write = write
        self._left = snapshot.file_bytes
        self._digest = hashlib.sha256()
        self._decompressor = zlib.decompressobj()

    def add(self, part: bytes) -> None:
        self._digest.update(part)
        self.missing -= len(part)
        try:
            while part:
                self._add(self._decompressor.decompress(part, READ_BYTES))
                part = self._decompressor.unconsumed_tail
        except zlib.error as error:
            raise FileUnusable(str(error)) from error

    def _add(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise FileUnusable("it is longer than it says")
        self._write(data)

    def finish(self) -> None:
        self._add(self._decompressor.flush())
        found = f"SHA-256={base64.urlsafe_b64encode(self._digest.digest()).decode()}"
        if self.missing or self._left or found != self._snapshot.digest:
            raise FileUnusable("its checksum differs")


def copy_file(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file that is in use, at one of its checkpoints; return the epoch and the sequence of that.

    Raises sqlite3.Error, OSError.
    """
    target.unlink(missing_ok=True)
    with contextlib.closing(connect(source, read_only=True)) as reader, contextlib.closing(connect(target)) as writer:
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")
        checkpoint = read_checkpoint(writer)
        store_checkpoint(writer, checkpoint._replace(boot=""))
    return checkpoint.epoch, checkpoint.sequence


def is_due(events: int, rows: int) -> bool:
    """Return True if a snapshot is worth making, by the events since the last one and the tasks in the index."""
    return events >= max(LEAST_EVENTS, rows // ROWS_SHARE)


def _compressed(path: Path) -> Iterator[bytes]:
    """Yield the compressed content of a file in parts of PART_BYTES."""
    compressor = zlib.compressobj(1)
    waiting = bytearray()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            waiting += compressor.compress(data)
            while len(waiting) >= PART_BYTES:
                yield bytes(waiting[:PART_BYTES])
                del waiting[:PART_BYTES]
    waiting += compressor.flush()
    for start in range(0, len(waiting), PART_BYTES):
        yield bytes(waiting[start : start + PART_BYTES])


def _check(path: Path, snapshot: IndexSnapshot) -> None:
    """Raise FileUnusable unless a file is a whole index of this format, as of the snapshot's sequence."""
    try:
        with contextlib.closing(connect(path, read_only=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT or not has_schema(connection):
                raise FileUnusable("its tables are of another version")
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise FileUnusable("it is damaged")
            if read_checkpoint(connection).sequence != snapshot.sequence:
                raise FileUnusable("its checkpoint differs from its name")
    except sqlite3.Error as error:
        raise FileUnusable(str(error)) from error


def _description_subject(name: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
