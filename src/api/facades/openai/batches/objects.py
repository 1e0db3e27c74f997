"""Batches as OpenAI's API shows them. Instants are whole seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .....commands.batch_job import BatchJob, BatchJobStatus
from .....events.batch_job import LineError, TokenUsage
from .....events.ids import BatchJobRef
from .....instants import whole_seconds

FILE_PREFIX, BATCH_PREFIX = "file-", "batch_"
WINDOW_PATTERN = r"^[1-9][0-9]{0,6}[smhd]$(?!\n)"
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
BatchMetadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]


class ExpiresAfter(Struct, kw_only=True, forbid_unknown_fields=True):
    """When files expire: so many seconds after they were created."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3_600, le=2_592_000)]


class NewBatch(Struct, kw_only=True, forbid_unknown_fields=True):
    """A batch to create."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=128)]
    """Id of a file with purpose `batch`: one request per line."""
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Annotated[str, Meta(pattern=WINDOW_PATTERN)]
    """`24h`; beyond OpenAI's API, also other numbers of seconds, minutes, hours or days (`s`, `m`, `h`, `d`), up to
    `7d`."""
    metadata: BatchMetadata | None = None
    output_expires_after: ExpiresAfter | None = None
    """Of the files of results; by default they are kept as long as other files."""


class BatchLineError(Struct, kw_only=True):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(Struct, kw_only=True):
    """What is wrong with the input of a batch, or why it failed."""

    object: Literal["list"] = "list"
    data: list[BatchLineError]


class BatchRequestCounts(Struct, kw_only=True):
    total: int
    completed: int
    failed: int


class InputTokenDetails(Struct, kw_only=True):
    cached_tokens: int


class OutputTokenDetails(Struct, kw_only=True):
    reasoning_tokens: int


class BatchUsage(Struct, kw_only=True):
    """Tokens of all requests, as far as servers reported them."""

    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class BatchObject(Struct, kw_only=True):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchJobStatus
    output_file_id: str | None
    """Responses with a status of 2xx; null until the batch has ended, and if there are none."""
    error_file_id: str | None
    """The other requests, likewise."""
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchRequestCounts
    usage: BatchUsage | UnsetType = UNSET
    metadata: dict[str, str] | None


def batch_object(ref: BatchJobRef, job: BatchJob) -> BatchObject:
    """Return what OpenAI's API shows of a batch."""
    created, finished, status = job.created, job.finished, job.status
    ended = whole_seconds(job.ended_at) if job.ended_at else None
    errors = job.rejected or (finished.errors if finished else ())
    is_finalizing = job.finalizing is not None and job.cancelling_at is None
    return BatchObject(
        id=BATCH_PREFIX + ref.id,
        endpoint=created.endpoint,
        errors=BatchErrors(data=[_error(each) for each in errors]) if errors else None,
        input_file_id=FILE_PREFIX + created.input_file,
        completion_window=created.window,
        status=status,
        output_file_id=FILE_PREFIX + finished.output_file if finished and finished.output_file else None,
        error_file_id=FILE_PREFIX + finished.error_file if finished and finished.error_file else None,
        created_at=whole_seconds(job.created_at),
        in_progress_at=whole_seconds(job.validated_at) if job.validated_at else None,
        expires_at=whole_seconds(created.expires_at),
        finalizing_at=whole_seconds(job.finalizing.since) if job.finalizing and is_finalizing else None,
        completed_at=ended if status == "completed" else None,
        failed_at=ended if status == "failed" else None,
        expired_at=ended if status == "expired" else None,
        cancelling_at=whole_seconds(job.cancelling_at) if job.cancelling_at else None,
        cancelled_at=ended if status == "cancelled" else None,
        request_counts=BatchRequestCounts(total=job.total, completed=job.counts.completed, failed=job.counts.failed),
        usage=_usage(finished.usage) if finished and finished.usage else UNSET,
        metadata=created.metadata or None,
    )


def _error(error: LineError) -> BatchLineError:
    return BatchLineError(code=error.code, line=error.line or None, message=error.message, param=error.param or None)


def _usage(usage: TokenUsage) -> BatchUsage:
    return BatchUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokenDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokenDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
