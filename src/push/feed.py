"""A feed: every event of a scope, in order, each once, from a place in the log on and then as they come.

Who is authoritative: the log. The listener is put into its place first, then the log is read up to where the listener
begins; what both have is passed over by its sequence. A listener that lost its place begins again where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from ..errors import StoreUnavailable
from ..events.task import TaskCancelled, TaskFailed, TaskSucceeded
from ..streams.connection import Connection
from ..streams.log import STALE_REPLICA_PAUSE_SECONDS, STALE_REPLICA_TRIES, last_sequence, read
from ..streams.topology import TASKS
from .hub import Hub, Listener, Scope, Update

READ_AT_ONCE = 256


class Feeds:
    def __init__(self, hub: Hub, reading: Connection) -> None:
        self.hub = hub
        self._reading = reading

    async def feed(self, scope: Scope, after: int, pause_seconds: float) -> AsyncGenerator[Update | None, None]:
        """Yield the events of a scope after a sequence, for as long as this process runs.

        None: none came for `pause_seconds`. Raises StoreUnavailable where the log cannot be read.
        """
        async with self.hub.listening(scope) as listener:
            while not listener.ended:
                listener.clear()
                async for stored in self._stored(scope, after):
                    yield stored
                    after = stored.sequence
                async for update in _live(listener, after, pause_seconds):
                    yield update
                    if update is not None:
                        after = update.sequence

    async def _stored(self, scope: Scope, after: int) -> AsyncIterator[Update]:
        """Yield what the log has of a scope after a sequence, up to the end there was when this began."""
        end = await last_sequence(self._reading, TASKS, scope.subject)
        tries = 0
        while after < end:
            positions = await read(self._reading, TASKS, scope.subject, after + 1, READ_AT_ONCE)
            for position in positions:
                yield Update(position)
                after = position.sequence
            if not positions:  # from a replica that lags behind
                tries += 1
                if tries >= STALE_REPLICA_TRIES:
                    raise StoreUnavailable(f"no replica of {TASKS} has caught up")
                await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)


def is_end(update: Update) -> bool:
    """Tell whether an event ends its task."""
    return isinstance(update.stored.recorded.event, TaskSucceeded | TaskFailed | TaskCancelled)


async def _live(listener: Listener, after: int, pause_seconds: float) -> AsyncIterator[Update | None]:
    """Yield what comes, as long as the listener keeps its place."""
    while True:
        update = await listener.next(pause_seconds)
        if update is not None and update.sequence <= after:
            continue
        if update is None and (listener.overflowed or listener.ended):
            return
        yield update
