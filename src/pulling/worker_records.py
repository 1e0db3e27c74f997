"""What all processes must know of a worker whose protocol does not say it: the attempts it has, and whether it lives.

A worker asks for attempts at one process, waits for those to stop at another, and pings a third. Records are hints:
the log alone decides what an attempt is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..clock import utc_now
from ..errors import Conflict
from ..events.ids import token
from ..events.subjects import server_token
from ..streams.buckets import Bucket

PREFIX = "worker."
"""Of the keys of records, in the bucket of heartbeats."""
KEPT = "3600s"
"""How long a record stays after its last change."""
RENEWED_AFTER = timedelta(minutes=10)
"""How old a record must be that is written again only so that it stays."""
MOST_JOBS = 200
"""Attempts of one worker; of more, the oldest are forgotten."""
TRIES = 8


class WorkerRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker."""

    seen_at: datetime
    """UTC. When this was written. Versions before this record read every value of the bucket as a heartbeat."""
    jobs: tuple[str, ...] = ()
    """Ids of the attempts that it took and has not ended, oldest first."""
    stopping: tuple[str, ...] = ()
    """Ids of the attempts that it was told to stop, until a ping without them shows that it has."""
    watch: str = ""
    """Id of its open request for attempts to stop; empty: none was seen."""
    hung_up_at: datetime | None = None
    """UTC. When it hung up that request. None: it has not, or it has come back."""

    def is_dead(self, now: datetime, grace: timedelta) -> bool:
        """Return True if it hung up, and has not come back in time. Its pings may go on: another process sends them."""
        return self.hung_up_at is not None and now - self.hung_up_at > grace


class WorkerRecords:
    """The records of all workers. Raises StoreError without NATS."""

    def __init__(self, bucket: Bucket, now: Callable[[], datetime] = utc_now) -> None:
        self._bucket = bucket
        self._now = now

    async def get(self, server_id: str, worker: str) -> WorkerRecord:
        """Return the record of a worker, an empty one if there is none."""
        record, _ = await self._read(_key(server_id, worker))
        return record or WorkerRecord(seen_at=self._now())

    async def took(self, server_id: str, worker: str, jobs: Iterable[str]) -> None:
        """Record that a worker has taken attempts."""
        taken = tuple(jobs)
        await self._change(server_id, worker, lambda record: replace(record, jobs=(*record.jobs, *taken)[-MOST_JOBS:]))

    async def ended(self, server_id: str, worker: str, jobs: Collection[str]) -> None:
        """Record that a worker has ended attempts."""

        def without(record: WorkerRecord) -> WorkerRecord:
            left, stopping = _others(record.jobs, jobs), _others(record.stopping, jobs)
            return replace(record, jobs=left, stopping=stopping)

        await self._change(server_id, worker, without)

    async def told_to_stop(self, server_id: str, worker: str, jobs: Collection[str]) -> None:
        """Record that a worker is told to stop attempts."""

        def told(record: WorkerRecord) -> WorkerRecord:
            stopping = (*record.stopping, *(job for job in record.jobs if job in jobs))
            return replace(record, jobs=_others(record.jobs, jobs), stopping=stopping[-MOST_JOBS:])

        await self._change(server_id, worker, told)

    async def began_to_watch(self, server_id: str, worker: str, watch: str) -> None:
        """Record that a worker waits for attempts to stop. `watch`: id of the request."""
        await self._change(server_id, worker, lambda record: replace(record, watch=watch, hung_up_at=None))

    async def hung_up(self, server_id: str, worker: str, watch: str) -> None:
        """Record that a worker hung up a request, unless it has opened another one since."""
        now = self._now()
        await self._change(
            server_id,
            worker,
            lambda record: replace(record, hung_up_at=now) if record.watch == watch else record,
        )

    async def keep(self, server_id: str, worker: str) -> WorkerRecord:
        """Return the record of a worker that has pinged, and see to it that it stays."""
        record = await self.get(server_id, worker)
        if record.jobs and self._now() - record.seen_at > RENEWED_AFTER:
            await self._change(server_id, worker, lambda known: known)
        return record

    async def _change(self, server_id: str, worker: str, change: Callable[[WorkerRecord], WorkerRecord]) -> None:
        key = _key(server_id, worker)
        for left in reversed(range(TRIES)):
            record, revision = await self._read(key)
            before = record or WorkerRecord(seen_at=self._now())
            after = change(before)
            if after is before and record is not None and self._now() - before.seen_at <= RENEWED_AFTER:
                return
            value = msgspec.json.encode(replace(after, seen_at=self._now()))
            try:
                await self._bucket.put(key, value, expected=revision, headers={"Nats-TTL": KEPT})
                return
            except Conflict:
                if not left:
                    raise

    async def _read(self, key: str) -> tuple[WorkerRecord | None, int]:
        """Return a record, and the revision that a write must expect."""
        entry = await self._bucket.get(key)
        if entry is None:
            return None, 0
        return msgspec.json.decode(entry.value, type=WorkerRecord), entry.revision


def _others(jobs: tuple[str, ...], removed: Collection[str]) -> tuple[str, ...]:
    return tuple(job for job in jobs if job not in removed)


def _key(server_id: str, worker: str) -> str:
    return f"{PREFIX}{server_token(server_id)}.{token(worker)}"
