"""Waiting for a condition, never for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

T = TypeVar("T")

PATIENCE_SECONDS = 100.0
"""How long a condition may take to become true. A quiet machine needs a moment; a busy one may need a minute."""
POLL_SECONDS = 0.01
CALL_SECONDS = 5.0


class NotInTime(AssertionError):
    """A condition did not become true in time. The message names it and the last value seen."""


async def wait_until(
    look: Callable[[], T | Awaitable[T | None] | None], description: str, patience_seconds: float = PATIENCE_SECONDS
) -> T:
    """Return the first true value that `look` returns. Raises NotInTime."""
    give_up_at = time.monotonic() + patience_seconds
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen  # type: ignore[return-value]
        if time.monotonic() > give_up_at:
            raise NotInTime(f"waited {patience_seconds:g} s for {description}; saw {seen!r}")
        await asyncio.sleep(POLL_SECONDS)


def wait_here_until(look: Callable[[], T], description: str, patience_seconds: float = PATIENCE_SECONDS) -> T:
    """Do the same without an event loop: it blocks the thread."""
    give_up_at = time.monotonic() + patience_seconds
    while not (seen := look()):
        if time.monotonic() > give_up_at:
            raise NotInTime(f"waited {patience_seconds:g} s for {description}; saw {seen!r}")
        time.sleep(POLL_SECONDS)
    return seen


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until_open(port: int, host: str = "127.0.0.1") -> None:
    """Wait until a server accepts connections. Raises NotInTime."""

    async def is_open() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return True
        return False

    await wait_until(is_open, f"port {port} of {host} to accept connections")


async def until_ok(url: str, patience_seconds: float = PATIENCE_SECONDS, says: str = "") -> None:
    """Wait until a GET request is answered with 200 and a body that contains a text. Raises NotInTime."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS)) as session:

        async def is_ok() -> bool:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.get(url) as answer:
                    return answer.status == 200 and says in await answer.text()
            return False

        await wait_until(is_ok, f"200 from {url}", patience_seconds)
