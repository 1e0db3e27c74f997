"""Progress of an event loop, counted: how often a task came to run that only sleeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from .waiting import wait_until


class Ticks:
    """The ticks of an event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def passed(self, count: int) -> None:
        """Wait for so many more ticks."""
        end = self.count + count
        await self.until(lambda: self.count >= end)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition. Raises NotInTime."""
        await wait_until(holds, f"a condition, for {self.count} ticks")


@contextlib.asynccontextmanager
async def ticking(seconds: float, *works: Coroutine[Any, Any, None]) -> AsyncIterator[Ticks]:
    """Count ticks that many seconds apart, on a busy machine more, beside works that are cancelled at the end."""
    ticks = Ticks()

    async def tick() -> None:
        while True:
            await asyncio.sleep(seconds)
            ticks.count += 1

    running = [asyncio.create_task(work) for work in (tick(), *works)]
    try:
        yield ticks
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
