"""A feed: every event of a scope, in order, each once, from a position in the log and then as they come.

Authoritative: the log. The listener is registered first, then the log is read up to where the listener begins;
duplicates are skipped by their sequence. After an overflow the feed resumes from the log at its position.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from ..errors import StoreUnavailable
from ..events.kinds import ENDING_WORDS, LIVE_WORDS
from ..events.task import ProgressReported
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import STALE_REPLICA_PAUSE_SECONDS, STALE_REPLICA_TRIES, last_sequence, read
from ..streams.topology.definitions import TASKS
from .hub import Hub, LiveEvent, LoggedEvent, Scope, event_at
from .live import Seen

READ_AT_ONCE = 256
LONGEST_SEQUENCE = 19
LONGEST_PLACE = 4 * 1024


class FeedPosition:
    """The position of a subscriber: a sequence of the log, and the live reports it has received beyond that.

    As text: `4711`, or `4711;<batch>:…`.
    """

    def __init__(self, sequence: int, seen: Seen | None = None) -> None:
        self.sequence = sequence
        self.seen = seen or Seen()

    @classmethod
    def parse(cls, text: str) -> FeedPosition:
        """Parse the text of a position. Raises ValueError."""
        if not text.isascii() or len(text) > LONGEST_PLACE:
            raise ValueError("not a position")
        sequence, _, seen = text.partition(";")
        if not sequence.isdigit() or len(sequence) > LONGEST_SEQUENCE:
            raise ValueError("not a sequence")
        return cls(int(sequence), Seen(seen))

    def __str__(self) -> str:
        return f"{self.sequence}{self.seen}"


class FeedItem(NamedTuple):
    """One item of a feed."""

    what: LoggedEvent | LiveEvent | None
    """None: the log now has what was pushed live; only the position has moved."""
    place: str

    @property
    def is_end(self) -> bool:
        """True if the event ends its task."""
        return isinstance(self.what, LoggedEvent) and self.what.kind in ENDING_WORDS


class Feeds:
    def __init__(self, hub: Hub, reading: Connection) -> None:
        self.hub = hub
        self._reading = reading

    async def feed(
        self, scope: Scope, place: FeedPosition, pause_seconds: float
    ) -> AsyncGenerator[FeedItem | None, None]:
        """Yield the events of a scope after a position, until the process stops.

        Progress comes live, before the log has it; the merged event of the log then has only what is new. None: nothing
        came for `pause_seconds`. Raises StoreUnavailable if the log cannot be read.
        """
        async with self.hub.listening(scope) as listener:
            while not listener.ended:
                listener.clear()
                async for stored in self._stored(scope, place.sequence):
                    yield _advance(stored, place)
                while True:
                    update = await listener.next(pause_seconds)
                    match update:
                        case LoggedEvent() if update.sequence > place.sequence:
                            yield _advance(update, place)
                        # Before this position the log may have had the report already, and later events.
                        case LiveEvent() if update.position >= place.sequence and place.seen.takes(update.report):
                            yield FeedItem(update, str(place))
                        case None if listener.overflowed or listener.ended:
                            break
                        case None:
                            yield None
                        case _:
                            pass

    async def _stored(self, scope: Scope, after: int) -> AsyncIterator[LoggedEvent]:
        """Yield the events of a scope in the log after a sequence, up to the end of the log at the call."""
        end = await last_sequence(self._reading, TASKS, scope.subject)
        tries = 0
        while after < end:
            positions = await read(self._reading, TASKS, scope.subject, after + 1, READ_AT_ONCE)
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


def _advance(update: LoggedEvent, place: FeedPosition) -> FeedItem:
    """Move the position to an event; return the part of the event that was not pushed live."""
    place.sequence = update.sequence
    what: LoggedEvent | None = update
    event = update.event if update.kind in LIVE_WORDS else None
    if isinstance(event, ProgressReported):
        rest = place.seen.rest_of(event)
        what = update if rest is event else None if rest is None else update.with_event(rest)
    return FeedItem(what, str(place))
