"""A nats-server's process: it ends when asked, when we end, and when it was left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from .errors import EmbeddedNatsError
from .executable import EXECUTABLE
from .folder import CONFIG_FILE, PID_FILE

STOP_TIMEOUT_SECONDS = 15.0
"""NATS writes its indexes when it stops; killed before that, it reads the whole store at the next start."""
POLL_SECONDS = 0.02
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>."""


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, and make it end if it takes too long or nobody wants to wait for it any more."""
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise


def in_the_child() -> Callable[[], None]:
    """Return what the new process does before it becomes nats-server: private files, and an end when we end."""
    parent = os.getpid()
    libc = ctypes.CDLL(None) if LINUX else None
    if libc is not None and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start the server from the main thread: the kernel ends it with the thread that started it")

    def prepare() -> None:
        os.umask(0o077)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # we died before the line above
                os._exit(1)

    return prepare


async def end_stale_server(folder: Path) -> None:
    """End the server that a killed process left on this folder. Call it with the folder's lock held.

    Raises EmbeddedNatsError if it does not go.
    """
    pid, config = read_pid(folder / PID_FILE), folder / CONFIG_FILE
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is None or not runs_on(pid, config):
            return
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            os.kill(pid, number)
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                while runs_on(pid, config):  # noqa: ASYNC110 - not our child: nothing tells us
                    await asyncio.sleep(POLL_SECONDS)
    raise EmbeddedNatsError(f"nats-server {pid}, left running on this data folder, cannot be ended")


def read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def runs_on(pid: int, config: Path) -> bool:
    """Return whether this process is a nats-server of this folder: a process id may long belong to another."""
    command = command_of(pid)
    return EXECUTABLE in command and str(config) in command


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if there is none, or none any more (a zombie)."""
    if not LINUX:
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no user text
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
