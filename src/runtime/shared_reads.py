"""Reads that are shared: one answers all who asked for it before it began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedReads(Generic[K, T]):
    """Reads by key. Of each key one runs at a time, and one more waits for it to end, for those who ask meanwhile.

    So each answer is of a read that began after it was asked for.
    """

    def __init__(self, read: Callable[[K], Awaitable[T]]) -> None:
        self._read = read
        self._running: dict[K, asyncio.Task[T]] = {}
        self._next: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K) -> T:
        """Return what a read that begins now, or later, returns; or raise what it raises."""
        reading = self._next.get(key)
        if reading is None:
            reading = asyncio.create_task(self._run(key, self._running.get(key)), name="shared-read")
            reading.add_done_callback(lambda done: self._done(key, done))
            self._next[key] = reading
        return await asyncio.shield(reading)

    async def _run(self, key: K, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._running[key] = self._next.pop(key)
        return await self._read(key)

    def _done(self, key: K, reading: asyncio.Task[T]) -> None:
        if self._running.get(key) is reading:
            del self._running[key]
        if not reading.cancelled():
            reading.exception()  # whoever asked may be gone
