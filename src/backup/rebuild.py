"""Builds the projections again from the log alone, and says whether anything differed."""

from __future__ import annotations

import asyncio

import structlog

from ..container import Container
from ..events.subjects import FLEET, TASK_SUBJECTS
from ..projections.fleet import CHECKPOINT, Fleet
from ..settings import Settings
from ..streams.buckets import Bucket, Write
from ..streams.client.access import Access
from ..streams.client.connection import open_connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease, Membership
from ..streams.topology import recreate as anew
from ..streams.topology.definitions import SERVERS, TASKS
from ..streams.topology.startup_retry import StartupRetry, leader_elected
from .task_rebuild import Difference, TaskRebuild

log = structlog.get_logger(__name__)

REPORT_SECONDS = 5.0
"""How often a long rebuild says how far it is."""


async def make_anew(settings: Settings, nats_url: str) -> None:
    """Throw away all that is derived, so that it can be made as the settings say; `rebuild` then fills it.

    Raises StillRunning if a worker runs: it would go on from what it remembers.
    """
    connection = await open_connection(nats_url, "anew", Access.from_settings(settings))
    try:
        await leader_elected(connection, StartupRetry())
        await anew.recreate_derived(connection, settings)
    finally:
        await connection.close()


async def rebuild(container: Container) -> list[Difference]:
    """Fold both logs from their beginnings, and make the buckets say exactly that.

    The projections' leases are held meanwhile, so no worker projects; lists go on, reading the log's tail.
    Raises StoreUnavailable if NATS does not answer.
    """
    members = container.membership("rebuild")
    await members.renew()
    await members.observe()
    beating = asyncio.create_task(members.run())
    try:
        return [await _rebuild_tasks(container, members), await _rebuild_registry(container, members)]
    finally:
        beating.cancel()
        await members.leave()


async def _rebuild_tasks(container: Container, members: Membership) -> Difference:
    async with _Held(members, "projector.tasks"):
        rebuilding = TaskRebuild(container.buckets.tasks, container.commands.tasks.log)
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


async def _restore(bucket: Bucket, wanted: dict[str, bytes], checkpoint: int, events: int) -> Difference:
    """Make a bucket hold exactly what is wanted."""
    found = {entry.key: entry.value for entry in await bucket.scan() if entry.key != CHECKPOINT}
    changed = {key for key, value in wanted.items() if key in found and found[key] != value}
    missing = wanted.keys() - found.keys()
    extra = found.keys() - wanted.keys()
    await bucket.put_many([Write(key, wanted[key]) for key in sorted(changed | missing)])
    await bucket.put_many([Write(key, None) for key in sorted(extra)])
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
