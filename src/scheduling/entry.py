"""A task that has not ended, as the keeper sees it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import TYPE_CHECKING

from msgspec import Struct

from ..events.ids import TaskRef
from ..events.task import NO_PLAN, Plan, Priority
from .lane import Lane
from .windows import window

if TYPE_CHECKING:
    from .gate import Gate


class Stage(Enum):
    HELD = auto()
    QUEUED = auto()
    RUNNING = auto()
    RETRYING = auto()
    """It comes back to its queue by itself when its retry is due."""


class Entry(Struct, kw_only=True, eq=False):
    ref: TaskRef
    sequence: int
    """Of its last event of those the book heeds; of a held task, of its very last."""
    created_sequence: int
    pool: str
    priority: Priority
    task_type: str
    submitted_at: float
    """Seconds since the epoch, as all instants of the book."""
    stage: Stage
    granted: bool = False
    granted_at: float = 0.0
    plan: Plan = NO_PLAN
    attempt: int = 0
    renewed_after: int = 0
    """Sequence of its end after which it was retried: how a parent ended before that is no matter. 0: it was not."""
    parents: AbstractSet[str] = frozenset()
    """Ids of the tasks it still waits for."""
    gates: tuple[Gate, ...] = ()
    """What must have room for it to start, its owner's window first; the book finds them."""
    lane: Lane | None = None
    """Where it waits for room; None: it does not."""

    @property
    def window(self) -> str:
        return window(self.pool, self.priority, self.task_type, self.plan)

    @property
    def is_counted(self) -> bool:
        """Whether it counts against the limits on how many run."""
        return self.stage is Stage.RUNNING or (self.stage is Stage.QUEUED and self.granted)

    @property
    def is_pending(self) -> bool:
        """Whether it was counted in and has not started."""
        return self.stage is Stage.QUEUED and self.granted
