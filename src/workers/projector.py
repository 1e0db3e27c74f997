"""Projectors: each runs one projection in the process that holds its lease."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
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
        async with contextlib.aclosing(gathered(self._follow(checkpoint, self._linger_seconds))) as batches:
            async for positions in batches:
                if positions:
                    if not await self._is_mine():
                        return  # another worker has taken over, or a rebuild
                    await self._projection.apply(positions)
                elif not await self._projection.is_intact():
                    log.warning("projector.state-lost", service=self.name, checkpoint=self._projection.checkpoint)
                    return  # no new event need ever come for what NATS has forgotten


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
