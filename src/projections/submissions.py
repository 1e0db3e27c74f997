"""The submissions of tasks, newest first: the order of lists.

The newest ones, of each owner and of everybody, are in the bucket, as of its checkpoint. What came later, and what is
older, is in the log. To find those of one owner far back in it costs NATS a search through everything since.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

import msgspec

from ..events.ids import TaskRef, parse_task_id
from ..events.kinds import word_of
from ..events.subjects import task_ref, task_word, tasks_filter
from ..events.task import TaskSubmitted
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import read_backwards
from ..streams.topology.definitions import TASKS

_SUBMITTED = word_of(TaskSubmitted)
RECENT_LENGTH = 200
"""Submissions kept: the longest page. Older ones are found in the log."""
EVERYBODY = "="
"""Stands for the owner where it is everybody. No text has it as its token: `=` begins an escape."""


class RecentSubmission(NamedTuple):
    sequence: int
    """Its place in the log."""
    task_id: str


Recent = list[RecentSubmission]
"""Oldest first. Fewer than RECENT_LENGTH: there are no others."""


def recent_key(owner: str) -> str:
    """Return the key of the newest submissions of an owner token, or of EVERYBODY."""
    return f"recent.{owner}"


def add_recent(recent: Recent, submission: RecentSubmission) -> None:
    """Append a submission; one that is there already changes nothing."""
    if recent and recent[-1].sequence >= submission.sequence:
        return
    recent.append(submission)
    if len(recent) > RECENT_LENGTH:
        del recent[0]


encode_recent = msgspec.json.Encoder().encode
decode_recent = msgspec.json.Decoder(list[RecentSubmission]).decode


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
    """Return the newest submissions; None where there are none, or a killed NATS has forgotten them."""
    entry = await bucket.get(recent_key(owner))
    return decode_recent(entry.value) if entry else None


async def recent_in_log(reading: Connection, bucket: Bucket, owner: str, before: int) -> Recent:
    """Return the newest submissions of an owner token, or of EVERYBODY, before a sequence, from the log alone."""
    found: Recent = []
    whose = None if owner == EVERYBODY else owner
    async with contextlib.aclosing(newest_first(reading, bucket, whose, 0, before, RECENT_LENGTH)) as stretches:
        async for stretch in stretches:
            found.extend(RecentSubmission(place.sequence, place.ref.id) for place in stretch.places)
            if len(found) >= RECENT_LENGTH:
                break
    return found[:RECENT_LENGTH][::-1]


async def _in_log(
    reading: Connection, owner: str | None, oldest: int, upper: int, at_once: int
) -> AsyncGenerator[Stretch, None]:
    """Yield the submissions from `oldest` to before `upper`; the rest is None at the end of that."""
    # For everybody a filter would make NATS look at every subject there is; reading all events, and leaving out two of
    # three, is faster.
    subject = tasks_filter(owner, _SUBMITTED) if owner else ">"
    steps = read_backwards(reading, TASKS, subject, oldest, upper, at_once, lambda found: _is_submission(found.subject))
    async with contextlib.aclosing(steps):
        async for found, lower in steps:
            places = [SubmissionPlace(position.sequence, task_ref(position.subject)) for position in found]
            yield Stretch(places, lower if lower > oldest else None)


def _is_submission(subject: str) -> bool:
    return task_word(subject) == _SUBMITTED
