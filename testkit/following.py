"""A follower of the log that records what it sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from taskstream.container import Container
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.topology.definitions import TASKS

from .waiting import wait_until


class Follower:
    """Follows in the background and keeps the batches."""

    def __init__(self, batches: AsyncIterator[list[Position]]) -> None:
        self.batches: list[list[Position]] = []
        self._task = asyncio.create_task(self._run(batches))

    async def _run(self, batches: AsyncIterator[list[Position]]) -> None:
        async for batch in batches:
            self.batches.append(batch)

    @property
    def sequences(self) -> list[int]:
        """All sequences seen, in order."""
        return [position.sequence for batch in self.batches for position in batch]

    @property
    def caught_up(self) -> bool:
        """Whether the last batch was the empty one that means: no more now."""
        return bool(self.batches) and self.batches[-1] == []

    async def stop(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def publish(container: Container, count: int, subject: str = "task.a.b.noted") -> None:
    """Store events of tasks."""
    for number in range(count):
        await container.appending.request(subject, b"%d" % number)


async def sees(follower: Follower, count: int) -> None:
    """Wait until a follower has seen this many messages."""
    await wait_until(lambda: len(follower.sequences) >= count, f"{count} messages")


async def consumers(container: Container) -> list[str]:
    """Return the names of the consumers of the log."""
    return (await api(container.appending, f"CONSUMER.NAMES.{TASKS}"))["consumers"] or []
