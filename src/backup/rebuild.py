"""The rebuild of the projections from the log, which reports and corrects every difference.

The pass over TASKS keeps in memory: the tasks that have not ended, a window of ended ones, and 8 bytes per
task. An ended task is compared with its view and forgotten. If the log continues it later,
its history is read again.

The bucket need not reflect what is later than its checkpoint. Tasks with later events are corrected, but they are no
differences.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import msgspec
import structlog
from msgspec import Struct

from ..container import Container
from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.subjects import FLEET, TASK_SUBJECTS, task_ref
from ..events.task import TaskEvent, TaskSubmitted
from ..projections.active import projected
from ..projections.checkpoint import CHECKPOINT
from ..projections.fleet import Fleet
from ..projections.task_projection import views_before
from ..projections.task_view import ACTIVE, TaskView, active_key, fold, view_key
from ..projections.task_view import decode as decode_view
from ..projections.task_view import encode as encode_view
from ..projections.usage import COUNTED_LOGS, CountedLog, Usage
from ..projections.usage import encode as encode_usage
from ..projections.usage import fold as fold_usage
from ..settings import Settings
from ..streams.buckets import Bucket, BucketEntry, Write
from ..streams.client.access import Access
from ..streams.client.connection import open_connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position
from ..streams.leases import Lease, Membership
from ..streams.log import decode
from ..streams.topology.definitions import SERVERS, TASKS
from ..streams.topology.recreate import recreate_derived
from ..streams.topology.startup_retry import StartupRetry, leader_elected

log = structlog.get_logger(__name__)

REPORT_SECONDS = 5.0
"""Time between two progress messages of a long rebuild."""
WINDOW = 2_000
"""Ended tasks that are compared together."""


class Difference(Struct, kw_only=True):
    """The keys in which a bucket differed from the log."""

    bucket: str
    events: int = 0
    keys: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def any(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


async def recreate(settings: Settings, nats_url: str) -> None:
    """Delete every derived stream and create it as the settings describe it; `rebuild` then fills it.

    Raises WorkersRunning if a worker runs: it would continue from its memory.
    """
    connection = await open_connection(nats_url, "recreate", Access.from_settings(settings))
    try:
        await leader_elected(connection, StartupRetry())
        await recreate_derived(connection, settings)
    finally:
        await connection.close()


async def rebuild(container: Container) -> list[Difference]:
    """Fold both logs from their beginnings, correct the buckets, and return the differences found.

    The projections' leases are held meanwhile, so no worker projects. Lists stay available: they read the log's tail.
    Raises StoreUnavailable if NATS does not answer.
    """
    members = container.membership("rebuild")
    await members.renew()
    await members.observe()
    beating = asyncio.create_task(members.run())
    try:
        return [
            await _rebuild_tasks(container, members),
            await _rebuild_registry(container, members),
            await _rebuild_usage(container, members),
        ]
    finally:
        beating.cancel()
        await members.leave()


async def _rebuild_tasks(container: Container, members: Membership) -> Difference:
    async with _Held(members, "projector.tasks"):
        bucket = container.buckets.tasks
        rebuilding = TaskRebuild(bucket, await projected(bucket) or None)
        state = (await api(container.reading, f"STREAM.INFO.{TASKS}"))["state"]
        clock = asyncio.get_running_loop().time
        reported = clock()
        async for positions in follow(container.reading, TASKS, [TASK_SUBJECTS], 0):
            if not positions:
                break
            await rebuilding.fold(positions)
            if clock() - reported > REPORT_SECONDS:
                reported = clock()
                log.info("rebuild.progress", events=rebuilding.difference.events, of=state["messages"])
        return await rebuilding.finish()


async def _rebuild_registry(container: Container, members: Membership) -> Difference:
    async with _Held(members, "projector.registry"):
        fleet = Fleet()
        wanted: dict[str, bytes] = {}
        events = 0
        async for positions in follow(container.reading, SERVERS, FLEET, 0):
            if not positions:
                break
            wanted |= {change.key: change.value for change in fleet.apply(positions)}
            events += len(positions)
        return await _restore(container.buckets.registry, wanted, fleet.sequence, events)


async def _rebuild_usage(container: Container, members: Membership) -> Difference:
    """Count every log again; return the differences of all together."""
    whole = Difference(bucket=container.buckets.usage.name)
    for of in COUNTED_LOGS:
        found = await _rebuild_usage_of(of, container, members)
        for field in ("events", "keys", "changed", "missing", "extra"):
            setattr(whole, field, getattr(whole, field) + getattr(found, field))
    return whole


async def _rebuild_usage_of(of: CountedLog, container: Container, members: Membership) -> Difference:
    async with _Held(members, f"projector.{of.name}"):
        bucket = container.buckets.usage
        entry = await bucket.get(of.checkpoint)
        reflected = int(entry.value) if entry else 0
        usages: dict[str, Usage] = {}
        behind: dict[str, bytes] | None = None
        last = events = 0
        async for positions in follow(container.reading, of.stream, [of.subjects], 0):
            if not positions:
                break
            old = list(takewhile(lambda position: position.sequence <= reflected, positions))
            fold_usage(usages, old, of)
            if behind is None and len(old) < len(positions):
                behind = _usage_keys(usages, of)
            fold_usage(usages, positions[len(old) :], of)
            last, events = positions[-1].sequence, events + len(positions)
        return await _restore(bucket, _usage_keys(usages, of), last, events, behind, of)


def _usage_keys(usages: Mapping[str, Usage], of: CountedLog) -> dict[str, bytes]:
    return {of.key(owner): encode_usage(usage) for owner, usage in usages.items()}


async def _restore(
    bucket: Bucket,
    wanted: dict[str, bytes],
    checkpoint: int,
    events: int,
    behind: dict[str, bytes] | None = None,
    of: CountedLog | None = None,
) -> Difference:
    """Make a bucket hold exactly the `wanted` keys and values.

    `behind`: what it holds if it is as good as its checkpoint, which is no difference. `of`: the log whose keys alone
    are meant; None: the bucket has no others.
    """
    key_filter, checkpoint_key = (f"{of.prefix}>", of.checkpoint) if of else (">", CHECKPOINT)
    found = {entry.key: entry.value for entry in await bucket.scan(key_filter) if entry.key != checkpoint_key}
    changed = {key for key, value in wanted.items() if key in found and found[key] != value}
    missing = wanted.keys() - found.keys()
    extra = found.keys() - wanted.keys()
    right = wanted if behind is None else behind
    wrong = {key for key in changed if found[key] != right.get(key)}
    lost = missing & right.keys()
    await bucket.put_many([Write(key, wanted[key]) for key in sorted(changed | missing)])
    await bucket.put_many([Write(key, None) for key in sorted(extra)])
    await bucket.put(checkpoint_key, b"%d" % checkpoint)
    return Difference(
        bucket=bucket.name,
        events=events,
        keys=len(wanted),
        changed=len(wrong),
        missing=len(lost),
        extra=len(extra),
    )


class _Held:
    """A projector's lease, taken from its holder, who checks it before every batch and then stands by."""

    def __init__(self, members: Membership, name: str) -> None:
        self._lease = Lease(members, name)

    async def __aenter__(self) -> None:
        await self._lease.take_over()

    async def __aexit__(self, *_: object) -> None:
        await self._lease.release()


class TaskRebuild:
    """One pass over the log: `fold` every event in order, then `finish`. No projector may run meanwhile."""

    def __init__(self, bucket: Bucket, reflected: int | None = None) -> None:
        """`reflected`: the bucket's checkpoint; None: it has none, and all that it lacks is a difference."""
        self.difference = Difference(bucket=bucket.name)
        self._bucket = bucket
        self._reflected = math.inf if reflected is None else reflected
        self._behind: set[int] = set()
        """Hashes of the keys of views that may lack events later than the checkpoint."""
        self._views: dict[TaskRef, TaskView | None] = {}
        """None: the submission is past its retention."""
        self._ended: dict[TaskRef, None] = {}
        """The tasks in `_views` that have ended so far and are still to be compared, in order of their end."""
        self._tasks = array("q")
        """A hash of every view's key, 8 bytes per task: enough to find keys that the log does not have."""
        self._last = 0

    async def fold(self, positions: Sequence[Position]) -> None:
        """Fold the next events of the log. Raises UnreadableEvent."""
        events = [(task_ref(position.subject), decode(task_codec, position)) for position in positions]
        await self._recall(events, positions[0].sequence)
        views, ended = self._views, self._ended
        for ref, stored in events:
            before = views.get(ref)
            view = views[ref] = fold(before, stored)
            if view is None or view.status not in ACTIVE:
                ended[ref] = None
            else:
                ended.pop(ref, None)
            if stored.sequence > self._reflected:
                self._behind.add(hash(view_key(ref)))
            if before is None and isinstance(stored.recorded.event, TaskSubmitted):
                self._tasks.append(hash(view_key(ref)))
        self.difference.events += len(events)
        self._last = positions[-1].sequence
        while len(ended) >= WINDOW:
            window = [ref for ref, _ in zip(ended, range(WINDOW), strict=False)]
            await self._settle(window, is_last=False)

    async def finish(self) -> Difference:
        """Compare the remaining tasks and remove keys that the log does not have; return all differences."""
        active = {key for ref, view in self._views.items() if view and (key := active_key(ref, view))}
        rest = list(self._views)
        for start in range(0, len(rest), WINDOW):
            await self._settle(rest[start : start + WINDOW], is_last=True)
        marks = await self._list_active(active)
        await self._bucket.put(CHECKPOINT, b"%d" % self._last)
        self.difference.keys = len(self._tasks) + len(active)
        if await self._bucket.count() != self.difference.keys + 1 + marks:
            await self._remove_extra(active)
        return self.difference

    async def _recall(self, events: Iterable[tuple[TaskRef, Stored[TaskEvent]]], first: int) -> None:
        """Load the tasks that go on after they had ended and been forgotten. `first`: sequence of the first event."""
        submitted: set[TaskRef] = set()
        later: dict[TaskRef, None] = {}
        for ref, stored in events:
            if isinstance(stored.recorded.event, TaskSubmitted):
                submitted.add(ref)
            elif ref not in self._views and ref not in submitted:
                later[ref] = None
        if later:
            self._views |= dict.fromkeys(later) | await views_before(self._bucket.connection, list(later), first)

    async def _settle(self, refs: Sequence[TaskRef], *, is_last: bool) -> None:
        """Make the bucket hold these views, and forget them.

        Before the log is read to its end (`is_last`), a view in the bucket may be ahead of ours. It cannot be judged
        yet, so both are kept.
        """
        wanted = {view_key(ref): encode_view(view) for ref in refs if (view := self._views[ref])}
        ahead = await self._correct(wanted, is_last=is_last)
        for ref in refs:
            self._ended.pop(ref, None)
            if view_key(ref) not in ahead:
                del self._views[ref]

    async def _correct(self, wanted: Mapping[str, bytes], *, is_last: bool = True) -> set[str]:
        """Write the values that differ; return the keys not written because the bucket is ahead.

        Writes are not guarded: a projector that still finishes its last batch has read no more, and guards its own.
        """
        found = await self._bucket.get_many(list(wanted))
        differing = {key for key, value in wanted.items() if key not in found or found[key].value != value}
        ahead = {key for key in differing if not is_last and _is_ahead(found.get(key), wanted[key])}
        differing -= ahead
        await self._bucket.put_many([Write(key, wanted[key]) for key in sorted(differing)])
        wrong = {key for key in differing if hash(key) not in self._behind}
        missing = wrong - found.keys()
        self.difference.missing += len(missing)
        self.difference.changed += len(wrong) - len(missing)
        return ahead

    async def _list_active(self, wanted: set[str]) -> int:
        """Make the active keys list exactly the tasks that have not ended; return the number of deletion markers.

        The values of active keys tell when they were written, not what the log says, so they are not compared.
        """
        entries = await self._bucket.scan_writes("active.>")
        found = {entry.key for entry in entries if entry.value}
        missing, extra = wanted - found, found - wanted
        await self._bucket.put_many([Write(key, b"%d" % self._last) for key in sorted(missing)])
        await self._bucket.put_many([Write(key, None) for key in sorted(extra)])
        self.difference.missing += sum(not self._is_behind(key) for key in missing)
        self.difference.extra += sum(not self._is_behind(key) for key in extra)
        return len({entry.key for entry in entries if not entry.value} - wanted) + len(extra)

    def _is_behind(self, key: str) -> bool:
        """Return True if an active key is of a task with events later than the checkpoint."""
        return hash(f"task.{key.split('.', 2)[-1]}") in self._behind

    async def _remove_extra(self, wanted: set[str]) -> None:
        """Remove all keys except `wanted`, the checkpoint, and the views of tasks in the log."""
        tasks = sorted(self._tasks)
        async for entries in self._bucket.pages():
            keys = {entry.key for entry in entries} - wanted - {CHECKPOINT}
            extra = [key for key in sorted(keys) if not _has(tasks, hash(key))]
            await self._bucket.put_many([Write(key, None) for key in extra])
            self.difference.extra += len(extra)


def _has(ordered: Sequence[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value


def _is_ahead(entry: BucketEntry | None, ours: bytes) -> bool:
    """Return True if the bucket reflects a later event of the task than we have read."""
    if entry is None:
        return False
    try:
        return decode_view(entry.value).sequence > decode_view(ours).sequence
    except msgspec.MsgspecError:
        return False
