"""The sources of DISPATCH: whether JetStream hears from the streams it copies from, and how it is made to listen anew.

The leader of DISPATCH asks the leader of the other stream for a consumer that feeds a source. In a cluster that request
can be lost with a leader; nats-server then waits 30 s for its answer, and 10, 20, … s before it asks again. A new
leader of DISPATCH asks at once, and goes on from where the last one was (ADR 10).

One server alone asks itself, and may ask for a stream that it has not restored yet: it is told that there is none, and
waits those 10, 20, … s likewise. It has no other leader, but a source that is taken from DISPATCH and put back is asked
for at once (ADR 12).
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
from .definitions import DISPATCH, configurations

HEARD_TIMEOUT_SECONDS = 5.0
"""A source that has not begun by then may begin at the floor: what was copied before is copied again."""
HEARD_POLL_SECONDS = 0.05


class Sources(Struct, frozen=True, kw_only=True):
    """The sources of DISPATCH, as its leader sees them."""

    leader: str
    silences: dict[str, timedelta]
    """By the stream that is copied from: since when nothing was heard from it, at its most silent source. One that has
    never been heard counts from the leader's election. Heartbeats come every second."""
    can_move: bool
    """Whether another server could lead now."""


async def look(connection: Connection) -> Sources:
    """Ask the leader of a replicated DISPATCH for its sources. Raises StoreUnavailable if there is none."""
    return read(await api(connection, f"STREAM.INFO.{DISPATCH}"))


def read(info: dict[str, Any]) -> Sources:
    """Read the answer of `STREAM.INFO`. Raises StoreUnavailable if it is of a stream that has no leader now."""
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
        silences=silences,
        can_move=any(other["current"] and not other.get("offline") for other in cluster.get("replicas") or []),
    )


async def check_answering(connection: Connection, streams: Iterable[str]) -> None:
    """Raise StoreUnavailable unless each stream has a leader that answers."""
    for stream in streams:
        await api(connection, f"STREAM.INFO.{stream}")


async def renew(connection: Connection) -> None:
    """Have the leader of DISPATCH step down, so that the next one sets its sources up afresh.

    Nothing is lost or copied twice. Raises StoreUnavailable; the outcome is then unknown, and repeating is safe.
    """
    await api(connection, f"STREAM.LEADER.STEPDOWN.{DISPATCH}")


class Unfed(Struct, frozen=True, kw_only=True):
    """Sources that bring nothing, of a DISPATCH that is kept once."""

    config: dict[str, Any]
    """The configuration that DISPATCH has now."""
    sources: list[dict[str, Any]]
    """All sources that it should have."""
    idle: list[dict[str, Any]]
    """Those of them that were refused: nats-server asks again, but lets 10, 20, … s pass before. And those that are not
    there: whoever took them out to put them back was killed in between."""

    @property
    def streams(self) -> list[str]:
        """The streams that nothing is copied from."""
        return sorted({source["name"] for source in self.idle})


async def find_unfed(connection: Connection, settings: Settings) -> Unfed:
    """Look which sources of DISPATCH bring nothing, and will not before a pause. Raises StoreUnavailable."""
    info = await api(connection, f"STREAM.INFO.{DISPATCH}")
    known = {_identity(source): source for source in info["config"].get("sources") or []}
    fed = {_identity(source) for source in info.get("sources") or [] if not source.get("error")}
    [wanted] = [wanted["sources"] for wanted in configurations(settings) if wanted["name"] == DISPATCH]
    sources = {_identity(source): source for source in wanted} | known
    return Unfed(
        config=info["config"],
        sources=list(sources.values()),
        idle=[source for identity, source in sources.items() if identity not in fed],
    )


async def feed(connection: Connection, unfed: Unfed, starts: Mapping[str, int]) -> None:
    """Have JetStream ask for idle sources at once, from a sequence of each of their streams.

    A source that is taken out and put back has forgotten how far it was, so it has to be told; then the floor is as it
    was (ADR 9). Raises StoreUnavailable; they may be missing then, until somebody looks again. Repeating is safe.
    """
    without = [source for source in unfed.sources if source not in unfed.idle]
    told = [
        source | {"opt_start_seq": starts[source["name"]]} if source in unfed.idle else source
        for source in unfed.sources
    ]
    await _update(connection, unfed, without)
    await _update(connection, unfed, told)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_TIMEOUT_SECONDS):
            while not all(source["active"] >= 0 for source in await _infos(connection)):  # noqa: ASYNC110 - JetStream tells nobody
                await asyncio.sleep(HEARD_POLL_SECONDS)
    await _update(connection, unfed, unfed.sources)


async def _infos(connection: Connection) -> list[dict[str, Any]]:
    """Return what JetStream says of each source."""
    return (await api(connection, f"STREAM.INFO.{DISPATCH}")).get("sources") or []


async def _update(connection: Connection, unfed: Unfed, sources: list[dict[str, Any]]) -> None:
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", unfed.config | {"sources": sources})


def _identity(source: dict[str, Any]) -> tuple[str, ...]:
    """Return what tells a source from the others: its stream, and what it copies to where."""
    transforms = source.get("subject_transforms") or []
    return (source["name"], *(f"{transform['src']} {transform['dest']}" for transform in transforms))
