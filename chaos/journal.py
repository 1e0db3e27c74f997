"""A file of JSON lines that says before and after each step what is done: what is believed afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec


class Journal:
    """Writes lines; `synced`: each is on disk before `write` returns."""

    def __init__(self, path: Path, *, synced: bool) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._synced = synced

    def write(self, **facts: Any) -> None:
        """Write one line, with the time (`at`, seconds since the epoch)."""
        os.write(self._file, msgspec.json.encode({"at": time.time(), **facts}) + b"\n")
        if self._synced:
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a journal; a process that is killed may leave a last one that is not."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line) for line in lines]
