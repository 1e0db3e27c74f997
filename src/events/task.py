"""The events of a task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Raw, Struct, field

from .envelope import NULL, Event
from .stream_parts import StreamParts

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""Highest first. The order is strict."""

FailureKind = Literal[
    "rejected",  # the backend refused the request: no retry
    "failed",  # the backend ran it and reported a failure: no retry
    "busy",  # every server that could take it has been busy for too long
    "error",  # 408, 425, 5xx, or an error of this service
    "unreachable",  # refused, reset, not resolved, forbidden address, or no valid HTTP
    "timeout",  # no outcome before the deadline of the attempt
    "bad_answer",  # 2xx with a body that cannot be understood or is too large
    "worker_lost",  # the worker that made the call is gone
    "expired",  # it had not started by its `expiresAt`
    "deadline",  # it had not ended by its `deadline`
    "parent_failed",  # a task it depends on did not succeed
]

ReturnKind = Literal[
    "shutdown",  # the worker ended before the outcome was known
    "busy",  # the server took no task
    "unsent",  # the worker could not send the request: no memory, no file descriptor
]
"""Why an attempt does not count as a failure."""

CancelOutcome = Literal[
    "confirmed",  # the server said, or showed, that it stopped
    "requested",  # it was told, by a request or a closed connection, and nothing says that it stopped
    "unconfirmed",  # it should have said that it stopped, and did not
    "impossible",  # it cannot be told: the work continues there
]
"""What is known of a server's work on an attempt after its task was cancelled."""

ParentFailure = Literal["fail", "run", "skip"]
"""What happens to a task if a parent does not succeed: it fails, runs anyway, or is cancelled (`skip`)."""


BUSY_FOR = timedelta(hours=1)


class RetryPolicy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a task is tried, and how long; fixed at submission, so that later settings do not change it."""

    attempts: int
    """Number of attempts, the first included."""
    backoff_base: timedelta
    """Upper bound of the first backoff. It doubles with each failure, up to `backoff_cap`."""
    backoff_cap: timedelta
    timeout: timedelta
    """How long one attempt may take."""
    busy_for: timedelta = BUSY_FOR
    """How long it may wait for servers that are all busy; then it fails."""
    callback_timeout: timedelta | None = None
    """How long one attempt may take on a server that reports by callback; None: `timeout`."""


class StoredFile(Struct, frozen=True, kw_only=True):
    """The bytes of an answer that is neither JSON nor text, in the object store."""

    object_name: str
    media_type: str
    size_bytes: int


class StoredResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A TaskResult: inline, or in the object store if it is large."""

    inline: Raw = NULL
    """The JSON text as the backend sent it."""
    object_name: str | None = None
    size_bytes: int
    file: StoredFile | None = None
    """The file that its `data` is."""
    files: tuple[StoredFile, ...] = ()
    """Files that its `data` has somewhere in it, in their order."""

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        return self.files if self.file is None else (self.file, *self.files)

    @property
    def object_names(self) -> set[str]:
        """Return the names of its objects in the object store."""
        return {name for name in (self.object_name, *(file.object_name for file in self.all_files)) if name}


class ModelChoice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model that the submitter chose. Its key is never here."""

    provider: str = ""
    model: str = ""
    base_url: str = ""


MODEL = "\x00model"
"""Among the labels that a server must have, this stands for the model it must serve. No server has a label so named."""


class Plan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Conditions of the submitter: when, after which tasks and on which servers a task may run."""

    not_before: datetime | None = None
    """UTC. It is not queued before this instant."""
    expires_at: datetime | None = None
    """UTC. It does not start after this instant."""
    ends_by: datetime | None = None
    """UTC. Past this instant it fails, in whatever state it is."""
    depends_on: tuple[str, ...] = ()
    """Ids of its parents: tasks that must end before it starts."""
    on_parent_failure: ParentFailure = "fail"
    concurrency_key: str = ""
    """The owner's tasks of one type with the same key share a concurrency limit."""
    project: str = ""
    """The owner's tasks of one type with the same project run one after another, whatever the type's settings say;
    empty: no such rule."""
    prefer: dict[str, str] = field(default_factory=dict)
    """Labels of preferred servers."""
    require: dict[str, str] = field(default_factory=dict)
    """Labels that a server must have."""
    model: str = ""
    """Name of the model that a server must serve; empty: any server of the type's. Set only where servers are chosen by
    model."""

    session: str = ""
    """Digest that the tasks of a session share; they go to the same server if it has a free slot. Empty: of none."""

    @property
    def requirements(self) -> dict[str, str]:
        """Return the labels that a server must have, with the model under MODEL."""
        return {**self.require, MODEL: self.model} if self.model else self.require


NO_PLAN = Plan()


FacadeName = Literal["replicate", "openai"]


class FacadeRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task was submitted as: a request in the form of another service's API."""

    name: FacadeName
    endpoint: str = ""
    """What was asked for there, such as `predictions` or `chat.completions`."""
    model: str = ""
    """The model as the request named it."""
    webhook: str = ""
    """URL that is told of this task alone; empty: none."""
    webhook_events: tuple[str, ...] = ()
    """Events of the façade that the URL is told; empty: all."""
    is_stream: bool = False
    """The request asked for a stream."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the façade shows again and nothing else reads."""


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """The task was accepted. It is queued as well, unless it is `held`."""

    owner: str
    """Subject of the JWT, unchanged."""
    task_type: str
    payload: Raw
    """JSON text as submitted; if it had line breaks, without insignificant whitespace."""
    pool: str
    priority: Priority
    policy: RetryPolicy
    fingerprint: str
    """SHA-256 of the request body, hex. A repeated Idempotency-Key must come with the same. Empty if there was no key:
    such a request cannot be repeated."""
    project: str = ""
    """Project of the submitter; empty: none."""
    model: ModelChoice | None = None
    key_id: str = ""
    """Name of the model's key, which is sealed in the `secrets` bucket and never here; empty: no key."""
    held: bool = False
    """The scheduler queues it when nothing holds it any more."""
    bulk: bool = False
    """It is in the bulk queue of its pool and priority: its owner has many tasks there."""
    plan: Plan | None = None
    batch: str = ""
    """Id of its batch; empty: none."""
    batch_size: int = 0
    schedule: str = ""
    """Id of the recurring schedule that submitted it; empty: none."""
    trace: str = ""
    """W3C `traceparent` of the request that submitted it; empty: none. The request's id is the event's `cause`."""
    trace_state: str = ""
    """`tracestate` of that request; empty: none. If spans are exported, both are of the span of the submission."""
    files: tuple[str, ...] = ()
    """Ids of the files that the payload refers to, each once."""
    indexed: dict[str, str] = field(default_factory=dict)
    """Values of the payload that lists may be filtered by, as text, by path: `customer`, `order.id`."""
    facade: FacadeRequest | None = None
    """None: it was submitted to this service's own API."""


class TaskHeld(Event, frozen=True, kw_only=True):
    """The task was taken out of its queue until the scheduler releases it.

    `renewed`: it was retried after its end, with a new budget of attempts, and waits for its active parents.
    """

    reason: str
    renewed: bool = False


class TaskQueued(Event, frozen=True, kw_only=True):
    """The task was queued; `renewed`: after its end, with a new budget of attempts."""

    pool: str
    priority: Priority
    reason: str
    renewed: bool = False
    granted: bool = False
    """The scheduler counted it towards all its limits."""
    submission: int = 0
    """Sequence of its submission, if no attempt was made since; 0: read its history."""
    bulk: bool = False
    """It is in the bulk queue of its pool and priority: it was queued again with many others."""


class AttemptStarted(Event, frozen=True, kw_only=True):
    """An attempt was claimed for a server. Stored before the server is called."""

    attempt: int
    """1 for the first try."""
    server_id: str
    """Empty if none is known: a person took the task by reporting progress on it, or a server of unknown name."""
    worker_id: str
    """Empty if a report took the task; who sent it is in the envelope. It takes a slot of no server then."""
    deadline: datetime
    """UTC. Past this instant the attempt counts as lost."""
    token_digest: str = ""
    """SHA-256 of the attempt's callback token, hex."""


class AttemptAccepted(Event, frozen=True, kw_only=True):
    """The server accepted the task (202) and will report the outcome by callback; or a puller took it."""

    attempt: int
    backend_task_id: str | None = None
    lease: timedelta | None = None
    """The puller must renew the attempt at least this often, or the attempt is lost; None: nobody need renew it."""


HAS_PARTS = 4
"""In `earlier` of a report: reports before it had parts of a stream."""


class MergedReport(Struct, frozen=True, kw_only=True):
    """A report that ended a chapter and was merged into the next ones."""

    report: int
    """Its place among the reports of the event, from 0."""
    custom_data: Raw


class ProgressReported(Event, frozen=True, kw_only=True):
    """Progress of an attempt. Frequent reports are stored as one event."""

    attempt: int
    progress: float | None = None
    """Percent, 0 to 100."""
    message: str | None = None
    custom_data: Raw = NULL
    lines: tuple[str, ...] = ()
    """Lines of the server's log, in order."""
    output: str = ""
    """Output since the last report: a part of the result, as text."""
    batch: str = ""
    """Name of the live reports that this sums up; empty: none were pushed."""
    reports: int = 1
    """Number of reports in this event."""
    notes: tuple[str, ...] = ()
    """What of the reports was left out, clamped or shortened, and why."""
    merged: tuple[MergedReport, ...] = ()
    """Earlier reports here that ended a chapter, in order. `custom_data` is of the last report that had any."""
    data: StoredResult | None = None
    """The result as far as it was known: `data` of the last report that had it. None: no report had it."""
    earlier: int | None = None
    """What earlier events of the attempt had, the sum of: 1 a percentage, 2 data, 4 parts. None: an older version
    stored it."""
    parts: StreamParts | None = None
    """Parts of the answer as the server streamed them, for clients that get them as they are; `output` has their
    text."""

    @property
    def has(self) -> int:
        """What this event has, in the same numbers."""
        return (self.progress is not None) | 2 * (self.data is not None) | HAS_PARTS * (self.parts is not None)


class AttemptFailed(Event, frozen=True, kw_only=True):
    """An attempt failed and another follows."""

    attempt: int
    server_id: str
    kind: FailureKind
    error: str
    retry_at: datetime
    """UTC. When the task returns to its queue."""


class AttemptReturned(Event, frozen=True, kw_only=True):
    """An attempt came to nothing and does not count as a failure: the task is back in its queue at once."""

    attempt: int
    server_id: str
    reason: str
    kind: ReturnKind = "shutdown"


class TaskSucceeded(Event, frozen=True, kw_only=True):
    attempt: int
    server_id: str
    result: StoredResult
    update_digest: str = ""
    """SHA-256 of the update that ended the task, hex. The same update again is not a conflict."""
    notes: tuple[str, ...] = ()
    """What of the answer was left out, clamped or shortened, and why."""


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """The error that a server answered, for clients that get it as it is."""

    status: int
    body: Raw
    """JSON; null: it is none, or is too large."""


class TaskFailed(Event, frozen=True, kw_only=True):
    """The task failed: refused or failed by the backend, late, or out of attempts."""

    attempt: int
    server_id: str
    kind: FailureKind
    error: str
    result: StoredResult | None = None
    update_digest: str = ""
    notes: tuple[str, ...] = ()
    answer: ErrorAnswer | None = None
    """What the server answered to the last attempt; None: nothing, or nobody gets it as it is."""


class TaskCancelled(Event, frozen=True, kw_only=True):
    attempt: int
    """The running attempt; 0: none."""
    server_id: str
    """The server of that attempt; empty: none."""
    reason: str


class CancelReported(Event, frozen=True, kw_only=True):
    """What became of the work of a server whose task was cancelled while it ran; the task stays as it is."""

    attempt: int
    server_id: str
    outcome: CancelOutcome
    detail: str = ""
    """Why, in words."""


class TaskDeleted(Event, frozen=True, kw_only=True):
    """The owner deleted an ended task: it is in no list any more. Its history stays."""


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
    | CancelReported
    | TaskDeleted
)


def object_names(event: TaskEvent) -> set[str]:
    """Return the names of the objects that an event refers to."""
    match event:
        case TaskSucceeded(result=StoredResult() as stored) | TaskFailed(result=StoredResult() as stored):
            return stored.object_names
        case ProgressReported(data=StoredResult() as stored):
            return stored.object_names
        case _:
            return set()
