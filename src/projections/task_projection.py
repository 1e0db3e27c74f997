"""Keeps the `tasks` bucket: a view of each task, and the list of those that have not ended.

Every key is written once per batch of events, with the sequence it reflects, guarded by its last revision. The
checkpoint is written after what it covers, in the same bucket: whatever a crash takes from the bucket, the checkpoint
goes with it, and the guard of the next one shows that. Folding from an older checkpoint again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Struct

from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.subjects import task_ref
from ..streams.buckets import Bucket
from ..streams.log import Position, decode
from .active import ref_of
from .task_view import ACTIVE, CHECKPOINT, TaskView, active_key, fold, view_key
from .task_view import decode as decode_view
from .task_view import encode as encode_view

WRITES_AT_ONCE = 64


class _Entry(Struct):
    """A task that the projection holds in memory: all that are active, and those of the batch."""

    view: TaskView | None
    revision: int
    """Of the view's key; 0: not written yet."""
    active: set[str]
    """Active keys of the task that are in the bucket."""


class TaskProjection:
    """Folds the TASKS log into the bucket. One process at a time should; two do no harm but double the work."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._entries: dict[TaskRef, _Entry] = {}
        self._listed: dict[TaskRef, set[str]] = {}
        """Active keys in the bucket, of tasks that are not in `_entries`."""
        self._checkpoint = 0
        self._checkpoint_revision = 0

    @property
    def checkpoint(self) -> int:
        return self._checkpoint

    async def resume(self) -> int:
        """Forget what is in memory and return the sequence the bucket reflects."""
        self._entries.clear()
        self._listed.clear()
        entry = await self._bucket.get_with_revision(CHECKPOINT)
        self._checkpoint = int(entry.value or 0) if entry else 0
        self._checkpoint_revision = entry.revision if entry else 0
        # Not what the views would say: a crash may have come between a view and its active keys.
        for listed in await self._bucket.scan("active.>"):
            self._listed.setdefault(ref_of(listed.key), set()).add(listed.key)
        return self._checkpoint

    async def is_intact(self) -> bool:
        """Tell whether the bucket still holds what was written: a killed NATS may have forgotten the last of it."""
        entry = await self._bucket.get_with_revision(CHECKPOINT)
        return (entry.revision if entry else 0) == self._checkpoint_revision

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written.

        Raises UnreadableEvent: nothing of the batch is written. Raises Conflict when somebody else wrote, or NATS has
        forgotten what was written: `resume`. No write is under way any more when this returns or raises.
        """
        events = [(task_ref(position.subject), decode(task_codec, position)) for position in positions]
        await self._read_missing({ref for ref, _ in events})
        for ref, stored in events:
            entry = self._entries[ref]
            entry.view = fold(entry.view, stored)
        touched = dict.fromkeys(ref for ref, _ in events)
        gate = asyncio.Semaphore(WRITES_AT_ONCE)
        written = 0
        for outcome in await asyncio.gather(*(self._write(gate, ref) for ref in touched), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            written += outcome
        last = positions[-1].sequence
        self._checkpoint_revision = await self._bucket.put(CHECKPOINT, b"%d" % last, expected=self._checkpoint_revision)
        self._checkpoint = last
        for ref in touched:
            view = self._entries[ref].view
            if view is None or view.status not in ACTIVE:
                del self._entries[ref]
        return written + 1

    async def _read_missing(self, refs: Iterable[TaskRef]) -> None:
        missing = {view_key(ref): ref for ref in refs if ref not in self._entries}
        found = await self._bucket.get_many(list(missing)) if missing else {}
        for key, ref in missing.items():
            entry = found.get(key)
            view = decode_view(entry.value) if entry else None
            self._entries[ref] = _Entry(view, entry.revision if entry else 0, self._listed.pop(ref, set()))

    async def _write(self, gate: asyncio.Semaphore, ref: TaskRef) -> int:
        entry = self._entries[ref]
        if entry.view is None:
            return 0
        async with gate:
            written = 1
            listed = active_key(ref, entry.view)
            if listed and listed not in entry.active:
                await self._bucket.put(listed, b"%d" % entry.view.sequence)
                written += 1
            entry.revision = await self._bucket.put(view_key(ref), encode_view(entry.view), expected=entry.revision)
            for stale in entry.active - {listed}:
                await self._bucket.delete(stale)
                written += 1
            entry.active = {listed} if listed else set()
            return written
