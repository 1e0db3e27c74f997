"""Deciders of a batch job, over its history or over the last event of each kind.

        BatchJobCreated            BatchJobValidated                BatchJobFinalizing
Unknown ─────────► Validating ─────────────────────► In progress ─────────────────────► Finalizing
                    │   │                              ▲ │ │ BatchJobAdvanced               │
   BatchJobRejected │   │ BatchJobCancelRequested      └─┘ │ BatchJobCounted                │ BatchJobFinished
                    ▼   └────────────► Cancelling ◄────────┘                                ▼
                  Over                    └────────────────── BatchJobFinalizing ─────────► Over

While a job is cancelled, tasks that had been submitted are still recorded (BatchJobAdvanced), so all are cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import IdempotencyConflict, NotFound, RuleBroken
from ..events import batch_job as events
from ..events.batch_job import (
    BatchJobCreated,
    BatchJobEvent,
    BatchJobFinalizing,
    BatchJobFinished,
    BatchOutcome,
    LineCounts,
    LineError,
    TokenUsage,
)
from ..events.envelope import Recorded

BatchJobStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
NOTHING_ENDED = LineCounts()


class UnknownJob(Struct, frozen=True, tag="unknown"):
    """Never created, or past its retention."""


class BatchJob(Struct, frozen=True, kw_only=True, tag="batch_job"):
    """Created; under way or over."""

    created: BatchJobCreated
    created_at: datetime
    total: int = 0
    """Lines with a request; 0: not validated."""
    validated_at: datetime | None = None
    batches: int = 0
    """Batches of tasks that are stored."""
    lines: int = 0
    """Lines that were read for them."""
    offset: int = 0
    """Bytes of the input before the next line."""
    tasks: int = 0
    counts: LineCounts = NOTHING_ENDED
    cancelling_at: datetime | None = None
    finalizing: BatchJobFinalizing | None = None
    rejected: tuple[LineError, ...] = ()
    """What is wrong with the input."""
    finished: BatchJobFinished | None = None
    ended_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    @property
    def is_submitted(self) -> bool:
        """Return True once every line was read."""
        return self.validated_at is not None and self.lines >= self.total

    @property
    def status(self) -> BatchJobStatus:
        if self.finished is not None:
            return self.finished.outcome
        if self.ended_at is not None:
            return "failed"
        if self.cancelling_at is not None:
            return "cancelling"
        if self.finalizing is not None:
            return "finalizing"
        return "validating" if self.validated_at is None else "in_progress"


BatchJobState: TypeAlias = UnknownJob | BatchJob

UNKNOWN_JOB = UnknownJob()


class CreateBatchJob(Struct, frozen=True, kw_only=True):
    created: BatchJobCreated
    repeatable: bool
    """True with an Idempotency-Key: the same body again returns the same job."""


class AcceptInput(Struct, frozen=True, kw_only=True):
    """Record that the input is valid."""

    total: int


class RejectInput(Struct, frozen=True, kw_only=True):
    """Record what is wrong with the input."""

    errors: tuple[LineError, ...]


class AdvanceBatchJob(Struct, frozen=True, kw_only=True):
    """Record that the tasks of the next lines are stored."""

    batches: int
    """Batches of tasks with this one."""
    lines: int
    offset: int
    tasks: int
    """Of this batch alone; 0: the task types refused all its lines, and no batch was stored."""


class CountBatchJob(Struct, frozen=True, kw_only=True):
    """Record how many lines have ended."""

    counts: LineCounts


class CancelBatchJob(Struct, frozen=True):
    """Submit no further line, and cancel those that have not ended."""


class FinalizeBatchJob(Struct, frozen=True, kw_only=True):
    """Begin to write the files of results. Every task that was submitted has ended."""

    outcome: BatchOutcome
    attempt: int
    """The try that this begins."""
    lines: int
    """Lines that had been submitted when their tasks were seen to have ended."""
    output_file: str
    error_file: str


class FinishBatchJob(Struct, frozen=True, kw_only=True):
    """Record that the files of results are complete."""

    attempt: int
    counts: LineCounts
    has_output: bool
    has_errors: bool
    usage: TokenUsage | None
    errors: tuple[LineError, ...] = ()


BatchJobCommand: TypeAlias = (
    CreateBatchJob
    | AcceptInput
    | RejectInput
    | AdvanceBatchJob
    | CountBatchJob
    | CancelBatchJob
    | FinalizeBatchJob
    | FinishBatchJob
)


def decide(command: BatchJobCommand, state: BatchJobState, now: datetime) -> Sequence[BatchJobEvent]:
    """Return the events of a command; none if it is done already, or another process has gone on.

    Raises NotFound, and RuleBroken for a job that cannot be cancelled any more.
    """
    if isinstance(command, CreateBatchJob):
        return create(command, state)
    if not isinstance(state, BatchJob):
        raise NotFound("batch", "")
    match command:
        case AcceptInput():
            return [events.BatchJobValidated(total=command.total)] if _may_be_validated(state) else []
        case RejectInput():
            return [events.BatchJobRejected(errors=command.errors)] if _may_be_validated(state) else []
        case AdvanceBatchJob():
            return advance(command, state)
        case CountBatchJob():
            if state.is_over or command.counts == state.counts:
                return []
            return [events.BatchJobCounted(counts=command.counts)]
        case CancelBatchJob():
            return cancel(state)
        case FinalizeBatchJob():
            return finalize(command, state, now)
        case FinishBatchJob():
            return finish(command, state)
        case _:
            assert_never(command)


def create(command: CreateBatchJob, state: BatchJobState) -> Sequence[BatchJobEvent]:
    if isinstance(state, UnknownJob):
        return [command.created]
    if command.repeatable and state.created.fingerprint != command.created.fingerprint:
        raise IdempotencyConflict
    return []  # without a key the id is new each time: our own, stored although its answer was lost


def _may_be_validated(state: BatchJob) -> bool:
    return state.validated_at is None and state.cancelling_at is None and not state.is_over


def advance(command: AdvanceBatchJob, state: BatchJob) -> Sequence[BatchJobEvent]:
    """Record the next batch of tasks; nothing once the results are written: they would lack its lines."""
    if state.is_over or state.finalizing is not None or command.lines <= state.lines:
        return []
    if command.batches != state.batches + (command.tasks > 0):
        return []
    tasks = state.tasks + command.tasks
    return [events.BatchJobAdvanced(batches=command.batches, lines=command.lines, offset=command.offset, tasks=tasks)]


def cancel(state: BatchJob) -> Sequence[BatchJobEvent]:
    if state.status in ("cancelling", "cancelled"):
        return []
    if state.is_over:
        raise RuleBroken(f"this batch is {state.status} and cannot be cancelled")
    if state.finalizing is not None:
        raise RuleBroken("this batch is finalizing: its requests have ended, and its files are being written")
    return [events.BatchJobCancelRequested()]


def finalize(command: FinalizeBatchJob, state: BatchJob, now: datetime) -> Sequence[BatchJobEvent]:
    """Begin a try to write the results, unless something came in between: then it is decided again."""
    earlier = state.finalizing
    if state.is_over or command.attempt != (earlier.attempt if earlier else 0) + 1:
        return []
    if command.lines != state.lines or (command.outcome == "cancelled") != (state.cancelling_at is not None):
        return []
    return [
        events.BatchJobFinalizing(
            outcome=command.outcome,
            attempt=command.attempt,
            since=earlier.since if earlier else now,
            output_file=command.output_file,
            error_file=command.error_file,
        )
    ]


def finish(command: FinishBatchJob, state: BatchJob) -> Sequence[BatchJobEvent]:
    """End the job with the files of a try, if no other try has begun."""
    written = state.finalizing
    if state.is_over or written is None or written.attempt != command.attempt:
        return []
    return [
        events.BatchJobFinished(
            outcome=written.outcome,
            counts=command.counts,
            output_file=written.output_file if command.has_output else "",
            error_file=written.error_file if command.has_errors else "",
            usage=command.usage,
            errors=command.errors,
        )
    ]


def evolve(state: BatchJobState, recorded: Recorded[BatchJobEvent]) -> BatchJobState:
    """Return the state after one more event.

    Each event is folded whatever the others said: where only the last one of each kind is kept, some are missing.
    """
    event = recorded.event
    if isinstance(event, BatchJobCreated):
        return BatchJob(created=event, created_at=recorded.at)
    if not isinstance(state, BatchJob):
        return state
    match event:
        case events.BatchJobValidated():
            return replace(state, total=event.total, validated_at=recorded.at)
        case events.BatchJobRejected():
            return replace(state, rejected=event.errors, ended_at=recorded.at)
        case events.BatchJobAdvanced():
            return replace(state, batches=event.batches, lines=event.lines, offset=event.offset, tasks=event.tasks)
        case events.BatchJobCounted():
            return replace(state, counts=event.counts)
        case events.BatchJobCancelRequested():
            return replace(state, cancelling_at=recorded.at)
        case BatchJobFinalizing():
            return replace(state, finalizing=event)
        case BatchJobFinished():
            return replace(state, finished=event, counts=event.counts, ended_at=recorded.at)
        case _:
            assert_never(event)
