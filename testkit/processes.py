"""Commands in processes of their own: started, watched by their logs, killed, started again, all gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
from msgspec import Struct
from msgspec.structs import asdict

from taskstream.nats_server.folder import url_of_running
from taskstream.settings import PREFIX, Settings, variable

from .legality import check_history
from .service import Client, ServiceClients, quick_settings
from .usage import descendants, process_name
from .waiting import POLL_SECONDS, NotInTime, wait_until

TAIL_LINES = 40
STOP_SECONDS = 20.0
RESTART_PAUSE_SECONDS = 0.5
PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>."""
GRACEFUL = (0, -signal.SIGTERM, -signal.SIGKILL)
"""Statuses after SIGTERM: 0, or the signal if the process was still starting."""
RUNNING = ('"event": "ready"', '"event": "worker.started"')


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with these settings of the service, named without prefix, and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return own | {PREFIX + name: value for name, value in settings.items()}


def quick() -> dict[str, str]:
    """Return the settings of `quick_settings` that differ from the default, as strings."""
    defaults = asdict(Settings())
    return {
        variable(name).removeprefix(PREFIX): _text(value)
        for name, value in asdict(quick_settings()).items()
        if value != defaults[name]
    }


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


class Process:
    """A command whose output goes to a log. It can be killed and started again as it was."""

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._env = env
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def status(self) -> int | None:
        """The exit status; None before its end."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> Self:
        """Start it and return at once. The kernel kills it when we end; Ctrl-C does not reach it."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._env),
                start_new_session=True,
                preexec_fn=_dies_with_us(),  # noqa: PLW1509 - nothing outlives the tests
            )
        return self

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        self.signal(signal.SIGTERM)

    async def ended(self, *patience_seconds: float) -> int:
        """Wait for its end and return its exit status. Raises NotInTime."""
        await wait_until(lambda: self.status is not None, f"{self.name} to end", *patience_seconds)
        assert self.status is not None
        return self.status

    async def shut_down(self) -> int | None:
        """Ask it to end, kill it after 20 s, and return its exit status; None if it was never started."""
        if self._process is None:
            return None
        self.terminate()
        try:
            return await self.ended(STOP_SECONDS)
        except (NotInTime, asyncio.CancelledError) as error:
            self.kill()
            if isinstance(error, asyncio.CancelledError):
                raise
            return self.status

    def output(self) -> str:
        """Return the output since its last start."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def tail(self) -> str:
        """Return the last 40 lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return its log entries with this name since its last start, oldest first."""
        lines = self.output().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
        return [entry for entry in found if entry["event"] == event]

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for a log entry with this name. Fails with the end of its output if it ends before."""
        return (await self._until(lambda: self.entries(event), f"`{event}`"))[0]

    async def first_line(self) -> str:
        """Wait for the first line of its output."""
        return (await self._until(lambda: "\n" in (said := self.output()) and said, "a line")).splitlines()[0]

    async def _until(self, look: Callable[[], Any], what: str) -> Any:
        def found() -> Any:
            seen = look()
            if not seen and self.status is not None:
                raise NotInTime(f"{self.name} ended with {self.status}:\n{self.tail()}")
            return seen

        return await wait_until(found, f"{what} of {self.name}")


def _dies_with_us() -> Callable[[], None]:
    """Return what the new process does first: have the kernel kill it when we end, also while it is stopped."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


class Exit(Struct, frozen=True):
    """An unexpected end of a process."""

    name: str
    status: int
    output: str
    """Since its start."""

    @property
    def never_ran(self) -> bool:
        """Whether it gave up at its start with a reason, as it does where NATS is away; a supervisor tries again."""
        said_why = any(line.startswith("taskstream: ") for line in self.output.splitlines())
        return self.status == 1 and said_why and not any(event in self.output for event in RUNNING)

    def __str__(self) -> str:
        return "\n".join([f"{self.name} ended with {self.status}:", *self.output.splitlines()[-15:]])


class Supervised(Process):
    """A process that is started again, half a second after each unexpected end, until `close`."""

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        super().__init__(name, arguments, env, log)
        self.exits: list[Exit] = []
        self.busy = asyncio.Lock()
        """Held while somebody ends it and starts it again."""
        self._wanted = False
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> Self:
        """Start it, unless it runs."""
        self._wanted = True
        if self.pid is None:
            super().start()
            assert self._process is not None
            self._watch = asyncio.create_task(self._start_again(self._process))
        return self

    async def take_down(self) -> None:
        """End it as kill -9 does; it stays down until `start`."""
        self._wanted = False
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self.ended()

    async def shut_down(self) -> int | None:
        """Ask it to end; it stays down until `start`. An exit status other than 0 is kept in `exits`."""
        self._wanted = False
        status = await super().shut_down()
        if status is not None and status not in GRACEFUL:
            self.exits.append(Exit(self.name, status, self.output()))
        return status

    async def close(self) -> None:
        """End it for good."""
        await self.take_down()
        if self._watch is not None:
            self._watch.cancel()

    async def _start_again(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            await asyncio.sleep(POLL_SECONDS)
        if self._wanted and process is self._process:
            self.exits.append(Exit(self.name, process.returncode, self.output()))
            await asyncio.sleep(RESTART_PAUSE_SECONDS)
            if self._wanted and process is self._process:
                self.start()


class Up(Process):
    """`taskstream up` on a data folder. It listens on the same port again after a kill."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str], port: int = 0) -> None:
        self.data = folder / "data"
        self.port = port
        self._settings = settings
        super().__init__(name, (), {}, folder / f"{name}.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self) -> Self:
        """Start it and return when it serves."""
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data))
        self._arguments = python("taskstream", "up", *options)
        self._env = environment(self._settings)
        self.start()
        self.port = int((await self.logged("ready"))["url"].rpartition(":")[2])
        return self

    @property
    def nats_pid(self) -> int | None:
        """The process id of its nats-server; None while that is being written."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.data / "nats-server.pid").read_text())
        return None

    def pids(self) -> dict[str, int]:
        """Return the ids of all its processes by name: `supervisor`, `spawner`, `api-1`, `worker-1`, `nats-server`.

        Needs Linux. Processes of the same name are numbered: `nats-server`, `nats-server 2`.
        """
        found: dict[str, int] = {}
        for pid in (self.pid, *descendants(self.pid)) if self.pid else ():
            with contextlib.suppress(OSError):  # it has just ended
                name = process_name(pid)
                same = sum(each.split(" ")[0] == name for each in found)
                found[f"{name} {same + 1}" if same else name] = pid
        return found

    @property
    def nats_url(self) -> str:
        """The URL of its nats-server or servers, which run, with user and password."""
        url = url_of_running(self.data)
        assert url is not None
        return url

    def kill_nats(self) -> None:
        """Kill its nats-server."""
        pid = self.nats_pid
        assert pid
        os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill nats-server and the rest at once, as a power cut would, except that the disk's cache survives."""
        self.kill_nats()
        self.kill()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", module, *arguments]


async def run_to_end(folder: Path, command: Sequence[str], *patience_seconds: float, **env: str) -> Process:
    """Run a command, without settings of the service, and return it once it has ended. Raises NotInTime."""
    process = Process("command", command, environment({}) | env, folder / "command.log").start()
    try:
        await process.ended(*patience_seconds)
    finally:
        process.kill()
    return process


class Processes:
    """The commands of this package that run on a folder, with quick settings. `stop` ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []

    def start(self, *arguments: str, **settings: str) -> Process:
        """Start `taskstream …` with quick settings and those given, such as RETRY_BASE="1"."""
        name = self._name(arguments[0])
        env = environment(_quick_with(settings))
        self._started.append(Process(name, python("taskstream", *arguments), env, self.folder / f"{name}.log"))
        return self._started[-1].start()

    async def up(self, port: int = 0, **settings: str) -> Up:
        """Start `taskstream up` on this folder and return when it serves."""
        up = Up(self._name("up"), self.folder, _quick_with(settings), port)
        self._started.append(up)
        return await up.serve()

    def _name(self, command: str) -> str:
        return f"{command}-{len(self._started) + 1}"

    def stop(self) -> None:
        """Kill everything and print the end of each output: pytest shows it with a failure."""
        for process in self._started:
            process.kill()
            print(f"--- {process.name} (exit status {process.status})\n{process.tail()}")


def _quick_with(settings: Mapping[str, str]) -> dict[str, str]:
    return quick() | {"LOG_FORMAT": "json"} | settings


@contextlib.asynccontextmanager
async def clients_of(url: str) -> AsyncIterator[ServiceClients]:
    """Yield clients of the service at a URL."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        yield ServiceClients(session, url)


async def legal(client: Client, task_id: str) -> list[dict[str, Any]]:
    """Return the events of a task that has ended. Raises IllegalHistory."""
    history = await client.recorded(task_id)
    check_history(history)
    return [entry["event"] for entry in history]


async def all_end(client: Client, count: int) -> None:
    """Wait until the client has exactly `count` tasks and all of them have succeeded or failed."""

    async def all_ended() -> bool:
        tasks = await client.tasks()
        return len(tasks) == count and all(task["status"] in ("FINISHED", "FAILED") for task in tasks)

    await wait_until(all_ended, f"the end of {count} tasks")
