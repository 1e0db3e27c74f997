"""The scheduler's explanation of why a task is held: a request on plain NATS, answered from its held tasks.

Only the scheduler that holds the lease answers.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ..events.ids import TaskRef
from ..instants import epoch_seconds
from ..scheduling.held_tasks import HeldTasks
from ..scheduling.limit import Limit, LimitKind, Stage, TaskEntry
from ..scheduling.limiter import ENOUGH


class BlockingLimit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit that has no free capacity now."""

    kind: LimitKind
    counted: int
    """Tasks that run or were granted their start. Of a window: queued tasks."""
    concurrency: int | None = None
    """Concurrency limit; None: none."""
    per_second: float | None = None
    """Rate limit, starts per second; None: none."""
    burst: int | None = None
    opens_at: float | None = None
    """Seconds since the epoch: when the rate limit has capacity again. None: when another task ends or starts."""

    @property
    def is_full(self) -> bool:
        """True if the concurrency limit blocks; False if the rate limit does."""
        return self.concurrency is not None and self.counted >= self.concurrency


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds a task: its time and its parents; if neither does, the limits without capacity."""

    as_of: int
    """Sequence of the TASKS log that this reflects."""
    known: str
    """The value of its Stage; `not-active`: no active task has this id."""
    starts_at: float | None = None
    """Seconds since the epoch: not before. None: its time has come, or it has none."""
    parents: tuple[str, ...] = ()
    """Ids of the parents it still waits for, in the order of its `dependsOn`."""
    limits: tuple[BlockingLimit, ...] = ()
    """In the order of `limit_keys`."""
    ahead: int | None = None
    """Tasks of its owner before it that need the same limits; None: it does not wait for capacity."""


def explain(held_tasks: HeldTasks, ref: TaskRef, as_of: int, now: float) -> Explanation:
    """Return why a task is held. `as_of`: sequence of the log that `held_tasks` reflects."""
    entry = held_tasks.find(ref)
    if entry is None:
        return Explanation(as_of=as_of, known="not-active")
    if entry.stage is not Stage.HELD:
        return Explanation(as_of=as_of, known=entry.stage.value)
    limits = entry.flow.limits if entry.flow else ()
    return Explanation(
        as_of=as_of,
        known="held",
        starts_at=_starts_at(entry, now),
        parents=tuple(parent for parent in entry.plan.depends_on if parent in entry.parents),
        limits=tuple(_blocking_limit(limit, now) for limit in limits if limit.available(now) < ENOUGH),
        ahead=entry.flow.place_of(entry) if entry.flow else None,
    )


def _starts_at(entry: TaskEntry, now: float) -> float | None:
    not_before = entry.plan.not_before
    if not_before is None or entry.attempt > 0 or epoch_seconds(not_before) <= now:
        return None
    return epoch_seconds(not_before)


def _blocking_limit(limit: Limit, now: float) -> BlockingLimit:
    bounds = limit.bounds
    return BlockingLimit(
        kind=limit.key.kind,
        counted=limit.counted,
        concurrency=bounds.concurrency,
        per_second=bounds.per_second,
        burst=bounds.burst,
        opens_at=limit.opens_at(now),
    )


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Explanation).decode
