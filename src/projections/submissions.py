"""Finds submissions, newest first: the order of lists.

The newest are in the bucket, as of its checkpoint. What came later, and what is older, is in the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import word_of
from ..events.subjects import task_ref, task_word, tasks_filter
from ..events.task import TaskSubmitted
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import Position, read
from ..streams.topology.definitions import TASKS
from . import recent
from .recent import EVERYBODY, Recent, recent_key

_SUBMITTED = word_of(TaskSubmitted)
FIRST_STRIDE = 256
"""Sequences looked at first, going back from the newest; it grows while too little is found."""
READ_AT_ONCE = 256


class SubmissionPlace(NamedTuple):
    """Where a task was submitted."""

    sequence: int
    ref: TaskRef


class Stretch(NamedTuple):
    """Some submissions, newest first."""

    places: list[SubmissionPlace]
    rest: int | None
    """The others are before this sequence; None: there are no others."""


async def newest_first(
    reading: Connection, bucket: Bucket, owner: str | None, checkpoint: int, before: int | None, at_once: int
) -> AsyncGenerator[Stretch, None]:
    """Yield the submissions of an owner token, of everybody for None, that are before a sequence.

    `checkpoint`: what the bucket reflected a moment ago. `at_once`: about how many a stretch should have.
    """
    state = (await api(reading, f"STREAM.INFO.{TASKS}"))["state"]
    oldest, upper = int(state["first_seq"]), int(state["last_seq"]) + 1
    upper = min(upper, before or upper)
    newest = await _recent(bucket, owner or EVERYBODY) if checkpoint else None
    if newest is None:
        bottom = upper
    else:
        async for stretch in _in_log(reading, owner, max(oldest, checkpoint + 1), upper, at_once):
            yield Stretch(stretch.places, stretch.rest or min(upper, checkpoint + 1))
        bottom = min(upper, checkpoint + 1, newest[0].sequence) if len(newest) >= recent.LENGTH else oldest
        known = [
            SubmissionPlace(sequence, parse_task_id(task_id))
            for sequence, task_id in reversed(newest)
            if oldest <= sequence < upper and sequence <= checkpoint
        ]
        for start in range(0, len(known), at_once):
            places = known[start : start + at_once]
            rest = places[-1].sequence if start + at_once < len(known) else bottom
            yield Stretch(places, rest if rest > oldest else None)
    async for stretch in _in_log(reading, owner, oldest, bottom, at_once):
        yield stretch


async def _recent(bucket: Bucket, owner: str) -> Recent | None:
    """Return the newest submissions; None where there are none, or a killed NATS has forgotten them."""
    entry = await bucket.get(recent_key(owner))
    return recent.decode(entry.value) if entry else None


async def recent_in_log(reading: Connection, bucket: Bucket, owner: str, before: int) -> Recent:
    """Return the newest submissions of an owner token, or of EVERYBODY, before a sequence, from the log alone."""
    found: Recent = []
    whose = None if owner == EVERYBODY else owner
    async with contextlib.aclosing(newest_first(reading, bucket, whose, 0, before, recent.LENGTH)) as stretches:
        async for stretch in stretches:
            found.extend(recent.RecentSubmission(place.sequence, place.ref.id) for place in stretch.places)
            if len(found) >= recent.LENGTH:
                break
    return found[: recent.LENGTH][::-1]


async def _in_log(
    reading: Connection, owner: str | None, oldest: int, upper: int, at_once: int
) -> AsyncGenerator[Stretch, None]:
    """Yield the submissions from `oldest` to before `upper`; the rest is None at the end of that."""
    stride = max(FIRST_STRIDE, 4 * at_once)
    while upper > oldest:
        lower = max(oldest, upper - stride)
        found = await _between(reading, owner, lower, upper)
        places = [SubmissionPlace(position.sequence, task_ref(position.subject)) for position in reversed(found)]
        yield Stretch(places, lower if lower > oldest else None)
        upper = lower
        if len(found) < at_once:
            stride *= 4


async def _between(reading: Connection, owner: str | None, lower: int, upper: int) -> list[Position]:
    """Return the submissions from `lower` to before `upper`, oldest first.

    An owner's by a filter, for which NATS looks at every subject of the owner. For everybody's that would be every
    subject there is; reading all events, and leaving out two of three, is quicker.
    """
    found: list[Position] = []
    start = lower
    while start < upper:
        batch = await read(reading, TASKS, tasks_filter(owner, _SUBMITTED) if owner else ">", start, READ_AT_ONCE)
        found.extend(position for position in batch if position.sequence < upper and _is_submission(position.subject))
        if len(batch) < READ_AT_ONCE or batch[-1].sequence >= upper:
            break
        start = batch[-1].sequence + 1
    return found


def _is_submission(subject: str) -> bool:
    return task_word(subject) == _SUBMITTED
