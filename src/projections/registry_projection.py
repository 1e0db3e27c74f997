"""Keeps the `registry` bucket: every server and task type as the log says."""

from __future__ import annotations

from collections.abc import Sequence

from ..streams.buckets import Bucket
from ..streams.log import Position
from .fleet import CHECKPOINT, Fleet


class RegistryProjection:
    """Folds the SERVERS log into the bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._fleet = Fleet()

    @property
    def checkpoint(self) -> int:
        return self._fleet.sequence

    async def resume(self) -> int:
        """Start over from what the bucket holds; return the sequence it reflects."""
        self._fleet = Fleet()
        await self._fleet.restore(self._bucket)
        return self._fleet.sequence

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written."""
        changes = self._fleet.apply(positions)
        for change in changes:
            await self._bucket.put(change.key, change.value)
        await self._bucket.put(CHECKPOINT, b"%d" % self._fleet.sequence)
        return len(changes) + 1
