"""What may be asked of a task: commands, named in the imperative."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from ..events.envelope import NULL
from ..events.task import FailureKind, ModelChoice, Plan, Priority, RetryPolicy, StoredResult


class SubmitTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    owner: str
    task_type: str
    payload: Raw
    pool: str
    priority: Priority
    policy: RetryPolicy
    fingerprint: str
    repeatable: bool = False
    """An Idempotency-Key was given: the same body again is the same task."""
    project: str = ""
    model: ModelChoice | None = None
    key_id: str = ""
    held: bool = False
    """Something holds it: it is not queued yet."""
    plan: Plan | None = None
    batch: str = ""
    batch_size: int = 0
    schedule: str = ""


class HoldTask(Struct, frozen=True, kw_only=True):
    """Take a waiting task out of the queue, until the keeper puts it back."""

    reason: str


class ReleaseTask(Struct, frozen=True, kw_only=True):
    """Queue a held task: nothing holds it any more, and all its limits have free capacity."""

    submission: int = 0
    """Sequence of its TaskSubmitted; 0: not known."""


class ExpireTask(Struct, frozen=True, kw_only=True):
    """End a task whose time is up: it has not started, or not ended, by when it had to."""


class FailByParent(Struct, frozen=True, kw_only=True):
    """End a held task, as it asked for in case that a task it depends on does not succeed."""

    parent_id: str
    outcome: str
    """What became of the parent, in words."""


class CancelUnstarted(Struct, frozen=True, kw_only=True):
    """Cancel a task that was never started, as another with its concurrency key goes before it."""

    reason: str


class StartAttempt(Struct, frozen=True, kw_only=True):
    """Claim a waiting task for a server."""

    server_id: str
    worker_id: str
    token_digest: str
    needs_grant: bool = False
    """The task shares a limit with others, as far as the worker knows: it is to have been counted in."""


class AcceptAttempt(Struct, frozen=True, kw_only=True):
    attempt: int
    backend_task_id: str | None


class Reporter(Struct, frozen=True, kw_only=True):
    """Who reports on an attempt, and so for which attempt it may speak."""

    kind: Literal["worker", "server", "person"]
    """A worker and a server with an attempt's token speak for that attempt; a server with no token for the attempt
    that runs on it; a person (the owner, an admin) for whatever attempt there is."""
    attempt: int | None = None
    server_id: str = ""
    """Empty for a server whose name for itself is not the one it was registered under."""


class ReportProgress(Struct, frozen=True, kw_only=True):
    reporter: Reporter
    progress: float | None = None
    message: str | None = None
    custom_data: Raw = NULL
    lines: tuple[str, ...] = ()
    output: str = ""
    batch: str = ""
    reports: int = 1


class SucceedTask(Struct, frozen=True, kw_only=True):
    reporter: Reporter
    result: StoredResult
    update_digest: str = ""


class FailTask(Struct, frozen=True, kw_only=True):
    """The backend says that the task itself failed."""

    reporter: Reporter
    error: str
    result: StoredResult | None
    update_digest: str = ""


class FailAttempt(Struct, frozen=True, kw_only=True):
    """An attempt came to nothing; whether another follows is decided here."""

    attempt: int
    kind: FailureKind
    error: str
    jitter: float
    """In [0, 1): which part of the backoff is waited."""
    retry_after: timedelta | None = None
    """What the server asked for."""


class ReturnAttempt(Struct, frozen=True, kw_only=True):
    attempt: int
    reason: str


class CancelTask(Struct, frozen=True, kw_only=True):
    reason: str


class RetryTask(Struct, frozen=True, kw_only=True):
    """Have a task that failed or was cancelled go on, with a fresh budget of attempts."""

    reason: str


class DeleteTask(Struct, frozen=True, kw_only=True):
    """Take a task out of its owner's sight; one that has not ended is cancelled first."""

    reason: str
    """Of the cancellation, where there is one."""


class RequeueTask(Struct, frozen=True, kw_only=True):
    """Put a waiting task that is in no queue back into one."""

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
    | RetryTask
    | DeleteTask
    | RequeueTask
    | HoldTask
    | ReleaseTask
    | ExpireTask
    | FailByParent
    | CancelUnstarted
)
