"""Repair of the sources that JetStream fills DISPATCH from, after a NATS server was lost or restarted.

JetStream copies; this only makes it retry sooner: it moves the leader of the queue, or removes a source that brings
nothing and adds it again. No message is touched, so repeating is safe. nats-server retries such a source without help,
but after 10 s (ADR 12), on a cluster after up to a minute (ADR 10).
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
    leading,
    replicated_sources,
    restart_stalled,
    step_down,
)

log = structlog.get_logger(__name__)

LOOK_PERIOD = timedelta(seconds=2)
LONE_LOOK_PERIOD = timedelta(seconds=1)
"""Delay, at most, from the restart of a lone nats-server to the repair."""
HEARD_WITHIN = timedelta(seconds=3)
"""A source heard within this time is active. Three heartbeats."""
PATIENCE = timedelta(seconds=5)
"""Silence after which the sources are added again. Doubles while that does not help: on a large log a source needs
time to begin."""
HEARTBEAT = timedelta(seconds=1.2)
"""An active source is heard within this time."""
ANSWER_TIME = timedelta(seconds=0.5)
"""Time after the election of a source's leader in which a request for the source is answered."""
SUSPICIOUS_LOOK_SECONDS = 0.25
LONGEST_PATIENCE = timedelta(seconds=80)
"""Longer than one retry of nats-server: 30 s for an answer, then a first pause of 10 s."""


def silent(sources: Sources, silence: timedelta) -> list[str]:
    """Return the streams that have been silent for longer than this."""
    return sorted(stream for stream, heard_ago in sources.silences.items() if heard_ago > silence)


def is_lost(silence: timedelta, leading: timedelta, source_leading: timedelta) -> bool | None:
    """Return True if a source does not come without a repair, however long it has been silent; None: not sure yet.

    It is lost if the queue's leader, elected `leading` ago, asked for it before the source's present leader was
    elected, `source_leading` ago, and has not heard it since: nobody knows of the request.
    """
    if silence <= max(source_leading, HEARTBEAT if silence < leading else timedelta()):
        return False
    return True if source_leading > (HEARTBEAT if silence < leading else ANSWER_TIME) else None


class Sourcing(Service):
    """Repair for a replicated queue."""

    def __init__(self, members: Membership, connection: Connection, patience: timedelta = PATIENCE) -> None:
        super().__init__("sourcing", period_seconds=LOOK_PERIOD.total_seconds())
        self._members = members
        self._connection = connection
        self._first_patience = patience
        self._patience = patience
        self._renewal = Lease(members, "sourcing")
        """Taken for a repair: every worker checks, one acts."""
        self._is_unsure = False
        """True if a source may turn out to be lost in a moment."""

    async def stop(self) -> None:
        await super().stop()
        await self._renewal.release()

    async def _prepare(self) -> None:
        await self._members.observed()

    async def run_once(self) -> Mapping[str, int]:
        """Check once; return how many sources were renewed. Raises StoreError while the cluster is not whole."""
        sources = await replicated_sources(self._connection)
        if not silent(sources, HEARD_WITHIN):
            self._patience = self._first_patience
        streams = silent(sources, self._patience) or await self._lost(sources)
        if not streams or not sources.can_move:
            return {"renewed": 0}
        # Without a leader of its stream a new source would be lost as the old one was.
        await check_answering(self._connection, streams)
        if not await self._renewal.acquire():
            return {"renewed": 0}
        await step_down(self._connection)
        metrics.source_renewals.inc()
        log.warning("sourcing.renewed", silent=streams, leader=sources.leader, patience_seconds=self._patience.seconds)
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return {"renewed": len(streams)}

    def retry(self) -> None:
        """Look at once: after an election a source may be lost."""
        self.wake()

    async def _serve(self) -> None:
        await self.run_once()
        while self._is_unsure and not self._stopping.is_set():
            await self._pause(SUSPICIOUS_LOOK_SECONDS)
            await self.run_once()

    async def _lost(self, sources: Sources) -> list[str]:
        """Return the streams whose source is lost."""
        self._is_unsure = False
        found = []
        for stream, silence in sources.silences.items():
            if silence > HEARTBEAT or silence == sources.leading:
                lost = is_lost(silence, sources.leading, await leading(self._connection, stream))
                self._is_unsure |= lost is None
                if lost:
                    found.append(stream)
        return sorted(found)


class LoneSourcing(Service):
    """Repair for an unreplicated queue. Every worker repairs what it sees, without a lease: twice does no harm."""

    def __init__(
        self, connection: Connection, settings: Settings, uncopied_from: Callable[[], Awaitable[Mapping[str, int]]]
    ) -> None:
        """`uncopied_from`: returns for each source the first sequence that may not have been copied yet."""
        super().__init__("sourcing", period_seconds=LONE_LOOK_PERIOD.total_seconds())
        self._connection = connection
        self._settings = settings
        self._uncopied_from = uncopied_from

    async def begin(self) -> None:
        """Check before other services start: reading the projection keeps NATS busy for seconds."""
        with contextlib.suppress(StoreError):
            await self.run_once()

    async def run_once(self) -> Mapping[str, int]:
        """Check once; return how many sources were renewed. Raises StoreError while NATS cannot."""
        stalled = await find_stalled(self._connection, self._settings)
        if not stalled.idle:
            return {"renewed": 0}
        await check_answering(self._connection, stalled.streams)
        starts = await self._uncopied_from()
        await restart_stalled(self._connection, stalled, starts)
        metrics.source_renewals.inc()
        log.info("sourcing.renewed", refused=stalled.streams, starts=starts)
        return {"renewed": len(stalled.streams)}
