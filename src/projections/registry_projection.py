"""Keeps the `registry` bucket: every server and task type as the log says."""

from __future__ import annotations

from collections.abc import Sequence

from ..streams.buckets import Bucket
from ..streams.jetstream.messages import Position
from .fleet import CHECKPOINT, Fleet


class RegistryProjection:
    """Folds the SERVERS log into the bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._fleet = Fleet()
        self._checkpoint_revision = 0

    @property
    def checkpoint(self) -> int:
        return self._fleet.sequence

    async def resume(self) -> int:
        """Start over from what the bucket holds; return the sequence it reflects."""
        self._fleet = Fleet()
        self._checkpoint_revision = await self._stored_revision()
        await self._fleet.restore(self._bucket)
        return self._fleet.sequence

    async def is_intact(self) -> bool:
        """Tell whether the bucket still holds what was written: a killed NATS may have forgotten the last of it."""
        return await self._stored_revision() == self._checkpoint_revision

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written.

        Raises UnreadableEvent. Raises Conflict when somebody else wrote, or NATS has forgotten what was written:
        `resume`.
        """
        changes = self._fleet.apply(positions)
        for change in changes:
            await self._bucket.put(change.key, change.value)
        self._checkpoint_revision = await self._bucket.put(
            CHECKPOINT, b"%d" % self._fleet.sequence, expected=self._checkpoint_revision
        )
        return len(changes) + 1

    async def _stored_revision(self) -> int:
        entry = await self._bucket.get_with_revision(CHECKPOINT)
        return entry.revision if entry else 0
