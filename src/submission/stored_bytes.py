"""The quota of stored bytes: what each owner who submits here has stored, without a read for each submission.

Tasks with their results, files, schedules and webhooks count. The bytes come from the `usage` bucket. They are read at
an owner's first submission, and again in the background once they are older than BELIEVED_SECONDS. What this process
has stored since, and what it is storing now, is added. So an owner may exceed the quota by what other processes store
in BELIEVED_SECONDS and the two seconds that the projectors need, and by the results of tasks that were accepted before:
an outcome is never refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple, Self

import structlog
from msgspec import Struct, field

from ..clock import utc_now
from ..errors import StoredTooMuch, StoreError
from ..events.task import TaskSubmitted
from ..projections.fleet import Fleet
from ..projections.usage import COUNTED_LOGS, MESSAGE_BYTES, OF_TASKS, CountedLog, Usage, decode
from ..streams.buckets import Bucket

log = structlog.get_logger(__name__)

BELIEVED_SECONDS = 5.0
OWNERS_HELD = 10_000
NEVER = float("-inf")
FOREVER = timedelta(0)
"""As a retention: nothing is dropped."""
NEARLY_FULL = 0.8
"""Part of the quota from which on the log and `/health/ready` warn."""
WARNED_EVERY_SECONDS = 3600.0
LONGEST_RETRY_AFTER = timedelta(days=1)
NOT_BY_ITSELF = timedelta(hours=1)
"""`Retry-After` if nothing is ever freed: an admin may have raised the limit by then."""


class StoredBytes(NamedTuple):
    """What an owner has stored."""

    limit: int | None
    used: int
    frees_at: datetime | None
    """When the oldest day is past the retention; None: never."""


class _Log(Struct):
    """What an owner has stored in one log."""

    usage: Usage = field(default_factory=Usage)
    since: deque[tuple[int, int]] = field(default_factory=deque)
    """Sequences and bytes of what was submitted here and is not in `usage`."""
    since_bytes: int = 0
    """Their sum: a submission must not cost more the more there were."""

    def drop_counted(self) -> None:
        """Drop what `usage` includes."""
        while self.since and self.since[0][0] <= self.usage.upto:
            self.since_bytes -= self.since.popleft()[1]


class _Owner(Struct):
    logs: dict[CountedLog, _Log] = field(default_factory=lambda: {of: _Log() for of in COUNTED_LOGS})
    read_at: float = NEVER
    """Monotonic seconds."""
    counted: int = 0
    """Bytes in the `usage` of all logs when they were read. Days past their retention since then are in it."""
    in_flight: int = 0
    """Bytes of what is being appended now."""
    refresh: asyncio.Task[None] | None = None
    warned_at: float = NEVER


class _SubmittedBytes:
    """Context in which bytes of an owner count as stored."""

    __slots__ = ("_owner", "_size_bytes")

    def __init__(self, owner: _Owner, size_bytes: int) -> None:
        self._owner = owner
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self._owner.in_flight += self._size_bytes
        return self

    def grow(self, size_bytes: int) -> None:
        """Count more bytes: of a file whose size is not known before its end."""
        self._owner.in_flight += size_bytes
        self._size_bytes += size_bytes

    def __exit__(self, *_: object) -> None:
        self._owner.in_flight -= self._size_bytes


class StoredQuota:
    """Checks the quota of stored bytes of every owner."""

    def __init__(self, fleet: Fleet, bucket: Bucket, retention_seconds: float) -> None:
        self._fleet = fleet
        self._bucket = bucket
        self._retention = timedelta(seconds=retention_seconds)
        self._owners: dict[str, _Owner] = {}

    async def check(self, owner: str, size_bytes: int = 4 * MESSAGE_BYTES) -> None:
        """Raise StoredTooMuch unless an owner (by token) may store so many bytes more.

        If the bytes are not known because NATS does not answer, nothing is refused here: the append will be.
        """
        limit = self._fleet.allowance(owner).stored
        if limit is None:
            self._owners.pop(owner, None)  # else `record` would count on, and nothing would drop it
            return
        found = self._owners.get(owner) or self._hold(owner)
        if found.refresh is None and time.monotonic() - found.read_at > BELIEVED_SECONDS:
            found.refresh = asyncio.create_task(self._refresh(owner, found))
        if found.refresh is not None and found.read_at == NEVER:
            await asyncio.shield(found.refresh)
        used = found.counted + sum([each.since_bytes for each in found.logs.values()]) + found.in_flight
        if used + size_bytes > limit:
            now = utc_now()
            used = self._used(found, now)
            if used + size_bytes > limit:
                raise StoredTooMuch(limit, used, *self._advice(self._frees_at(found, now), now))
        if used > NEARLY_FULL * limit and time.monotonic() - found.warned_at > WARNED_EVERY_SECONDS:
            found.warned_at = time.monotonic()
            log.warning("quota.nearly-full", owner=owner, stored_bytes=used, limit_bytes=limit)

    def in_flight(self, owner: str, size_bytes: int) -> _SubmittedBytes:
        """Count bytes while they are being stored. Nothing may be awaited between `check` and this."""
        return _SubmittedBytes(self._owners.get(owner) or _Owner(), size_bytes)

    def record(self, owner: str, sequence: int, size_bytes: int, of: CountedLog = OF_TASKS) -> None:
        """Count what was stored at a sequence of a log."""
        if (found := self._owners.get(owner)) is None:
            return
        log_of_owner = found.logs[of]
        if sequence > log_of_owner.usage.upto:
            log_of_owner.since.append((sequence, size_bytes))
            log_of_owner.since_bytes += size_bytes

    async def of(self, owner: str) -> StoredBytes:
        """Return what an owner (by token) has stored. Raises StoreError."""
        found = self._owners.get(owner) or _Owner()
        await self._read(owner, found)
        now = utc_now()
        return StoredBytes(
            self._fleet.allowance(owner).stored,
            self._used(found, now),
            self._frees_at(found, now),
        )

    @property
    def nearly_full(self) -> int:
        """Return how many of the owners that submitted here have used most of their quota."""
        now = utc_now()
        limits = ((self._fleet.allowance(owner).stored, found) for owner, found in self._owners.items())
        return sum(limit is not None and self._used(found, now) > NEARLY_FULL * limit for limit, found in limits)

    def _hold(self, owner: str) -> _Owner:
        if len(self._owners) >= OWNERS_HELD:
            self._owners.clear()
        found = self._owners[owner] = _Owner()
        return found

    async def _refresh(self, owner: str, found: _Owner) -> None:
        try:
            await self._read(owner, found)
        except StoreError as error:
            log.debug("quota.not-read", owner=owner, reason=str(error))
        finally:
            found.read_at = time.monotonic()
            found.refresh = None

    async def _read(self, owner: str, found: _Owner) -> None:
        entries = await self._bucket.get_many([of.key(owner) for of in found.logs])
        for of, log_of_owner in found.logs.items():
            entry = entries.get(of.key(owner))
            log_of_owner.usage = decode(entry.value) if entry else Usage()
            log_of_owner.drop_counted()
        found.counted = self._counted(found, utc_now())

    def _counted(self, found: _Owner, now: datetime) -> int:
        return sum(
            each.usage.stored_bytes(now, self._retention if of.has_retention else FOREVER)
            for of, each in found.logs.items()
        )

    def _used(self, found: _Owner, now: datetime) -> int:
        return self._counted(found, now) + sum(each.since_bytes for each in found.logs.values()) + found.in_flight

    def _frees_at(self, found: _Owner, now: datetime) -> datetime | None:
        return found.logs[OF_TASKS].usage.frees_at(now, self._retention)

    def _advice(self, frees_at: datetime | None, now: datetime) -> tuple[int, str]:
        """Return the seconds after which a retry may succeed, and what frees bytes."""
        if frees_at is None:
            return int(NOT_BY_ITSELF.total_seconds()), (
                "Nothing is freed by itself, as tasks have no retention: ask an administrator to raise your limit "
                "`stored`, or to set TASKSTREAM_TASK_RETENTION."
                if not self._retention
                else "Events of schedules and webhooks are kept: delete files, or ask an administrator to raise your "
                "limit `stored`."
            )
        wait = min(max(frees_at - now, timedelta(seconds=1)), LONGEST_RETRY_AFTER)
        return int(wait.total_seconds()), (
            f"The oldest are freed on {frees_at:%Y-%m-%d %H:%M} UTC; an administrator can raise your limit `stored`."
        )


def size_of(submitted: TaskSubmitted) -> int:
    """Return about how many bytes a submission takes, with the events of a first attempt."""
    return len(submitted.payload) + 4 * MESSAGE_BYTES
