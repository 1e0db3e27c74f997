"""The folder of a backup: a snapshot of each stream that cannot be derived, and the manifest that makes it one.

    BackupError
    ├── FolderNotEmpty       the folder a backup is to be made in holds something
    ├── NothingToBackUp      no NATS of ours, or one whose restore was not finished
    ├── NotABackup           a folder without a manifest: another folder, or a backup that was interrupted
    ├── MadeByNewer          the manifest's format is of a later version
    ├── Damaged              a file differs from what the manifest says, or its content does not add up
    ├── TargetNotEmpty       there are streams of ours where a backup is to be restored
    └── RestoreInterrupted   what is there is left of a restore that did not end

The manifest is written last and synced, so what was interrupted is no backup. All files are for their owner alone:
keys are sealed, payloads and results are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

import msgspec
from msgspec import Struct

from ..errors import TaskstreamError
from ..streams.topology.definitions import SCHEDULES, SERVERS, TASKS, WEBHOOKS

FORMAT = 1
"""Of the folder. Change it, and older versions refuse what newer ones made."""
MANIFEST = "manifest.json"
SECRETS = "KV_secrets"
RESULTS = "OBJ_results"
DELIVERIES = "KV_deliveries"
STREAMS = (TASKS, SERVERS, WEBHOOKS, SCHEDULES, SECRETS, DELIVERIES, RESULTS)
CHUNK_BYTES = 64 * 1024

Progress = Callable[[str, int, int], None]
"""Told a stream's name, how many bytes of its file are dealt with, and of how many (0: not known)."""


class BackupError(TaskstreamError):
    """A backup cannot be made, read or restored; the message says what to do."""


class FolderNotEmpty(BackupError):
    def __init__(self, folder: Path) -> None:
        what = "holds a backup already" if (folder / MANIFEST).exists() else "is not an empty folder"
        super().__init__(f"{folder} {what}: give a new folder, or remove this one first")


class NothingToBackUp(BackupError):
    pass


class NotABackup(BackupError):
    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} is not a backup: {reason}")


class MadeByNewer(BackupError):
    def __init__(self, folder: Path, found_format: int, made_by: str) -> None:
        super().__init__(
            f"{folder} was made by taskstream {made_by} in format {found_format}, and this version reads up to "
            f"{FORMAT}: restore it with the version that made it, or a later one"
        )


class Damaged(BackupError):
    def __init__(self, what: str) -> None:
        super().__init__(f"the backup is damaged: {what}")


class TargetNotEmpty(BackupError):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"there is data already: {', '.join(names)}. A backup is restored into an empty NATS: "
            "give another, or delete these streams if nobody needs them (`nats stream rm`)"
        )


class RestoreInterrupted(BackupError):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"an earlier restore did not end; it has left {', '.join(names)}. "
            "With --again these are removed and the restore begins anew"
        )


class Part(Struct, frozen=True, kw_only=True):
    """One stream of a backup."""

    name: str
    file: str
    config: dict[str, Any]
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int
    """What the messages take in NATS' store."""
    file_bytes: int
    sha256: str
    """Of the file, hex."""


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds. Written last: without it there is none."""

    format: int
    made_at: datetime
    """UTC. What was acknowledged before is in the backup; what was acknowledged later may not be."""
    taskstream: str
    nats: str
    streams: list[Part]

    def part(self, name: str) -> Part:
        """Return a stream's part. Raises KeyError."""
        return {part.name: part for part in self.streams}[name]


class _Format(Struct):
    format: int
    taskstream: str = "?"


def make_folder(folder: Path) -> None:
    """Make a folder for a backup, or see that it is an empty one. Raises FolderNotEmpty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderNotEmpty(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def empty(folder: Path) -> None:
    """Remove what an unfinished backup has written."""
    for left in (*folder.glob("*.snapshot"), *folder.glob(f"{MANIFEST}*")):
        left.unlink(missing_ok=True)


class Writer:
    """A new file, and what it will be known by."""

    def __init__(self, path: Path, name: str, progress: Progress) -> None:
        self._file = _private(path)
        self._name = name
        self._progress = progress
        self.size = 0
        self.digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)
        self._progress(self._name, self.size, 0)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    temporary = folder / f"{MANIFEST}.part"
    with _private(temporary) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)
    sync_folder(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> Manifest:
    """Return what a folder says it holds. Raises NotABackup, MadeByNewer."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        reason = (
            "there is no such folder"
            if not folder.exists()
            else f"it has no {MANIFEST}, which is written last: another folder, or an interrupted backup"
        )
        raise NotABackup(folder, reason) from None
    try:
        head = msgspec.json.decode(text, type=_Format)
        if head.format > FORMAT:
            raise MadeByNewer(folder, head.format, head.taskstream)
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise NotABackup(folder, f"its {MANIFEST} does not read: {error}") from None
    missing = set(STREAMS) - {part.name for part in manifest.streams}
    if missing:
        raise NotABackup(folder, f"its {MANIFEST} names no {', '.join(sorted(missing))}")
    return manifest


def verify(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """See that every file is what the manifest says. Raises Damaged, naming the first that is not."""
    for part in manifest.streams:
        path = file_of(folder, part)
        size = path.stat().st_size if path.is_file() else -1
        if size != part.file_bytes:
            state = f"has {size} bytes and should have {part.file_bytes}" if size >= 0 else "is missing"
            raise Damaged(f"the backup is damaged: {path} {state}")
        digest = hashlib.sha256()
        done = 0
        for chunk in chunks_of(path):
            digest.update(chunk)
            done += len(chunk)
            progress(part.name, done, size)
        if digest.hexdigest() != part.sha256:
            raise Damaged(f"the backup is damaged: {path} differs from its SHA-256 in {MANIFEST}")


def file_of(folder: Path, part: Part) -> Path:
    """Return a part's file, which is in the folder itself, whatever the manifest says."""
    return folder / Path(part.file).name


def chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
