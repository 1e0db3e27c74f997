"""Builds the projections again from the log alone, and says whether anything differed."""

from __future__ import annotations

import asyncio

import structlog
from msgspec import Struct

from .core import Core
from .events.codec import task_codec
from .events.ids import TaskRef
from .events.subjects import task_ref
from .projections.fleet import CHECKPOINT, Fleet
from .projections.task_view import TaskView, active_key, fold, view_key
from .projections.task_view import encode as encode_view
from .streams.buckets import Bucket
from .streams.leases import Lease, Membership
from .streams.log import decode
from .streams.pulling import follow
from .streams.topology import SERVERS, TASKS

log = structlog.get_logger(__name__)

WRITES_AT_ONCE = 64


class Difference(Struct, kw_only=True):
    """What a bucket had that the log does not say, and the other way round."""

    bucket: str
    events: int
    keys: int
    changed: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def any(self) -> bool:
        return bool(self.changed or self.missing or self.extra)


async def rebuild(core: Core) -> list[Difference]:
    """Fold both logs from their beginnings, and make the buckets say exactly that.

    The projections' leases are held meanwhile, so no worker projects; lists go on, reading the log's tail.
    Raises StoreUnavailable if NATS does not answer.
    """
    members = core.membership("rebuild")
    await members.renew()
    await members.observe()
    beating = asyncio.create_task(members.run())
    try:
        return [await _rebuild_tasks(core, members), await _rebuild_registry(core, members)]
    finally:
        beating.cancel()
        await members.leave()


async def _rebuild_tasks(core: Core, members: Membership) -> Difference:
    async with _Held(members, "projector.tasks"):
        views: dict[TaskRef, TaskView] = {}
        events = last = 0
        async for positions in follow(core.reading, TASKS, ["task.>"], 0):
            if not positions:
                break
            for position in positions:
                ref = task_ref(position.subject)
                view = fold(views.get(ref), decode(task_codec, position))
                if view is not None:
                    views[ref] = view
            events += len(positions)
            last = positions[-1].sequence
        wanted: dict[str, bytes] = {}
        for ref, view in views.items():
            wanted[view_key(ref)] = encode_view(view)
            if listed := active_key(ref, view):
                wanted[listed] = b""  # the value says when it was written, which is not of the log
        return await _restore(core.buckets.tasks, wanted, last, events)


async def _rebuild_registry(core: Core, members: Membership) -> Difference:
    async with _Held(members, "projector.registry"):
        fleet = Fleet()
        wanted: dict[str, bytes] = {}
        events = 0
        async for positions in follow(core.reading, SERVERS, ["server.>", "type.>"], 0):
            if not positions:
                break
            wanted |= {change.key: change.value for change in fleet.apply(positions)}
            events += len(positions)
        return await _restore(core.buckets.registry, wanted, fleet.sequence, events)


async def _restore(bucket: Bucket, wanted: dict[str, bytes], checkpoint: int, events: int) -> Difference:
    """Make a bucket hold exactly what is wanted."""
    found = {entry.key: entry.value for entry in await bucket.scan() if entry.key != CHECKPOINT}
    changed = {key for key, value in wanted.items() if key in found and value and found[key] != value}
    missing = wanted.keys() - found.keys()
    extra = found.keys() - wanted.keys()
    gate = asyncio.Semaphore(WRITES_AT_ONCE)

    async def put(key: str) -> None:
        async with gate:
            await bucket.put(key, wanted[key] or b"%d" % checkpoint)

    async def delete(key: str) -> None:
        async with gate:
            await bucket.delete(key)

    await asyncio.gather(*map(put, changed | missing), *map(delete, extra))
    await bucket.put(CHECKPOINT, b"%d" % checkpoint)
    return Difference(
        bucket=bucket.name,
        events=events,
        keys=len(wanted),
        changed=len(changed),
        missing=len(missing),
        extra=len(extra),
    )


class _Held:
    """A projector's lease, taken from whoever has it: a projector looks before every batch, and stands by."""

    def __init__(self, members: Membership, name: str) -> None:
        self._lease = Lease(members, name)

    async def __aenter__(self) -> None:
        await self._lease.take_over()

    async def __aexit__(self, *_: object) -> None:
        await self._lease.release()
