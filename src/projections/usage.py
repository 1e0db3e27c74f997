"""The projections in the `usage` bucket: the bytes that each owner takes in the logs and the object store, by day.

    owner.<owner>         of its tasks: the days (UTC, by the time of the event) with their bytes, and the last event
                          that is counted
    schedules.<owner>     of its schedules, likewise
    webhooks.<owner>      of its webhooks
    files.<owner>         of its files, without those that were deleted
    checkpoint            the sequence of TASKS that all keys `owner.…` reflect
    checkpoint.schedules  the sequence of SCHEDULES, likewise
    checkpoint.webhooks   the sequence of WEBHOOKS
    checkpoint.files      the sequence of FILES

Every batch of events writes one small key per owner. Folding again from an older checkpoint changes nothing. Days past
the retention are left out when the key is read, so a rebuild gives the same keys whenever it is made. Events of
schedules and webhooks have no retention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from ..events.file import FileCreated, FileDeleted
from ..events.kinds import word_of
from ..events.subjects import (
    FILE_SUBJECTS,
    SCHEDULE_SUBJECTS,
    TASK_SUBJECTS,
    WEBHOOK_SUBJECTS,
    file_ref,
    file_word,
    schedule_ref,
    task_ref,
    task_word,
    webhook_ref,
)
from ..events.task import ProgressReported, TaskFailed, TaskSucceeded
from ..instants import EPOCH
from ..streams.buckets import Bucket, Write
from ..streams.jetstream.messages import Position
from ..streams.topology.definitions import FILES, SCHEDULES, TASKS, WEBHOOKS
from .checkpoint import CHECKPOINT, CheckpointedBucket

DAY = timedelta(days=1)
MESSAGE_BYTES = 256
"""What the store takes for an event beside its text and subject: headers, and its place in the index."""
MOST_DAYS = 400
"""Days of one owner; with more, the oldest two become one, which counts as the later of the two."""
OWNERS_HELD = 10_000
_FILE_PREFIX = FILE_SUBJECTS.rstrip("*>")
_TASK_PREFIX = TASK_SUBJECTS.rstrip("*>")
_WITH_RESULT = {word_of(TaskSucceeded), word_of(TaskFailed), word_of(ProgressReported)}
_OF_FILES = {word_of(FileCreated): 1, word_of(FileDeleted): -1}
"""Whether the bytes of a file are added or taken away. What else is in the log of files is small, and not kept."""


class Usage(Struct, kw_only=True):
    """The stored bytes of one owner."""

    upto: int = 0
    """Sequence of the last event that is counted."""
    days: dict[int, int] = field(default_factory=dict)
    """Bytes by day, numbered from 1970-01-01."""

    def add(self, sequence: int, day: int, size_bytes: int) -> None:
        """Count an event; repeating is safe."""
        if sequence <= self.upto:
            return
        self.upto = sequence
        self.days[day] = self.days.get(day, 0) + size_bytes
        if len(self.days) > MOST_DAYS:
            oldest, next_oldest = sorted(self.days)[:2]
            self.days[next_oldest] += self.days.pop(oldest)

    def stored_bytes(self, now: datetime, retention: timedelta) -> int:
        """Return the bytes of events that are not older than the retention, to the day; 0: however old."""
        first = first_day(now, retention)
        return sum(size for day, size in self.days.items() if day >= first)

    def frees_at(self, now: datetime, retention: timedelta) -> datetime | None:
        """Return when the oldest day is past the retention; None: never, or there is none."""
        if not retention:
            return None
        kept = [day for day in self.days if day >= first_day(now, retention)]
        return EPOCH + (min(kept) + 1) * DAY + retention if kept else None


def first_day(now: datetime, retention: timedelta) -> int:
    """Return the first day that has events within the retention."""
    return (now - retention - EPOCH) // DAY if retention else 0


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Usage).decode


class CountedLog(NamedTuple):
    """A log whose events count towards the stored bytes of owners."""

    name: str
    """Of the projector and its lease, `projector.<name>`."""
    stream: str
    subjects: str
    prefix: str
    """Of its keys; the owner's token follows."""
    checkpoint: str
    owner_of: Callable[[str], str]
    """Returns the owner's token in a subject."""
    has_retention: bool
    """False: its events are kept, and all count as of one day."""

    def key(self, owner: str) -> str:
        """Return the key of an owner token."""
        return f"{self.prefix}{owner}"


OF_TASKS = CountedLog(
    "usage", TASKS, TASK_SUBJECTS, "owner.", CHECKPOINT, lambda subject: task_ref(subject).owner, has_retention=True
)
OF_SCHEDULES = CountedLog(
    "usage-schedules",
    SCHEDULES,
    SCHEDULE_SUBJECTS,
    "schedules.",
    f"{CHECKPOINT}.schedules",
    lambda subject: schedule_ref(subject).owner,
    has_retention=False,
)
OF_WEBHOOKS = CountedLog(
    "usage-webhooks",
    WEBHOOKS,
    WEBHOOK_SUBJECTS,
    "webhooks.",
    f"{CHECKPOINT}.webhooks",
    lambda subject: webhook_ref(subject).owner,
    has_retention=False,
)
OF_FILES = CountedLog(
    "usage-files",
    FILES,
    FILE_SUBJECTS,
    "files.",
    f"{CHECKPOINT}.files",
    lambda subject: file_ref(subject).owner,
    has_retention=False,
)
COUNTED_LOGS = (OF_TASKS, OF_SCHEDULES, OF_WEBHOOKS, OF_FILES)


class _StoredFile(Struct):
    size_bytes: int = 0


class _StoredResult(Struct):
    size_bytes: int = 0
    object_name: str | None = None
    file: _StoredFile | None = None
    files: tuple[_StoredFile, ...] = ()


class _End(Struct):
    result: _StoredResult | None = None
    data: _StoredResult | None = None
    """Of a progress report."""


class _RecordedTime(Struct):
    at: datetime


class _RecordedEnd(Struct):
    at: datetime
    event: _End


class _RecordedFile(Struct):
    at: datetime
    event: _StoredFile


_decode_file = msgspec.json.Decoder(_RecordedFile).decode
_decode_time = msgspec.json.Decoder(_RecordedTime).decode
_decode_end = msgspec.json.Decoder(_RecordedEnd).decode


def measured(position: Position) -> tuple[int, int]:
    """Return the day of an event and the bytes that it and its result take; negative for a file that was deleted.

    Only this much of it is decoded: an event of a newer version counts as well.
    """
    if position.subject.startswith(_FILE_PREFIX):
        of_file = _decode_file(position.data)
        sign = _OF_FILES.get(file_word(position.subject), 0)
        return (of_file.at - EPOCH) // DAY, sign * (of_file.event.size_bytes + MESSAGE_BYTES)
    size = len(position.data) + len(position.subject) + MESSAGE_BYTES
    if not position.subject.startswith(_TASK_PREFIX) or task_word(position.subject) not in _WITH_RESULT:
        return (_decode_time(position.data).at - EPOCH) // DAY, size
    recorded = _decode_end(position.data)
    if (result := recorded.event.result or recorded.event.data) is not None:
        size += result.size_bytes if result.object_name else 0
        size += result.file.size_bytes if result.file else 0
        size += sum(file.size_bytes for file in result.files)
    return (recorded.at - EPOCH) // DAY, size


def fold(usages: dict[str, Usage], positions: Iterable[Position], of: CountedLog = OF_TASKS) -> None:
    """Count events of a log, by owner token."""
    for position in positions:
        try:
            day, size = measured(position)
        except msgspec.MsgspecError:  # the projection of tasks stops at it, and says so
            continue
        owner = of.owner_of(position.subject)
        usage = usages.get(owner)
        if usage is None:
            usage = usages[owner] = Usage()
        usage.add(position.sequence, day if of.has_retention else 0, size)


class UsageProjection(CheckpointedBucket):
    """Folds one log into the bucket, in one process at a time."""

    def __init__(self, bucket: Bucket, of: CountedLog = OF_TASKS) -> None:
        super().__init__(bucket, of.checkpoint)
        self._of = of
        self._usages: dict[str, Usage] = {}
        self._revisions: dict[str, int] = {}

    async def forget(self) -> None:
        """Remove the keys of this log, and leave those of the others."""
        keys = [entry.key for entry in await self._bucket.scan(f"{self._of.prefix}>")]
        await self._bucket.put_many([Write(key, None) for key in keys])
        await self._bucket.put(self._of.checkpoint, b"0")

    async def resume(self) -> int:
        """Drop the memory; return the sequence the bucket reflects."""
        self._usages.clear()
        self._revisions.clear()
        return await self._load_checkpoint()

    async def apply(self, positions: Sequence[Position]) -> int:
        """Count a batch of events, in order, and write what changed; return how many keys were written.

        Raises Conflict if another process wrote or NATS has lost writes: call `resume` then.
        """
        owners = list(dict.fromkeys(self._of.owner_of(position.subject) for position in positions))
        if len(self._usages) > OWNERS_HELD:
            self._usages.clear()
            self._revisions.clear()
        missing = {self._of.key(owner): owner for owner in owners if owner not in self._usages}
        found = await self._bucket.get_many(list(missing))
        for key, owner in missing.items():
            entry = found.get(key)
            self._usages[owner] = decode(entry.value) if entry and entry.value else Usage()
            self._revisions[owner] = entry.revision if entry else 0
        fold(self._usages, positions, self._of)
        # A new key is written without a guard: the marker of a deleted one has a revision, too.
        writes = [
            Write(self._of.key(owner), encode(self._usages[owner]), self._revisions[owner] or None) for owner in owners
        ]
        for owner, revision in zip(owners, await self._bucket.put_many(writes), strict=True):
            self._revisions[owner] = revision
        await self._store_checkpoint(positions[-1].sequence)
        return len(writes) + 1
