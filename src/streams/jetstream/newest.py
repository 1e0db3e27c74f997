"""The newest messages on a filter before a sequence, read in few requests and a bounded number of bytes.

JetStream reads forward only. Each answer says how many messages follow on the filter, so a request for one message
shows how many there are from a sequence on. The place to start is found with that: by interpolation and, where
the messages are not evenly spread, by halving.
"""

from __future__ import annotations

from typing import NamedTuple

from ..client.connection import Connection
from .messages import READ_BATCH, Position, read_some, read_with_rest

FIRST_WINDOW = 4
"""Messages of the first read, before their size is known."""
MOST_PROBES = 60
"""Requests in which a place is searched; then a larger or smaller window has to do."""


class _Place(NamedTuple):
    sequence: int
    number: int
    """Messages on the filter before this sequence, as counted when the search began."""


class NewestMessages(NamedTuple):
    positions: list[Position]
    """Newest first."""
    has_more: bool
    """True if there are older ones."""


async def read_newest(
    connection: Connection, stream: str, filter_subject: str, before: int, limit: int, most_bytes: int
) -> NewestMessages:
    """Return up to `limit` messages on a filter before a sequence, newest first.

    It stops after about `most_bytes`, with at least one message. Raises StoreUnavailable.
    """
    first, following = await read_with_rest(connection, stream, filter_subject, 1)
    if first is None or first.sequence >= before:
        return NewestMessages([], False)
    total = following + 1
    after, rest = await read_with_rest(connection, stream, filter_subject, before)
    low = _Place(first.sequence, 0)
    high = _Place(before, total - (rest + 1 if after is not None else 0))
    found: list[Position] = []
    size = 0
    window = FIRST_WINDOW
    while len(found) < limit and low.sequence < high.sequence and (size < most_bytes or not found):
        start = await _place(connection, stream, filter_subject, low, high, window, total)
        step = await _between(connection, stream, filter_subject, start, high)
        found += reversed(step)
        size += sum(len(position.data) for position in step)
        high = start
        affordable = (most_bytes - size) * len(found) // max(size, 1)
        window = max(1, min(4 * window, affordable, limit - len(found)))
    return NewestMessages(found[:limit], len(found) > limit or low.sequence < high.sequence)


async def _place(
    connection: Connection, stream: str, filter_subject: str, low: _Place, high: _Place, window: int, total: int
) -> _Place:
    """Return a place that has about `window` messages up to `high`: as many, or up to half as many more."""
    most = high.number - window
    least = most - window // 2
    if least <= 0:
        return low
    lower, upper = low, high
    for probe in range(MOST_PROBES):
        spread = upper.number - lower.number
        if spread <= 1 or upper.sequence - lower.sequence <= 1:
            break
        distance = upper.sequence - lower.sequence
        share = distance // 2 if probe % 2 else distance * (most - lower.number) // spread
        at = lower.sequence + min(max(share, 1), distance - 1)
        position, rest = await read_with_rest(connection, stream, filter_subject, at)
        if position is None or position.sequence >= upper.sequence:
            upper = _Place(at, upper.number)
            continue
        number = total - rest - 1
        if least <= number <= most:
            return _Place(position.sequence, number)
        if number > most:
            upper = _Place(at, number)
        else:
            lower = _Place(position.sequence, number)
    return lower


async def _between(
    connection: Connection, stream: str, filter_subject: str, start: _Place, end: _Place
) -> list[Position]:
    """Return the messages on a filter from a place to before another."""
    found: list[Position] = []
    at, left = start.sequence, max(1, end.number - start.number)
    while left > 0 and (step := await read_some(connection, stream, filter_subject, at, min(left, READ_BATCH))):
        found += [position for position in step if position.sequence < end.sequence]
        at, left = step[-1].sequence + 1, left - len(step)
        if step[-1].sequence >= end.sequence:
            break
    return found
