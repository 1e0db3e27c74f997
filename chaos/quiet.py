"""The end of a run: waits until it is at rest, and the evidence that every kind of run leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from taskstream.events.subjects import SCHEDULER_FENCE

from .checker import MORE_DESCRIPTORS
from .collect import Reader
from .evidence import AFTER_THE_END, FINAL, Bucket, ConsumerSeen, Recurring, Resources, in_use, pair
from .fleet import TYPES
from .indexes import index_bucket, reflected
from .journal import read
from .schedule import APIS
from .system import System

QUIET_SECONDS = 180.0
"""Longest wait after healing until no task is active. A task's attempts take seconds each, see the load."""
SETTLE_SECONDS = 60.0
"""Longest wait for consumers, connections and projections to settle."""
POLL_SECONDS = 0.5


async def until_quiet(reader: Reader, since: float, patience: float = QUIET_SECONDS) -> None:
    """Wait until every task has ended, or patience (in seconds) is spent."""
    while time.monotonic() - since < patience:
        last = {entry.task: entry.type for entry in await reader.log() if entry.type not in AFTER_THE_END}
        if all(event in FINAL for event in last.values()):
            return
        await asyncio.sleep(POLL_SECONDS)


async def until_fired(reader: Reader, recurring: Sequence[Recurring]) -> None:
    """Wait until each run that schedules have fired has its task in the log, or its refusal in theirs."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < give_up_at:
        events = [line["event"] for one in recurring for line in await reader.schedule_events(one.id)]
        fired, refused = (
            {run["task_id"] for event in events if event["type"] == kind for run in event["runs"]}
            for kind in ("ScheduleFired", "ScheduleFailed")
        )
        if fired <= refused | {entry.task for entry in await reader.log()}:
            return
        await asyncio.sleep(POLL_SECONDS)


async def until_projected(reader: Reader) -> None:
    """Wait until both projections say that they have reached the ends of their logs."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    ends = {"tasks": max((entry.sequence for entry in await reader.log()), default=0)}
    ends["registry"] = await reader.last_sequence("SERVERS")
    for bucket, end in ends.items():
        while time.monotonic() < give_up_at and await reader.checkpoint(bucket) < end:
            await asyncio.sleep(POLL_SECONDS)


async def settled(reader: Reader, before: Sequence[ConsumerSeen]) -> list[ConsumerSeen]:
    """Return the consumers, once as many are in use as were before: a request of a dead process waits for seconds."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await reader.consumers()
        if in_use(found) <= in_use(before) or time.monotonic() > give_up_at:
            return found
        await asyncio.sleep(POLL_SECONDS)


async def given_back(system: System, warm: dict[str, Resources]) -> dict[str, Resources]:
    """Return what processes have, once it is about what they had when warm: idle connections last for seconds."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while True:
        found = system.resources()
        spared = all(found[name].descriptors <= had.descriptors + MORE_DESCRIPTORS for name, had in warm.items())
        if spared or time.monotonic() > give_up_at:
            return found
        await asyncio.sleep(POLL_SECONDS)


class Before(NamedTuple):
    """Streams, consumers and resources of a warm system, before the first fault."""

    streams: list[str]
    consumers: list[ConsumerSeen]
    resources: dict[str, Resources]


async def _buckets(system: System, reader: Reader) -> list[Bucket]:
    """Return the projections, and the index of each API once it reflects the log."""
    tasks, registry, log = await reader.tasks_bucket(), await reader.registry_bucket(), await reader.positions()
    end = max((position.sequence for position in log if position.subject != SCHEDULER_FENCE), default=0)
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < give_up_at and min(reflected(system.index_folder(name)) for name in APIS) < end:
        await asyncio.sleep(POLL_SECONDS)
    indexes = [index_bucket(f"index of {name}", system.index_folder(name), log, tasks.wanted) for name in APIS]
    return [tasks, registry, *indexes]


async def common_evidence(system: System, reader: Reader, before: Before) -> dict[str, Any]:
    """Return the fields of the evidence that every kind of run has; the system must be quiet."""
    return {
        "calls": pair(read(system.folder / "clients.jsonl")),
        "log": await reader.log(),
        "turns": await reader.turns(),
        "backends": system.backend_lines(),
        "buckets": await _buckets(system, reader),
        "queued": await reader.queued(),
        "timed": await reader.timed(),
        "servers": system.servers(),
        "types": {"": system.defaults(), **TYPES},
        "streams": (before.streams, await reader.streams()),
        "consumers": (before.consumers, await settled(reader, before.consumers)),
        "resources": (before.resources, await given_back(system, before.resources)),
        "crashes": system.crashes(),
        "exits": [str(found) for found in system.exits() if not found.never_ran],
    }
