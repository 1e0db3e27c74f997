"""The scheduler's report of who has many tasks waiting, published several times a second for the admission of tasks."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from .depth import Depth


class OwnerBacklog(Struct, frozen=True):
    """The waiting tasks of one owner."""

    waiting: int
    """Held, queued, or between two attempts."""
    queued: dict[str, int]
    """How many are in its queues, by window."""
    blocked: tuple[str, ...] = ()
    """Windows in which tasks are held because they are full, or because such tasks are before them."""


class BacklogReport(Struct, frozen=True, kw_only=True):
    as_of: int
    """Sequence of the last event of the TASKS log that this reflects."""
    windows: dict[str, int]
    """How many tasks of one window may be in a pool's queue, by pool."""
    owners: dict[str, OwnerBacklog]
    """Owners with many waiting tasks, by owner token."""
    held_back: dict[str, int] = {}
    """How many tasks a full window holds, by pool. They count towards the pool's backlog like queued ones."""
    paces: dict[str, float] = {}
    """Starts per second, by pool; without pools that start none."""
    depths: tuple[Depth, ...] = ()
    """How many tasks wait, without depths of no task."""
    oldest: dict[str, float] = {}
    """By pool: since when the oldest task waits that could start, seconds since the epoch."""
    over: dict[str, tuple[str, ...]] | None = None
    """By pool and priority, as `lane` names them: owner tokens with more queued tasks than their window allows, two at
    most. None: the scheduler is of a version without bulk queues."""
    held: int = 0
    """Number of held tasks."""
    counted_at: float = 0.0
    """When `depths`, `oldest` and `held` were counted, seconds since the epoch; 0: they were not."""
    seen: int = 0
    """Sequence of the last event that the scheduler has read, whether or not it moves a task. 0: `as_of` is all that is
    known."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(BacklogReport).decode
