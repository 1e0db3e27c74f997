"""Batches as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from ...projections.batches import Batch, BatchProgress
from ...projections.task_reader import Listed
from ...projections.task_view import Status
from ...settings import Settings
from ...wire.fields import milliseconds, optional_milliseconds
from .tasks import TaskSummary, task_summary


class RefusedItem(Struct, kw_only=True):
    """A task of a batch that is cancelled already."""

    index: int
    """Its place in the batch, from 0."""
    error: str


class BatchAnswer(Struct, kw_only=True, rename="camel"):
    """A batch was accepted: all of its tasks are on disk."""

    batch_id: str
    task_ids: list[str]
    """In the order in which they were sent."""
    repeated: bool
    """Whether the Idempotency-Key had been used for it: then nothing was stored anew."""
    refused: list[RefusedItem]
    """Those of its tasks whose concurrency key was taken, where their types refuse newcomers: they are cancelled, and
    the others go on. One of which that cannot be told at once shows it later."""


class BatchSummary(Struct, kw_only=True, rename="camel"):
    """A batch, and how far its tasks are."""

    id: str
    owner: str
    """The `sub` of whoever submitted it."""
    size: int
    """Tasks it was submitted with."""
    counts: dict[Status, int]
    """Its tasks by status, without those that were deleted."""
    held: int
    """How many of those that wait are not queued yet, as something holds them."""
    progress: float
    """Percent: the mean of its tasks', of which one that has ended counts as 100."""
    done: bool
    """Whether all have ended. One that is retried by hand makes it false again."""
    created_at: int
    updated_at: int | None
    """When something last happened to one of its tasks."""
    ended_at: int | None
    """When the last of them ended; null while one has not."""


class ListedBatch(Struct, kw_only=True, rename="camel"):
    """A batch as lists show it."""

    id: str
    owner: str
    """The `sub` of whoever submitted it."""
    size: int
    """Tasks it was submitted with."""
    counts: dict[Status, int] | None
    """Its tasks by status, where counts were asked for; else null."""
    created_at: int


class BatchPage(Struct, kw_only=True, rename="camel"):
    """Batches, newest first."""

    batches: list[ListedBatch]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last. A page may be short and still have one."""


class BatchTask(TaskSummary, kw_only=True, rename="camel"):
    """A task of a batch."""

    index: int
    """Its place in the batch, from 0."""
    result: Any
    """A TaskResult, where results were asked for; else null."""


class BatchTaskPage(Struct, kw_only=True, rename="camel"):
    """Tasks of a batch, in the order in which they were sent."""

    batch_id: str
    tasks: list[BatchTask]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last. A page may be short and still have one."""


class PushedBatch(Struct, kw_only=True, rename="camel", tag="batch"):
    """A batch as it is when a stream of it begins, and when it ends."""

    batch_id: str
    batch: BatchSummary


_encode = msgspec.json.Encoder().encode


def encoded_batch(summary: BatchSummary) -> bytes:
    return _encode(PushedBatch(batch_id=summary.id, batch=summary))


def batch_summary(batch: Batch, progress: BatchProgress) -> BatchSummary:
    return BatchSummary(
        id=batch.ref.id,
        owner=batch.owner,
        size=batch.size,
        counts=progress.counts,
        held=progress.held,
        progress=round(progress.percent, 2),
        done=progress.is_done,
        created_at=milliseconds(batch.created_at),
        updated_at=optional_milliseconds(progress.updated_at),
        ended_at=optional_milliseconds(progress.ended_at),
    )


def listed_batch(batch: Batch, counted: BatchProgress | None) -> ListedBatch:
    return ListedBatch(
        id=batch.ref.id,
        owner=batch.owner,
        size=batch.size,
        counts=counted.counts if counted is not None else None,
        created_at=milliseconds(batch.created_at),
    )


def batch_task(place: int, listed: Listed, result: Raw | None, settings: Settings) -> BatchTask:
    summary = msgspec.structs.asdict(task_summary(listed, settings))
    return BatchTask(**summary, index=place, result=result)
