"""Waiting for what one means, never for time to pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.02


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
