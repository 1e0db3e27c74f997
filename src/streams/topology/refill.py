"""From where JetStream fills DISPATCH again, should it have to.

DISPATCH is not synced. After a kill -9 of NATS it may have forgotten that it was drained; then it is sourced again
from the beginning of the log. No harm is done, each claim loses, but new tasks wait behind the whole past. So the
sources are told, now and then, a *floor*: a sequence of TASKS before which nothing is still to be queued (ADR 9).

What is to be queued is read from the log's projection, not from DISPATCH: a source says that it has no lag as long as
it has not heard of what is new.
"""

from __future__ import annotations

from ..client.connection import Connection
from ..jetstream.api import api
from .definitions import DISPATCH, TASKS


async def raise_floor(connection: Connection, floor: int) -> bool:
    """Tell the sources of DISPATCH the floor; tell whether it was higher than before. Raises StoreUnavailable.

    Sources that are being set up afresh (see `sources`) are told the next time.
    """
    config = (await api(connection, f"STREAM.INFO.{DISPATCH}"))["config"]
    sources = [source for source in config.get("sources") or [] if source["name"] == TASKS]
    if floor <= min((source.get("opt_start_seq", 0) for source in sources), default=floor):
        return False
    for source in sources:
        source["opt_start_seq"] = floor
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", config)
    return True
