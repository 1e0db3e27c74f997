"""The checkpoint of a bucket: the key that says up to where all other keys reflect the log."""

from __future__ import annotations

from ..streams.buckets import Bucket, forget

CHECKPOINT = "checkpoint"
"""Key of the last sequence that the bucket reflects completely."""


class CheckpointedBucket:
    """A projection's bucket, which one process writes at a time.

    The checkpoint is written after what it covers, guarded by its revision. So a process notices that another one has
    written, or that a killed NATS has lost writes.
    """

    def __init__(self, bucket: Bucket, key: str = CHECKPOINT) -> None:
        """`key`: of the checkpoint; a bucket of several projections has one for each."""
        self._bucket = bucket
        self._key = key
        self._checkpoint = 0
        self._checkpoint_revision = 0

    @property
    def checkpoint(self) -> int:
        """The sequence of the log that the bucket reflects."""
        return self._checkpoint

    @property
    def next_at(self) -> float | None:
        """When `write_due` has something to write; None: never, `apply` writes everything."""
        return None

    async def write_due(self) -> int:
        """Write what `apply` has left for later and is due now; return how many keys were written."""
        return 0

    async def write_all(self) -> int:
        """Write everything that `apply` has left for later; return how many keys were written."""
        return 0

    async def forget(self) -> None:
        """Remove all that the bucket holds: the log has lost events that it reflects."""
        await forget(self._bucket, CHECKPOINT)

    async def is_intact(self) -> bool:
        """Return True if the bucket still holds what was written: a killed NATS may have lost the last of it."""
        entry = await self._bucket.get_with_revision(self._key)
        return (entry.revision if entry else 0) == self._checkpoint_revision

    async def _load_checkpoint(self) -> int:
        """Read the checkpoint; return the sequence."""
        entry = await self._bucket.get_with_revision(self._key)
        self._checkpoint = int(entry.value or 0) if entry else 0
        self._checkpoint_revision = entry.revision if entry else 0
        return self._checkpoint

    async def _store_checkpoint(self, sequence: int) -> None:
        """Write the checkpoint. Raises Conflict if it is not the one that was read or written last."""
        self._checkpoint_revision = await self._bucket.put(
            self._key, b"%d" % sequence, expected=self._checkpoint_revision
        )
        self._checkpoint = sequence
