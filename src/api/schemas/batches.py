"""Batches as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ...events.ids import BatchRef, batch_index
from ...events.task import StoredResult
from ...instants import milliseconds, optional_milliseconds
from ...projections.batches import Batch, BatchProgress
from ...projections.task_view import Listed, Status
from ...settings import Settings
from ...submission.service import SubmittedBatch
from .shared import Page
from .tasks import TaskSummary, result_in_place, task_summary


class RefusedItem(Struct, kw_only=True):
    """A task of a batch that was cancelled at once."""

    index: int
    """Its index in the batch, from 0."""
    error: str


class BatchAnswer(Struct, kw_only=True, rename="camel"):
    """An accepted batch: all of its tasks are on disk."""

    batch_id: str
    task_ids: list[str]
    """In the order of the body."""
    repeated: bool
    """True if an earlier request with this Idempotency-Key stored the batch: this one stored nothing."""
    refused: list[RefusedItem]
    """Tasks whose concurrency key was in use and whose type refuses new tasks then. They are cancelled; the others go
    on. A task that the service could not decide on at once shows the refusal later."""


class BatchSummary(Struct, kw_only=True, rename="camel"):
    """A batch and its progress."""

    id: str
    owner: str
    """The `sub` of the submitter's token."""
    size: int
    """Tasks submitted with it."""
    counts: dict[Status, int]
    """Its tasks by status, without deleted ones."""
    held: int
    """Waiting tasks that are held: they are in no queue yet."""
    progress: float
    """Percent: the mean over its tasks. A task that has ended counts as 100."""
    done: bool
    """True if all tasks have ended. A retry by hand makes it false again."""
    created_at: int
    updated_at: int | None
    """When one of its tasks last changed."""
    ended_at: int | None
    """When the last task ended; null until then."""


class ListedBatch(Struct, kw_only=True, rename="camel"):
    """A batch in a list."""

    id: str
    owner: str
    """The `sub` of the submitter's token."""
    size: int
    """Tasks submitted with it."""
    counts: dict[Status, int] | None
    """Its tasks by status; null without `counts`."""
    created_at: int


class BatchPage(Page, kw_only=True, rename="camel"):
    """Batches, newest first."""

    batches: list[ListedBatch]


class BatchTask(TaskSummary, kw_only=True, rename="camel"):
    """A task of a batch."""

    index: int
    """Its index in the batch, from 0."""
    result: Any
    """A TaskResult; null without `results`."""


class BatchTaskPage(Page, kw_only=True, rename="camel"):
    """Tasks of a batch, in the order of its body."""

    batch_id: str
    tasks: list[BatchTask]


class _PushedBatch(Struct, kw_only=True, rename="camel", tag="batch"):
    """A batch, sent at the start and at the end of its stream."""

    batch_id: str
    batch: BatchSummary


_encode = msgspec.json.Encoder().encode


def encoded_batch(summary: BatchSummary) -> bytes:
    return _encode(_PushedBatch(batch_id=summary.id, batch=summary))


def batch_answer(batch: BatchRef, submitted: SubmittedBatch) -> BatchAnswer:
    refused = submitted.refused
    return BatchAnswer(
        batch_id=batch.id,
        task_ids=[ref.id for ref in submitted.refs],
        repeated=not submitted.is_new,
        refused=[RefusedItem(index=batch_index(ref), error=refused[ref]) for ref in submitted.refs if ref in refused],
    )


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


def batch_task(listed: Listed, result: StoredResult | None, settings: Settings) -> BatchTask:
    summary = msgspec.structs.asdict(task_summary(listed, settings))
    return BatchTask(**summary, index=batch_index(listed.ref), result=result_in_place(listed.ref, result))
