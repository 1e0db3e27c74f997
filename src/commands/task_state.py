"""The state of a task: a union of shapes, folded from its events.

    TaskSubmitted        AttemptStarted              TaskSucceeded / TaskFailed
Unknown ───────► Waiting ─────────────► Processing ──────────────────────────► Ended
   │              ▲ │ ▲                    │    │                               ▲ │
   │   TaskQueued │ │ │ TaskFailed, TaskCancelled (from Held and Waiting, too)  ┘ │
   │              │ ▼ │                    │                                      │
   └──────────► Held  ├── AttemptFailed (retry_at), AttemptReturned ┘             │
  (held)     TaskHeld └────────────────── TaskQueued (renewed) ───────────────────┘
                └──────────────────────── TaskHeld (renewed) ─────────────────────┘
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..events import task as events
from ..events.envelope import Recorded
from ..events.task import HAS_PARTS, NO_PLAN, Plan, Priority, RetryPolicy, TaskEvent, TaskSubmitted

Outcome = Literal["succeeded", "failed", "cancelled"]


class TaskFacts(Struct, frozen=True, kw_only=True):
    """Facts of a task that its state transitions keep."""

    owner: str
    task_type: str
    pool: str
    priority: Priority
    policy: RetryPolicy
    fingerprint: str
    submitted_at: datetime
    key_id: str = ""
    """Name of the model's key, which is destroyed when the task ends; empty: none."""
    plan: Plan = NO_PLAN
    attempt: int = 0
    """Ordinal of the last attempt started; 0 before the first."""
    failures: int = 0
    """Failed attempts of the present budget; a returned attempt does not count."""
    last_server_id: str = ""
    unserved_since: datetime | None = None
    """UTC. Since when its attempts have been returned because no server took it; None: the last one was not."""
    unserved_reason: str = ""
    """Why the last attempt was returned."""

    @property
    def busy_until(self) -> datetime | None:
        """Return when it fails if no server takes it before; None if it does not wait for a busy server."""
        return self.unserved_since + self.policy.busy_for if self.unserved_since else None


class Unknown(Struct, frozen=True):
    """No such task."""


class Held(Struct, frozen=True, kw_only=True):
    """In no queue: the scheduler releases it when nothing holds it."""

    facts: TaskFacts


class Waiting(Struct, frozen=True, kw_only=True):
    """In its queue, or between two attempts."""

    facts: TaskFacts
    not_before: datetime | None = None
    """UTC. When the next attempt is due; None: now."""
    granted: bool = False
    """The scheduler counted it towards its limits."""


class Processing(Struct, frozen=True, kw_only=True):
    facts: TaskFacts
    granted: bool
    server_id: str
    worker_id: str
    deadline: datetime
    token_digest: str
    accepted: bool
    """The server accepted it (202) and reports by callback."""
    lease: timedelta | None = None
    """How often its puller must renew it; None: it was not pulled."""
    reported: int | None = 0
    """What the reports of the attempt had, as `earlier` of the next one says it."""

    @property
    def has_streamed(self) -> bool:
        """True if parts of its answer are in the log: clients may have them, so no other attempt can follow."""
        return bool((self.reported or 0) & HAS_PARTS)

    def due_at(self, now: datetime) -> datetime:
        """Return when the accepted attempt ends if nobody reports from now on: at its deadline, or with its lease."""
        return self.deadline if self.lease is None else min(self.deadline, now + self.lease)

    @property
    def occupied_server_id(self) -> str:
        """Return the server that it takes a slot of; empty if no worker started it: a report took it."""
        return self.server_id if self.worker_id else ""


class Ended(Struct, frozen=True, kw_only=True):
    facts: TaskFacts
    outcome: Outcome
    update_digest: str = ""
    unreported: int = 0
    """The attempt that ran when it was cancelled, until it is known what became of it; 0: none."""
    deleted: bool = False
    """Its owner deleted it."""


TaskState: TypeAlias = Unknown | Held | Waiting | Processing | Ended

UNKNOWN = Unknown()


def evolve(state: TaskState, recorded: Recorded[TaskEvent]) -> TaskState:
    """Return the state after one more event."""
    event = recorded.event
    if isinstance(event, TaskSubmitted):
        facts = TaskFacts(
            owner=event.owner,
            task_type=event.task_type,
            pool=event.pool,
            priority=event.priority,
            policy=event.policy,
            fingerprint=event.fingerprint,
            submitted_at=recorded.at,
            key_id=event.key_id,
            plan=event.plan or NO_PLAN,
        )
        return Held(facts=facts) if event.held else Waiting(facts=facts)
    if isinstance(state, Unknown):
        return state  # its first events are past their retention
    facts = state.facts
    match event:
        case events.TaskHeld():
            facts = replace(facts, unserved_since=None)
            return Held(facts=replace(facts, failures=0) if event.renewed else facts)
        case events.TaskQueued():
            facts = replace(facts, failures=0, unserved_since=None) if event.renewed else facts
            return Waiting(facts=facts, granted=event.granted)
        case events.AttemptStarted():
            return Processing(
                granted=isinstance(state, Waiting) and state.granted,
                facts=replace(facts, attempt=event.attempt, last_server_id=event.server_id),
                server_id=event.server_id,
                worker_id=event.worker_id,
                deadline=event.deadline,
                token_digest=event.token_digest,
                accepted=not event.worker_id,
            )
        case events.AttemptAccepted():
            return replace(state, accepted=True, lease=event.lease) if isinstance(state, Processing) else state
        case events.ProgressReported():
            reported = None if event.earlier is None else event.earlier | event.has
            return replace(state, reported=reported) if isinstance(state, Processing) else state
        case events.AttemptFailed():
            facts = replace(facts, failures=facts.failures + 1, unserved_since=None)
            return Waiting(facts=facts, not_before=event.retry_at)
        case events.AttemptReturned():
            since = None if event.kind == "shutdown" else facts.unserved_since or recorded.at
            facts = replace(facts, unserved_since=since, unserved_reason=event.reason)
            return Waiting(facts=facts, granted=isinstance(state, Processing) and state.granted)
        case events.TaskSucceeded():
            return Ended(facts=facts, outcome="succeeded", update_digest=event.update_digest)
        case events.TaskFailed():
            return Ended(facts=facts, outcome="failed", update_digest=event.update_digest)
        case events.TaskCancelled():
            return Ended(facts=facts, outcome="cancelled", unreported=event.attempt)
        case events.CancelReported():
            is_news = isinstance(state, Ended) and state.unreported == event.attempt
            return replace(state, unreported=0) if is_news else state
        case events.TaskDeleted():
            return replace(state, deleted=True) if isinstance(state, Ended) else state
        case _:
            assert_never(event)
