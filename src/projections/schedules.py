"""The reader of recurring schedules, each from the last event of each kind, never from its whole history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..commands import schedule
from ..commands.schedule import ScheduleState
from ..errors import StoreUnavailable
from ..events.codec import schedule_codec
from ..events.ids import ScheduleRef
from ..events.schedule import ScheduleCreated, ScheduleDeleted
from ..events.subjects import history_filter, schedule_ref, schedule_root, schedules_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import (
    MOST_SUBJECTS,
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    list_subjects,
    read_last,
)
from ..streams.log import decode
from ..streams.topology.definitions import SCHEDULES

KINDS = 9
"""Kinds of events, and so the most subjects of a schedule."""
AT_ONCE = MOST_SUBJECTS // KINDS
"""Schedules per request."""


async def schedule_refs(reading: Connection, owner: str | None) -> list[ScheduleRef]:
    """Return the schedules of an owner token, of everybody for None, that are not deleted; by id, the newest first.

    Only names of subjects are read, which NATS has in memory. An id derived from an Idempotency-Key does not show the
    age.
    """
    created = await list_subjects(reading, SCHEDULES, schedules_filter(owner, ScheduleCreated))
    deleted = await list_subjects(reading, SCHEDULES, schedules_filter(owner, ScheduleDeleted))
    refs = {schedule_ref(subject) for subject in created} - {schedule_ref(subject) for subject in deleted}
    return sorted(refs, key=lambda ref: ref.id, reverse=True)


async def load_schedules(reading: Connection, refs: Sequence[ScheduleRef]) -> dict[ScheduleRef, ScheduleState]:
    """Return the state of each schedule. A replica's answer may be a moment old, but no schedule is missing.

    Raises UnreadableEvent for an event that does not decode, StoreUnavailable if NATS does not answer.
    """
    states: dict[ScheduleRef, ScheduleState] = {}
    missing = list(refs)
    for _ in range(STALE_REPLICA_TRIES):
        for start in range(0, len(missing), AT_ONCE):
            states |= await _load(reading, missing[start : start + AT_ONCE])
        missing = [ref for ref in missing if isinstance(states[ref], schedule.Uncreated)]
        if not missing:
            return states
        await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
    raise StoreUnavailable(f"no replica of {SCHEDULES} has caught up")


async def _load(reading: Connection, refs: Sequence[ScheduleRef]) -> dict[ScheduleRef, ScheduleState]:
    states: dict[ScheduleRef, ScheduleState] = dict.fromkeys(refs, schedule.UNCREATED)
    for position in sorted(await read_last(reading, SCHEDULES, [history_filter(schedule_root(ref)) for ref in refs])):
        ref = schedule_ref(position.subject)
        states[ref] = schedule.evolve(states[ref], decode(schedule_codec, position).recorded)
    return states
