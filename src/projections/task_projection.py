"""The projection in the `tasks` bucket: a view and an active key of each task, and each owner's newest submissions.

Every key is written once per batch of events, with the sequence it reflects, guarded by its last revision. The
checkpoint is written last, in the same bucket. A crash that takes writes from the bucket takes the checkpoint too, and
the guard of the next checkpoint shows that. Folding again from an older checkpoint changes nothing.

A crash of NATS may also take an older value, whose predecessor was already removed. So a view of an active task or an
owner's list that is missing is made from the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.subjects import history_filter, task_ref, task_root
from ..events.task import TaskSubmitted
from ..streams.buckets import Bucket, BucketEntry, Write
from ..streams.client.connection import Connection
from ..streams.jetstream.consumers import MOST_FILTERS, read_before
from ..streams.jetstream.messages import Position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .active import active_keys, ref_of
from .checkpoint import CheckpointedBucket
from .submissions import (
    EVERYBODY,
    Recent,
    RecentSubmission,
    add_recent,
    decode_recent,
    encode_recent,
    recent_in_log,
    recent_key,
)
from .task_view import ACTIVE, TaskView, active_key, fold, view_key
from .task_view import decode as decode_view
from .task_view import encode as encode_view

SUBMISSIONS_HELD = 100_000
"""Entries of owners' lists that stay in memory between batches, about 200 bytes each; of the owners seen last."""


ACTIVE_MARKER_TTL = "1s"
"""How long the marker of a removed active key stays: the shortest time that NATS allows. Nobody watches these keys, and
a list of an owner's active tasks is read at once only while keys and markers are no more than a thousand."""


class _Entry(Struct):
    """A task in memory: every active one, and those of the present batch."""

    view: TaskView | None
    revision: int
    """Of the view's key; 0: not written yet."""
    active: set[str]
    """Active keys of the task that were written here."""
    found: set[str]
    """Active keys of the task that were in the bucket before. `remove_stale` may remove them, so the right one is
    written again."""


class _Submissions(Struct):
    """An owner's newest submissions."""

    recent: Recent
    revision: int


class TaskProjection(CheckpointedBucket):
    """Folds the TASKS log into the bucket, in one process at a time; two would only double the work."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self._entries: dict[TaskRef, _Entry] = {}
        self._listed: dict[TaskRef, set[str]] = {}
        """Active keys in the bucket, by task; only of tasks that are not in `_entries`."""
        self._owners: dict[str, _Submissions] = {}

    async def resume(self) -> int:
        """Drop the memory; return the sequence the bucket reflects."""
        self._entries.clear()
        self._listed.clear()
        self._owners.clear()
        await self._load_checkpoint()
        # Not from the views: a crash may have come between a view and its active keys.
        for key in await active_keys(self._bucket):
            self._listed.setdefault(ref_of(key), set()).add(key)
        return self._checkpoint

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written.

        Raises UnreadableEvent: nothing of the batch is written. Raises Conflict if another process wrote or NATS has
        lost writes: call `resume` then. No write is pending when this returns or raises.
        """
        events = [(task_ref(position.subject), decode(task_codec, position)) for position in positions]
        owners = {ref.owner for ref, stored in events if isinstance(stored.recorded.event, TaskSubmitted)}
        if owners:
            owners.add(EVERYBODY)
        touched = list(dict.fromkeys(ref for ref, _ in events))
        await self._read_missing(touched, owners, positions[0].sequence)
        submitted = {ref for ref, stored in events if isinstance(stored.recorded.event, TaskSubmitted)}
        lost = [ref for ref in touched if self._entries[ref].view is None and ref not in submitted]
        for ref, known in (await views_before(self._bucket.connection, lost, positions[0].sequence)).items():
            self._entries[ref].view = known
        for ref, stored in events:
            entry = self._entries[ref]
            entry.view = fold(entry.view, stored)
            if isinstance(stored.recorded.event, TaskSubmitted):
                submission = RecentSubmission(stored.sequence, ref.id)
                add_recent(self._owners[ref.owner].recent, submission)
                add_recent(self._owners[EVERYBODY].recent, submission)
        written = await self._write(touched, owners)
        self._drop_owners(owners)
        await self._store_checkpoint(positions[-1].sequence)
        for ref in touched:
            view = self._entries[ref].view
            if view is None or view.status not in ACTIVE:
                del self._entries[ref]
        return written + 1

    async def _read_missing(self, refs: Iterable[TaskRef], owners: Iterable[str], before: int) -> None:
        missing = {view_key(ref): ref for ref in refs if ref not in self._entries}
        strangers = {recent_key(owner): owner for owner in owners if owner not in self._owners}
        found = await self._bucket.get_many_with_revisions([*missing, *strangers])
        for key, ref in missing.items():
            view, revision = _read(found.get(key))
            self._entries[ref] = _Entry(view, revision, set(), self._listed.pop(ref, set()))
        known = {owner: decode_recent(found[key].value) for key, owner in strangers.items() if _has_value(found, key)}
        unknown = [owner for owner in strangers.values() if owner not in known]
        if before > 1:
            known |= await recent_in_log(self._bucket.connection, self._bucket, unknown, before)
        for key, owner in strangers.items():
            self._owners[owner] = _Submissions(known.get(owner, []), found[key].revision if key in found else 0)

    def _drop_owners(self, touched: Iterable[str]) -> None:
        """Forget the lists that were not touched for longest; they are read again."""
        for owner in touched:
            self._owners[owner] = self._owners.pop(owner)
        held = sum(len(owner.recent) for owner in self._owners.values())
        while held > SUBMISSIONS_HELD:
            owner = next(iter(self._owners))
            held -= len(self._owners.pop(owner).recent)

    async def _write(self, touched: Iterable[TaskRef], owners: Iterable[str]) -> int:
        """Write what changed; return the number of keys.

        A new active key is written before the view, and the former one is removed after it.
        """
        entries = {ref: entry for ref in touched if (entry := self._entries[ref]).view is not None}
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
        submitters = [self._owners[owner] for owner in owners]
        lists = [
            Write(recent_key(owner), encode_recent(self._owners[owner].recent), self._owners[owner].revision)
            for owner in owners
        ]
        await self._bucket.put_many(listed)
        revisions = await self._bucket.put_many([*views, *lists])
        for entry, revision in zip(entries.values(), revisions, strict=False):
            entry.revision = revision
        for submitter, revision in zip(submitters, revisions[len(views) :], strict=True):
            submitter.revision = revision
        await self._bucket.put_many(stale)
        return len(listed) + len(views) + len(lists) + len(stale)


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


def _has_value(found: Mapping[str, BucketEntry], key: str) -> bool:
    return key in found and bool(found[key].value)
