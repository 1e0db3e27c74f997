"""Pages of one history, from either end: a bounded number of events and bytes, complete up to what the leader has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import StoreUnavailable
from .client.connection import Connection
from .jetstream.messages import STALE_REPLICA_PAUSE_SECONDS, STALE_REPLICA_TRIES, Position, last_sequence, read
from .jetstream.newest import read_newest

PAGE_BYTES = 8 * 1024 * 1024
"""Content of events after which a page ends."""


class HistoryPage(NamedTuple):
    positions: list[Position]
    following: int | None
    """The next page starts after this sequence, or before it if the newest come first; None after the last page."""


async def oldest_first(reading: Connection, stream: str, filters: Sequence[str], after: int, limit: int) -> HistoryPage:
    """Return up to `limit` events on some filters after a sequence, oldest first. Raises StoreUnavailable.

    No event may be on two of the filters.
    """
    most_bytes = PAGE_BYTES // len(filters)
    found: list[Position] = []
    ends: list[int] = []
    """Where the page ends for each filter that has more."""
    for each in filters:
        positions, has_more = await _forward(reading, stream, each, after, limit, most_bytes)
        found += positions
        ends += [positions[-1].sequence] if has_more else []
    shown = [position for position in sorted(found) if not ends or position.sequence <= min(ends)][:limit]
    has_more = bool(ends) or len(shown) < len(found)
    return HistoryPage(shown, shown[-1].sequence if shown and has_more else None)


async def newest_first(
    reading: Connection, stream: str, filters: Sequence[str], before: int, limit: int
) -> HistoryPage:
    """Return up to `limit` events on some filters before a sequence, newest first. Raises StoreUnavailable.

    No event may be on two of the filters.
    """
    most_bytes = PAGE_BYTES // len(filters)
    found: list[Position] = []
    ends: list[int] = []
    for each in filters:
        positions, has_more = await _backward(reading, stream, each, before, limit, most_bytes)
        found += positions
        ends += [positions[-1].sequence] if has_more else []
    ordered = sorted(found, reverse=True)
    shown = [position for position in ordered if not ends or position.sequence >= max(ends)][:limit]
    has_more = bool(ends) or len(shown) < len(found)
    return HistoryPage(shown, shown[-1].sequence if shown and has_more else None)


async def _forward(
    reading: Connection, stream: str, filter_subject: str, after: int, limit: int, most_bytes: int
) -> tuple[list[Position], bool]:
    """Return the events on a filter after a sequence, and True if there are more than these."""
    last = await last_sequence(reading, stream, filter_subject)
    found: list[Position] = []
    tries = 0
    while len(found) < limit and (reached := found[-1].sequence if found else after) < last:
        positions = await read(reading, stream, filter_subject, reached + 1, limit - len(found), most_bytes=most_bytes)
        found += positions
        if sum(len(position.data) for position in found) > most_bytes:
            break
        if not positions:  # from a replica that lags behind
            tries += 1
            if tries >= STALE_REPLICA_TRIES:
                raise StoreUnavailable(f"no replica of {stream} has caught up")
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
    return found, bool(found) and found[-1].sequence < last


async def _backward(
    reading: Connection, stream: str, filter_subject: str, before: int, limit: int, most_bytes: int
) -> tuple[list[Position], bool]:
    """Return the events on a filter before a sequence, newest first, and True if there are older ones."""
    last = await last_sequence(reading, stream, filter_subject)
    for _ in range(STALE_REPLICA_TRIES):
        found = await read_newest(reading, stream, filter_subject, before, limit, most_bytes)
        if last >= before or last == (found.positions[0].sequence if found.positions else 0):
            return found
        await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
    raise StoreUnavailable(f"no replica of {stream} has caught up")
