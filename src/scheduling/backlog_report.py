"""What the keeper tells those who admit tasks, again and again, on plain NATS: who has much waiting."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class OwnerBacklog(Struct, frozen=True):
    """What one owner has waiting."""

    waiting: int
    """Held, queued, or for a retry."""
    queued: dict[str, int]
    """In the queue, by window."""


class BacklogReport(Struct, frozen=True, kw_only=True):
    as_of: int
    """Sequence of the TASKS log up to which this is so."""
    windows: dict[str, int]
    """How many tasks of one owner and priority may be in a pool's queue, by pool."""
    owners: dict[str, OwnerBacklog]
    """Those who have much waiting, by owner token."""
    held_back: dict[str, int] = {}
    """How many tasks wait for room in their owners' windows, by pool: they wait for its servers as if in the queue."""
    paces: dict[str, float] = {}
    """How many tasks a pool starts in a second, by pool; without those that start none."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(BacklogReport).decode
