"""The frame of a demo: a screen, a service on a temporary folder, and an end at which nothing is left running."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from testkit.processes import Process, Up
from testkit.service import SECRET, Client, token

from .screen import Screen

SETTINGS = {
    "ALLOW_PRIVATE_BACKENDS": "true",
    "JWT_SECRET": SECRET,
    "LOG_FORMAT": "json",
    "RETRY_BASE": "0.2",
    "RETRY_CAP": "2",
    "HEALTH_INTERVAL": "1",
    "HEALTH_INTERVAL_FAILING": "1",
    "HEALTH_RETRIES": "1",
    "HEALTH_RETRY_DELAY": "0.3",
    "SHUTDOWN_GRACE": "5",
}
"""Shorter intervals than the defaults: health checks every second in place of every 20 s."""
CALL_SECONDS = 20.0


class DemoFailed(AssertionError):
    """The demo cannot go on. The message says why."""


class Demo:
    """A base class. `run` starts processes; leaving `stack` ends them and removes the folder."""

    def __init__(self, screen: Screen, stack: AsyncExitStack) -> None:
        folder = tempfile.TemporaryDirectory(prefix="taskstream-demo-", ignore_cleanup_errors=True)
        self.screen = screen
        self.service = Up("taskstream", Path(stack.enter_context(folder)), SETTINGS)
        self._stack = stack
        stack.push_async_callback(self.service.shut_down)

    async def run(self) -> list[str]:
        """Show everything and return what went wrong. Raises AssertionError if the demo cannot go on."""
        raise NotImplementedError

    async def start_service(self) -> None:
        """Start `taskstream up` and open the session of its clients."""
        await self.service.serve()
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))

    def client(self, subject: str, role: str) -> Client:
        """Return a client of the service."""
        return Client(self._session, self.service.url, token(subject, role))

    async def start_process(self, name: str, command: Sequence[str], env: Mapping[str, str] = os.environ) -> Process:
        """Start a process that prints a line when it serves, and wait for that line."""
        process = Process(name, command, env, self.service.log.with_name(f"{name}.log")).start()
        self._stack.push_async_callback(process.shut_down)
        await process.first_line()
        return process

    async def stop_service(self) -> list[str]:
        """Ask the service to end; return what was wrong about its end."""
        status = await self.service.shut_down()
        return [f"`taskstream up` ended with {status}:\n{self.service.tail()}"] if status else []


async def run(screen: Screen, demo_on: Callable[[AsyncExitStack], Demo]) -> bool:
    """Run a demo and return True if all went well; if not, the screen says why. Ctrl-C ends it in order."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    try:
        try:
            problems = await _problems(demo_on)
        finally:
            screen.keep()
    except asyncio.CancelledError:
        screen.say()
        screen.say("Stopped. All processes have ended, and the demo's folder is removed.")
        return False
    if problems:
        screen.title("Something went wrong", "bad")
        for problem in problems:
            screen.say(f"  {problem}")
    return not problems


async def _problems(demo_on: Callable[[AsyncExitStack], Demo]) -> list[str]:
    async with AsyncExitStack() as stack:
        demo = demo_on(stack)
        try:
            return await demo.run()
        except AssertionError as error:
            return [str(error)]
        except (aiohttp.ClientError, TimeoutError) as error:
            return [f"the service did not answer: {error!r}", demo.service.tail()]
