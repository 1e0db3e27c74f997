"""Waiting for what one means, never for time to pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""For what takes a moment on a quiet machine."""
POLL_SECONDS = 0.01


async def wait_until(
    look: Callable[[], T | Awaitable[T]], description: str, patience_seconds: float = PATIENCE_SECONDS
) -> T:
    """Return what `look` returns once that is true; fail with what it saw last when patience is spent."""
    give_up_at = time.monotonic() + patience_seconds
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return seen  # type: ignore[return-value]
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {patience_seconds:g} s for {description}; saw {seen!r}")
        await asyncio.sleep(POLL_SECONDS)


def wait_here_until(look: Callable[[], T], description: str, patience_seconds: float = PATIENCE_SECONDS) -> T:
    """As `wait_until`, where there is no event loop: nothing else of the test runs meanwhile."""
    give_up_at = time.monotonic() + patience_seconds
    while not (seen := look()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {patience_seconds:g} s for {description}; saw {seen!r}")
        time.sleep(POLL_SECONDS)
    return seen
