"""Keeps the `tasks` bucket: a view of each task, and the list of those that have not ended.

Every key is written once per batch of events, with the sequence it reflects, guarded by its last revision. The
checkpoint is written after what it covers, in the same bucket: whatever a crash takes from the bucket, the checkpoint
goes with it. Folding from an older checkpoint again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Struct

from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.subjects import NO_SERVER, server_token, task_ref
from ..events.task import AttemptStarted, TaskEvent
from ..streams.buckets import Bucket
from ..streams.log import Position, decode
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
    """Active keys of the task that are, or may be, in the bucket."""


class TaskProjection:
    """Folds the TASKS log into the bucket. One process at a time should; two do no harm but double the work."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._entries: dict[TaskRef, _Entry] = {}
        self._checkpoint = 0

    @property
    def checkpoint(self) -> int:
        return self._checkpoint

    async def resume(self) -> int:
        """Forget what is in memory and return the sequence the bucket reflects."""
        self._entries.clear()
        entry = await self._bucket.get(CHECKPOINT)
        self._checkpoint = int(entry.value) if entry else 0
        return self._checkpoint

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written.

        Raises UnreadableEvent: nothing of the batch is written. Raises Conflict when somebody else wrote: `resume`.
        """
        events = [(task_ref(position.subject), decode(task_codec, position)) for position in positions]
        await self._read_missing({ref for ref, _ in events})
        for ref, stored in events:
            entry = self._entries[ref]
            _note_active(ref, entry, stored)
            entry.view = fold(entry.view, stored)
        touched = dict.fromkeys(ref for ref, _ in events)
        gate = asyncio.Semaphore(WRITES_AT_ONCE)
        written = sum(await asyncio.gather(*(self._write(gate, ref) for ref in touched)))
        await self._bucket.put(CHECKPOINT, b"%d" % positions[-1].sequence)
        self._checkpoint = positions[-1].sequence
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
            listed = active_key(ref, view) if view else None
            self._entries[ref] = _Entry(view, entry.revision if entry else 0, {listed} if listed else set())

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


def _note_active(ref: TaskRef, entry: _Entry, stored: Stored[TaskEvent]) -> None:
    """When folding again after a crash, remember every active key that the first time may have written."""
    if entry.view is None or stored.sequence > entry.view.sequence:
        return
    entry.active.add(f"active.{NO_SERVER}.{ref.owner}.{ref.unique}")
    event = stored.recorded.event
    if isinstance(event, AttemptStarted):
        entry.active.add(f"active.{server_token(event.server_id)}.{ref.owner}.{ref.unique}")
