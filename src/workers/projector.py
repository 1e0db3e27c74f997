"""Runs a projection in whichever process holds its lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

import structlog

from ..errors import StoreError, UnreadableEvent
from ..streams.jetstream.consumers import Follow
from ..streams.jetstream.messages import Position
from ..streams.leases import Lease

log = structlog.get_logger(__name__)

STANDBY_SECONDS = 1.0
"""How often a process that does not project looks whether it should."""
LINGER_SECONDS = 0.25
"""How long events gather into one batch: longer writes less, and shows a little later what lists fold in anyway."""


class Projection(Protocol):
    async def resume(self) -> int:
        """Start over from what is stored; return the sequence it reflects."""

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold events and store what changed. Raises Conflict where what is stored is not what was stored last."""

    async def is_intact(self) -> bool:
        """Tell whether what is stored is what was stored last."""

    @property
    def checkpoint(self) -> int: ...


class Projector:
    """One projection of one stream."""

    def __init__(self, name: str, follow: Follow, projection: Projection, lease: Lease) -> None:
        self.name = name
        self._follow = follow
        self._projection = projection
        self._lease = lease
        self.halted: str | None = None
        """Why it stopped for good; None while it runs or stands by."""

    async def run(self) -> None:
        """Project while the lease is held, stand by otherwise; for ever."""
        while self.halted is None:
            try:
                if await self._lease.acquire():
                    await self._project()
            except UnreadableEvent as error:
                self.halted = str(error)
                log.error("projection.halted", projection=self.name, reason=str(error))
                await self._lease.release()
                return
            except StoreError as error:
                log.warning("projection.again", projection=self.name, reason=str(error))
            await asyncio.sleep(STANDBY_SECONDS)

    async def _project(self) -> None:
        checkpoint = await self._projection.resume()
        log.info("projection.started", projection=self.name, checkpoint=checkpoint)
        async with contextlib.aclosing(self._follow(checkpoint, LINGER_SECONDS)) as batches:
            async for positions in batches:
                if positions:
                    if not await self._lease.acquire():
                        return  # taken over, by another worker or a rebuild
                    await self._projection.apply(positions)
                elif not await self._projection.is_intact():
                    log.warning("projection.forgotten", projection=self.name, checkpoint=self._projection.checkpoint)
                    return  # to what was forgotten no new event need ever come

    async def stop(self) -> None:
        """Give the lease up, so that another takes over at once."""
        await self._lease.release()
