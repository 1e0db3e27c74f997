"""Leases: each allows one process at a time to do a job.

A process renews its *presence*, a key of its own. A lease is a key that names its holder, and is valid as long as the
holder's presence keeps changing. So renewal costs one write per process, however many leases it holds. Clocks are never
compared between machines. A presence is stale when the *observer* has seen it unchanged for the whole time-to-live, and
a holder that cannot renew stops before that.

Guarantee: at most one active holder, as long as clocks run at about the same rate. The log needs more, so sequences
guard it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from ..clock import utc_now
from ..errors import Conflict, StoreError
from ..runtime.service import Service
from .buckets import Bucket, BucketEntry

log = structlog.get_logger(__name__)

RENEWALS_PER_TTL = 4
BLIND_FRACTION = 0.5
"""Part of the time-to-live after which a process that could not observe the others declares none of them dead."""
SAFETY_FRACTION = 0.75
"""Part of the time-to-live after which a holder that could not renew stops."""
REREAD_SECONDS = 30.0
"""Interval of a full read of all leases instead of recent writes; shorter than the life of a deletion marker."""


class Presence(Struct, frozen=True, kw_only=True):
    """The presence of a process."""

    host: str
    """Id of the space of its process id: the name of its machine, `/`, and more."""
    pid: int
    beat: int
    version: str = ""
    """Of the service; empty: of a version that did not say so."""
    started_at: datetime | None = None
    """UTC, by its own clock."""

    @property
    def host_name(self) -> str:
        """Return the name of its machine; empty if unknown."""
        return self.host.partition("/")[0]


class Membership(Service):
    """This process among the others: its presence, and which others are alive."""

    def __init__(self, bucket: Bucket, role: str, ttl_seconds: float) -> None:
        super().__init__("membership", period_seconds=ttl_seconds / RENEWALS_PER_TTL)
        self.id = f"{role}-{secrets.token_hex(4)}"
        self._bucket = bucket
        self._ttl = ttl_seconds
        self._version = version("taskstream")
        self._started_at = utc_now()
        self._beat = 0
        self._renewed_at = -1e9
        self.lapses = 0
        """How often the presence was renewed too late: another process may hold the leases since."""
        self._seen: dict[str, tuple[int, float, Presence]] = {}
        """By process: revision, when it was first seen, its presence."""
        self._observed_at = -1e9
        self._observed_once = asyncio.Event()
        self._lapse_listeners: list[Callable[[], None]] = []

    @property
    def bucket(self) -> Bucket:
        return self._bucket

    @property
    def is_current(self) -> bool:
        """True if the presence is valid; if False, this process must not use its leases."""
        return time.monotonic() - self._renewed_at < self._ttl * SAFETY_FRACTION

    def on_lapse_over(self, react: Callable[[], None]) -> None:
        """Call `react` each time the presence is valid again: leases may be confirmed now."""
        self._lapse_listeners.append(react)

    @property
    def period_seconds(self) -> float:
        """How often the presence is renewed and the others are observed."""
        return self._period_seconds

    async def begin(self) -> None:
        """Announce this process. Raises StoreUnavailable."""
        await self.renew()

    async def run_once(self) -> Mapping[str, int]:
        """Renew the presence and observe the others; return how many processes were seen."""
        await self.renew()
        await self.observe()
        return {"seen": len(self._seen)}

    async def renew(self) -> None:
        """Write the presence, unless this process has left."""
        if self._stopping.is_set():
            return
        started = time.monotonic()
        self._beat += 1
        presence = Presence(
            host=_pid_space(), pid=os.getpid(), beat=self._beat, version=self._version, started_at=self._started_at
        )
        await self._bucket.put(f"process.{self.id}", msgspec.json.encode(presence))
        if not self._stopping.is_set():
            has_lapsed = not self.is_current
            self.lapses += has_lapsed
            self._renewed_at = started
            if has_lapsed:
                for react in self._lapse_listeners:
                    react()

    async def observe(self) -> None:
        """Read all presences. After a pause in observing, the time-to-live of every process restarts."""
        now = time.monotonic()
        entries = {entry.key.removeprefix("process."): entry for entry in await self._bucket.scan("process.*")}
        for process, entry in entries.items():
            known = self._seen.get(process)
            if known is None or known[0] != entry.revision or self._is_blind:
                self._seen[process] = (entry.revision, now, msgspec.json.decode(entry.value, type=Presence))
        for gone in self._seen.keys() - entries.keys():
            del self._seen[gone]
        self._observed_at = now
        self._observed_once.set()

    @property
    def _is_blind(self) -> bool:
        return time.monotonic() - self._observed_at > self._ttl * BLIND_FRACTION

    def is_alive(self, process: str) -> bool:
        """Return True if a process keeps renewing; False for one without a presence."""
        if process == self.id:
            return self.is_current
        known = self._seen.get(process)
        if known is None:
            return False
        _, since, presence = known
        return (self._is_blind or time.monotonic() - since < self._ttl) and not _is_dead_here(presence)

    async def is_alive_now(self, process: str) -> bool:
        """Return `is_alive`, but first look for a process not seen yet: it may have started since."""
        if process not in self._seen and process != self.id:
            entry = await self._bucket.get(f"process.{process}")
            if entry is not None:
                presence = msgspec.json.decode(entry.value, type=Presence)
                self._seen[process] = (entry.revision, time.monotonic(), presence)
        return self.is_alive(process)

    def alive(self, role: str) -> list[str]:
        """Return the processes of a role that are alive, this one included, in order of name."""
        return sorted(
            process for process in {*self._seen, self.id} if process.startswith(f"{role}-") and self.is_alive(process)
        )

    def present(self, role: str) -> list[str]:
        """Return the processes of a role that have a presence: those that are alive, and those that may be."""
        return sorted(
            process
            for process in {*self._seen, self.id}
            if process.startswith(f"{role}-") and (process == self.id or not _is_dead_here(self._seen[process][2]))
        )

    def dead(self) -> list[str]:
        """Return the processes that stopped without leaving."""
        return sorted(process for process in self._seen if not self.is_alive(process))

    async def bury(self, process: str) -> None:
        """Remove a dead process, once everything it held has been taken over."""
        await self._bucket.delete(f"process.{process}", expected=self._seen[process][0])

    async def leave(self) -> None:
        """Remove the presence; this process holds no lease from now on. Without NATS the presence expires."""
        self._begin_stop()
        self._renewed_at = -1e9
        with contextlib.suppress(StoreError):
            await self._bucket.delete(f"process.{self.id}")

    async def observed(self) -> None:
        """Wait until the others have been observed once."""
        await self._observed_once.wait()


class Lease:
    """The right to do one job, held by one process at a time."""

    def __init__(self, membership: Membership, name: str) -> None:
        self.name = name
        self._members = membership
        self._revision: int | None = None
        self._lapses = 0
        """The lapses of the membership when the lease was last seen to be ours."""

    @property
    def period_seconds(self) -> float:
        """How often its holder confirms it."""
        return self._members.period_seconds

    @property
    def held(self) -> bool:
        """True if the lease is ours for certain: after a lapse only once `acquire` has checked again."""
        return self._revision is not None and self._members.is_current and self._lapses == self._members.lapses

    async def acquire(self) -> bool:
        """Take the lease if it is free or its holder is dead; return True if it is held now. Raises StoreError."""
        if not self._members.is_current:
            return False
        entry = await self._members.bucket.get_with_revision(f"lease.{self.name}")
        return await self.acquire_from(entry)

    async def acquire_from(self, entry: BucketEntry | None) -> bool:
        """Acquire the lease as `acquire` does, with its key just read."""
        holder = entry.value.decode() if entry else ""
        self._lapses = self._members.lapses
        if holder == self._members.id:
            self._revision = entry.revision if entry else None
            return self.held
        self._revision = None
        if holder and await self._members.is_alive_now(holder):
            return False
        try:
            self._revision = await self._members.bucket.put(
                f"lease.{self.name}", self._members.id.encode(), expected=entry.revision if entry else 0
            )
        except Conflict:
            return False
        log.info("lease.taken", lease=self.name, by=self._members.id, after=holder or None)
        return self.held

    async def take_over(self) -> None:
        """Take the lease from its holder, who notices at its next check. Raises StoreError."""
        while True:
            self._lapses = self._members.lapses
            entry = await self._members.bucket.get_with_revision(f"lease.{self.name}")
            try:
                self._revision = await self._members.bucket.put(
                    f"lease.{self.name}", self._members.id.encode(), expected=entry.revision if entry else 0
                )
            except Conflict:
                continue
            return

    async def release(self) -> None:
        """Release the lease. Does nothing if it is not held, or without NATS: then it expires."""
        revision, self._revision = self._revision, None
        if revision is None:
            return
        with contextlib.suppress(StoreError):
            await self._members.bucket.delete(f"lease.{self.name}", expected=revision)


class Leases:
    """All leases of one kind, as last read: `<kind>.<name>` for any name."""

    def __init__(self, bucket: Bucket, kind: str) -> None:
        self._bucket = bucket
        self._prefix = f"lease.{kind}."
        self._entries: dict[str, BucketEntry] = {}
        self._revision = 0
        self._reread_at = -1e9

    async def read(self) -> dict[str, BucketEntry]:
        """Return the entry of every lease that is held, or was until a moment ago (an empty value), by name.

        Costs as much as has changed since the last time. Raises StoreError.
        """
        now = time.monotonic()
        if now >= self._reread_at:
            entries: dict[str, BucketEntry] = {}
            revision = 0
        else:
            entries, revision = self._entries, self._revision
        for entry in await self._bucket.scan_writes(f"{self._prefix}*", revision + 1):
            entries[entry.key.removeprefix(self._prefix)] = entry
            revision = entry.revision
        if now >= self._reread_at:
            self._reread_at = now + REREAD_SECONDS
        self._entries, self._revision = entries, revision
        return entries


def _pid_space() -> str:
    """Return an id of the space of this machine's process ids; empty if unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return ""


def _is_dead_here(presence: Presence) -> bool:
    """Return True if a process of this machine is gone, so its time-to-live need not pass."""
    if not presence.host or presence.host != _pid_space():
        return False
    return not Path(f"/proc/{presence.pid}").exists()
