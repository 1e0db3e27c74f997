"""The reader of batches: their tasks and their progress.

A batch is stored only as its tasks. Each names its batch and the number of tasks, and the ids of the tasks follow from
the id of the batch. The index lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from ..errors import NotFound
from ..events.codec import task_codec
from ..events.ids import BatchRef, TaskRef, nth
from ..events.subjects import submission_filter
from ..events.task import TaskSubmitted
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .task_view import ACTIVE, Listed, Status, TaskView

WHOLE = 100.0


class Batch(Struct, frozen=True, kw_only=True):
    """Tasks that were submitted together."""

    ref: BatchRef
    owner: str
    """Subject of the JWT, unchanged."""
    size: int
    fingerprint: str = ""
    """Of the body; empty in lists."""
    created_at: datetime
    sequence: int
    """Place of its first task in the log: the order of lists."""

    @property
    def refs(self) -> list[TaskRef]:
        """Its tasks, in order of their index."""
        return [nth(self.ref, place) for place in range(self.size)]


class BatchProgress(Struct, frozen=True, kw_only=True):
    """Progress of the tasks of a batch."""

    counts: dict[Status, int]
    held: int
    """Waiting tasks that are not queued yet, because something holds them."""
    percent: float
    updated_at: datetime | None
    ended_at: datetime | None
    """When the last of them ended; None: one has not."""

    @property
    def is_done(self) -> bool:
        return not any(self.counts[status] for status in ACTIVE)


class BatchReader:
    def __init__(self, reading: Connection) -> None:
        self._reading = reading

    async def find(self, ref: BatchRef) -> Batch:
        """Return a batch, however new. Raises NotFound."""
        position = await last_position(self._reading, TASKS, submission_filter(nth(ref, 0)))
        if position is None:
            raise NotFound("batch", ref.id)
        recorded = decode(task_codec, position).recorded
        event = recorded.event
        if not isinstance(event, TaskSubmitted) or event.batch != ref.id:
            raise NotFound("batch", ref.id)
        return Batch(
            ref=ref,
            owner=event.owner,
            size=event.batch_size,
            fingerprint=event.fingerprint,
            created_at=recorded.at,
            sequence=position.sequence,
        )

    async def is_complete(self, batch: Batch) -> bool:
        """Return True if all its tasks are stored: a store that ran full may have only the first ones."""
        last = nth(batch.ref, batch.size - 1)
        return await last_position(self._reading, TASKS, submission_filter(last)) is not None


def progress(tasks: Sequence[Listed]) -> BatchProgress:
    """Return the progress of tasks."""
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
