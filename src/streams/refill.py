"""From where JetStream fills DISPATCH again, should it have to.

DISPATCH is not synced. After a kill -9 of NATS it may have forgotten that it was drained; then it is
sourced again from the beginning of the log. No harm is done, each claim loses, but new tasks wait behind the whole
past. So the sources are told, now and then, a *floor*: the sequence before which nothing is still queued (ADR 9).
"""

from __future__ import annotations

from typing import Any

import msgspec

from .connection import Connection, api
from .topology import DISPATCH, TASKS

MARGIN = 10_000
"""Sequences below the oldest queued message that are kept: two sources fill the queue, not quite in order."""


async def raise_floor(connection: Connection) -> int | None:
    """Move the floor up to the oldest task still queued; return it, None where it stays. Raises StoreUnavailable."""
    last = int((await api(connection, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
    info = await api(connection, f"STREAM.INFO.{DISPATCH}")
    floor = await _floor(connection, info, last)
    sources = [source for source in info["config"]["sources"] if source["name"] == TASKS]
    if floor is None or floor <= min(source.get("opt_start_seq", 0) for source in sources):
        return None
    for source in sources:
        source["opt_start_seq"] = floor
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", info["config"])
    return floor


async def _floor(connection: Connection, info: dict[str, Any], last: int) -> int | None:
    """Return the sequence of TASKS before which nothing is queued, None if that cannot be told now."""
    if any(source["lag"] for source in info["sources"]):
        return None
    if not info["state"]["messages"]:
        return last + 1
    request = msgspec.json.encode({"batch": 1, "next_by_subj": ">", "seq": 1})
    oldest = (await connection.request_many(f"$JS.API.DIRECT.GET.{DISPATCH}", request))[0]
    stream, _, rest = ((oldest.headers or {}).get("Nats-Stream-Source") or "").partition(" ")
    if stream != TASKS:
        return None
    return max(1, int(rest.split(" ", 1)[0]) - MARGIN)
