"""The sources of DISPATCH: whether JetStream hears from the streams it copies from, and how it is made to listen anew.

The leader of DISPATCH asks the leader of the other stream for a consumer that feeds a source. In a cluster that request
can be lost with a leader; nats-server then waits 30 s for its answer, and 10, 20, … s before it asks again. A new
leader of DISPATCH asks at once, and goes on from where the last one was (ADR 10).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import StoreUnavailable
from .connection import Connection
from .jetstream import api
from .topology import DISPATCH


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
