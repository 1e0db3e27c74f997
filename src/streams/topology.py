"""Every stream, bucket and consumer, as data: this file is the protocol between our processes and NATS.

    TASKS     the log of tasks. Only ever appended to: no delete, no purge. What it has stored, JetStream publishes
              again on `event.…`, for subscribers on plain NATS.
    SERVERS   the log of servers and task types, likewise.
    WEBHOOKS  the log of webhooks, likewise.
    TIMERS    what is to happen later (`timer.…`, by JetStream's scheduler) and what has fallen due (`due.…`).
    RETRIES   likewise for tasks that wait for their next attempt.
    DISPATCH  ready tasks, filled by JetStream from TASKS and from RETRIES. Nothing of ours writes it.

    KV_tasks       projection: `task.<owner>.<unique>` a view of each task; `active.<server or =>.<owner>.<unique>` of
                   each that has not ended; `checkpoint`
    KV_registry    projection: `server.<id>`, `type.<name>`; `checkpoint`
    KV_heartbeats  when each server was last seen, and its load
    KV_leases      which worker speaks for which server, which process projects
    KV_secrets     sealed keys of servers, and secrets of webhooks; never in a log
    KV_deliveries  what webhooks have to send and have sent: `waiting.<owner>.<webhook>.<id>`, `done.…` likewise;
                   `position.<owner>.<webhook>`, up to where in TASKS there is a delivery of all that is to be sent
    OBJ_results    results too large for the log

A log and what cannot be derived again are synced to disk before they are acknowledged (`sync_interval: always` in
nats.conf); what is derived says `persist_mode: async` and is fast instead.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from ..errors import TopologyMismatch
from ..settings import Settings
from .connection import ApiError, Connection, api

log = structlog.get_logger(__name__)

TASKS = "TASKS"
SERVERS = "SERVERS"
WEBHOOKS = "WEBHOOKS"
TIMERS = "TIMERS"
RETRIES = "RETRIES"
DISPATCH = "DISPATCH"
DUE_CONSUMER = "timekeeper"

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014

DEDUPLICATION = timedelta(seconds=10)
"""Shortest useful: we send no message ids, the guards protect."""
TUNABLE = frozenset({"max_age", "num_replicas", "republish"})
"""What a setting may change later; the stream is updated."""

_DISPATCHED = "dispatch.{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(1)}}.{{wildcard(2)}}"


def nanoseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1_000_000_000)


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
    # Replicated streams have no such mode: there the replicas' own log is what is synced.
    derived = {"persist_mode": "async"} if settings.replicas == 1 else {}
    scheduled = {"storage": "file", "allow_direct": True, "allow_msg_schedules": True, "allow_msg_ttl": True}
    task_age = nanoseconds(timedelta(seconds=settings.task_retention))
    return [
        {
            "name": TASKS,
            "subjects": ["task.>"],
            "max_age": task_age,
            # Of `task.…` itself a subscriber would also hear what the guards refuse, and no sequence.
            "republish": {"src": "task.>", "dest": "event.>"},
            **logs,
        },
        {
            "name": SERVERS,
            "subjects": ["server.>", "type.>"],
            "max_age": nanoseconds(timedelta(seconds=settings.server_retention)),
            **logs,
        },
        {"name": WEBHOOKS, "subjects": ["webhook.>"], **logs},
        {
            "name": TIMERS,
            "subjects": ["timer.deadline.>", "timer.check.>", "due.deadline.>", "due.check.>"],
            "retention": "workqueue",
            **scheduled,
        },
        {
            "name": RETRIES,
            "subjects": ["timer.retry.>", "due.retry.>"],
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
                _source(TASKS, "task.*.*.submitted.*.*", _DISPATCHED),
                _source(TASKS, "task.*.*.queued.*.*", _DISPATCHED),
                _source(
                    RETRIES,
                    "due.retry.*.*.*.*",
                    "dispatch.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}",
                ),
            ],
        },
        _bucket("tasks", max_age=task_age, **derived),
        _bucket("registry", **derived),
        _bucket("heartbeats", **derived),
        _bucket("leases"),
        _bucket("secrets", deny_delete=False),  # what is given up is overwritten on disk
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
    ]


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
    """Return the consumer of everything that has fallen due, but for retries: those go to DISPATCH by themselves."""
    return _durable(DUE_CONSUMER, ["due.deadline.>", "due.check.>"], settings)


def pool_consumer_name(pool_token: str, priority: str) -> str:
    return f"pool-{priority}-{pool_token}"


def pool_consumer(pool_token: str, priority: str, settings: Settings) -> dict[str, Any]:
    """Return the consumer that all workers share for one pool and priority."""
    name = pool_consumer_name(pool_token, priority)
    return _durable(name, [f"dispatch.{pool_token}.{priority}.>"], settings)


def _durable(name: str, filters: list[str], settings: Settings) -> dict[str, Any]:
    return {
        "durable_name": name,
        "filter_subjects": filters,
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(timedelta(seconds=settings.ack_wait)),
        "max_deliver": -1,  # when to give up is ours to decide
        "max_ack_pending": -1,  # free slots bound it already
    }


async def ensure_streams(connection: Connection, settings: Settings) -> None:
    """Create every stream that is missing and check those that exist. Safe to repeat, and side by side.

    Raises TopologyMismatch, naming the field, where a stream is not what this version needs.
    """
    for wanted in streams(settings):
        await _ensure_stream(connection, {"num_replicas": settings.replicas, **wanted})


async def _ensure_stream(connection: Connection, wanted: dict[str, Any]) -> None:
    name = wanted["name"]
    try:
        found = (await api(connection, f"STREAM.INFO.{name}"))["config"]
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        try:
            await api(connection, f"STREAM.CREATE.{name}", wanted)
            return
        except ApiError as raced:
            if raced.code != STREAM_NAME_IN_USE:
                raise
            found = (await api(connection, f"STREAM.INFO.{name}"))["config"]
    changed = _differences(name, wanted, found)
    if changed:
        log.info("stream.updated", stream=name, **changed)
        config = {**found, **changed}
        if config["max_age"]:  # NATS refuses to remember ids for longer than messages
            config["duplicate_window"] = min(config["duplicate_window"], config["max_age"])
        await api(connection, f"STREAM.UPDATE.{name}", config)


def _differences(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the tunable fields to change. Raises TopologyMismatch for any other difference."""
    changed = {}
    for field, value in wanted.items():
        # NATS leaves out what is false, zero or empty.
        if _comparable(found.get(field, type(value)())) == value:
            continue
        if field not in TUNABLE:
            raise TopologyMismatch(name, field, value, found.get(field))
        changed[field] = value
    return changed


def _comparable(value: Any) -> Any:
    """Return a field's value without what changes while the service runs: the floor of sources (see `refill`)."""
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return {key: item for key, item in value.items() if key != "opt_start_seq"} if isinstance(value, dict) else value


async def ensure_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> None:
    """Create a durable consumer, or bring the one that exists to the wanted configuration."""
    name = wanted["durable_name"]
    await api(
        connection, f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": {"name": name, **wanted}}
    )
