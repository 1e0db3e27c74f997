"""Every stream, bucket and consumer, as data: this file is the protocol between our processes and NATS.

    TASKS     the log of tasks. Append-only: no delete, no purge. JetStream republishes each stored event on
              `event.…` for subscribers on plain NATS.
    SERVERS   the log of servers, task types, pools and owners' limits. Append-only.
    WEBHOOKS  the log of webhooks. Append-only.
    SCHEDULES the log of recurring schedules. Append-only.
    OPERATIONS the log of operations on many tasks: the last event of each kind of each, for a month.
    BATCH_JOBS the log of batch jobs: the last event of each kind of each, for two months.
    FILES     the log of files: the last event on each subject. Purged are references of tasks that are gone, and what
              is about files that were deleted a month ago.
    KEYS      the log of API keys. Append-only.
    TIMERS    timers of JetStream's scheduler (`timer.…`), and the messages they have fired (`due.…`).
    RETRIES   timers of tasks that wait for their next attempt.
    DISPATCH  the queue of ready tasks. JetStream fills it from TASKS and RETRIES; no process of ours writes it.

    KV_tasks       projection: `task.<owner>.<unique>` a view of each task; `active.<server or =>.<owner>.<unique>` of
                   each that has not ended when its view is written; `checkpoint`
    KV_registry    projection: `server.<id>`, `type.<name>`, `pool.<name>`, `owner.<token>`; `checkpoint`
    KV_heartbeats  when each server was last seen, and its load; `busy.<id>` of busy servers; `removed.<id>` the last
                   check of each removed server that may return; `key.<owner>.<unique>` the last use of each API key
    KV_usage       projection: `owner.<token>` the stored bytes of each owner, by day; `checkpoint`
    KV_leases      the presence of each process, and the holder of each lease
    KV_secrets     sealed keys of servers and tasks, and secrets of webhooks; never in a log
    KV_deliveries  deliveries of webhooks: `waiting.<owner>.<webhook>.<id>` and `done.…`;
                   `position.<owner>.<webhook>`: the sequence of TASKS up to which all deliveries exist;
                   `pause.<owner>.<webhook>`: until when its receiver wants no message
    OBJ_results    results too large for the log
    OBJ_files      the bytes of files
    OBJ_index      snapshots of the API's index of tasks

Logs and everything that cannot be derived are synced to disk before they are acknowledged (`sync_interval: always` in
nats.conf). Derived streams have `persist_mode: async`, which is faster.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ...events.subjects import (
    BATCH_JOB_SUBJECTS,
    FILE_SUBJECTS,
    FLEET,
    KEY_SUBJECTS,
    OPERATION_SUBJECTS,
    READY_RETRIES,
    READY_TASKS,
    REPUBLISHED_SUBJECTS,
    SCHEDULE_SUBJECTS,
    SCHEDULER_FENCE,
    TASK_SUBJECTS,
    WEBHOOK_SUBJECTS,
    TimerKind,
    due_subject,
    pool_filter,
    timer_subject,
)
from ...instants import nanoseconds
from ...settings import Settings

TASKS = "TASKS"
SERVERS = "SERVERS"
WEBHOOKS = "WEBHOOKS"
SCHEDULES = "SCHEDULES"
OPERATIONS = "OPERATIONS"
BATCH_JOBS = "BATCH_JOBS"
FILES = "FILES"
FILES_BUCKET = "files"
FILE_OBJECTS = f"OBJ_{FILES_BUCKET}"
KEYS = "KEYS"
TIMERS = "TIMERS"
RETRIES = "RETRIES"
DISPATCH = "DISPATCH"
DUE_CONSUMER = "due-timers"
DUE: tuple[TimerKind, ...] = ("deadline", "busy", "check", "schedule")
"""Kinds of timers in TIMERS: of attempts, tasks that wait for busy servers, servers and recurring schedules."""
DERIVED = (DISPATCH, "KV_tasks", "KV_registry", "KV_heartbeats", "KV_usage", "OBJ_index")
"""Streams whose content can be derived from the logs or is sent again: not synced if there is one server."""
OPERATION_RETENTION = timedelta(days=30)
"""How long operations are kept. One that has not ended by then is forgotten, and ends so."""
BATCH_JOB_RETENTION = timedelta(days=60)
"""How long batch jobs are kept; much longer than their longest window."""
DEDUPLICATION = timedelta(seconds=10)
"""As short as possible: guards prevent duplicates; we send no message ids."""


def streams(settings: Settings) -> list[dict[str, Any]]:
    """Return the wanted configuration of every stream, in the order they must be made."""
    logs = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": nanoseconds(DEDUPLICATION),
    }
    # Replicated streams have no such mode: they sync the log of each replica.
    derived = {"persist_mode": "async"} if settings.replicas == 1 else {}
    scheduled = {"storage": "file", "allow_direct": True, "allow_msg_schedules": True, "allow_msg_ttl": True}
    task_age = nanoseconds(timedelta(seconds=settings.task_retention))
    return [
        {
            "name": TASKS,
            "subjects": [TASK_SUBJECTS, SCHEDULER_FENCE],
            "max_age": task_age,
            # Subscribers of `task.…` would also get events that the guards reject, and no sequence.
            "republish": {"src": TASK_SUBJECTS, "dest": REPUBLISHED_SUBJECTS},
            **logs,
        },
        {
            "name": SERVERS,
            "subjects": list(FLEET),
            "max_age": nanoseconds(timedelta(seconds=settings.server_retention)),
            **logs,
        },
        {"name": WEBHOOKS, "subjects": [WEBHOOK_SUBJECTS], **logs},
        {"name": SCHEDULES, "subjects": [SCHEDULE_SUBJECTS], **logs},
        {
            "name": OPERATIONS,
            "subjects": [OPERATION_SUBJECTS],
            "max_age": nanoseconds(OPERATION_RETENTION),
            "max_msgs_per_subject": 1,  # each event has all that the earlier ones of its kind had
            **logs,
        },
        {"name": KEYS, "subjects": [KEY_SUBJECTS], **logs},
        {
            "name": BATCH_JOBS,
            "subjects": [BATCH_JOB_SUBJECTS],
            "max_age": nanoseconds(BATCH_JOB_RETENTION),
            "max_msgs_per_subject": 1,  # likewise
            **logs,
        },
        {
            "name": FILES,
            "subjects": [FILE_SUBJECTS],
            "max_msgs_per_subject": 1,  # a task that refers to a file again
            **logs,
            "deny_purge": False,
        },
        {
            "name": TIMERS,
            "subjects": [subject(kind, ">") for subject in (timer_subject, due_subject) for kind in DUE],
            "retention": "workqueue",
            **scheduled,
        },
        {
            "name": RETRIES,
            "subjects": [timer_subject("retry", ">"), due_subject("retry", ">")],
            # Not a work queue: JetStream could not source from one for many seconds after a restart (ADR 8).
            "retention": "limits",
            **scheduled,
        },
        {
            "name": DISPATCH,
            "storage": "file",
            "retention": "workqueue",
            "allow_direct": True,
            **derived,
            "sources": [
                *(_source(TASKS, *ready) for ready in READY_TASKS),
                _source(RETRIES, *READY_RETRIES),
            ],
        },
        _bucket("tasks", max_age=task_age, **derived),
        _bucket("registry", **derived),
        _bucket("heartbeats", **derived),
        _bucket("usage", **derived),
        _bucket("leases"),
        _bucket("secrets", deny_delete=False),  # destroyed secrets are overwritten on disk
        _bucket("deliveries"),
        {
            "name": "OBJ_results",
            "subjects": ["$O.results.C.>", "$O.results.M.>"],
            "storage": "file",
            "max_age": task_age,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        },
        {
            "name": FILE_OBJECTS,
            "subjects": ["$O.files.C.>", "$O.files.M.>"],
            "storage": "file",
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        },
        {
            "name": "OBJ_index",
            "subjects": ["$O.index.C.>", "$O.index.M.>"],
            "storage": "file",
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            **derived,
        },
    ]


def configurations(settings: Settings) -> list[dict[str, Any]]:
    """Return the wanted configuration of every stream, with its replicas and placement."""
    placement: dict[str, Any] = {}
    if settings.nats_placement_cluster:
        placement["cluster"] = settings.nats_placement_cluster
    if settings.nats_placement_tags:
        placement["tags"] = list(settings.nats_placement_tags)
    kept = {"num_replicas": settings.replicas} | ({"placement": placement} if placement else {})
    return [kept | wanted for wanted in streams(settings)]


def _source(stream: str, subject: str, destination: str) -> dict[str, Any]:
    return {"name": stream, "subject_transforms": [{"src": subject, "dest": destination}]}


def _bucket(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        **more,
    }


def due_consumer(settings: Settings) -> dict[str, Any]:
    """Return the consumer of all fired timers except retries, which JetStream copies to DISPATCH."""
    return _durable(DUE_CONSUMER, [due_subject(kind, ">") for kind in DUE], settings)


def pool_consumer(pool_token: str, priority: str, settings: Settings, *, bulk: bool = False) -> dict[str, Any]:
    """Return the consumer that all workers share for one pool and priority: its first or its bulk queue."""
    name = f"{'bulk' if bulk else 'pool'}-{priority}-{pool_token}"
    return _durable(name, [pool_filter(pool_token, priority, bulk=bulk)], settings)


def _durable(name: str, filters: list[str], settings: Settings) -> dict[str, Any]:
    return {
        "durable_name": name,
        "filter_subjects": filters,
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(timedelta(seconds=settings.ack_wait)),
        "max_deliver": -1,  # the log decides when to give up
        "max_ack_pending": -1,  # free slots are the limit
    }
