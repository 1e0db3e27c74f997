"""Compares the `tasks` bucket with the fold of the whole log, and puts right what differs.

In memory are the tasks that have not ended, those of a window that have, each owner's newest submissions, and 8 bytes
of every task. One that ended is compared with its view and forgotten; should it go on later in the log, its history is
read again.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.subjects import task_ref, task_root
from ..events.task import TaskEvent, TaskSubmitted
from ..projections import recent
from ..projections.recent import EVERYBODY, Recent, RecentSubmission, recent_key
from ..projections.task_view import ACTIVE, CHECKPOINT, TaskView, active_key, fold, view_key
from ..projections.task_view import decode as decode_view
from ..projections.task_view import encode as encode_view
from ..streams.buckets import Bucket, BucketEntry, Write
from ..streams.jetstream.messages import Position
from ..streams.log import Log, decode

WINDOW = 2_000
"""Tasks that ended which are compared together."""
READS_AT_ONCE = 64


class Difference(Struct, kw_only=True):
    """What a bucket had that the log does not say, and the other way round."""

    bucket: str
    events: int = 0
    keys: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def any(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


class TaskRebuild:
    """One pass over the log: `fold` all of it in order, then `finish`. No projector may run meanwhile."""

    def __init__(self, bucket: Bucket, log: Log[TaskEvent]) -> None:
        self.difference = Difference(bucket=bucket.name)
        self._bucket = bucket
        self._log = log
        self._views: dict[TaskRef, TaskView | None] = {}
        """None: its submission is past its retention."""
        self._ended: dict[TaskRef, None] = {}
        """Those of `_views` that are to be compared, as far as the log has been read; in order of their end."""
        self._owners: dict[str, Recent] = {}
        self._tasks = array("q")
        """A hash of every view's key: enough to tell one that nobody asked for, in 8 bytes a task."""
        self._last = 0

    async def fold(self, positions: Sequence[Position]) -> None:
        """Fold the next events of the log. Raises UnreadableEvent."""
        events = [(task_ref(position.subject), decode(task_codec, position)) for position in positions]
        await self._recall(events)
        views, ended = self._views, self._ended
        for ref, stored in events:
            before = views.get(ref)
            view = views[ref] = fold(before, stored)
            if view is None or view.status not in ACTIVE:
                ended[ref] = None
            else:
                ended.pop(ref, None)
            if isinstance(stored.recorded.event, TaskSubmitted):
                if before is None:
                    self._tasks.append(hash(view_key(ref)))
                submission = RecentSubmission(stored.sequence, ref.id)
                recent.add(self._owners.setdefault(ref.owner, []), submission)
                recent.add(self._owners.setdefault(EVERYBODY, []), submission)
        self.difference.events += len(events)
        self._last = positions[-1].sequence
        while len(ended) >= WINDOW:
            window = [ref for ref, _ in zip(ended, range(WINDOW), strict=False)]
            await self._settle(window, is_last=False)

    async def finish(self) -> Difference:
        """Compare what is left, and remove what the log does not ask for; return what differed in all."""
        active = {key for ref, view in self._views.items() if view and (key := active_key(ref, view))}
        rest = list(self._views)
        for start in range(0, len(rest), WINDOW):
            await self._settle(rest[start : start + WINDOW], is_last=True)
        marks = await self._list_active(active)
        owners = {recent_key(owner): recent.encode(of_owner) for owner, of_owner in self._owners.items()}
        keys = list(owners)
        for start in range(0, len(keys), WINDOW):
            await self._put_right({key: owners[key] for key in keys[start : start + WINDOW]})
        await self._bucket.put(CHECKPOINT, b"%d" % self._last)
        self.difference.keys = len(self._tasks) + len(active) + len(owners)
        if await self._bucket.count() != self.difference.keys + 1 + marks:
            await self._remove_extra(active | owners.keys())
        return self.difference

    async def _recall(self, events: Iterable[tuple[TaskRef, Stored[TaskEvent]]]) -> None:
        """Bring back the tasks that go on after they had ended and been forgotten."""
        later: dict[TaskRef, int] = {}
        new: set[TaskRef] = set()
        for ref, stored in events:
            if ref in self._views or ref in new or ref in later:
                continue
            if isinstance(stored.recorded.event, TaskSubmitted):
                new.add(ref)
            else:
                later[ref] = stored.sequence
        gate = asyncio.Semaphore(READS_AT_ONCE)

        async def recall(ref: TaskRef, before: int) -> None:
            async with gate:
                history = await self._log.load(task_root(ref))
            view: TaskView | None = None
            for stored in history:
                if stored.sequence < before:
                    view = fold(view, stored)
            self._views[ref] = view

        await asyncio.gather(*(recall(ref, before) for ref, before in later.items()))

    async def _settle(self, refs: Sequence[TaskRef], *, is_last: bool) -> None:
        """Make the bucket hold these views, and forget them.

        Unless the log `is_last`, read to its end: a view in the bucket that is ahead of ours is then right or wrong
        only later, and ours is kept.
        """
        wanted = {view_key(ref): encode_view(view) for ref in refs if (view := self._views[ref])}
        ahead = await self._put_right(wanted, is_last=is_last)
        for ref in refs:
            self._ended.pop(ref, None)
            if view_key(ref) not in ahead:
                del self._views[ref]

    async def _put_right(self, wanted: Mapping[str, bytes], *, is_last: bool = True) -> set[str]:
        """Write what differs; return the keys left alone because the bucket is ahead.

        Without guards: a projector that still finishes its last batch knows no more than we, and has guards itself.
        """
        found = await self._bucket.get_many(list(wanted))
        differing = {key for key, value in wanted.items() if key not in found or found[key].value != value}
        ahead = {key for key in differing if not is_last and _is_ahead(found.get(key), wanted[key])}
        differing -= ahead
        await self._bucket.put_many([Write(key, wanted[key]) for key in sorted(differing)])
        missing = differing - found.keys()
        self.difference.missing += len(missing)
        self.difference.changed += len(differing) - len(missing)
        return ahead

    async def _list_active(self, wanted: set[str]) -> int:
        """List exactly the tasks that have not ended; return how many marks of deleted keys there are.

        The value of such a key says when it was written: it is not of the log.
        """
        entries = await self._bucket.scan_writes("active.>")
        found = {entry.key for entry in entries if entry.value}
        missing, extra = wanted - found, found - wanted
        await self._bucket.put_many([Write(key, b"%d" % self._last) for key in sorted(missing)])
        await self._remove(extra)
        self.difference.missing += len(missing)
        return len({entry.key for entry in entries if not entry.value} - wanted) + len(extra)

    async def _remove_extra(self, wanted: set[str]) -> None:
        """Remove all but `wanted`, the checkpoint, and the views of tasks that the log has."""
        tasks = sorted(self._tasks)
        async for entries in self._bucket.pages():
            keys = {entry.key for entry in entries} - wanted - {CHECKPOINT}
            await self._remove(key for key in keys if not _has(tasks, hash(key)))

    async def _remove(self, keys: Iterable[str]) -> None:
        writes = [Write(key, None) for key in sorted(keys)]
        await self._bucket.put_many(writes)
        self.difference.extra += len(writes)


def _has(ordered: Sequence[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value


def _is_ahead(entry: BucketEntry | None, ours: bytes) -> bool:
    """Tell whether the bucket reflects a later event of a task than we have read."""
    if entry is None:
        return False
    try:
        return decode_view(entry.value).sequence > decode_view(ours).sequence
    except msgspec.MsgspecError:
        return False
