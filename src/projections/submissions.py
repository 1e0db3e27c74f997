"""The submissions of tasks, newest first: the order of lists.

The newest ones, of each owner and of everybody, are in the bucket, as of its checkpoint. What came later, and what is
older, is in the log. To find those of one owner far back in it costs NATS a search through everything since.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable
from typing import NamedTuple

import msgspec

from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import word_of
from ..events.subjects import task_ref, task_word, tasks_filter
from ..events.task import TaskSubmitted
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import MOST_FILTERS, read_before
from ..streams.jetstream.messages import Position, read_backwards
from ..streams.topology.definitions import TASKS

_SUBMITTED = word_of(TaskSubmitted)
RECENT_LENGTH = 200
"""Submissions in one list: the longest page. Older ones are in the log."""
SEARCHED_PER_ENTRY = 4
"""Sequences of the log that the first step back searches for each entry of the lists it fills."""
EVERYBODY = "="
"""Stands for all owners. No text has this token: `=` begins an escape."""


class RecentSubmission(NamedTuple):
    sequence: int
    """Its place in the log."""
    task_id: str


Recent = list[RecentSubmission]
"""Oldest first. If there are fewer than RECENT_LENGTH, there are no others."""


def recent_key(owner: str) -> str:
    """Return the key of the newest submissions of an owner token, or of EVERYBODY."""
    return f"recent.{owner}"


def add_recent(recent: Recent, submission: RecentSubmission) -> None:
    """Append a submission; repeating is safe."""
    if recent and recent[-1].sequence >= submission.sequence:
        return
    recent.append(submission)
    if len(recent) > RECENT_LENGTH:
        del recent[0]


encode_recent = msgspec.json.Encoder().encode
decode_recent = msgspec.json.Decoder(list[RecentSubmission]).decode


class SubmissionPlace(NamedTuple):
    """A submission: its place in the log, and its task."""

    sequence: int
    ref: TaskRef


class Stretch(NamedTuple):
    """A part of the submissions, newest first."""

    places: list[SubmissionPlace]
    rest: int | None
    """All others are before this sequence; None: there are none."""


async def newest_first(
    reading: Connection, bucket: Bucket, owner: str | None, checkpoint: int, before: int | None, at_once: int
) -> AsyncGenerator[Stretch, None]:
    """Yield the submissions of an owner token (None: of everybody) before a sequence.

    `checkpoint`: a recent checkpoint of the bucket. `at_once`: the approximate number per stretch.
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
        bottom = min(upper, checkpoint + 1, newest[0].sequence) if len(newest) >= RECENT_LENGTH else oldest
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
    """Return the newest submissions; None if there are none, or a killed NATS has lost them."""
    entry = await bucket.get(recent_key(owner))
    return decode_recent(entry.value) if entry else None


async def recent_in_log(reading: Connection, bucket: Bucket, owners: Collection[str], before: int) -> dict[str, Recent]:
    """Return the newest submissions of each owner token, and of EVERYBODY, before a sequence, from the log alone.

    All owners are searched for together: their number does not change the number of requests. Each, and with EVERYBODY
    any, must have a submission at `before` or later. Raises StoreUnavailable.
    """
    found: dict[str, Recent] = {}
    if EVERYBODY in owners:
        found[EVERYBODY] = await _recent_of_all(reading, bucket, before)
    wanted = [owner for owner in owners if owner != EVERYBODY]
    for start in range(0, len(wanted), MOST_FILTERS):
        found |= await _recent_of(reading, wanted[start : start + MOST_FILTERS], before)
    return found


async def _recent_of_all(reading: Connection, bucket: Bucket, before: int) -> Recent:
    found: Recent = []
    async with contextlib.aclosing(newest_first(reading, bucket, None, 0, before, RECENT_LENGTH)) as stretches:
        async for stretch in stretches:
            found.extend(RecentSubmission(place.sequence, place.ref.id) for place in stretch.places)
            if len(found) >= RECENT_LENGTH:
                break
    return found[:RECENT_LENGTH][::-1]


async def _recent_of(reading: Connection, owners: Collection[str], before: int) -> dict[str, Recent]:
    """Search backwards, each step four times as far as the last, for the owners whose lists are still short."""
    recent: dict[str, Recent] = {owner: [] for owner in owners}
    async with contextlib.aclosing(_submissions(reading, owners, 1, before)) as steps:
        first = await anext(steps, None)
    oldest = first[0].sequence if first else before  # most often: an unknown owner is a new one
    stride = SEARCHED_PER_ENTRY * RECENT_LENGTH * len(owners)
    upper = before
    while upper > oldest and owners:
        lower = max(oldest, upper - stride)
        step: dict[str, deque[RecentSubmission]] = {owner: deque(maxlen=RECENT_LENGTH) for owner in owners}
        async for positions in _submissions(reading, owners, lower, upper):
            for position in positions:
                ref = task_ref(position.subject)
                step[ref.owner].append(RecentSubmission(position.sequence, ref.id))
        for owner, found in step.items():
            recent[owner] = [*found, *recent[owner]][-RECENT_LENGTH:]
        owners = [owner for owner in owners if len(recent[owner]) < RECENT_LENGTH]
        upper, stride = lower, 4 * stride
    return recent


def _submissions(
    reading: Connection, owners: Iterable[str], oldest: int, before: int
) -> AsyncGenerator[list[Position], None]:
    """Yield the submissions of owners from `oldest` to before a sequence, in order, without what they contain."""
    filters = [tasks_filter(owner, _SUBMITTED) for owner in owners]
    return read_before(reading, TASKS, filters, oldest - 1, before, headers_only=True)


async def _in_log(
    reading: Connection, owner: str | None, oldest: int, upper: int, at_once: int
) -> AsyncGenerator[Stretch, None]:
    """Yield the submissions from `oldest` to before `upper`; `rest` is None in the last stretch."""
    # With a filter for everybody NATS would search all subjects; it is faster to read all events and skip two of three.
    subject = tasks_filter(owner, _SUBMITTED) if owner else ">"
    steps = read_backwards(reading, TASKS, subject, oldest, upper, at_once, _submission)
    async with contextlib.aclosing(steps):
        async for found, lower in steps:
            places = [SubmissionPlace(position.sequence, task_ref(position.subject)) for position in found]
            yield Stretch(places, lower if lower > oldest else None)


def _submission(position: Position) -> Position | None:
    """Return a submission without what it contains; None for another event."""
    return position._replace(data=b"") if task_word(position.subject) == _SUBMITTED else None
