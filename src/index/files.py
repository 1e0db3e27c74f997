"""The files of the index: one folder per machine, one file per process, held by a lock.

A process takes the first file that no other process holds, so a restarted one finds its own again. A file that cannot
be used is deleted: all that it has can be folded again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from pathlib import Path

import structlog

from .schema import FORMAT, SCHEMA, connect, has_schema
from .task_index import Checkpoint, read_checkpoint, store_checkpoint

log = structlog.get_logger(__name__)

MOST_FILES = 1_000
ABANDONED_SECONDS = 86_400.0
"""Age at which a file that no process holds is deleted."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class FileUnusable(Exception):
    """An index file that must be deleted: it is of another format, or not readable, or from before a power loss."""


class IndexFile:
    """A file that this process alone writes. Made by `claim`; `release` lets another process have it."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._parts: tuple[tuple[int, int], ...] = ()
        """Device and inode of each part of the file that is written."""

    def open(self) -> sqlite3.Connection:
        """Return a connection to the file, which is created if it is missing.

        Raises FileUnusable for what must be deleted first, OSError and sqlite3.Error if there is no space, or the
        folder cannot be written to.
        """
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        try:
            connection = connect(self.path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise FileUnusable(str(error)) from error
        try:
            if is_new:
                connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            else:
                _check(connection)
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise FileUnusable(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def is_held(self) -> bool:
        """Return False if the lock was deleted, perhaps with its folder: another process may have the name by now."""
        try:
            return os.path.samestat(os.fstat(self._lock), _lock_of(self.path).stat())
        except OSError:
            return False

    def remember(self) -> None:
        """Record which file was opened, once something was read from it. Raises OSError."""
        self._parts = self._found()

    def check(self) -> None:
        """Raise OSError unless the file that was opened still has its name: a new reader would read another one."""
        if self._found() != self._parts:
            raise OSError("another file has taken the place of one that is open")

    def _found(self) -> tuple[tuple[int, int], ...]:
        parts = (self.path.with_name(self.path.name + suffix).stat() for suffix in ("", "-wal", "-shm"))
        return tuple((part.st_dev, part.st_ino) for part in parts)

    def discard(self) -> None:
        """Delete the file, if no other process may have it.

        Connections to it must be closed, or be of readers, which keep what they have.
        """
        if not self.is_held:
            return
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def release(self) -> None:
        os.close(self._lock)


def claim(folder: Path) -> IndexFile:
    """Return the first file in the folder that no process holds. Raises OSError if the folder cannot be written to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(MOST_FILES):
        path = folder / f"index-{number}.sqlite"
        lock = _locked(path)
        if lock is not None:
            return IndexFile(path, lock)
    raise OSError(f"{folder} has {MOST_FILES} index files, all in use")


def files_in(folder: Path) -> list[Path]:
    """Return the index files of a folder, in use or not."""
    return sorted(folder.glob("index-*.sqlite"))


def remove_abandoned(folder: Path) -> int:
    """Delete the files that no process has held or changed for ABANDONED_SECONDS; return how many."""
    count = 0
    for path in files_in(folder):
        with contextlib.suppress(OSError):
            if time.time() - max(found.stat().st_mtime for found in folder.glob(f"{path.name}*")) < ABANDONED_SECONDS:
                continue
            lock = _locked(path)
            if lock is not None:
                file = IndexFile(path, lock)
                file.discard()
                file.release()
                count += 1
    for left in folder.glob("rebuild-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime >= ABANDONED_SECONDS:
                shutil.rmtree(left)
    return count


def boot_id() -> str:
    """Return an id of the machine's present boot; empty if the system has none."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    return ""


def close_durably(connection: sqlite3.Connection) -> None:
    """Close a file such that it can be used after a reboot, too. Raises sqlite3.Error."""
    connection.execute("PRAGMA synchronous = FULL")
    checkpoint = read_checkpoint(connection)
    if checkpoint.sequence:
        store_checkpoint(connection, checkpoint._replace(boot=""))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _locked(path: Path) -> int | None:
    """Return the descriptor that holds the lock of a file; None if another process holds it."""
    lock = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _check(connection: sqlite3.Connection) -> Checkpoint:
    """Return the checkpoint of an existing file. Raises FileUnusable."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != FORMAT:
        raise FileUnusable(f"format {found}, this version has {FORMAT}")
    if not has_schema(connection):
        raise FileUnusable("its tables are of another version")
    checkpoint = read_checkpoint(connection)
    if checkpoint.boot and checkpoint.boot != boot_id():
        raise FileUnusable("the machine was restarted while it was open")
    return checkpoint
