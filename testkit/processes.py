"""The shipped command as real processes: started, awaited by what they log, killed, and in the end all gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import asdict

from taskstream.nats_server.process import in_the_child, read_pid
from taskstream.settings import PREFIX, Settings, variable
from testkit.legality import check_history

from .service import Client, quick_settings, token
from .waiting import wait_until

TAIL_LINES = 40


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with these settings of the service and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return own | {PREFIX + name: value for name, value in settings.items()}


def quick() -> dict[str, str]:
    """Return the settings of `quick_settings` that are not the default, as the environment has them."""
    defaults = asdict(Settings())
    return {
        variable(name).removeprefix(PREFIX): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in asdict(quick_settings()).items()
        if value != defaults[name]
    }


class Running:
    """A command that was started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return what it logged under a name."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
        return [entry for entry in found if entry["event"] == event]

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait until it logs something under this name; fail, with the end of its output, if it ends before."""

        def look() -> dict[str, Any] | None:
            found = self.entries(event)
            if not found and self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            return found[0] if found else None

        found = await wait_until(look, f"`{event}` of {self.name}")
        assert found is not None
        return found

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""
        await wait_until(lambda: self.process.poll() is not None, f"{self.name} to end")
        return self.process.returncode

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class Processes:
    """Starts commands of this package in a folder; `stop` ends whatever still runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Running] = []

    def start(self, *arguments: str, **settings: str) -> Running:
        """Start `taskstream …` with quick settings, and those given (RETRY_BASE="1") over them."""
        name = f"{arguments[0]}-{len(self._started) + 1}"
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "taskstream", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(quick() | {"LOG_FORMAT": "json"} | settings),
                preexec_fn=in_the_child(),  # noqa: PLW1509 - as the embedded server: nothing outlives the tests
            )
        running = Running(name, process, log)
        self._started.append(running)
        return running

    async def up(self, port: int = 0, **settings: str) -> Up:
        """Start `taskstream up` on this folder, and return when it serves."""
        data = self.folder / "data"
        up = self.start("up", "--port", str(port), "--data-dir", str(data), **settings)
        return Up(up, data, (await up.logged("ready"))["url"])

    def stop(self) -> None:
        """End everything, and show the end of each output: pytest prints it with a failure."""
        for running in self._started:
            if running.process.poll() is None:
                running.kill()
            print(f"--- {running.name} (exit status {running.process.returncode})\n{running.tail()}")


class Up:
    """A `taskstream up` that serves."""

    def __init__(self, running: Running, data: Path, url: str) -> None:
        self.running = running
        self.data = data
        self.url = url
        self.port = int(url.rpartition(":")[2])

    @property
    def nats_pid(self) -> int | None:
        """The process id of its nats-server; None while that is being written."""
        return read_pid(self.data / "nats-server.pid")

    def kill_nats(self) -> None:
        pid = self.nats_pid
        assert pid
        os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill nats-server and the rest at once, as a power cut would, but for what the disk has not written yet."""
        self.kill_nats()
        self.running.kill()


class Door:
    """Clients of a service, by its URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.admin = self.client("root", "admin")
        self.alice = self.client("alice")

    def client(self, subject: str, *roles: str) -> Client:
        return Client(self._session, self.url, token(subject, *roles))


@contextlib.asynccontextmanager
async def door(url: str) -> AsyncIterator[Door]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield Door(session, url)


async def recorded(client: Client, task_id: str) -> list[dict[str, Any]]:
    """Return a task's history as recorded: sequence, at, by and event of each."""
    answer = await client.get(f"/api/task/{task_id}/events?limit=1000")
    assert answer.status == 200, answer
    events: list[dict[str, Any]] = answer["events"]
    return events


async def legal(client: Client, task_id: str) -> list[dict[str, Any]]:
    """Return the events of a task that has ended, once its history has been found legal."""
    history = await recorded(client, task_id)
    check_history(history)
    return [entry["event"] for entry in history]


async def all_end(client: Client, count: int) -> None:
    """Wait until the list shows `count` tasks, all of which have ended."""

    async def unfinished() -> bool | int:
        statuses: list[str] = []
        cursor = ""
        while True:
            page = await client.get(f"/api/tasks?limit=200{cursor}")
            assert page.status == 200, page
            statuses += [task["status"] for task in page["tasks"]]
            if page["nextCursor"] is None:
                return len(statuses) == count and all(status in ("FINISHED", "FAILED") for status in statuses)
            cursor = f"&cursor={page['nextCursor']}"

    await wait_until(unfinished, f"the end of {count} tasks")
