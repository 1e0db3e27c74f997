"""A folder in memory, for files whose loss no test is about."""

from __future__ import annotations

import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
"""A file system in memory, where there is one (Linux)."""
MEMORY_BYTES = 1024**3
"""Free space that tests need in it; a container has 64 MB by default."""


def memory() -> Path | None:
    """Return the folder of a file system in memory; None, for the usual one, if there is too little of it."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES else None
