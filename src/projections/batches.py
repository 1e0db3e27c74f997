"""Batches: which tasks they have, and how far these are.

Nothing is kept of a batch but its tasks: each names its batch and how many there are, and the ids follow from the
batch's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from ..errors import NotFound
from ..events.codec import task_codec
from ..events.ids import BatchRef, TaskRef, nth
from ..events.subjects import task_root
from ..events.task import TaskSubmitted
from ..streams.connection import Connection
from ..streams.log import decode, last_position
from ..streams.topology import TASKS
from .task_reader import Listed, TaskReader
from .task_view import ACTIVE, Status, TaskView

WHOLE = 100.0


class Batch(Struct, frozen=True, kw_only=True):
    """What was submitted together."""

    ref: BatchRef
    owner: str
    """The JWT subject, as it was."""
    size: int
    fingerprint: str
    created_at: datetime

    @property
    def refs(self) -> list[TaskRef]:
        """Its tasks, by their places."""
        return [nth(self.ref, place) for place in range(self.size)]


class BatchProgress(Struct, frozen=True, kw_only=True):
    """How far the tasks of a batch are."""

    counts: dict[Status, int]
    held: int
    """Of those that wait: not queued yet, as something holds them."""
    percent: float
    updated_at: datetime | None
    ended_at: datetime | None
    """When the last of them ended; None while one has not."""

    @property
    def is_done(self) -> bool:
        return not any(self.counts[status] for status in ACTIVE)


class BatchReader:
    def __init__(self, tasks: TaskReader, reading: Connection) -> None:
        self._tasks = tasks
        self._reading = reading

    async def find(self, ref: BatchRef) -> Batch:
        """Return a batch, also one submitted a moment ago. Raises NotFound."""
        position = await last_position(self._reading, TASKS, f"{task_root(nth(ref, 0))}.submitted.>")
        recorded = decode(task_codec, position).recorded if position else None
        if recorded is None or not isinstance(recorded.event, TaskSubmitted) or recorded.event.batch != ref.id:
            raise NotFound("batch", ref.id)
        event = recorded.event
        return Batch(
            ref=ref,
            owner=event.owner,
            size=event.batch_size,
            fingerprint=event.fingerprint,
            created_at=recorded.at,
        )

    async def is_complete(self, batch: Batch) -> bool:
        """Tell whether all of its tasks are there: a store that ran full in the midst may have kept the first ones."""
        last = nth(batch.ref, batch.size - 1)
        return await last_position(self._reading, TASKS, f"{task_root(last)}.submitted.>") is not None

    async def tasks(self, batch: Batch, *, deleted: bool) -> list[Listed]:
        """Return its tasks as they are now, by their places; without those their owner deleted, unless `deleted`.

        Raises NotFound where none is left.
        """
        found = [
            listed
            for listed in await self._tasks.views(batch.refs, batch.ref.owner)
            if deleted or not listed.view.deleted
        ]
        if not found:
            raise NotFound("batch", batch.ref.id)
        return found


def progress(tasks: Sequence[Listed]) -> BatchProgress:
    """Return how far these tasks are."""
    views = [listed.view for listed in tasks]
    counted = Counter(view.status for view in views)
    statuses: tuple[Status, ...] = ("WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED")
    is_done = not any(counted[status] for status in ACTIVE)
    return BatchProgress(
        counts={status: counted[status] for status in statuses},
        held=sum(view.held for view in views if view.status in ACTIVE),
        percent=sum(map(_percent, views)) / len(views) if views else WHOLE,
        updated_at=max((view.updated_at for view in views), default=None),
        ended_at=max((view.ended_at for view in views if view.ended_at), default=None) if is_done else None,
    )


def _percent(view: TaskView) -> float:
    return min(max(view.progress or 0.0, 0.0), WHOLE) if view.status in ACTIVE else WHOLE
