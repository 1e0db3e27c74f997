"""A feed: every event of a scope, in order, each once, from a position in the log and then as they come.

Authoritative: the log. The listener is registered first, then the log is read up to where the listener begins;
duplicates are skipped by their sequence. After an overflow the feed resumes from the log at its position.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from ..errors import StoreUnavailable
from ..events.kinds import ENDING_WORDS, LIVE_WORDS
from ..events.subjects import submission_filter
from ..events.task import ProgressReported
from ..runtime.shared_reads import SharedReads
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import STALE_REPLICA_PAUSE_SECONDS, STALE_REPLICA_TRIES, last_sequence, read_some
from ..streams.topology.definitions import TASKS
from ..streams.topology.epochs import LogExtent, read_extent
from .hub import Hub
from .listeners import Scope
from .live import Seen
from .subscription_filter import TaskAttributeReader
from .updates import LiveEvent, LoggedEvent, event_at

READ_AT_ONCE = 256
LONGEST_EVENT_ID = 4 * 1024
_EVENT_ID = re.compile(r"(?:([0-9a-z]{1,32})-)?([0-9]{1,18})((?:;[0-9a-z]{1,32}(?::[0-9]{1,18}){3,4})*)", re.ASCII)
"""A position: `<epoch>-<sequence>`, then `;<batch>:<reports>:<lines>:<characters>` for each batch that was seen live,
with `:<parts>` if it had some.
Before logs had epochs it began with the sequence."""


class FeedPosition:
    """The position of a subscriber: a sequence of the log, and the live reports it has received beyond that.

    As text it is an event id: `5f0c9e1b-4711`, or `5f0c9e1b-4711;<batch>:…`.
    """

    def __init__(self, sequence: int, seen: Seen | None = None, extent: LogExtent | None = None) -> None:
        self.sequence = sequence
        self.seen = seen or Seen()
        self._extent = extent
        """The log, which names the epoch of the sequence; None: nobody will resume here."""

    def __str__(self) -> str:
        return f"{self._extent.name(self.sequence) if self._extent else self.sequence}{self.seen}"


class Gap(NamedTuple):
    """The sequences that a subscriber should receive next and that are past the retention, both included."""

    first: int
    last: int


class FeedItem(NamedTuple):
    """One item of a feed."""

    what: LoggedEvent | LiveEvent | None
    """None: the log now has what was pushed live; only the position has moved."""
    place: FeedPosition
    """The position after it; it moves on with the feed."""
    gap: Gap | None = None

    @property
    def is_end(self) -> bool:
        """True if the event ends its task."""
        return isinstance(self.what, LoggedEvent) and self.what.kind in ENDING_WORDS


class Start(NamedTuple):
    """The start of a stream: the log as it is, and what an event id means in it."""

    extent: LogExtent
    resumed: FeedPosition | None
    """The position of the id; None: there was no id, or it is foreign."""
    is_foreign: bool
    """True: the id is not in this log."""

    def at(self, sequence: int) -> FeedPosition:
        return FeedPosition(sequence, extent=self.extent)


def start_of(event_id: str | None, extent: LogExtent) -> Start:
    """Return where a stream starts for an event id. A text that is no event id is a foreign one."""
    if not event_id:
        return Start(extent, None, is_foreign=False)
    found = _EVENT_ID.fullmatch(event_id) if len(event_id) <= LONGEST_EVENT_ID else None
    if found is None or not extent.has(found[1] or "", int(found[2])):
        return Start(extent, None, is_foreign=True)
    return Start(extent, FeedPosition(int(found[2]), Seen(found[3]), extent), is_foreign=False)


class Feeds:
    def __init__(self, hub: Hub, reading: Connection, attributes: TaskAttributeReader) -> None:
        self.hub = hub
        self._reading = reading
        self._attributes = attributes
        self._extents = SharedReads[None, LogExtent](lambda _: read_extent(reading))

    async def start(self, event_id: str | None) -> Start:
        """Return where a stream starts for an event id, or for none. Raises StoreUnavailable."""
        extent = await self._extents.get(None)
        start = start_of(event_id, extent)
        found = _EVENT_ID.fullmatch(event_id or "")
        if start.is_foreign and found and found[1] in (None, extent.epochs[-1].id):
            return start_of(event_id, await read_extent(self._reading, reaches=int(found[2])))
        return start

    async def feed(
        self, scope: Scope, place: FeedPosition, pause_seconds: float, *, in_log: bool = False, live: bool = True
    ) -> AsyncGenerator[FeedItem | None, None]:
        """Yield the events of a scope after a position, until the process stops.

        Progress comes live, before the log has it; the merged event of the log then has only what is new. None: nothing
        came for `pause_seconds`. `in_log`: the log was seen to have the position. `live`: False: only what is in the
        log, so whatever was yielded is there again, whichever process dies. Raises StoreUnavailable if the log cannot
        be read, or does not have the position.
        """
        async with self.hub.listening(scope) as listener:
            while not listener.ended:
                listener.clear()
                pace = _Pace(pause_seconds)
                async for item in self._caught_up(scope, place, in_log=in_log):
                    if isinstance(item, Gap):
                        place.sequence = item.last
                        yield FeedItem(None, place, item)
                    elif scope.has(item.ref) and await self._attributes.wants(scope.choice, item):
                        yield _advance(item, place)
                    else:
                        place.sequence = item.sequence
                        if not pace.is_due:
                            continue
                        yield None
                    pace.begin()
                in_log = True
                while True:
                    update = await listener.next(pause_seconds)
                    match update:
                        case LoggedEvent() if update.sequence > place.sequence:
                            yield _advance(update, place)
                        # Before this position the log may have had the report already, and later events.
                        case LiveEvent() if live and update.position >= place.sequence:
                            if place.seen.takes(update.report):
                                yield FeedItem(update, place)
                        case None if listener.is_lost:
                            raise StoreUnavailable("the log was replaced by another one")
                        case None if listener.overflowed or listener.ended:
                            break
                        case None:
                            place.sequence = max(place.sequence, listener.position())
                            yield None
                        case _:
                            pass

    async def _caught_up(self, scope: Scope, place: FeedPosition, *, in_log: bool) -> AsyncIterator[LoggedEvent | Gap]:
        """Yield the events of a scope after a position that a listener is not offered any more.

        Those that the hub has kept cost no read.
        """
        if in_log or place.sequence <= self.hub.position:
            while (recent := self.hub.recent(scope, place.sequence, READ_AT_ONCE)) is not None:
                for update in recent:
                    yield update
                if len(recent) < READ_AT_ONCE:
                    return
        if gap := await self._gap(scope, place):
            yield gap
        async for update in self._stored(scope, place.sequence):
            yield update

    async def _gap(self, scope: Scope, place: FeedPosition) -> Gap | None:
        """Return the sequences after a position that are past the retention and may have held events of the scope."""
        extent = await self._extents.get(None)
        if extent.last < place.sequence:
            extent = await read_extent(self._reading, reaches=place.sequence)
        if extent.last < place.sequence:
            raise StoreUnavailable(f"{TASKS} ends at {extent.last}, before {place.sequence}")
        if place.sequence >= extent.first - 1:
            return None
        if scope.ref is not None and await last_sequence(self._reading, TASKS, submission_filter(scope.ref)):
            return None  # the oldest event of the task is there
        return Gap(place.sequence + 1, extent.first - 1)

    async def _stored(self, scope: Scope, after: int) -> AsyncIterator[LoggedEvent]:
        """Yield the events of a scope in the log after a sequence, up to the end of the log at the call."""
        end = await last_sequence(self._reading, TASKS, scope.subject)
        tries = 0
        while after < end:
            positions = await read_some(self._reading, TASKS, scope.subject, after + 1, READ_AT_ONCE)
            for position in positions:
                after = position.sequence
                update = event_at(position)
                if update is not None:
                    yield update
            if not positions:  # from a replica that lags behind
                tries += 1
                if tries >= STALE_REPLICA_TRIES:
                    raise StoreUnavailable(f"no replica of {TASKS} has caught up")
                await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)


class _Pace:
    """The time since something was yielded."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
        self._now = asyncio.get_running_loop().time
        self.begin()

    @property
    def is_due(self) -> bool:
        return self._now() - self._at >= self._pause_seconds

    def begin(self) -> None:
        self._at = self._now()


def _advance(update: LoggedEvent, place: FeedPosition) -> FeedItem:
    """Move the position to an event; return the part of the event that was not pushed live."""
    place.sequence = update.sequence
    what: LoggedEvent | None = update
    event = update.event if update.kind in LIVE_WORDS else None
    if isinstance(event, ProgressReported):
        rest = place.seen.rest_of(event)
        what = update if rest is event else None if rest is None else update.with_event(rest)
    return FeedItem(what, place)
