"""What the keeper alone knows of why a task is held: asked of it on plain NATS, and answered from its book.

Only the keeper that holds the lease is there to answer. Nothing is changed by asking.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from ..events.ids import TaskRef
from ..scheduling.held_tasks import HeldTasks
from ..scheduling.limit import Limit, LimitKind, Stage, TaskEntry
from ..scheduling.limiter import ENOUGH

Known = Literal["held", "queued", "running", "retrying", "not-active"]
_KNOWN: dict[Stage, Known] = {
    Stage.HELD: "held",
    Stage.QUEUED: "queued",
    Stage.RUNNING: "running",
    Stage.RETRYING: "retrying",
}


class Shut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit that has no room for a task now."""

    kind: LimitKind
    counted: int
    """Tasks that run, or are counted in to run. Of a window: that are in the queue."""
    concurrency: int | None = None
    """How many may be at once; None: any number."""
    per_second: float | None = None
    """How many may start in a second, in the long run; None: any number."""
    burst: int | None = None
    opens_at: float | None = None
    """Seconds since the epoch. When time alone makes room for one; None: that takes the end or the start of another."""

    @property
    def is_full(self) -> bool:
        """Tell whether too many run; if not, too many have started of late."""
        return self.concurrency is not None and self.counted >= self.concurrency


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds a task: all that does, by its time and its parents, and else the limits without room."""

    as_of: int
    """Sequence of the TASKS log that the book reflects."""
    known: Known
    starts_at: float | None = None
    """Seconds since the epoch: not before; None: its time has come, or it has none."""
    parents: tuple[str, ...] = ()
    """Ids of those that it still waits for, in the order in which it named them."""
    shut: tuple[Shut, ...] = ()
    """In the order in which it passes them."""
    ahead: int | None = None
    """Tasks of its owner that wait for the same room, and come before it; None: it does not wait for room."""


def explain(held_tasks: HeldTasks, ref: TaskRef, as_of: int, now: float) -> Explanation:
    """Return why a task is held, if it is. `as_of`: up to where in the log the book is kept."""
    entry = held_tasks.find(ref)
    if entry is None:
        return Explanation(as_of=as_of, known="not-active")
    if entry.stage is not Stage.HELD:
        return Explanation(as_of=as_of, known=_KNOWN[entry.stage])
    return Explanation(
        as_of=as_of,
        known="held",
        starts_at=_starts_at(entry, now),
        parents=tuple(parent for parent in entry.plan.depends_on if parent in entry.parents),
        shut=tuple(_shut(limit, now) for limit in entry.flow.limits if limit.room(now) < ENOUGH) if entry.flow else (),
        ahead=entry.flow.place_of(entry) if entry.flow else None,
    )


def _starts_at(entry: TaskEntry, now: float) -> float | None:
    not_before = entry.plan.not_before
    if not_before is None or entry.attempt > 0 or not_before.timestamp() <= now:
        return None
    return not_before.timestamp()


def _shut(limit: Limit, now: float) -> Shut:
    bounds = limit.bounds
    return Shut(
        kind=limit.key.kind,
        counted=limit.counted,
        concurrency=bounds.concurrency,
        per_second=bounds.per_second,
        burst=bounds.burst,
        opens_at=limit.opens_at(now),
    )


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Explanation).decode
