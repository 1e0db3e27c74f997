"""The space of the store: how much is used, what limits it, and whether it takes new work.

NATS must not run out of space: what it refuses then includes the ends of running tasks, and after a write that met a
full disk it stores nothing more until it is restarted, though there is space again. So the last part of the space, the
reserve, is kept for accepted work: its attempts, results, cancellations. New work gets a 503 before.

Each process measures for itself. Between two measurements it counts what it accepts, so the reserve is exceeded by what
the other processes accept in MEASURED_SECONDS at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import structlog
from msgspec import Struct

from ..errors import StoreReserved
from ..runtime import metrics
from ..runtime.service import Service
from .client.connection import Connection
from .jetstream.api import api

log = structlog.get_logger(__name__)

MEASURED_SECONDS = 2.0
STREAMS_SECONDS = 30.0
"""How often limits of single streams are looked for if none is known: only an operator sets them."""
THRESHOLDS = (80, 90, 95)
"""Percent used at which the log warns, from the last on with an error."""
WARNED_PERCENT = 90
"""Percent used from which `/health/ready` warns."""
HYSTERESIS_PERCENT = 2
"""A threshold is armed again once so many percent below it are used."""
MOST_RESERVED = 1024**3
RESERVED_SHARE = 0.05
AGAIN_SHARE = 1.1
"""New work is taken again once the free space is so many times the reserve: one deletion must not open and close it."""
FAILURES = 3
"""Appends in a row without an answer, while NATS answers questions, after which it is taken to have no space."""

LimitedBy: TypeAlias = Literal["disk", "server", "account", "stream", "unknown"]


class SpaceLimit(NamedTuple):
    """One limit of the space, in bytes."""

    kind: LimitedBy
    used: int
    limit: int
    disk: int | None = None
    """Size of the disk, if it is the limit: `limit` shrinks with each other file on it, and the reserve must not."""

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


class Space(Struct, frozen=True, kw_only=True):
    """The space of the store, by the limit that is reached first."""

    used_bytes: int
    limit_bytes: int | None = None
    """None: unknown."""
    free_bytes: int | None = None
    limited_by: LimitedBy = "unknown"
    reserve_bytes: int = 0
    """Kept for accepted work; 0 if the limit is unknown."""

    @property
    def percent(self) -> float | None:
        if self.limit_bytes is None:
            return None
        return round(100 * self.used_bytes / self.limit_bytes, 1) if self.limit_bytes else 100.0


def space_of(limits: Sequence[SpaceLimit], used_bytes: int, reserve_bytes: int | None) -> Space:
    """Return the space by the limit with the least free bytes.

    `reserve_bytes` None: RESERVED_SHARE of that limit or of the whole disk, MOST_RESERVED at most.
    """
    if not limits:
        return Space(used_bytes=used_bytes)
    first = min(limits, key=lambda limit: limit.free)
    whole = first.limit if first.disk is None else first.disk
    reserve = min(int(RESERVED_SHARE * whole), MOST_RESERVED) if reserve_bytes is None else reserve_bytes
    return Space(
        used_bytes=first.used,
        limit_bytes=first.limit,
        free_bytes=first.free,
        limited_by=first.kind,
        reserve_bytes=reserve,
    )


class Threshold:
    """The highest threshold that is exceeded, with hysteresis."""

    def __init__(self) -> None:
        self.reached = 0

    def passes(self, percent: float) -> int | None:
        """Return the threshold that is passed now, None if it was passed before or none is."""
        passed = max((each for each in THRESHOLDS if percent >= each), default=0)
        if passed > self.reached:
            self.reached = passed
            return passed
        kept = (each for each in THRESHOLDS if each <= self.reached and percent > each - HYSTERESIS_PERCENT)
        self.reached = max(kept, default=0)
        return None


class StoreSpace(Service):
    """Measures the space, says so in metrics and the log, and decides whether new work is taken."""

    def __init__(
        self,
        reading: Connection,
        appending: Connection,
        *,
        reserve_bytes: int | None,
        replicas: int,
        server_limit: int | None,
        folder: Path | None,
        streams: Collection[str],
    ) -> None:
        """`server_limit`: `max_file_store` of one server, None: unknown. `folder`: of an embedded NATS."""
        super().__init__("store-space", period_seconds=MEASURED_SECONDS)
        self._reading = reading
        self._appending = appending
        self._reserve_bytes = reserve_bytes
        self._replicas = replicas
        self._server_limit = server_limit
        self._folder = folder
        self._streams = streams
        self.space: Space | None = None
        """As last measured; None: not yet."""
        self._is_closed = False
        """True while the free space is in the reserve, with hysteresis."""
        self.is_scarce = False
        """True while not even waiting tasks are started: half of the reserve is for those that run."""
        self._since_bytes = 0
        """Accepted here since the last measurement."""
        self._threshold = Threshold()
        self._stream_limits: list[SpaceLimit] = []
        self._streams_at = float("-inf")
        self._report: Callable[[int], None] | None = None

    def reports(self, report: Callable[[int], None]) -> None:
        """Have the reserve reported at each measurement, in bytes."""
        self._report = report

    async def run_once(self) -> dict[str, int]:
        """Measure once."""
        await self.measure()
        return {}

    async def measure(self) -> Space:
        """Measure the space now. Raises StoreError if NATS does not answer."""
        counted = self._since_bytes
        limits, used = await self._limits()
        space = self.space = space_of(limits, used, self._reserve_bytes)
        self._since_bytes -= counted
        self._observe(space)
        if self._report is not None:
            self._report(space.reserve_bytes)
        return space

    @property
    def is_refused(self) -> bool:
        """True if NATS refuses to store anything: it has no space, or had none and must be restarted."""
        outcomes = self._appending.appends
        return outcomes.is_full or outcomes.unanswered >= FAILURES

    @property
    def is_accepting(self) -> bool:
        """True if new work is taken."""
        return self.refusal() is None and not self.is_refused

    def check(self, size_bytes: int) -> None:
        """Raise StoreReserved unless new work of so many bytes is taken; count it if it is."""
        if (refusal := self.refusal(size_bytes)) is not None:
            raise StoreReserved(refusal)
        self._since_bytes += size_bytes

    def refusal(self, size_bytes: int = 0) -> str | None:
        """Return why new work of so many bytes is refused, and what to do; None: it is taken."""
        space = self.space
        if space is None or space.free_bytes is None:
            return None  # what is not known is tried: NATS refuses what it cannot store
        if not self._is_closed and space.free_bytes - self._since_bytes - size_bytes >= space.reserve_bytes:
            return None
        return (
            f"the task store is full: the space left ({PLACES[space.limited_by]}) is reserved for tasks that were "
            "accepted before. Nothing was stored; running tasks, reads, cancellations and deletions go on. Retry "
            f"later; an administrator must {REMEDIES[space.limited_by]}"
        )

    def warning(self) -> str | None:
        """Return what an operator should know about the space and do; None: nothing."""
        if self.is_refused:
            remedy = REMEDIES[self.space.limited_by if self.space else "unknown"]
            if self._folder is None:
                remedy += "; then restart NATS if its disk was full: it stores nothing more until then"
            return f"NATS stores nothing: it has no space, or had none ({remedy})"
        if self.space is None or self.space.percent is None:
            return None
        if (refusal := self.refusal()) is not None:
            return refusal
        if self.space.percent >= WARNED_PERCENT:
            return f"the store is {self.space.percent:g} % full: {REMEDIES[self.space.limited_by]}"
        return None

    async def _limits(self) -> tuple[list[SpaceLimit], int]:
        account = await api(self._reading, "INFO")
        used = int(account["storage"])
        limits = []
        if (of_account := _account_limit(account, self._replicas)) is not None:
            limits.append(of_account)
        if self._server_limit:
            limits.append(SpaceLimit("server", used, self._server_limit * self._replicas))
        if self._folder is not None:
            with contextlib.suppress(OSError):
                disk = await asyncio.to_thread(shutil.disk_usage, self._folder)
                limits.append(SpaceLimit("disk", used, used + disk.free, disk.total))
        if self._stream_limits or time.monotonic() > self._streams_at + STREAMS_SECONDS:
            self._stream_limits = await _stream_limits(self._reading, self._streams)
            self._streams_at = time.monotonic()
        return limits + self._stream_limits, used

    def _observe(self, space: Space) -> None:
        metrics.store_used.set(space.used_bytes)
        metrics.store_limit.set(math.nan if space.limit_bytes is None else space.limit_bytes)
        metrics.store_free.set(math.nan if space.free_bytes is None else space.free_bytes)
        if space.free_bytes is None or space.percent is None:
            self._is_closed = self.is_scarce = False
            metrics.store_accepting.set(not self.is_refused)
            return
        shown = {
            "percent": space.percent,
            "used_bytes": space.used_bytes,
            "limit_bytes": space.limit_bytes,
            "free_bytes": space.free_bytes,
            "limited_by": space.limited_by,
        }
        if (passed := self._threshold.passes(space.percent)) is not None:
            level = "error" if passed == THRESHOLDS[-1] else "warning"
            action = REMEDIES[space.limited_by]
            getattr(log, level)("store.fills-up", threshold_percent=passed, action=action, **shown)
        was_closed = self._is_closed
        if space.free_bytes <= space.reserve_bytes:
            self._is_closed = True
        elif space.free_bytes >= AGAIN_SHARE * space.reserve_bytes:
            self._is_closed = False
        self.is_scarce = space.free_bytes < space.reserve_bytes / 2
        metrics.store_accepting.set(not (self._is_closed or self.is_refused))
        if self._is_closed and not was_closed:
            log.error("store.full", reserve_bytes=space.reserve_bytes, action=REMEDIES[space.limited_by], **shown)
        elif was_closed and not self._is_closed:
            log.warning("store.has-space-again", **shown)


PLACES: dict[LimitedBy, str] = {
    "disk": "the disk of the data folder",
    "server": "`max_file_store` of NATS",
    "account": "NATS' account",
    "stream": "a stream with `max_bytes`",
    "unknown": "NATS",
}
REMEDIES: dict[LimitedBy, str] = {
    "disk": "free space on the disk of the data folder, enlarge it, or set TASKSTREAM_TASK_RETENTION",
    "server": "raise TASKSTREAM_MAX_STORAGE (`max_file_store` of an external NATS), or set TASKSTREAM_TASK_RETENTION",
    "account": "raise the storage limit of NATS' account, or set TASKSTREAM_TASK_RETENTION",
    "stream": "raise `max_bytes` of the stream in NATS, or set TASKSTREAM_TASK_RETENTION",
    "unknown": "free space on the disks of NATS, and restart it if it met a full disk",
}


def _account_limit(account: dict[str, Any], replicas: int) -> SpaceLimit | None:
    """Return the limit of an account; of one with a tier for each number of replicas, that of ours."""
    found = (account.get("tiers") or {}).get(f"R{replicas}", account)
    limit = int(found["limits"]["max_storage"])
    return SpaceLimit("account", int(found["storage"]), limit) if limit > 0 else None


async def _stream_limits(connection: Connection, names: Collection[str]) -> list[SpaceLimit]:
    limits: list[SpaceLimit] = []
    seen = 0
    while True:
        answer = await api(connection, "STREAM.LIST", {"offset": seen})
        found = answer.get("streams") or []
        seen += len(found)
        limits += [
            SpaceLimit("stream", int(info["state"]["bytes"]), int(info["config"]["max_bytes"]))
            for info in found
            if info["config"]["name"] in names and int(info["config"].get("max_bytes", -1)) > 0
        ]
        if not found or seen >= int(answer.get("total", 0)):
            return limits
