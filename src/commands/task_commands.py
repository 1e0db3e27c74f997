"""The commands of a task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from ..events.envelope import NULL
from ..events.stream_parts import StreamParts
from ..events.task import CancelOutcome, ErrorAnswer, FailureKind, MergedReport, ReturnKind, StoredResult, TaskSubmitted


class SubmitTask(Struct, frozen=True, kw_only=True):
    submission: TaskSubmitted
    repeatable: bool = False
    """True with an Idempotency-Key: the same body again returns the same task."""


class HoldTask(Struct, frozen=True, kw_only=True):
    """Take a waiting task out of its queue until the scheduler releases it."""

    reason: str


class ReleaseTask(Struct, frozen=True, kw_only=True):
    """Queue a held task: nothing holds it any more, and all its limits have free capacity."""

    submission: int = 0
    """Sequence of its TaskSubmitted; 0: not known."""


class ExpireTask(Struct, frozen=True, kw_only=True):
    """Fail a task that did not start by its `expiresAt`, or did not end by its `deadline`."""


class EndBusyWait(Struct, frozen=True, kw_only=True):
    """Fail a waiting task for which every server has been busy for too long."""


class FailByParent(Struct, frozen=True, kw_only=True):
    """Apply `onParentFailure` to a held task of which a parent did not succeed."""

    parent_id: str
    outcome: str
    """How the parent ended, in words."""


class CancelUnstarted(Struct, frozen=True, kw_only=True):
    """Cancel a task that never started, in favour of another with its concurrency key."""

    reason: str


class StartAttempt(Struct, frozen=True, kw_only=True):
    """Claim a waiting task for a server."""

    server_id: str
    worker_id: str
    token_digest: str
    reports_later: bool = False
    """The server reports by callback."""
    needs_grant: bool = False
    """True if the task shares a limit with others: it may start only with a grant."""


class AcceptAttempt(Struct, frozen=True, kw_only=True):
    attempt: int
    backend_task_id: str | None
    lease: timedelta | None = None
    """How often its puller must renew it; None: it was not pulled."""


class Reporter(Struct, frozen=True, kw_only=True):
    """The reporter of an update, and the attempt it may report on."""

    kind: Literal["worker", "server", "person"]
    """A worker, or a server with a callback token, reports on one attempt; a server without a token on the attempt that
    runs on it; a person (the owner, an admin) on any attempt."""
    attempt: int | None = None
    server_id: str = ""
    """Empty for a server that does not know the id it is registered under."""

    @property
    def server_named(self) -> str:
        """Return the server that events may name on the reporter's word alone: a person's word names none."""
        return "" if self.kind == "person" else self.server_id


class ReportProgress(Struct, frozen=True, kw_only=True):
    reporter: Reporter
    progress: float | None = None
    message: str | None = None
    custom_data: Raw = NULL
    lines: tuple[str, ...] = ()
    output: str = ""
    batch: str = ""
    reports: int = 1
    notes: tuple[str, ...] = ()
    merged: tuple[MergedReport, ...] = ()
    data: StoredResult | None = None
    parts: StreamParts | None = None


class SucceedTask(Struct, frozen=True, kw_only=True):
    reporter: Reporter
    result: StoredResult
    update_digest: str = ""
    notes: tuple[str, ...] = ()
    decided_by: datetime | None = None
    """UTC. Refused after this instant: its stored result may be deleted by then. None: any time will do."""


class FailTask(Struct, frozen=True, kw_only=True):
    """Record that the backend reported a failure of the task."""

    reporter: Reporter
    error: str
    result: StoredResult | None
    update_digest: str = ""
    notes: tuple[str, ...] = ()
    decided_by: datetime | None = None
    """UTC. Refused after this instant: its stored result may be deleted by then. None: any time will do."""


class FailAttempt(Struct, frozen=True, kw_only=True):
    """Record that an attempt failed. The decider chooses between a retry and the end."""

    attempt: int
    kind: FailureKind
    error: str
    jitter: float
    """In [0, 1): the fraction of the backoff to wait."""
    retry_after: timedelta | None = None
    """Retry-After of the server."""
    answer: ErrorAnswer | None = None
    """What the server answered; recorded if the task ends by it."""


class ReturnAttempt(Struct, frozen=True, kw_only=True):
    """Queue the task again, without counting the attempt as a failure."""

    attempt: int
    reason: str
    kind: ReturnKind = "shutdown"


class ReportCancel(Struct, frozen=True, kw_only=True):
    """Record what became of an attempt whose task was cancelled."""

    attempt: int
    outcome: CancelOutcome
    detail: str


class CancelTask(Struct, frozen=True, kw_only=True):
    reason: str


class RetryTask(Struct, frozen=True, kw_only=True):
    """Queue a failed or cancelled task again, with a new budget of attempts."""

    reason: str
    bulk: bool = False
    """Into the bulk queue: it is one of many."""


class DeleteTask(Struct, frozen=True, kw_only=True):
    """Remove a task from all lists; an active one is cancelled first."""

    reason: str
    """Reason of the cancellation, if there is one."""


class RequeueTask(Struct, frozen=True, kw_only=True):
    """Queue a waiting task again that is missing from its queue."""

    reason: str


TaskCommand: TypeAlias = (
    SubmitTask
    | StartAttempt
    | AcceptAttempt
    | ReportProgress
    | SucceedTask
    | FailTask
    | FailAttempt
    | ReturnAttempt
    | CancelTask
    | ReportCancel
    | RetryTask
    | DeleteTask
    | RequeueTask
    | HoldTask
    | ReleaseTask
    | ExpireTask
    | EndBusyWait
    | FailByParent
    | CancelUnstarted
)
