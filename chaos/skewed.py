"""`python -m chaos.skewed FILE -m MODULE …`: run a module whose wall clock is wrong by what the file says.

The file holds one number, seconds, that may change at any time (`Clock`). `taskstream.clock`, the one reader of the
clock, and `time.time` are wrong by it; the monotonic clock is not, as when an administrator sets the time.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path

SECONDS = struct.Struct("d")


class Clock:
    """How wrong the clock of a process is; shared with it through a file."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there: a clock that is right."""
        self.path = path
        if not path.exists():
            path.write_bytes(SECONDS.pack(0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SECONDS.size)

    @property
    def ahead_seconds(self) -> float:
        """Negative: the clock is behind."""
        return float(SECONDS.unpack_from(self._shared)[0])

    def set(self, ahead_seconds: float) -> None:
        SECONDS.pack_into(self._shared, 0, ahead_seconds)


def main() -> None:
    _, path, flag, module, *arguments = sys.argv
    if flag != "-m":
        raise SystemExit("usage: python -m chaos.skewed FILE -m MODULE …")
    clock = Clock(Path(path))
    right, right_ns = time.time, time.time_ns
    # First: whoever is imported later may keep what it finds here.
    time.time = lambda: right() + clock.ahead_seconds
    time.time_ns = lambda: right_ns() + round(clock.ahead_seconds * 1e9)

    class Skewed:
        """Stands where the reader of the clock has `datetime`, which itself cannot be changed."""

        @staticmethod
        def now(zone: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(time.time(), zone)

    from taskstream import clock as reader  # noqa: PLC0415

    reader.datetime = Skewed  # type: ignore[attr-defined]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
