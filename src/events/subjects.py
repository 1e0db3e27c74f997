"""Every subject, and every filter over subjects; other modules write none. User text enters them only as tokens.

task.<owner>.<unique>.submitted.<pool>.<priority>         accepted and queued
task.<owner>.<unique>.submitted.<pool>.<priority>-bulk    accepted and queued behind the first tasks of each owner
task.<owner>.<unique>.submitted.<pool>.<priority>.held    accepted and held
task.<owner>.<unique>.queued.<pool>.<priority>            released by the scheduler, or queued again
task.<owner>.<unique>.queued.<pool>.<priority>-bulk       queued again with many others
task.<owner>.<unique>.<event>[.<server>]                  every later event
event.<owner>.<unique>.<event>…                           a copy of each of these, published once it is stored
progress.<owner>.<unique>                                 progress before the log has it; stored nowhere
server.<id>.<event>      type.<name>.<event>              the fleet
pool.<name>.<event>      owner.<owner>.<event>            pools, and limits of owners
webhook.<owner>.<unique>.<event>                          webhooks
schedule.<owner>.<unique>.<event>                         recurring schedules
operation.<owner>.<unique>.<event>                        operations on many tasks
batch_job.<owner>.<unique>.<event>                        batch jobs
file.<owner>.<unique>.file_created.<purpose>              files
file.<owner>.<unique>.file_referenced.<unique of the task, batch or schedule>
file.<owner>.<unique>.file_deleted
key.<owner>.<unique>.<event>                              API keys
keys.applied                                              requests of an API process to all: who has applied the log of
                                                          keys up to here
timer.<kind>.…           due.<kind>.…                     a message dated in the future, and the message once it is due
dispatch.<pool>.<priority>.<owner>.<unique>               ready tasks of the first queue, copied by JetStream from
                                                          `submitted` and `queued`, and from due retries
dispatch.<pool>.<priority>-bulk.<owner>.<unique>          ready tasks of the bulk queue, copied from `submitted`
                                                          and `queued`
scheduler.fence                                           fencing token: one in each batch of releases
scheduler.backlog        scheduler.explain                its backlog report, and requests for why a task is held
pull.ask.<server>        pull.report.<server>             to the worker that dispatches to a pulled server: the open
                                                          requests of its pullers, and requests for how many there are
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

from . import task as tasks
from .envelope import Event
from .file import FileCreated, FileDeleted, FileReferenced
from .ids import (
    BatchJobRef,
    FileRef,
    KeyRef,
    OperationRef,
    ScheduleRef,
    TaskRef,
    WebhookRef,
    owner_token,
    parse_task_id,
    token,
)
from .key import KeyCreated
from .kinds import QUIET_WORDS, TASK_EVENTS, word_of
from .webhook import WebhookRegistered

TimerKind: TypeAlias = Literal["retry", "deadline", "busy", "check", "schedule"]

TASK_SUBJECTS = "task.>"
REPUBLISHED_SUBJECTS = "event.>"
WEBHOOK_SUBJECTS = "webhook.>"
SCHEDULE_SUBJECTS = "schedule.>"
OPERATION_SUBJECTS = "operation.>"
BATCH_JOB_SUBJECTS = "batch_job.>"
FILE_SUBJECTS = "file.>"
KEY_SUBJECTS = "key.>"
DISPATCH_SUBJECTS = "dispatch.>"
FLEET = ("server.>", "type.>", "pool.>", "owner.>")
LIVE_SUBJECTS = "progress.*.*"
SCHEDULER_FENCE = "scheduler.fence"
"""In the TASKS stream: each batch of releases carries one, guarded by the one before."""
SCHEDULER_BACKLOG = "scheduler.backlog"
SCHEDULER_EXPLAIN = "scheduler.explain"
"""A request with the id of a task, as text, or a `LimitQuestion`, as JSON."""
KEYS_APPLIED = "keys.applied"
"""A request with a sequence of the log of keys, as text; each API process answers its id once it has applied it."""
_HELD = ".held"
"""End of the subject of a held submission."""
SUBJECTS_REMEMBERED = 4_096
"""Subjects of events that were read lately: each reader of a process asks for the same ones. About 1 MB."""
NO_SERVER = "="
"""Token of an event without a server. No text has it: `=` begins an escape, and here nothing follows."""

_DISPATCHED = "dispatch.{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(1)}}.{{wildcard(2)}}"
READY_TASKS = (("task.*.*.submitted.*.*", _DISPATCHED), ("task.*.*.queued.*.*", _DISPATCHED))
"""What JetStream copies from TASKS into DISPATCH: filter and destination."""
READY_RETRIES = ("due.retry.*.*.*.*", "dispatch.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}")
"""The same from RETRIES."""


def server_token(server_id: str) -> str:
    return token(server_id) if server_id else NO_SERVER


# Each history has a root: all its subjects are `<root>.<event>…`.


def task_root(ref: TaskRef) -> str:
    return f"task.{ref.owner}.{ref.unique}"


def server_root(server_id: str) -> str:
    return f"server.{server_token(server_id)}"


def type_root(name: str) -> str:
    return f"type.{token(name)}"


def pool_root(name: str) -> str:
    return f"pool.{token(name)}"


def owner_root(owner: str) -> str:
    return f"owner.{owner_token(owner)}"


def webhook_root(ref: WebhookRef) -> str:
    return f"webhook.{ref.owner}.{ref.unique}"


def schedule_root(ref: ScheduleRef) -> str:
    return f"schedule.{ref.owner}.{ref.unique}"


def operation_root(ref: OperationRef) -> str:
    return f"operation.{ref.owner}.{ref.unique}"


def batch_job_root(ref: BatchJobRef) -> str:
    return f"batch_job.{ref.owner}.{ref.unique}"


def file_root(ref: FileRef) -> str:
    return f"file.{ref.owner}.{ref.unique}"


def key_root(ref: KeyRef) -> str:
    return f"key.{ref.owner}.{ref.unique}"


def event_subject(root: str, event: Event) -> str:
    """Return the subject of an event in the history that has this root."""
    subject = f"{root}.{word_of(type(event))}"
    match event:
        case tasks.TaskSubmitted():
            queue = _queue(event.priority, bulk=event.bulk)
            return f"{subject}.{token(event.pool)}.{queue}{_HELD if event.held else ''}"
        case tasks.TaskQueued():
            return f"{subject}.{token(event.pool)}.{_queue(event.priority, bulk=event.bulk)}"
        case (
            tasks.AttemptStarted()
            | tasks.AttemptFailed()
            | tasks.AttemptReturned()
            | tasks.TaskSucceeded()
            | tasks.TaskFailed()
            | tasks.TaskCancelled()
        ):
            return f"{subject}.{server_token(event.server_id)}"
        case FileCreated():
            return f"{subject}.{purpose_token(event.purpose)}"
        case FileReferenced():
            return f"{subject}.{parse_task_id(event.tasks[0] if event.tasks else event.schedule).unique}"
        case _:
            return subject


# What a subject is about


@lru_cache(maxsize=SUBJECTS_REMEMBERED)
def task_ref(subject: str) -> TaskRef:
    """Return the task that a subject `task.…` or `event.…` is about."""
    _, owner, unique, _ = subject.split(".", 3)
    return TaskRef(owner, unique)


@lru_cache(maxsize=SUBJECTS_REMEMBERED)
def task_word(subject: str) -> str:
    """Return the kind of event that a subject `task.…` is about, as in the table of kinds; empty for the fence."""
    tokens = subject.split(".", 4)
    return tokens[3] if len(tokens) > 3 else ""


def is_quiet(subject: str) -> bool:
    """Return True for an event `task.…` on which no worker acts at once."""
    return task_word(subject) in QUIET_WORDS and not subject.endswith(_HELD)


def freed_server(subject: str) -> str:
    """Return the server (by token) on which an attempt ended, from the subject of an event that frees its slot."""
    return subject.split(".", 5)[4]


def webhook_ref(subject: str) -> WebhookRef:
    _, owner, unique, _ = subject.split(".")
    return WebhookRef(owner, unique)


def schedule_ref(subject: str) -> ScheduleRef:
    _, owner, unique, _ = subject.split(".")
    return ScheduleRef(owner, unique)


def operation_ref(subject: str) -> OperationRef:
    _, owner, unique, _ = subject.split(".")
    return OperationRef(owner, unique)


def batch_job_ref(subject: str) -> BatchJobRef:
    _, owner, unique, _ = subject.split(".")
    return BatchJobRef(owner, unique)


def file_ref(subject: str) -> FileRef:
    _, owner, unique, _ = subject.split(".", 3)
    return FileRef(owner, unique)


def file_word(subject: str) -> str:
    """Return the kind of event that a subject `file.…` is about."""
    return subject.split(".", 4)[3]


def key_ref(subject: str) -> KeyRef:
    _, owner, unique, _ = subject.split(".")
    return KeyRef(owner, unique)


# Filters


def history_filter(root: str) -> str:
    """Return the filter of all events of the history that has this root."""
    return f"{root}.>"


def tasks_filter(owner: str | None = None, word: str | None = None) -> str:
    """Return the filter of the events of tasks: of an owner token (None: of all owners), of one kind (None: of all)."""
    root = f"task.{owner or '*'}"
    if word is None:
        return f"{root}.>"
    return f"{root}.*.{word}{'.>' if word in _FOLLOWED else ''}"


def events_filter(ref: TaskRef, word: str) -> str:
    """Return the filter of the events of a task of one kind."""
    return f"{task_root(ref)}.{word}{'.>' if word in _FOLLOWED else ''}"


_FOLLOWED = {kind.word for kind in TASK_EVENTS.values() if kind.follows}


def submission_filter(ref: TaskRef) -> str:
    """Return the filter of the event that submitted a task."""
    return history_filter(f"{task_root(ref)}.{word_of(tasks.TaskSubmitted)}")


def webhooks_filter(owner: str | None) -> str:
    return f"webhook.{owner or '*'}.>"


def webhook_registrations_filter(owner: str) -> str:
    return f"webhook.{owner}.*.{word_of(WebhookRegistered)}"


def schedules_filter(owner: str | None, event: type[Event]) -> str:
    return f"schedule.{owner or '*'}.*.{word_of(event)}"


def operations_filter(owner: str | None, event: type[Event]) -> str:
    return f"operation.{owner or '*'}.*.{word_of(event)}"


def batch_jobs_filter(owner: str | None, event: type[Event]) -> str:
    return f"batch_job.{owner or '*'}.*.{word_of(event)}"


def purpose_token(purpose: str) -> str:
    return token(purpose) if purpose else NO_SERVER


def files_filter(owner: str | None, purpose: str | None = None) -> str:
    """Return the filter of the creations of files: of an owner token (None: of all owners), of one purpose or any."""
    return f"file.{owner or '*'}.*.{word_of(FileCreated)}.{'*' if purpose is None else purpose_token(purpose)}"


def file_creation_filter(ref: FileRef) -> str:
    return f"{file_root(ref)}.{word_of(FileCreated)}.*"


def file_references_filter(ref: FileRef) -> str:
    """Return the filter of the events that refer to a file."""
    return f"{file_root(ref)}.{word_of(FileReferenced)}.*"


def file_deletion_subject(ref: FileRef) -> str:
    return f"{file_root(ref)}.{word_of(FileDeleted)}"


def key_creations_filter(owner: str) -> str:
    return f"key.{owner}.*.{word_of(KeyCreated)}"


# Progress that the log does not have yet


def live_subject(ref: TaskRef) -> str:
    return f"progress.{ref.owner}.{ref.unique}"


def live_ref(subject: str) -> TaskRef:
    _, owner, unique = subject.split(".")
    return TaskRef(owner, unique)


# Timers: `timer.<kind>.<name>` becomes `due.<kind>.<name>`, of a retry with its queue before the name.


def timer_subject(kind: TimerKind, *name: str) -> str:
    return f"timer.{kind}.{'.'.join(name)}"


def due_subject(kind: TimerKind, *name: str) -> str:
    return f"due.{kind}.{'.'.join(name)}"


def timers_filter(kind: TimerKind) -> str:
    """Return the filter of the timers of a kind, set or due."""
    return f"*.{kind}.>"


def timer_name(subject: str) -> tuple[str, ...]:
    """Return the name in a subject `timer.<kind>.<name>` or `due.<kind>.<name>`."""
    return tuple(subject.split(".")[2:])


def due_retry_filter(ref: TaskRef) -> str:
    return f"due.retry.*.*.{ref.owner}.{ref.unique}"


# Pulled servers


def ask_subject(server_id: str) -> str:
    """Return the subject on which the open requests of a server's pullers come to its worker."""
    return f"pull.ask.{server_token(server_id)}"


def ask_report_subject(server_id: str) -> str:
    """Return the subject on which a server's worker is asked for an AskReport."""
    return f"pull.report.{server_token(server_id)}"


def attempts_filter(server_id: str) -> str:
    """Return the filter of the copies of events that start or end an attempt on a server."""
    return f"event.*.*.*.{server_token(server_id)}"


# The queue of ready tasks


def dispatched_subject(ref: TaskRef, pool: str, priority: tasks.Priority, *, bulk: bool = False) -> str:
    return f"dispatch.{token(pool)}.{_queue(priority, bulk=bulk)}.{ref.owner}.{ref.unique}"


def pool_filter(pool: str, priority: str, *, bulk: bool = False) -> str:
    """Return the subjects of the ready tasks of one pool (by token) and priority, in its first or its bulk queue."""
    return f"dispatch.{pool}.{_queue(priority, bulk=bulk)}.>"


def _queue(priority: str, *, bulk: bool) -> str:
    return f"{priority}-bulk" if bulk else priority


def dispatched_ref(subject: str) -> TaskRef:
    """Return the task of a subject `dispatch.…` or `due.retry.…`: its last two tokens."""
    *_, owner, unique = subject.split(".")
    return TaskRef(owner, unique)
