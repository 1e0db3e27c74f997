"""The sources of DISPATCH: their state, how they are restarted, and the floor from which they copy.

**Stalled sources, replicated.** The leader of DISPATCH asks the leader of the source stream for a consumer. In a
cluster that request can be lost with a leader. nats-server then waits 30 s for the answer, and 10, 20, … s before it
asks again. A new leader of DISPATCH asks at once and continues where the last one was (ADR 10).

**Stalled sources, one server.** The server asks itself, perhaps for a stream that it has not restored yet. The request
fails, and it waits the same 10, 20, … s. There is no other leader, but a source that is removed from DISPATCH and added
again is asked for at once (ADR 12).

**The floor.** DISPATCH is not synced. After a kill -9 NATS may have forgotten that it was drained, and copies the log
again from its beginning. That is safe, because each claim loses, but new tasks wait behind the whole past. So the
sources regularly get a floor: a sequence of TASKS before which nothing is still to be queued (ADR 9). The floor comes
from the log's projection, not from DISPATCH: a source reports no lag as long as it has not heard of new messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from ...errors import StoreUnavailable
from ...settings import Settings
from ..client.connection import Connection
from ..jetstream.api import api
from .definitions import DISPATCH, TASKS, configurations

HEARD_TIMEOUT_SECONDS = 5.0
"""A source that has not started by then may start at the floor and copy messages again."""
HEARD_POLL_SECONDS = 0.05


class Sources(Struct, frozen=True, kw_only=True):
    """The sources of DISPATCH, as its leader sees them."""

    leader: str
    leading: timedelta
    """Time since its election."""
    silences: dict[str, timedelta]
    """By source stream: time since anything was heard from its most silent source. A source that was never heard counts
    from the leader's election. Heartbeats come every second."""
    can_move: bool
    """True if another server could become leader now."""


async def replicated_sources(connection: Connection) -> Sources:
    """Return the sources of a replicated DISPATCH, as its leader has them. Raises StoreUnavailable without a leader."""
    return read(await api(connection, f"STREAM.INFO.{DISPATCH}"))


def read(info: dict[str, Any]) -> Sources:
    """Return the sources in an answer of `STREAM.INFO`. Raises StoreUnavailable if the stream has no leader now."""
    cluster = info["cluster"]
    if "leader_since" not in cluster:
        raise StoreUnavailable(f"{DISPATCH} has no leader")
    leading = msgspec.convert(info["ts"], datetime) - msgspec.convert(cluster["leader_since"], datetime)
    silences: dict[str, timedelta] = {}
    for source in info.get("sources") or []:
        active = source["active"]  # nanoseconds; -1: nothing was ever heard
        silence = leading if active < 0 else timedelta(microseconds=active // 1000)
        silences[source["name"]] = max(silence, silences.get(source["name"], timedelta()))
    return Sources(
        leader=cluster["leader"],
        leading=leading,
        silences=silences,
        can_move=any(other["current"] and not other.get("offline") for other in cluster.get("replicas") or []),
    )


async def leading(connection: Connection, stream: str) -> timedelta:
    """Return the time since the election of a stream's leader. Raises StoreUnavailable without a leader."""
    info = await api(connection, f"STREAM.INFO.{stream}")
    since = info["cluster"].get("leader_since")
    if since is None:
        raise StoreUnavailable(f"{stream} has no leader")
    return msgspec.convert(info["ts"], datetime) - msgspec.convert(since, datetime)


async def check_answering(connection: Connection, streams: Iterable[str]) -> None:
    """Raise StoreUnavailable unless each stream has a leader that answers."""
    for stream in streams:
        await api(connection, f"STREAM.INFO.{stream}")


async def step_down(connection: Connection) -> None:
    """Make the leader of DISPATCH step down, so the next one restarts its sources.

    Nothing is lost or copied twice. Raises StoreUnavailable; the outcome is then unknown, and repeating is safe.
    """
    await api(connection, f"STREAM.LEADER.STEPDOWN.{DISPATCH}")


class StalledSources(Struct, frozen=True, kw_only=True):
    """The stalled sources of a DISPATCH without replicas."""

    config: dict[str, Any]
    """The current configuration of DISPATCH."""
    sources: list[dict[str, Any]]
    """All sources DISPATCH must have."""
    idle: list[dict[str, Any]]
    """The sources whose request failed, which nats-server repeats after 10, 20, … s, and the missing ones: a process
    that restarted them was killed before it added them again."""

    @property
    def streams(self) -> list[str]:
        """The streams that are not copied from now."""
        return sorted({source["name"] for source in self.idle})


async def find_stalled(connection: Connection, settings: Settings) -> StalledSources:
    """Return the sources of DISPATCH that are stalled until nats-server tries again. Raises StoreUnavailable."""
    info = await api(connection, f"STREAM.INFO.{DISPATCH}")
    known = {_identity(source): source for source in info["config"].get("sources") or []}
    fed = {_identity(source) for source in info.get("sources") or [] if not source.get("error")}
    [wanted] = [wanted["sources"] for wanted in configurations(settings) if wanted["name"] == DISPATCH]
    sources = {_identity(source): source for source in wanted} | known
    return StalledSources(
        config=info["config"],
        sources=list(sources.values()),
        idle=[source for identity, source in sources.items() if identity not in fed],
    )


async def restart_stalled(connection: Connection, stalled: StalledSources, starts: Mapping[str, int]) -> None:
    """Restart idle sources at once, each from the sequence in `starts` of its stream.

    A source that is removed and added again has forgotten its position, so the sequence is set; afterwards the floor is
    as before (ADR 9). Raises StoreUnavailable; sources may be missing then until the next call. Repeating is safe.
    """
    without = [source for source in stalled.sources if source not in stalled.idle]
    restarted = [
        source | {"opt_start_seq": starts[source["name"]]} if source in stalled.idle else source
        for source in stalled.sources
    ]
    await _update(connection, stalled, without)
    await _update(connection, stalled, restarted)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_TIMEOUT_SECONDS):
            while not all(source["active"] >= 0 for source in await _infos(connection)):  # noqa: ASYNC110 - JetStream has no event
                await asyncio.sleep(HEARD_POLL_SECONDS)
    await _update(connection, stalled, stalled.sources)


async def raise_floor(connection: Connection, floor: int) -> bool:
    """Set the floor of the sources of DISPATCH. Return True if it rose. Raises StoreUnavailable.

    Sources that are being restarted get it at the next call.
    """
    config = (await api(connection, f"STREAM.INFO.{DISPATCH}"))["config"]
    sources = [source for source in config.get("sources") or [] if source["name"] == TASKS]
    if floor <= min((source.get("opt_start_seq", 0) for source in sources), default=floor):
        return False
    for source in sources:
        source["opt_start_seq"] = floor
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", config)
    return True


async def _infos(connection: Connection) -> list[dict[str, Any]]:
    """Return the state of each source."""
    return (await api(connection, f"STREAM.INFO.{DISPATCH}")).get("sources") or []


async def _update(connection: Connection, stalled: StalledSources, sources: list[dict[str, Any]]) -> None:
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", stalled.config | {"sources": sources})


def _identity(source: dict[str, Any]) -> tuple[str, ...]:
    """Return the identity of a source: its stream, and its subject transforms."""
    transforms = source.get("subject_transforms") or []
    return (source["name"], *(f"{transform['src']} {transform['dest']}" for transform in transforms))
