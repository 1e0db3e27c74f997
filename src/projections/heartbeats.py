"""Heartbeats: when each server was last seen, and the load it reported. No history is kept."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..clock import utc_now
from ..errors import StoreError
from ..events.subjects import server_token
from ..streams.buckets import Bucket


class Heartbeat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    seen_at: datetime
    """UTC. The last sign of life."""
    checked_at: datetime | None = None
    """UTC. The health check that was the last sign of life; None: it was not a health check."""
    heard_at: datetime | None = None
    """UTC. The last sign of life before that health check: a heartbeat, or an answered task."""
    latency_ms: float | None = None
    """Latency of the last successful health check."""
    status: str | None = None
    """The status that the server reported."""
    active_tasks: int | None = None
    metrics: dict[str, Any] | None = None

    @property
    def unasked_at(self) -> datetime | None:
        """UTC. The last sign of life other than a health check."""
        return self.heard_at if self.checked_at else self.seen_at


class BusyServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The assumptions about a busy server, by the worker that dispatches to it."""

    seen_at: datetime
    """UTC. When this was written. Versions before this record read every value of the bucket as a Heartbeat."""
    since: datetime | None = None
    """UTC. The first busy answer since it last took a task; None: it takes tasks, as many as `limit`."""
    next_try_at: datetime | None = None
    """UTC. When it gets the next task, at the earliest."""
    limit: int | None = None
    """How many tasks it is sent at a time; None: as many as registered."""


class RemovedCheck(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last health check of a removed server."""

    seen_at: datetime
    """UTC. When it was checked. Versions before this record read every value of the bucket as a Heartbeat."""
    reason: str
    """Why it was not restored."""
    next_at: datetime
    """UTC. When it is checked next."""


BUSY = "busy."
"""Prefix of the keys of busy servers."""
REMOVED = "removed."
"""Prefix of the keys of removed servers."""


MOST_NOTED = 1_000
"""Servers whose last note is remembered; with more, those that may be noted again are forgotten."""


class Heartbeats:
    """The heartbeats bucket."""

    def __init__(self, bucket: Bucket, ttl_seconds: float) -> None:
        self._bucket = bucket
        self._seldom = ttl_seconds / 4
        self._noted: dict[str, float] = {}

    async def put(self, server_id: str, heartbeat: Heartbeat) -> None:
        await self._bucket.put(server_token(server_id), msgspec.json.encode(heartbeat))

    async def get(self, server_id: str) -> Heartbeat | None:
        entry = await self._bucket.get(server_token(server_id))
        return msgspec.json.decode(entry.value, type=Heartbeat) if entry else None

    async def all(self) -> dict[str, Heartbeat]:
        """Return the last heartbeat of each server, by server token; without servers that have none."""
        return {entry.key: msgspec.json.decode(entry.value, type=Heartbeat) for entry in await self._bucket.scan("*")}

    async def note(self, server_id: str) -> None:
        """Count an answered task as a sign of life. Writes at most once per quarter of the TTL."""
        now = time.monotonic()
        if now - self._noted.get(server_id, -self._seldom) < self._seldom:
            return
        if len(self._noted) >= MOST_NOTED:
            self._noted = {server: at for server, at in self._noted.items() if now - at < self._seldom}
        self._noted[server_id] = now
        with contextlib.suppress(StoreError):
            known = await self.get(server_id) or Heartbeat(seen_at=utc_now())
            await self.put(server_id, replace(known, seen_at=utc_now(), checked_at=None))

    async def put_busy(self, server_id: str, busy: BusyServer | None) -> None:
        """Record the assumptions about a busy server; None: there are none."""
        key = BUSY + server_token(server_id)
        if busy is None:
            await self._bucket.delete(key)
        else:
            await self._bucket.put(key, msgspec.json.encode(busy))

    async def busy(self, server_id: str) -> BusyServer | None:
        entry = await self._bucket.get(BUSY + server_token(server_id))
        return msgspec.json.decode(entry.value, type=BusyServer) if entry else None

    async def all_busy(self) -> dict[str, BusyServer]:
        """Return the assumptions about busy servers, by server token."""
        entries = await self._bucket.scan(BUSY + "*")
        return {entry.key.removeprefix(BUSY): msgspec.json.decode(entry.value, type=BusyServer) for entry in entries}

    async def put_removed(self, server_id: str, check: RemovedCheck | None) -> None:
        """Record the last check of a removed server; None: it is checked no more."""
        key = REMOVED + server_token(server_id)
        if check is None:
            await self._bucket.delete(key)
        else:
            await self._bucket.put(key, msgspec.json.encode(check))

    async def all_removed(self) -> dict[str, RemovedCheck]:
        """Return the last checks of removed servers, by server token."""
        entries = await self._bucket.scan(REMOVED + "*")
        return {
            entry.key.removeprefix(REMOVED): msgspec.json.decode(entry.value, type=RemovedCheck) for entry in entries
        }

    async def forget(self, server_id: str) -> None:
        await self._bucket.delete(server_token(server_id))
        await self.put_busy(server_id, None)
        await self.put_removed(server_id, None)
