"""The processes of the demo: started as a person would start them, ended by their ids."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from taskstream.errors import TaskstreamError
from taskstream.nats_server.server import end, in_the_child
from taskstream.settings import PREFIX

from .workload import ServerPlan

START_SECONDS = 30.0
POLL_SECONDS = 0.02
TAIL_LINES = 20
QUICK = {
    "ALLOW_PRIVATE_BACKENDS": "true",
    "LOG_FORMAT": "json",
    "RETRY_BASE": "0.2",
    "RETRY_CAP": "2",
    "HEALTH_INTERVAL": "1",
    "HEALTH_INTERVAL_FAILING": "1",
    "HEALTH_RETRIES": "1",
    "HEALTH_RETRY_DELAY": "0.3",
    "SHUTDOWN_GRACE": "5",
}
"""Settings that make a short show of what is unhurried otherwise: nobody waits 20 s for a health check here."""


class DemoFailed(TaskstreamError):
    """The demo cannot go on; the message says why."""


class Service:
    """`taskstream up` on a folder of its own."""

    def __init__(self, folder: Path, secret: str) -> None:
        self._folder = folder
        self._secret = secret
        self._log = folder / "taskstream.log"
        self._process: Process | None = None
        self._log_read = 0
        """Bytes of the log that are of earlier runs."""
        self.url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and return when it serves; `url` is where, also after a `kill`. Raises DemoFailed."""
        port = self.url.rpartition(":")[2] or "0"
        self._log_read = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = await start_python(
                *("-m", "taskstream", "up", "--host", "127.0.0.1", "--port", port),
                *("--data-dir", str(self._folder / "data")),
                settings={**QUICK, "JWT_SECRET": self._secret},
                stdout=DEVNULL,
                stderr=log.fileno(),
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                while not (url := self._announced()):
                    if self._process.returncode is not None:
                        raise DemoFailed(f"`taskstream up` ended with {self._process.returncode}:\n{self.tail()}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise DemoFailed(f"`taskstream up` was not ready in {START_SECONDS:g} s:\n{self.tail()}") from None
        self.url = url

    async def kill(self) -> None:
        """End it without a warning."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> list[str]:
        """Ask it to end, as `kill` does, and return what was wrong about its end."""
        if self._process is None:
            return []
        await end(self._process)
        status = self._process.returncode
        return [] if status == 0 else [f"`taskstream up` ended with {status}:\n{self.tail()}"]

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _announced(self) -> str:
        """Return the URL of its log line `ready`; empty while there is none."""
        log = self._log.read_bytes()[self._log_read :].decode(errors="replace")
        for line in log.splitlines(keepends=True):
            if '"ready"' in line and line.endswith("\n"):
                entry = json.loads(line)
                if entry["event"] == "ready":
                    return str(entry["url"])
        return ""


def service_on(stack: AsyncExitStack, secret: str) -> Service:
    """Return a service, not started, on a temporary folder; both end with the stack."""
    folder = Path(tempfile.mkdtemp(prefix="taskstream-demo-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    service = Service(folder, secret)
    stack.push_async_callback(service.stop)
    return service


class BackendProcess:
    """A backend server of the demo."""

    def __init__(self, plan: ServerPlan, process: Process, port: int) -> None:
        self.plan = plan
        self.port = port
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, plan: ServerPlan) -> BackendProcess:
        """Start it and return when it listens. Raises DemoFailed."""
        process = await start_python(
            *("-m", f"{__package__}.backend", "--id", plan.server_id, "--style", plan.style),
            settings={},
            stdout=PIPE,
            stderr=DEVNULL,
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
            return cls(plan, process, int(line))
        except (TimeoutError, ValueError):
            await end(process)
            raise DemoFailed(f"the backend server `{plan.server_id}` did not start") from None
        except BaseException:
            await end(process)
            raise

    async def kill(self) -> None:
        """End it without a warning."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        if self._process.returncode is None:
            await end(self._process)


async def start_python(
    *arguments: str, settings: Mapping[str, str], stdout: int, stderr: int, more: Mapping[str, str] | None = None
) -> Process:
    """Start Python; the settings of whoever runs the demo stay out of it. `more`: of the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**environment, **{PREFIX + name: value for name, value in settings.items()}, **(more or {})},
        start_new_session=True,  # Ctrl-C is for us, who end them in order
        preexec_fn=in_the_child(),
    )
