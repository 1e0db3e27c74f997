"""The nats-server that `taskstream up` runs for itself.

One folder, one server. Three things hold that together:

* a lock on the folder, held for as long as this process runs a server on it, so a second one is refused;
* the kernel ends the server when we die, however we die (Linux);
* the server's process id is in the folder, so that what a killed process left running (elsewhere than on Linux) is
  ended by the next start instead of two servers writing into one store.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import IO

from .config import ANY_PORT, CONFIG, HOST, ClusterSeat, with_seat, with_values
from .errors import NatsDidNotStart
from .executable import EXECUTABLE, find_executable
from .folder import (
    CONFIG_FILE,
    LOG_FILE,
    PID_FILE,
    STORE,
    lock,
    open_private,
    rotate,
    tail_of,
    take_port,
)
from .process import POLL_SECONDS, end, end_stale_server, in_the_child
from .startable import Startable

START_TIMEOUT_SECONDS = 120.0
"""A store of many million messages takes its time to be read."""


class EmbeddedNats(Startable):
    """A nats-server on `nats.conf`, with its store in a folder of its own, that ends with us.

    `port` 0 lets the server choose a free one; it keeps that one when started again. `max_storage` is in bytes, 0 for
    what the disk allows. `seat` is its place in a cluster; None: it is alone.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        max_storage: int = 0,
        config: Path = CONFIG,
        seat: ClusterSeat | None = None,
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
            self._lock = lock(self._folder)

    def _prepare(self) -> None:
        for left_behind in self._folder.glob(f"{EXECUTABLE}_*.ports"):  # of a server that was killed
            left_behind.unlink()
        values = {"port": str(self._port), "store_dir": json.dumps(str(self._folder / STORE), ensure_ascii=False)}
        if self._max_storage:
            values["max_file_store"] = str(self._max_storage)
        text = with_values(self._template.read_text(), values)
        with open_private(self._config) as file:
            file.truncate(0)
            file.write((with_seat(text, self._seat) if self._seat else text).encode())

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
