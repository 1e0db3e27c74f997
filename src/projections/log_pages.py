"""Pages of all logs together, newest or oldest first, from any place, in bounded work.

Entries of one log are in the order of its sequences. Between logs the time of an entry decides. A place in all logs is
a sequence of each, so pages that follow each other have no gaps and no doubles, whatever the clocks say. A log that a
place does not name is entered at the place's time.

A page ends when it is full, when nothing is left, or when `Work` is used up: then it may be short, even empty, and
says where to go on. What the filter names exactly (one task, one owner with few events) is read by subject; all else is
searched message by message, as NATS counts what is left on a filter with each read.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from msgspec import Struct

from ..errors import StoreUnavailable, UnreadableEvent
from ..events.subjects import history_filter
from ..instants import LAST_MILLISECOND, epoch_seconds, from_milliseconds, milliseconds
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import (
    READ_BYTES,
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    Position,
    last_sequence,
    position_at,
    read_some,
    stream_info,
)
from ..streams.jetstream.newest import NewestMessages, read_newest
from .log_entries import LOGS, EntryFilter, EventEntry, LogName, LogSource, instant_of

log = structlog.get_logger(__name__)

MOST_SEARCHED = 5_000
"""Messages that one page may search."""
MOST_BYTES = 16 * 1024 * 1024
"""Likewise, in bytes; more by the last answer of NATS."""
STEP = 500
"""Messages of one read."""
STEP_BY_SUBJECT = 128
SLACK = timedelta(seconds=10)
"""How far the time of an event and the time at which it was stored may be apart."""
_PLACE = re.compile(r"([0-9]{1,15})((?:\.(?:[0-9]{1,19}|-)){1,16})", re.ASCII)


class LogPlace(Struct, frozen=True, kw_only=True):
    """A place between entries of all logs."""

    at: datetime
    """UTC. Where it is in logs that `sequences` does not name."""
    sequences: Mapping[LogName, int]
    """By log: the entries up to this sequence are before the place, the others after it."""

    def __str__(self) -> str:
        parts = (str(self.sequences.get(source.name, "-")) for source in LOGS)
        return ".".join([str(milliseconds(self.at)), *parts])


def parse_place(text: str) -> LogPlace | None:
    """Return the place that was written; None for another text."""
    found = _PLACE.fullmatch(text)
    if found is None or int(found[1]) > LAST_MILLISECOND:
        return None
    parts = found[2].removeprefix(".").split(".")
    sequences = {source.name: int(part) for source, part in zip(LOGS, parts, strict=False) if part != "-"}
    return LogPlace(at=from_milliseconds(int(found[1])), sequences=sequences)


class Work(Struct):
    """What a page may still search."""

    messages: int = MOST_SEARCHED
    size_bytes: int = MOST_BYTES
    searched: int = 0

    @property
    def is_left(self) -> bool:
        return self.messages > 0 and self.size_bytes > 0

    def take(self, positions: list[Position]) -> None:
        self.searched += len(positions)
        self.messages -= max(1, len(positions))
        self.size_bytes -= sum(len(position.data) for position in positions)


class LogPage(NamedTuple):
    entries: list[EventEntry]
    before: LogPlace | None
    """Where older entries begin; None: there are none."""
    after: LogPlace
    """Where newer entries begin, now or later."""
    has_more: bool
    """True: more may follow in the direction of the page."""
    searched: int
    expired: dict[LogName, int]
    """Of logs whose beginning is reached and past the retention: the first sequence that is kept."""


class _Reads:
    """Direct gets that leave nothing out: a replica may lag behind, and is asked again."""

    def __init__(self, connection: Connection, *, replicated: bool) -> None:
        self._connection = connection
        self._tries = STALE_REPLICA_TRIES if replicated else 1

    async def all(self, stream: str, first: int, last: int) -> list[Position]:
        """Return the messages from a sequence to another, without those that exceed an answer of NATS."""
        for _ in range(self._tries):
            positions = await read_some(self._connection, stream, ">", first, last - first + 1)
            is_whole = bool(positions) and positions[-1].sequence >= last
            if is_whole or self._tries == 1 or sum(len(each.data) for each in positions) >= READ_BYTES:
                return positions
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {stream} has caught up: try again")

    async def oldest(self, stream: str, subjects: str, first: int, limit: int) -> list[Position]:
        """Return messages on a filter from a sequence on."""
        for _ in range(self._tries):
            positions = await read_some(self._connection, stream, subjects, first, limit)
            if positions or self._tries == 1 or await last_sequence(self._connection, stream, subjects) < first:
                return positions
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {stream} has caught up: try again")

    async def newest(self, stream: str, subjects: str, before: int, limit: int) -> NewestMessages:
        """Return messages on a filter before a sequence, newest first."""
        last = await last_sequence(self._connection, stream, subjects) if self._tries > 1 else 0
        for _ in range(self._tries):
            newest = await read_newest(self._connection, stream, subjects, before, limit, MOST_BYTES // 4)
            if last >= before or (newest.positions[0].sequence if newest.positions else 0) >= last:
                return newest
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {stream} has caught up: try again")


class _Walk:
    """The entries of one log from a place on, in one direction."""

    def __init__(
        self, reads: _Reads, source: LogSource, wanted: EntryFilter, bounds: tuple[int, int], root: str | None
    ) -> None:
        """`bounds`: what is searched, after the first sequence and up to the second."""
        self._reads = reads
        self.source = source
        self._wanted = wanted
        self.low, self.high = bounds
        """What is left to search: after `low` and up to `high`."""
        self._root = root
        self._found: deque[EventEntry] = deque()
        self.is_searched = False
        self._last: Position | None = None
        """The last message that was searched and is an event."""

    @property
    def head(self) -> EventEntry | None:
        return self._found[0] if self._found else None

    @property
    def is_over(self) -> bool:
        return not self._found and self.low >= self.high

    def pop(self) -> EventEntry:
        return self._found.popleft()

    async def search(self, work: Work) -> None:
        """Search the next messages. Raises StoreError."""
        self.is_searched = True
        for position in await self._step(work):
            try:
                entry = self._wanted.select(self.source, position)
            except UnreadableEvent as error:
                log.warning("log-page.unreadable", log=self.source.name, reason=str(error))
                continue
            if entry is not None:
                self._found.append(entry)
            if self.source.has(position.subject):
                self._last = position

    @property
    def bound(self) -> datetime | None:
        """Return the time of the last message that was searched: what is left is beyond it. None: not known."""
        return instant_of(self._last) if self._last is not None else None

    async def _step(self, work: Work) -> list[Position]:
        """Return the next messages in the direction, and move on."""
        raise NotImplementedError

    def place(self) -> int:
        """Return the sequence that separates what was returned from what is left, in the direction."""
        raise NotImplementedError


class _Back(_Walk):
    """Newest first."""

    _stride = 0
    """Messages of the next read; 0: STEP."""

    async def _step(self, work: Work) -> list[Position]:
        self._stride = self._stride or STEP
        found = await (self._newest(work) if self._root is None else self._newest_by_subject(work, self._root))
        return found[::-1]

    async def _newest_by_subject(self, work: Work, root: str) -> list[Position]:
        subjects = history_filter(root)
        newest = await self._reads.newest(self.source.stream, subjects, self.high + 1, STEP_BY_SUBJECT)
        work.take(newest.positions)
        found = [position for position in newest.positions if position.sequence > self.low]
        is_over = not newest.has_more or len(found) < len(newest.positions) or not found
        self.high = self.low if is_over else found[-1].sequence - 1
        return found[::-1]

    async def _newest(self, work: Work) -> list[Position]:
        """Return the messages of a stride up to `high`. NATS reads forward, and ends an answer that gets too large.

        Then the stride is too long, and a shorter one is read.
        """
        while True:
            start = max(self.low, self.high - self._stride)
            positions = await self._reads.all(self.source.stream, start + 1, self.high)
            work.take(positions)
            if not positions or positions[-1].sequence >= self.high or self._stride == 1:
                break
            self._stride = max(1, len(positions) // 2)
        found = [position for position in positions if position.sequence <= self.high]
        self.high = start
        self._stride = min(2 * self._stride, STEP)
        return found

    def place(self) -> int:
        return self._found[0].sequence if self._found else self.high


class _Forth(_Walk):
    """Oldest first."""

    async def _step(self, work: Work) -> list[Position]:
        stream, first = self.source.stream, self.low + 1
        if self._root is None:
            positions = await self._reads.all(stream, first, min(self.high, self.low + STEP))
        else:
            positions = await self._reads.oldest(stream, history_filter(self._root), first, STEP_BY_SUBJECT)
        work.take(positions)
        found = [position for position in positions if position.sequence <= self.high]
        is_over = not found or len(found) < len(positions)
        self.low = self.high if is_over else found[-1].sequence
        return found

    def place(self) -> int:
        return self._found[0].sequence - 1 if self._found else self.low


class _Extent(NamedTuple):
    first: int
    last: int


class LogReader:
    """Reads pages of all logs."""

    def __init__(self, connection: Connection, *, replicated: bool) -> None:
        self._connection = connection
        self._reads = _Reads(connection, replicated=replicated)

    async def page(
        self,
        wanted: EntryFilter,
        limit: int,
        now: datetime,
        *,
        before: LogPlace | None = None,
        after: LogPlace | None = None,
        by_subject: bool = True,
    ) -> LogPage:
        """Return up to `limit` entries: after a place, oldest first; else before a place, or the end, newest first.

        `by_subject`: what an owner has in the log of tasks is so little that it is read by subject. Raises StoreError.
        """
        extents: dict[LogName, _Extent] = {}
        starts: dict[LogName, int] = {}
        walks: list[_Walk] = []
        given = after or before
        for source in wanted.sources:
            extent = extents[source.name] = await self._extent(source)
            start = extent.last if given is None else min(await self._sequence(source, given, extent), extent.last)
            starts[source.name] = start
            root = wanted.root(source)
            if source.name == "tasks" and not by_subject and not wanted.name:
                root = None
            low, high = await self._range(source, wanted, extent)
            if after is not None:
                walks.append(_Forth(self._reads, source, wanted, (max(low, start), high), root))
            else:
                walks.append(_Back(self._reads, source, wanted, (low, min(high, start)), root))
        work = Work()
        entries = await _merged(walks, limit, work, forth=after is not None)
        has_more = any(not walk.is_over for walk in walks)
        here = LogPlace(
            at=entries[-1].at if entries else (given.at if given else now),
            sequences={walk.source.name: walk.place() for walk in walks},
        )
        there = LogPlace(at=given.at if given else now, sequences=starts)
        expired: dict[LogName, int] = {}
        if after is None:
            for walk in walks:
                first = extents[walk.source.name].first
                if walk.is_over and walk.low <= first - 1 and first > 1:
                    expired[walk.source.name] = first
            return LogPage(entries, here if has_more else None, there, has_more, work.searched, expired)
        return LogPage(entries, there, here, has_more, work.searched, expired)

    async def place_of(self, name: LogName, sequence: int) -> LogPlace | None:
        """Return the place after an entry of a log; None if there is no such entry. Raises StoreError."""
        if sequence < 1:  # NATS refuses it
            return None
        source = next(source for source in LOGS if source.name == name)
        position = await position_at(self._connection, source.stream, sequence)
        at = instant_of(position) if position is not None else None
        return LogPlace(at=at, sequences={name: sequence}) if at is not None else None

    async def end(self, wanted: EntryFilter, now: datetime) -> LogPlace:
        """Return the present end of the logs that a filter selects. Raises StoreError."""
        return LogPlace(at=now, sequences={source.name: (await self._extent(source)).last for source in wanted.sources})

    async def _extent(self, source: LogSource) -> _Extent:
        state = (await stream_info(self._connection, source.stream))["state"]
        return _Extent(int(state["first_seq"]) or 1, int(state["last_seq"]))

    async def _sequence(self, source: LogSource, place: LogPlace, extent: _Extent) -> int:
        known = place.sequences.get(source.name)
        return known if known is not None else await self._stored_before(source, place.at, extent)

    async def _range(self, source: LogSource, wanted: EntryFilter, extent: _Extent) -> tuple[int, int]:
        """Return the sequences after and up to which the entries in the filter's time are."""
        low, high = extent.first - 1, extent.last
        if wanted.since is not None:
            low = max(low, await self._stored_before(source, wanted.since - SLACK, extent))
        if wanted.before is not None:
            high = min(high, await self._stored_before(source, wanted.before + SLACK, extent))
        return low, high

    async def _stored_before(self, source: LogSource, instant: datetime, extent: _Extent) -> int:
        """Return the sequence of the last message that was stored before an instant."""
        found = await read_some(self._connection, source.stream, ">", 1, 1, start_time=instant)
        return found[0].sequence - 1 if found else extent.last


async def _merged(walks: list[_Walk], limit: int, work: Work, *, forth: bool) -> list[EventEntry]:
    """Return the next entries of all logs in the order of their times.

    An entry is returned once no other log can have one before it. Until then the log that keeps it waiting is searched,
    so all logs are searched in the order of time. Each is searched at least once: so a page moves on, or is the last.
    """
    sign = 1 if forth else -1
    entries: list[EventEntry] = []
    while len(entries) < limit:
        heads = [(sign * epoch_seconds(walk.head.at), place, walk) for place, walk in enumerate(walks) if walk.head]
        open_ends = [walk for walk in walks if walk.head is None and not walk.is_over]
        blocking = min(open_ends, key=lambda walk: _bound(walk, sign), default=None)
        first = min(heads, default=None)
        if first is not None and (blocking is None or first[0] <= _bound(blocking, sign)):
            entries.append(first[2].pop())
        elif blocking is None or (blocking.is_searched and not work.is_left):
            break
        else:
            await blocking.search(work)
    return entries


def _bound(walk: _Walk, sign: int) -> float:
    """Return the time before which a log has nothing more, in the direction; infinitely early: it is not known."""
    bound = walk.bound if walk.is_searched else None
    return -math.inf if bound is None else sign * epoch_seconds(bound)
