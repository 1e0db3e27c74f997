"""What a process uses of the machine, by its id (Linux: /proc). After its end each raises OSError."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mb(pid: int) -> float:
    """Return the memory in RAM, including what is shared with other processes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def proportional_mb(pid: int) -> float:
    """Return the memory in RAM, with a page that n processes share counted as one nth."""
    [line] = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024 / 1e6


def process_name(pid: int) -> str:
    """Return the name of a process of `taskstream up`."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    if not name.startswith(("python", "taskstream")):
        return name
    return "spawner" if b"spawner" in Path(f"/proc/{pid}/cmdline").read_bytes() else "supervisor"


def peak_resident_mb(pid: int) -> float:
    """Return the most memory it has had in RAM. Raises ValueError for a process that has just ended."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def descriptors(pid: int) -> int:
    """Return the number of open files and sockets."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def descendants(pid: int) -> list[int]:
    """Return its children, their children and so on; an empty list where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]
