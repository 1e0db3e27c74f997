"""What can happen to a task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Raw, Struct, field

from .envelope import NULL, Event

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""Strict order: a waiting task of an earlier one is handed out first."""

FailureKind = Literal[
    "rejected",  # the backend says the request is wrong: no other try
    "failed",  # the backend ran it and says it failed: no other try
    "busy",  # 429, or 503 with Retry-After: the server is well, but full
    "error",  # 408, 425, 5xx
    "unreachable",  # refused, reset, not resolved, forbidden address
    "timeout",  # no outcome before the attempt's deadline
    "bad_answer",  # 2xx with something that is no JSON, or too large
    "worker_lost",  # the worker that made the call is gone
    "expired",  # it had not started by the instant after which it was not to start
    "deadline",  # it had not ended by the instant by which it had to
    "parent_failed",  # a task it depends on did not succeed
]

ParentFailure = Literal["fail", "run", "skip"]
"""What becomes of a task when one it depends on does not succeed: it fails, runs all the same, or is cancelled."""


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often and how patiently a task is tried; fixed at submit, so that later settings do not change it."""

    attempts: int
    """Tries in all, the first included."""
    backoff_base: timedelta
    """Upper bound of the first backoff; it doubles with each failure."""
    backoff_cap: timedelta
    timeout: timedelta
    """Time one attempt may take."""


class StoredResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A TaskResult: inline, or by name in the object store when it is large."""

    inline: Raw = NULL
    """The JSON text as the backend sent it."""
    object_name: str | None = None
    size_bytes: int


class ModelChoice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which model a task is to be done with, as its submitter says. Its key is never here."""

    provider: str = ""
    model: str = ""
    base_url: str = ""


class Plan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When, after what and where a task may run, as its submitter says. What is left out is not asked for."""

    not_before: datetime | None = None
    """UTC. It is not queued before."""
    expires_at: datetime | None = None
    """UTC. It does not start after."""
    ends_by: datetime | None = None
    """UTC. Past this instant it fails, whatever it is at."""
    depends_on: tuple[str, ...] = ()
    """Ids of the tasks that must have ended first."""
    on_parent_failure: ParentFailure = "fail"
    concurrency_key: str = ""
    """The owner's tasks of its type that name the same key share a limit on how many run at once."""
    prefer: dict[str, str] = field(default_factory=dict)
    """Labels of the servers it had better run on."""
    require: dict[str, str] = field(default_factory=dict)
    """Labels of the only servers it may run on."""


NO_PLAN = Plan()


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """The task was accepted; it is queued as well, unless something holds it."""

    owner: str
    """The JWT subject, as it was."""
    task_type: str
    payload: Raw
    """JSON text, byte for byte as submitted."""
    pool: str
    priority: Priority
    policy: RetryPolicy
    fingerprint: str
    """SHA-256 of the request body, hex: what a repeated Idempotency-Key is compared by."""
    project: str = ""
    """The submitter's project that it belongs to; empty: none."""
    model: ModelChoice | None = None
    key_id: str = ""
    """Names the model's key, which is sealed in the `secrets` bucket and never here; empty: none was given."""
    held: bool = False
    """Something holds it: the keeper queues it when nothing does any more."""
    plan: Plan | None = None
    batch: str = ""
    """Id of the batch it was submitted with; empty: alone."""
    batch_size: int = 0
    schedule: str = ""
    """Id of the recurring schedule that submitted it; empty: none did."""


class TaskHeld(Event, frozen=True, kw_only=True):
    """The task is in no queue until the keeper puts it there.

    It was taken out; or, `renewed`, it was retried after its end, with a fresh budget of attempts, and waits for those
    of its parents that go on.
    """

    reason: str
    renewed: bool = False


class TaskQueued(Event, frozen=True, kw_only=True):
    """The task went to the queue, with a fresh budget of attempts where `renewed`."""

    pool: str
    priority: Priority
    reason: str
    renewed: bool = False
    granted: bool = False
    """The keeper found that all its limits have room for it."""
    submission: int = 0
    """Sequence of its submission, where nothing has been tried since; 0: see its history."""


class AttemptStarted(Event, frozen=True, kw_only=True):
    """An attempt was claimed for a server. It is recorded before the server is called."""

    attempt: int
    """1 for the first try."""
    server_id: str
    worker_id: str
    """Empty where a server took the task by itself, by reporting progress on it."""
    deadline: datetime
    """UTC. Past this instant the attempt counts as lost."""
    token_digest: str = ""
    """SHA-256 of the attempt's callback token, hex."""


class AttemptAccepted(Event, frozen=True, kw_only=True):
    """The server took the task (202) and will report the outcome by callback."""

    attempt: int
    backend_task_id: str | None = None


class ProgressReported(Event, frozen=True, kw_only=True):
    """The server told how far it is. Where it told so more often than the log keeps, this sums several reports up."""

    attempt: int
    progress: float | None = None
    """Percent, 0 to 100."""
    message: str | None = None
    custom_data: Raw = NULL
    lines: tuple[str, ...] = ()
    """Lines of the server's own log, in order."""
    output: str = ""
    """What it has brought forth since the last report: a part of the result, as text."""
    batch: str = ""
    """Names the reports that were pushed by themselves before this summed them up; empty: none were."""
    reports: int = 1
    """How many this is made of."""


class AttemptFailed(Event, frozen=True, kw_only=True):
    """An attempt failed and another will follow."""

    attempt: int
    server_id: str
    kind: FailureKind
    error: str
    retry_at: datetime
    """UTC. When the task is queued again."""


class AttemptReturned(Event, frozen=True, kw_only=True):
    """A worker gave an attempt back unfinished, at its shutdown; it is not counted as a failure."""

    attempt: int
    server_id: str
    reason: str


class TaskSucceeded(Event, frozen=True, kw_only=True):
    attempt: int
    server_id: str
    result: StoredResult
    update_digest: str = ""
    """SHA-256 of the update that ended the task, hex: the same one again is no contradiction."""


class TaskFailed(Event, frozen=True, kw_only=True):
    """The task failed for good: refused, failed by the backend, or out of attempts."""

    attempt: int
    server_id: str
    kind: FailureKind
    error: str
    result: StoredResult | None = None
    update_digest: str = ""


class TaskCancelled(Event, frozen=True, kw_only=True):
    attempt: int
    """The attempt that was running; 0 if none was."""
    server_id: str
    """The server that was at work; empty if none was."""
    reason: str


class TaskDeleted(Event, frozen=True, kw_only=True):
    """Its owner wants to see an ended task no more: it is in no list, and its history stays."""


TaskEvent: TypeAlias = (
    TaskSubmitted
    | TaskHeld
    | TaskQueued
    | AttemptStarted
    | AttemptAccepted
    | ProgressReported
    | AttemptFailed
    | AttemptReturned
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | TaskDeleted
)
