"""Sees to it that ready tasks flow into the queue again soon after a cluster has lost a leader.

Who copies: JetStream, from its sources. What is safe: all of it; the queue's leader steps down, no message is touched.
What is live: nats-server tries a lost source again by itself, but after as much as a minute (ADR 10).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import structlog

from .. import metrics
from ..errors import StoreError
from ..streams.connection import Connection
from ..streams.leases import Lease, Membership
from ..streams.sources import Sources, check_answering, look, renew

log = structlog.get_logger(__name__)

LOOK_PERIOD = timedelta(seconds=2)
HEARD_WITHIN = timedelta(seconds=3)
"""A source that was heard within this time is well. Three heartbeats."""
PATIENCE = timedelta(seconds=5)
"""Silence after which the sources are set up afresh. Doubles as long as that has not helped: on a large log a source
may take its time to begin, and must get it."""
LONGEST_PATIENCE = timedelta(seconds=80)
"""Past the longest time in which nats-server tries once by itself: 30 s for an answer, then a first pause of 10 s."""


def silent(sources: Sources, silence: timedelta) -> list[str]:
    """Return the streams that nothing has been heard from for longer than this."""
    return sorted(stream for stream, heard_ago in sources.silences.items() if heard_ago > silence)


class Sourcing:
    """For a replicated queue; one server that restarts alone has its sources back in half a second."""

    def __init__(self, members: Membership, connection: Connection, patience: timedelta = PATIENCE) -> None:
        self._members = members
        self._connection = connection
        self._first_patience = patience
        self._patience = patience
        self._lease = Lease(members, "sourcing")

    async def run(self) -> None:
        """Look every period, for ever."""
        await self._members.observed()
        while True:
            with contextlib.suppress(StoreError):
                await self.run_once()
            await asyncio.sleep(LOOK_PERIOD.total_seconds())

    async def stop(self) -> None:
        await self._lease.release()

    async def run_once(self) -> bool:
        """Look once; tell whether the sources were set up afresh. Raises StoreError where the cluster is not whole."""
        sources = await look(self._connection)
        if not silent(sources, HEARD_WITHIN):
            self._patience = self._first_patience
        streams = silent(sources, self._patience)
        if not streams or not sources.can_move:
            return False
        # While a stream has no leader, a new source of it would be lost as the old one was.
        await check_answering(self._connection, streams)
        if not await self._lease.acquire():
            return False
        await renew(self._connection)
        metrics.source_renewals.inc()
        log.warning("sources.renewed", silent=streams, leader=sources.leader, patience_seconds=self._patience.seconds)
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return True
