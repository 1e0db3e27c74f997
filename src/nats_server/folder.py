"""What our own nats-server has in its folder: the lock that makes it ours, its log, the ports it has taken."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from .errors import DataFolderInUse

CONFIG_FILE = "nats-server.conf"
PID_FILE = "nats-server.pid"
LOG_FILE = "nats-server.log"
LOCK_FILE = "nats-server.lock"
STORE = "nats"
LOG_LIMIT_BYTES = 50 * 1024 * 1024
LOG_TAIL_LINES = 20


def lock(folder: Path) -> IO[bytes]:
    """Hold the folder's lock until the file is closed, at the latest when this process ends. Raises DataFolderInUse."""
    file = open_private(folder / LOCK_FILE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataFolderInUse(folder) from None
    return file


def open_private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "ab")


def rotate(log: Path) -> int:
    """Put a log that has grown large aside (one is kept). Return where the new output will begin."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_LIMIT_BYTES:
        return size
    log.replace(log.with_suffix(".log.1"))
    return 0


def tail_of(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read(1024 * 1024).decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])


def take_port(ports: Path) -> int | None:
    """Return the client port from the file that the server writes when it listens; None: not yet."""
    try:
        urls = json.loads(ports.read_text())["nats"]
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or half written
        return None
    return int(urls[0].rpartition(":")[2])
