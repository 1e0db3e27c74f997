"""Projectors: each runs one projection in the process that holds its lease."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import structlog

from ..runtime.service import Service
from ..streams.jetstream.consumers import FOLLOW_BATCH, Follow
from ..streams.jetstream.messages import Position, stream_info
from ..streams.leases import Lease, Membership

log = structlog.get_logger(__name__)

LINGER_SECONDS = 0.25
"""How long events gather into one batch: longer writes less often, but lists have more of the log to fold."""
USAGE_LINGER_SECONDS = 2.0
"""The same for the stored bytes of owners, which may be a little old."""
BACKLOG_BATCH = 10_000
"""Events of a backlog that are projected together: a key that all of them change is written once."""
BACKLOG_BYTES = 8 * 1024 * 1024
"""With so many bytes a batch of a backlog is complete, too."""
END_TRIES = 200
"""How often a replicated log that ends before the checkpoint is looked at: 10 s in all. Then it has lost events."""


class Projection(Protocol):
    async def resume(self) -> int:
        """Load the stored state; return the sequence it reflects."""

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold events and store what changed. Raises Conflict if another process has stored something since."""

    @property
    def next_at(self) -> float | None:
        """When `write_due` is to be called, monotonic; None: not before the next events."""

    async def write_due(self) -> int:
        """Store what `apply` has left for later and is due now. Raises as `apply` does."""

    async def write_all(self) -> int:
        """Store everything that `apply` has left for later. Raises as `apply` does."""

    async def forget(self) -> None:
        """Remove the stored state."""

    async def is_intact(self) -> bool:
        """Return True if the last stored state is still there: a killed NATS may have lost it."""

    @property
    def checkpoint(self) -> int: ...


class Projector(Service):
    """One projection of one stream.

    A projection that is ahead of its log reflects events that NATS has lost. It is forgotten, and the log folded again.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        follow: Follow,
        projection: Projection,
        members: Membership,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        super().__init__(f"projector-{name}", lease=Lease(members, f"projector.{name}"))
        self._stream = stream
        self._reading = members.bucket.connection
        self._follow = follow
        self._projection = projection
        self._linger_seconds = linger_seconds

    async def _serve(self) -> None:
        """Project until the lease is lost."""
        checkpoint = await self._projection.resume()
        info = await stream_info(self._reading, self._stream, reaches=checkpoint, tries=END_TRIES)
        if checkpoint > info["state"]["last_seq"]:
            log.warning("projector.ahead-of-log", service=self.name, checkpoint=checkpoint)
            await self._projection.forget()
            checkpoint = await self._projection.resume()
        log.info("projector.started", service=self.name, checkpoint=checkpoint)
        has_caught_up = False
        batches = gathered(self._follow(checkpoint, self._linger_seconds))
        async with contextlib.aclosing(punctual(batches, lambda: self._projection.next_at)) as turns:
            async for positions in turns:
                if positions == [] and not await self._projection.is_intact():
                    log.warning("projector.state-lost", service=self.name, checkpoint=self._projection.checkpoint)
                    return  # no new event need ever come for what NATS has forgotten
                if positions == [] and has_caught_up:
                    continue
                if not await self._is_mine():
                    return  # another worker has taken over, or a rebuild
                if positions:
                    await self._projection.apply(positions)
                elif positions is None:
                    await self._projection.write_due()
                else:
                    has_caught_up = True
                    await self._projection.write_all()  # no reader waits longer than for the backlog


async def gathered(batches: AsyncGenerator[list[Position], None]) -> AsyncGenerator[list[Position], None]:
    """Yield what `follow` yields, in larger batches while there is a backlog."""
    waiting: list[Position] = []
    waiting_bytes = 0
    async with contextlib.aclosing(batches):
        async for positions in batches:
            waiting += positions
            waiting_bytes += sum(len(position.data) for position in positions)
            if len(positions) >= FOLLOW_BATCH and len(waiting) < BACKLOG_BATCH and waiting_bytes < BACKLOG_BYTES:
                continue
            if waiting:
                yield waiting
                waiting, waiting_bytes = [], 0
            if not positions:
                yield []


async def punctual(
    batches: AsyncGenerator[list[Position], None], due_at: Callable[[], float | None]
) -> AsyncGenerator[list[Position] | None, None]:
    """Yield what `batches` yields, and None whenever the instant that `due_at` returns (monotonic) has come first."""
    coming: asyncio.Future[list[Position]] | None = None
    async with contextlib.aclosing(batches):
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(batches))
                at = due_at()
                await asyncio.wait([coming], timeout=None if at is None else max(0.0, at - time.monotonic()))
                if not coming.done():
                    yield None
                    continue
                try:
                    positions = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield positions
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
