"""The events of a batch job: a file of requests, one per line, run within a window of time, with files of results.

Each event carries the full new value of what it changes, and the log keeps the last one of each kind.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct, field

from .envelope import Event

BatchOutcome = Literal["completed", "expired", "cancelled", "failed"]
"""How a job ends that was valid; `failed`: its input was lost."""


class LineError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with the input of a job."""

    code: str
    message: str
    line: int = 0
    """Number of the line, from 1; 0: it is about the file."""
    param: str = ""
    """Field of the line, such as `body.model`; empty: none."""


class LineCounts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many lines have ended."""

    completed: int = 0
    failed: int = 0


class TokenUsage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens that servers reported for the lines of a job."""

    input_tokens: int = 0
    cached_tokens: int = 0
    """Of the input."""
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the output."""


class BatchJobCreated(Event, frozen=True, kw_only=True):
    """A job was accepted. Its input is validated next."""

    job_id: str
    owner: str
    """Subject of the JWT, unchanged."""
    endpoint: str
    """Path that each line is for, such as `/v1/chat/completions`."""
    input_file: str
    """Id of the file of requests."""
    window: str
    """Its time, as it was asked for, such as `24h`."""
    expires_at: datetime
    """UTC. Past this instant no line is run any more."""
    metadata: dict[str, str] = field(default_factory=dict)
    output_seconds: int = 0
    """Seconds after which its files of results expire; 0: as other files do."""
    types: tuple[str, ...] = ()
    """The task types that the creator's API key reaches; empty: all."""
    fingerprint: str = ""
    """Of the request, with an Idempotency-Key."""


class BatchJobValidated(Event, frozen=True, kw_only=True):
    """Every line of the input is valid. Its tasks are submitted next."""

    total: int
    """Number of lines with a request."""


class BatchJobRejected(Event, frozen=True, kw_only=True):
    """The input is not valid. Nothing of it is run."""

    errors: tuple[LineError, ...]
    """The first ones."""


class BatchJobAdvanced(Event, frozen=True, kw_only=True):
    """The tasks of the next lines are in the log of tasks."""

    batches: int
    """Number of batches of tasks that are stored."""
    lines: int
    """Lines with a request that were read from the input so far."""
    offset: int
    """Bytes of the input before the next line."""
    tasks: int
    """Tasks that were submitted so far; fewer than lines if a task type refused some."""


class BatchJobCounted(Event, frozen=True, kw_only=True):
    """Lines have ended. Counted every few seconds."""

    counts: LineCounts


class BatchJobCancelRequested(Event, frozen=True, kw_only=True):
    """No further line is submitted, and those that have not ended are cancelled."""


class BatchJobFinalizing(Event, frozen=True, kw_only=True):
    """Its lines have ended, and the files of results are being written. Again, with other files, after a crash."""

    outcome: BatchOutcome
    attempt: int
    """1 for the first try to write the files."""
    since: datetime
    """UTC. When the first try began."""
    output_file: str
    """Id of the file of responses; it exists once the job has finished, and only if there are any."""
    error_file: str
    """Id of the file of errors, likewise."""


class BatchJobFinished(Event, frozen=True, kw_only=True):
    """Its files of results are complete."""

    outcome: BatchOutcome
    counts: LineCounts
    output_file: str = ""
    """Empty: no line had a response."""
    error_file: str = ""
    """Empty: no line had an error."""
    usage: TokenUsage | None = None
    """None: no server reported tokens."""
    errors: tuple[LineError, ...] = ()
    """Why it failed."""


BatchJobEvent: TypeAlias = (
    BatchJobCreated
    | BatchJobValidated
    | BatchJobRejected
    | BatchJobAdvanced
    | BatchJobCounted
    | BatchJobCancelRequested
    | BatchJobFinalizing
    | BatchJobFinished
)
