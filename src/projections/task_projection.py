"""The projection in the `tasks` bucket: a view of each task, and an active key of each that rests before its end.

Events are folded in memory. A view is written when its task has ended or has rested for a second, at the latest after
two (`unwritten.py`). So a short task is written once, and no key ever lists it as active. Every key is written with the
sequence it reflects, guarded by its last revision.

The checkpoint is the sequence before the oldest event that no written view reflects. It is written last, in the same
bucket, after every group of writes. So a crash that takes writes from the bucket takes the checkpoint too, and the
guard of the next checkpoint shows that. Folding again from an older checkpoint changes nothing.

A crash of NATS may also take an older value, whose predecessor was already removed. So a view that is missing is
made from the log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from ..errors import UnreadableEvent
from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.subjects import TASK_SUBJECTS, history_filter, task_ref, task_root
from ..events.task import TaskEvent, TaskSubmitted
from ..streams.buckets import Bucket, BucketEntry, Write
from ..streams.client.connection import Connection
from ..streams.jetstream.consumers import MOST_FILTERS, read_before
from ..streams.jetstream.messages import Position, last_sequence_of_most
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .active import active_keys, ref_of
from .checkpoint import CheckpointedBucket
from .task_view import ACTIVE, TaskView, active_key, fold, view_key
from .task_view import decode as decode_view
from .task_view import encode as encode_view
from .unwritten import Unwritten

ACTIVE_MARKER_TTL = "1s"
"""How long the marker of a removed active key stays: the shortest time that NATS allows. Nobody watches these keys, and
a list of an owner's active tasks is read at once only while keys and markers are no more than a thousand."""


class _Entry(Struct):
    """A task in memory: those with events that are not written, and the active ones that rest."""

    view: TaskView | None
    revision: int
    """Of the view's key; 0: not written yet."""
    active: set[str]
    """Active keys of the task that were written here."""
    found: set[str]
    """Active keys of the task that were in the bucket before. `remove_stale` may remove them, so the right one is
    written again."""


class TaskProjection(CheckpointedBucket):
    """Folds the TASKS log into the bucket, in one process at a time; two would only double the work.

    Each method that writes returns how many keys it wrote, and raises Conflict if another process wrote or NATS has
    lost writes: call `resume` then. No write is pending when it returns or raises.
    """

    def __init__(self, bucket: Bucket, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic, in seconds."""
        super().__init__(bucket)
        self._clock = clock
        self._entries: dict[TaskRef, _Entry] = {}
        self._unwritten = Unwritten()
        self._seen = 0
        """Sequence of the last event that was folded."""
        self._end = 0
        """End of the log at the start: no view of a task that was submitted later is in the bucket."""
        self._listed: dict[TaskRef, set[str]] = {}
        """Active keys in the bucket, by task; only of tasks that are not in `_entries`."""

    async def resume(self) -> int:
        """Drop the memory; return the sequence the bucket reflects."""
        self._entries.clear()
        self._unwritten.clear()
        self._listed.clear()
        self._end = await last_sequence_of_most(self._bucket.connection, TASKS, TASK_SUBJECTS)
        self._seen = await self._load_checkpoint()
        # Not from the views: a crash may have come between a view and its active keys.
        for key in await active_keys(self._bucket):
            self._listed.setdefault(ref_of(key), set()).add(key)
        return self._checkpoint

    @property
    def next_at(self) -> float | None:
        """When `write_due` has something to write, by the clock; None: not before the next event."""
        return self._unwritten.next_at

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what is due.

        Raises UnreadableEvent once everything before that event is written.
        """
        try:
            await self._fold_batch(positions)
        except UnreadableEvent as error:
            if readable := [position for position in positions if position.sequence < error.sequence]:
                await self._fold_batch(readable)
            await self.write_all()
            raise
        return await self.write_due()

    async def _fold_batch(self, positions: Sequence[Position]) -> None:
        """Fold a batch of events, in order. Raises UnreadableEvent: nothing of the batch is folded."""
        parts: dict[TaskRef, list[Position]] = {}
        for position in positions:
            parts.setdefault(task_ref(position.subject), []).append(position)
        histories = {ref: [decode(task_codec, position) for position in part] for ref, part in parts.items()}
        submitted = {
            ref: history[0].sequence
            for ref, history in histories.items()
            if isinstance(history[0].recorded.event, TaskSubmitted)
        }
        await self._read_missing(histories, submitted, positions[0].sequence)
        now = self._clock()
        for ref, history in histories.items():
            if _fold(self._entries[ref], ref, history):
                size_bytes = sum(len(position.data) for position in parts[ref])
                self._unwritten.add(ref, history[0].sequence, size_bytes, now, has_ended=self._has_ended(ref))
            self._drop_ended(ref)
        self._seen = positions[-1].sequence

    async def write_due(self) -> int:
        """Write the views of the tasks that have ended or rested."""
        return await self._write(self._unwritten.take_due(self._clock()))

    async def write_all(self) -> int:
        """Write what is folded, due or not: the checkpoint is at the last event then."""
        return await self._write(self._unwritten.take_all())

    async def _read_missing(self, refs: Iterable[TaskRef], submitted: Mapping[TaskRef, int], before: int) -> None:
        """Read what is not in memory of these tasks, some of which were submitted at these sequences.

        All have events at `before` or later.
        """
        missing: dict[str, TaskRef] = {}
        for ref in refs:
            if ref in self._entries:
                continue
            if submitted.get(ref, 0) > self._end:
                self._entries[ref] = _Entry(None, 0, set(), set())
            else:
                missing[view_key(ref)] = ref
        found = await self._bucket.get_many_with_revisions(list(missing))
        for key, ref in missing.items():
            view, revision = _read(found.get(key))
            self._entries[ref] = _Entry(view, revision, set(), self._listed.pop(ref, set()))
        lost = [ref for ref in missing.values() if self._entries[ref].view is None and ref not in submitted]
        for ref, view in (await views_before(self._bucket.connection, lost, before)).items():
            self._entries[ref].view = view

    def _drop_ended(self, ref: TaskRef) -> None:
        """Forget a task that has ended and is written; it is read again if it goes on."""
        if ref not in self._unwritten and self._has_ended(ref):
            del self._entries[ref]

    def _has_ended(self, ref: TaskRef) -> bool:
        """Return True if a task in memory is not active, or its beginning is past its retention."""
        view = self._entries[ref].view
        return view is None or view.status not in ACTIVE

    async def _write(self, refs: Sequence[TaskRef]) -> int:
        """Write the views of these tasks, and what follows from them; return the number of keys.

        A new active key is written before the view, the former one is removed after it, the checkpoint comes last.
        """
        entries = {ref: entry for ref in refs if (entry := self._entries[ref]).view is not None}
        listed: list[Write] = []
        views: list[Write] = []
        stale: list[Write] = []
        for ref, entry in entries.items():
            assert entry.view is not None
            active = active_key(ref, entry.view)
            if active and active not in entry.active:
                listed.append(Write(active, b"%d" % entry.view.sequence))
            views.append(Write(view_key(ref), encode_view(entry.view), entry.revision))
            stale.extend(
                Write(key, None, marker_ttl=ACTIVE_MARKER_TTL) for key in entry.active | entry.found if key != active
            )
            entry.active, entry.found = ({active} if active else set()), set()
        await self._bucket.put_many(listed)
        revisions = await self._bucket.put_many(views)
        for entry, revision in zip(entries.values(), revisions, strict=True):
            entry.revision = revision
        await self._bucket.put_many(stale)
        written = len(listed) + len(views) + len(stale)
        reflected = self._reflected()
        # Also if it is the same: its revision shows whether a killed NATS has lost what was written before it.
        if written or reflected != self._checkpoint:
            await self._store_checkpoint(reflected)
            written += 1
        for ref in refs:
            self._drop_ended(ref)
        return written

    def _reflected(self) -> int:
        """Return the sequence before the oldest event that is not written."""
        first = self._unwritten.first_sequence
        return self._seen if first is None else first - 1


def _fold(entry: _Entry, ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> bool:
    """Fold events into the view of a task; return True if its keys in the bucket are to be written."""
    before = entry.view
    for stored in history:
        entry.view = fold(entry.view, stored)
    if entry.view is None:
        return False
    # The view may be ahead of the checkpoint, and a crash have come between it and its active keys.
    if entry.view is not before:
        return True
    active = active_key(ref, entry.view)
    return entry.active | entry.found != ({active} if active else set())


async def views_before(reading: Connection, refs: Sequence[TaskRef], before: int) -> dict[TaskRef, TaskView]:
    """Return the views of tasks before a sequence, from the log; without those whose beginning is past its retention.

    All histories are read together. Each task must have an event at `before` or later.
    """
    views: dict[TaskRef, TaskView] = {}
    for start in range(0, len(refs), MOST_FILTERS):
        filters = [history_filter(task_root(ref)) for ref in refs[start : start + MOST_FILTERS]]
        async with contextlib.aclosing(read_before(reading, TASKS, filters, 0, before)) as steps:
            async for positions in steps:
                for position in positions:
                    ref = task_ref(position.subject)
                    view = fold(views.get(ref), decode(task_codec, position))
                    if view is not None:
                        views[ref] = view
    return views


def _read(entry: BucketEntry | None) -> tuple[TaskView | None, int]:
    if entry is None:
        return None, 0
    return decode_view(entry.value) if entry.value else None, entry.revision
