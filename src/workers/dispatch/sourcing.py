"""Sees to it that ready tasks flow into the queue again soon after a server was lost, or has started again.

Who copies: JetStream, from its sources. What is safe: all of it; the queue's leader steps down, or a source that brings
nothing is taken out and put back: no message is touched. What is live: nats-server tries such a source again by itself,
but after 10 s (ADR 12), on a cluster after as much as a minute (ADR 10).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from ...errors import StoreError
from ...runtime import metrics
from ...runtime.service import Service
from ...settings import Settings
from ...streams.client.connection import Connection
from ...streams.leases import Lease, Membership
from ...streams.topology.sources import (
    Sources,
    check_answering,
    find_stalled,
    replicated_sources,
    restart_stalled,
    step_down,
)

log = structlog.get_logger(__name__)

LOOK_PERIOD = timedelta(seconds=2)
LONE_LOOK_PERIOD = timedelta(seconds=1)
"""So much later than a lone nats-server the queue is fed again at the worst, where workers outlive it."""
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


class Sourcing(Service):
    """For a replicated queue."""

    def __init__(self, members: Membership, connection: Connection, patience: timedelta = PATIENCE) -> None:
        super().__init__("sourcing", period_seconds=LOOK_PERIOD.total_seconds())
        self._members = members
        self._connection = connection
        self._first_patience = patience
        self._patience = patience
        self._renewal = Lease(members, "sourcing")
        """Taken when the sources are to be set up again: every worker looks, one acts."""

    async def begin(self) -> None:
        """There is nothing to be done before the others are known."""

    async def stop(self) -> None:
        await super().stop()
        await self._renewal.release()

    async def _prepare(self) -> None:
        await self._members.observed()

    async def run_once(self) -> Mapping[str, int]:
        """Look once; return how many sources were set up again. Raises StoreError where the cluster is not whole."""
        sources = await replicated_sources(self._connection)
        if not silent(sources, HEARD_WITHIN):
            self._patience = self._first_patience
        streams = silent(sources, self._patience)
        if not streams or not sources.can_move:
            return {"renewed": 0}
        # While a stream has no leader, a new source of it would be lost as the old one was.
        await check_answering(self._connection, streams)
        if not await self._renewal.acquire():
            return {"renewed": 0}
        await step_down(self._connection)
        metrics.source_renewals.inc()
        log.warning("sources.renewed", silent=streams, leader=sources.leader, patience_seconds=self._patience.seconds)
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return {"renewed": len(streams)}


class LoneSourcing(Service):
    """For a queue that is kept once. Whichever worker sees a source that brings nothing sets it up: there is no lease
    to wait for, and two who do it do no harm.
    """

    def __init__(
        self, connection: Connection, settings: Settings, uncopied_from: Callable[[], Awaitable[Mapping[str, int]]]
    ) -> None:
        """`uncopied_from`: tells for each stream from which sequence on something may not be in the queue yet."""
        super().__init__("sourcing", period_seconds=LONE_LOOK_PERIOD.total_seconds())
        self._connection = connection
        self._settings = settings
        self._uncopied_from = uncopied_from

    async def begin(self) -> None:
        """Look before anything else is done: what reads the projection at a start keeps NATS busy for seconds."""
        with contextlib.suppress(StoreError):
            await self.run_once()

    async def run_once(self) -> Mapping[str, int]:
        """Look once; return how many sources were set up again. Raises StoreError while NATS cannot."""
        stalled = await find_stalled(self._connection, self._settings)
        if not stalled.idle:
            return {"renewed": 0}
        await check_answering(self._connection, stalled.streams)
        starts = await self._uncopied_from()
        await restart_stalled(self._connection, stalled, starts)
        metrics.source_renewals.inc()
        log.info("sources.renewed", refused=stalled.streams, starts=starts)
        return {"renewed": len(stalled.streams)}
