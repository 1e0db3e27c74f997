"""The folder of a backup: a snapshot of each stream that cannot be derived, and a manifest.

    BackupError
    ├── FolderNotEmpty       the folder for a new backup is not empty
    ├── NothingToBackUp      NATS has no Taskstream streams, or an unfinished restore
    ├── NotABackup           the folder has no manifest: another folder, or an interrupted backup
    ├── MadeByNewer          a later version made the backup
    ├── Damaged              a file differs from the manifest, or its content is inconsistent
    ├── TargetNotEmpty       the target of a restore has Taskstream streams already
    └── RestoreInterrupted   the target has the remains of an interrupted restore

The manifest is written last and synced, so an interrupted backup has none. Only the owner can read the files: keys in
them are sealed, payloads and results are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, Self

import msgspec
from msgspec import Meta, Struct

from ..errors import TaskstreamError
from ..streams.topology.definitions import (
    BATCH_JOBS,
    FILE_OBJECTS,
    FILES,
    KEYS,
    OPERATIONS,
    SCHEDULES,
    SERVERS,
    TASKS,
    WEBHOOKS,
)

FORMAT = 1
"""Version of the folder's format. If you raise it, older versions refuse new backups."""
MANIFEST = "manifest.json"
SECRETS = "KV_secrets"
RESULTS = "OBJ_results"
DELIVERIES = "KV_deliveries"
STREAMS = (
    TASKS,
    SERVERS,
    WEBHOOKS,
    SCHEDULES,
    OPERATIONS,
    BATCH_JOBS,
    FILES,
    KEYS,
    SECRETS,
    DELIVERIES,
    RESULTS,
    FILE_OBJECTS,
)
LATER = frozenset({OPERATIONS, BATCH_JOBS, FILES, FILE_OBJECTS, KEYS})
"""Those that backups of earlier versions lack."""
CHUNK_BYTES = 64 * 1024

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Progress = Callable[[str, int, int], None]
"""Called with a stream's name, the bytes of its file processed so far, and its size (0: unknown)."""


class BackupError(TaskstreamError):
    """A backup cannot be made, read or restored; the message says what to do."""


class FolderNotEmpty(BackupError):
    def __init__(self, folder: Path) -> None:
        what = "holds a backup already" if (folder / MANIFEST).exists() else "is not an empty folder"
        super().__init__(f"{folder} {what}: choose a new folder, or remove this one first")


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
        super().__init__(f"the backup is damaged: {what}; use another one")


class TargetNotEmpty(BackupError):
    """The target is a NATS with the streams `names`, or a data folder with a store."""

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        super().__init__(
            f"{folder} has data already: restore into another data folder"
            if folder
            else f"the target has data already: {', '.join(names)}. Restore into an empty NATS or data folder, or "
            "delete these streams if they are not needed (`nats stream rm`)"
        )


class RestoreInterrupted(BackupError):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"an earlier restore was interrupted and left {', '.join(names)}: "
            "repeat the command with --again to remove them and start over"
        )


class Part(Struct, frozen=True, kw_only=True):
    """One stream of a backup."""

    name: str
    file: str
    config: dict[str, Any]
    first_sequence: Count
    last_sequence: Count
    messages: Count
    bytes: Count
    """Size of the messages in NATS' store."""
    file_bytes: Count
    sha256: str
    """Of the file, hex."""

    @property
    def metadata(self) -> dict[str, str] | None:
        """The stream's metadata."""
        found: dict[str, str] | None = self.config.get("metadata")
        return found

    def __post_init__(self) -> None:
        msgspec.convert(self.metadata, dict[str, str] | None)


class Manifest(Struct, frozen=True, kw_only=True):
    """The content of a backup."""

    format: int
    made_at: datetime
    """UTC. Everything acknowledged before is in the backup; later writes may be missing."""
    taskstream: str
    nats: str
    streams: list[Part]

    def part(self, name: str) -> Part:
        """Return a stream's part. Raises KeyError."""
        return {part.name: part for part in self.streams}[name]

    def has(self, name: str) -> bool:
        """Return False for a stream that the version that made the backup did not have."""
        return any(part.name == name for part in self.streams)


class _Format(Struct):
    format: int
    taskstream: str = "?"


def make_folder(folder: Path) -> None:
    """Make the folder for a backup unless it exists and is empty. Raises FolderNotEmpty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderNotEmpty(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def empty(folder: Path) -> None:
    """Remove the files of an unfinished backup."""
    for left in (*folder.glob("*.snapshot"), *folder.glob(f"{MANIFEST}*")):
        left.unlink(missing_ok=True)


class Writer:
    """A new file of a backup, with its size and SHA-256."""

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
    """Sync a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup. Raises NotABackup, MadeByNewer."""
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
        raise NotABackup(folder, f"its {MANIFEST} does not decode: {error}") from None
    missing = set(STREAMS) - LATER - {part.name for part in manifest.streams}
    if missing:
        raise NotABackup(folder, f"its {MANIFEST} does not name {', '.join(sorted(missing))}")
    return manifest


def check_files(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Compare every file with the manifest. Raises Damaged, naming the first file that differs."""
    for part in manifest.streams:
        path = file_of(folder, part)
        size = path.stat().st_size if path.is_file() else -1
        if size != part.file_bytes:
            state = f"has {size} bytes and should have {part.file_bytes}" if size >= 0 else "is missing"
            raise Damaged(f"{path} {state}")
        digest = hashlib.sha256()
        done = 0
        for chunk in chunks_of(path):
            digest.update(chunk)
            done += len(chunk)
            progress(part.name, done, size)
        if digest.hexdigest() != part.sha256:
            raise Damaged(f"{path} differs from its SHA-256 in {MANIFEST}")


def file_of(folder: Path, part: Part) -> Path:
    """Return a part's file. It is always in the folder itself: any directory in the manifest is ignored."""
    return folder / Path(part.file).name


def chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
