"""The subjects of the log: general to specific, one token each, user text only as tokens.

task.<owner>.<unique>.submitted.<pool>.<priority>    accepted and queued
task.<owner>.<unique>.submitted.<pool>.<priority>.held    accepted, and something holds it
task.<owner>.<unique>.queued.<pool>.<priority>       queued, by the keeper or again
task.<owner>.<unique>.<event>[.<server>]             everything after
event.<owner>.<unique>.<event>…                      each of these once it is stored, for subscribers on plain NATS
server.<id>.<event>      type.<name>.<event>         the fleet
pool.<name>.<event>                                  its pools
owner.<owner>.<event>                                what owners may have
webhook.<owner>.<unique>.<event>                     webhooks
schedule.<owner>.<unique>.<event>                    recurring schedules
timer.<kind>.…           due.<kind>.…                what is to happen later, and what has fallen due
dispatch.<pool>.<priority>.<owner>.<unique>          ready tasks, copied by JetStream from the first and the third
keeper.turn                                          in each batch of the keeper, which it so fences
"""

from __future__ import annotations

import re
from typing import assert_never

from . import owner as owners
from . import pool as pools
from . import schedule as schedules
from . import server as servers
from . import task as tasks
from . import task_type as types
from . import webhook as webhooks
from .envelope import Event
from .ids import ScheduleRef, TaskRef, WebhookRef, owner_token, token

SCHEDULER_FENCE = "keeper.turn"
"""In the TASKS stream: each batch of the keeper carries one, guarded by the one before."""
NO_SERVER = "="
"""Token where a task ended without a server. No text has it: `=` begins an escape, and here nothing follows."""

ENDINGS = frozenset({"succeeded", "failed", "cancelled"})
"""Elements of the subjects of events that end a task."""

TASK_KINDS = (
    "submitted",
    "held",
    "queued",
    "started",
    "accepted",
    "progressed",
    "attempt_failed",
    "attempt_returned",
    "succeeded",
    "failed",
    "cancelled",
    "deleted",
)
"""That element of the subjects of all events of a task."""

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def server_token(server_id: str) -> str:
    return token(server_id) if server_id else NO_SERVER


def task_root(ref: TaskRef) -> str:
    """Return what all subjects of a task start with; `<root>.>` is the filter of its history."""
    return f"task.{ref.owner}.{ref.unique}"


def task_subject(ref: TaskRef, event: tasks.TaskEvent) -> str:
    root = task_root(ref)
    match event:
        case tasks.TaskSubmitted():
            return f"{root}.submitted.{token(event.pool)}.{event.priority}{'.held' if event.held else ''}"
        case tasks.TaskHeld():
            return f"{root}.held"
        case tasks.TaskQueued():
            return f"{root}.queued.{token(event.pool)}.{event.priority}"
        case tasks.AttemptStarted():
            return f"{root}.started.{server_token(event.server_id)}"
        case tasks.AttemptAccepted():
            return f"{root}.accepted"
        case tasks.ProgressReported():
            return f"{root}.progressed"
        case tasks.AttemptFailed():
            return f"{root}.attempt_failed.{server_token(event.server_id)}"
        case tasks.AttemptReturned():
            return f"{root}.attempt_returned.{server_token(event.server_id)}"
        case tasks.TaskSucceeded():
            return f"{root}.succeeded.{server_token(event.server_id)}"
        case tasks.TaskFailed():
            return f"{root}.failed.{server_token(event.server_id)}"
        case tasks.TaskCancelled():
            return f"{root}.cancelled.{server_token(event.server_id)}"
        case tasks.TaskDeleted():
            return f"{root}.deleted"
        case _:
            assert_never(event)


def task_ref(subject: str) -> TaskRef:
    """Return the task that a subject of the TASKS stream is about."""
    _, owner, unique, _ = subject.split(".", 3)
    return TaskRef(owner, unique)


def server_root(server_id: str) -> str:
    return f"server.{server_token(server_id)}"


def server_subject(event: servers.ServerEvent) -> str:
    return f"{server_root(event.server_id)}.{_snake(event)}"


def type_root(name: str) -> str:
    return f"type.{token(name)}"


def type_subject(event: types.TypeEvent) -> str:
    return f"{type_root(event.name)}.{_snake(event)}"


def pool_root(name: str) -> str:
    return f"pool.{token(name)}"


def pool_subject(event: pools.PoolEvent) -> str:
    return f"{pool_root(event.name)}.{_snake(event)}"


def owner_root(owner: str) -> str:
    return f"owner.{owner_token(owner)}"


def owner_subject(event: owners.OwnerEvent) -> str:
    return f"{owner_root(event.owner)}.{_snake(event)}"


def webhook_root(ref: WebhookRef) -> str:
    return f"webhook.{ref.owner}.{ref.unique}"


def webhook_subject(ref: WebhookRef, event: webhooks.WebhookEvent) -> str:
    return f"{webhook_root(ref)}.{_snake(event)}"


def webhook_ref(subject: str) -> WebhookRef:
    """Return the webhook that a subject of the WEBHOOKS stream is about."""
    _, owner, unique, _ = subject.split(".")
    return WebhookRef(owner, unique)


def schedule_root(ref: ScheduleRef) -> str:
    return f"schedule.{ref.owner}.{ref.unique}"


def schedule_subject(ref: ScheduleRef, event: schedules.ScheduleEvent) -> str:
    return f"{schedule_root(ref)}.{_snake(event)}"


def schedule_ref(subject: str) -> ScheduleRef:
    """Return the schedule that a subject of the SCHEDULES stream is about."""
    _, owner, unique, _ = subject.split(".")
    return ScheduleRef(owner, unique)


def dispatched_subject(ref: TaskRef, pool: str, priority: tasks.Priority) -> str:
    """Return where JetStream puts a ready task."""
    return f"dispatch.{token(pool)}.{priority}.{ref.owner}.{ref.unique}"


def dispatched_ref(subject: str) -> TaskRef:
    """Return the task of a `dispatch.…` subject."""
    _, _, _, owner, unique = subject.split(".")
    return TaskRef(owner, unique)


def _snake(event: Event) -> str:
    """Return `circuit_opened` for a CircuitOpened."""
    return _CAPITAL.sub("_", type(event).__name__).lower()
