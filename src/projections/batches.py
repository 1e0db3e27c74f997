"""The reader of batches: their tasks and their progress.

A batch is stored only as its tasks. Each names its batch and the number of tasks, and the ids of the tasks follow from
the id of the batch. So lists of batches are found among the submissions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from ..errors import NotFound
from ..events.codec import task_codec
from ..events.ids import BatchRef, TaskRef, batch_index, batch_of, nth
from ..events.subjects import submission_filter
from ..events.task import TaskSubmitted
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .submissions import SubmissionPlace
from .task_reader import TaskReader
from .task_view import ACTIVE, Listed, Status, TaskView

WHOLE = 100.0
LOOKED_AT_ONCE = 64
MOST_LOOKED_AT = 2_000
"""Submissions (those of a batch count as one) that one page searches before it returns what it has found."""


class Batch(Struct, frozen=True, kw_only=True):
    """Tasks that were submitted together."""

    ref: BatchRef
    owner: str
    """Subject of the JWT, unchanged."""
    size: int
    fingerprint: str
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


class ListedBatches(NamedTuple):
    batches: list[Batch]
    cursor: int | None
    """The next page comes before this sequence; None after the last page. A page may be short, even empty, and still
    have one."""


class SubmissionRange(NamedTuple):
    """Contiguous tasks that could be one batch.

    A batch of which only the first tasks were stored at first, and the others later, has two ranges.
    """

    ref: BatchRef
    start: int
    """The sequence of the batch's first task, if it is in this range."""


class BatchReader:
    def __init__(self, tasks: TaskReader, reading: Connection) -> None:
        self._tasks = tasks
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

    async def page(self, owner: str | None, limit: int, before: int | None, *, deleted: bool) -> ListedBatches:
        """Return up to `limit` batches of an owner token (None: of everybody), newest first.

        They were submitted before the sequence `before`. Unless `deleted`, without batches whose tasks are all deleted.
        """
        found: list[Batch] = []
        looked_at = 0
        while True:
            async with contextlib.aclosing(self._tasks.submissions(owner, before, LOOKED_AT_ONCE)) as stretches:
                async for places, rest in stretches:
                    runs = _runs(places)
                    begun = await self._begun(runs)
                    found += [batch for batch in begun if deleted or await self._has_any(batch)]
                    if len(found) > limit:
                        return ListedBatches(found[:limit], found[limit - 1].sequence)
                    if rest is None:
                        return ListedBatches(found, None)
                    before = min([rest, *(batch.sequence for batch in begun)])
                    looked_at += len(runs)
                    if looked_at >= MOST_LOOKED_AT:
                        return ListedBatches(found, before)
                    if before < rest:
                        break  # continue at the start of the batch, without reading all its tasks
                else:
                    return ListedBatches(found, None)

    async def _begun(self, runs: Mapping[SubmissionRange, list[TaskRef]]) -> list[Batch]:
        """Return the batches that begin with one of these ranges, in order."""
        found = []
        for run, refs in runs.items():
            # Two tasks show a batch, or its first task. Any other batch is found further back.
            if len(refs) < 2 and batch_index(refs[0]) != 0:
                continue
            with contextlib.suppress(NotFound):  # no batch, or its beginning is past its retention
                batch = await self.find(run.ref)
                if batch.sequence == run.start:
                    found.append(batch)
        return found

    async def _has_any(self, batch: Batch) -> bool:
        """Return True unless all tasks of a batch are deleted; most often its first task decides."""
        for refs in (batch.refs[:1], batch.refs):
            if any(not listed.view.deleted for listed in await self._tasks.views(refs, batch.ref.owner)):
                return True
        return False

    async def is_complete(self, batch: Batch) -> bool:
        """Return True if all its tasks are stored: a store that ran full may have only the first ones."""
        last = nth(batch.ref, batch.size - 1)
        return await last_position(self._reading, TASKS, submission_filter(last)) is not None

    async def tasks(self, batch: Batch, *, deleted: bool) -> list[Listed]:
        """Return the present views of its tasks, in order of their index; without deleted ones, unless `deleted`.

        Raises NotFound if none is left.
        """
        found = [
            listed
            for listed in await self._tasks.views(batch.refs, batch.ref.owner)
            if deleted or not listed.view.deleted
        ]
        if not found:
            raise NotFound("batch", batch.ref.id)
        return found


def _runs(places: Sequence[SubmissionPlace]) -> dict[SubmissionRange, list[TaskRef]]:
    """Return the ranges of submissions, newest first; a single task is a range, too."""
    runs: dict[SubmissionRange, list[TaskRef]] = {}
    for sequence, ref in places:
        runs.setdefault(SubmissionRange(batch_of(ref), sequence - batch_index(ref)), []).append(ref)
    return runs


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
