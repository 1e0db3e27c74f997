"""One process of a run: started, killed, stopped and continued by its id, and started again if it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

PR_SET_PDEATHSIG = 1
RESTART_PAUSE_SECONDS = 0.5
TAIL_LINES = 15
TERM_SECONDS = 15.0
GRACEFUL = (0, -signal.SIGTERM, -signal.SIGKILL)
"""Asked to end, a process says 0; one that was still starting is ended by the signal."""
RUNNING = ('"event": "ready"', '"event": "worker.started"')


class Exit(Struct, frozen=True):
    """A process ended although nobody ended it."""

    name: str
    status: int
    output: str
    """What it had said since it was started."""

    @property
    def never_ran(self) -> bool:
        """Whether it gave up at its start, with a reason, as it does where NATS is away; a supervisor tries again."""
        said_why = any(line.startswith("taskstream: ") for line in self.output.splitlines())
        return self.status == 1 and said_why and not any(event in self.output for event in RUNNING)

    def __str__(self) -> str:
        lines = self.output.splitlines()[-TAIL_LINES:]
        return "\n".join([f"{self.name} ended with {self.status}:", *lines])


class Process:
    """A command that is to run until `close`, whatever ends it before."""

    def __init__(self, name: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.exits: list[Exit] = []
        self._arguments = arguments
        self._environment = environment or dict(os.environ)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._wanted = False
        self._log_start = 0
        self.busy = asyncio.Lock()
        """Held while somebody ends it and starts it again."""

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Start it, unless it runs."""
        self._wanted = True
        if self.pid:
            return
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_dies_with_us(),
            )
        self._watch = asyncio.create_task(self._start_again(self._process))

    async def kill(self) -> None:
        """End it as kill -9 does; it stays down until `start`."""
        self._wanted = False
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def terminate(self) -> None:
        """Ask it to end, and wait until it has; by force if it takes too long."""
        self._wanted = False
        self.signal(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TERM_SECONDS):
                    status = await self._process.wait()
                    if status not in GRACEFUL:
                        self.exits.append(Exit(self.name, status, self._output()))
                    return
        await self.kill()

    def signal(self, number: int) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def close(self) -> None:
        await self.kill()
        if self._watch is not None:
            self._watch.cancel()

    def _output(self) -> str:
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    def descriptors(self) -> int:
        """Return how many files and sockets it has open (Linux); 0 while it does not run."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir()) if self.pid else 0

    def resident_mb(self) -> float:
        """Return the memory it has (Linux); 0 while it does not run."""
        if not self.pid:
            return 0.0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _is_wanted(self, process: asyncio.subprocess.Process) -> bool:
        return self._wanted and process is self._process

    async def _start_again(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        if not self._is_wanted(process):
            return
        self.exits.append(Exit(self.name, status, self._output()))
        await asyncio.sleep(RESTART_PAUSE_SECONDS)
        if self._is_wanted(process):
            await self.start()


def _dies_with_us() -> Callable[[], None]:
    """Return what the new process does first: have the kernel kill it when we die, also while it is stopped."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare
