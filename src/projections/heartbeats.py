"""When each server was last seen, and what it said of its load: short-lived facts, no history."""

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
    """UTC. The health check that was the last sign of life; None if that was another."""
    heard_at: datetime | None = None
    """UTC. The last sign of life before that health check: a heartbeat sent, or a task dealt with."""
    latency_ms: float | None = None
    """Of the last good health check."""
    status: str | None = None
    """What the server said of itself."""
    active_tasks: int | None = None
    metrics: dict[str, Any] | None = None

    @property
    def unasked_at(self) -> datetime | None:
        """The last sign of life that no health check asked for."""
        return self.heard_at if self.checked_at else self.seen_at


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
        """Return the last heartbeat of every server that has one, by server token."""
        return {entry.key: msgspec.json.decode(entry.value, type=Heartbeat) for entry in await self._bucket.scan()}

    async def note(self, server_id: str) -> None:
        """Count a task dealt with as a sign of life; writes now and then, however often it is called."""
        now = time.monotonic()
        if now - self._noted.get(server_id, -self._seldom) < self._seldom:
            return
        self._noted[server_id] = now
        with contextlib.suppress(StoreError):
            known = await self.get(server_id) or Heartbeat(seen_at=utc_now())
            await self.put(server_id, replace(known, seen_at=utc_now(), checked_at=None))

    async def forget(self, server_id: str) -> None:
        await self._bucket.delete(server_token(server_id))
