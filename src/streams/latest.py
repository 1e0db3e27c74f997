"""A log of which the last event of each kind tells all: what has a long history is read as quickly as what is new."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from ..errors import StoreUnavailable
from ..events.envelope import Event, Stored
from ..events.subjects import history_filter
from .jetstream.messages import STALE_REPLICA_PAUSE_SECONDS, STALE_REPLICA_TRIES, last_sequence, read_last
from .log import Log

E = TypeVar("E", bound=Event)


class LatestLog(Log[E], Generic[E]):
    """One vocabulary of events in one stream; each event says in full what it changes."""

    async def load(self, root: str, after: int = 0) -> list[Stored[E]]:
        """Return the last event of each kind about `root`, oldest first, complete up to now.

        Raises UnreadableEvent for one that does not decode, StoreUnavailable if NATS does not answer.
        """
        for _ in range(STALE_REPLICA_TRIES):
            found = await read_last(self._reading, self.stream, [history_filter(root)])
            positions = sorted(position for position in found if position.sequence > after)
            if not self._replicated or await last_sequence(self._reading, self.stream, history_filter(root)) <= (
                positions[-1].sequence if positions else after
            ):
                return [self._decode(position) for position in positions]
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {self.stream} has caught up")
