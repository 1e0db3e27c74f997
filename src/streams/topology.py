"""Every stream, bucket and consumer, as data: this file is the protocol between our processes and NATS.

    TASKS     the log of tasks. Only ever appended to: no delete, no purge. What it has stored, JetStream publishes
              again on `event.…`, for subscribers on plain NATS.
    SERVERS   the log of servers and task types, likewise.
    WEBHOOKS  the log of webhooks, likewise.
    TIMERS    what is to happen later (`timer.…`, by JetStream's scheduler) and what has fallen due (`due.…`).
    RETRIES   likewise for tasks that wait for their next attempt.
    DISPATCH  ready tasks, filled by JetStream from TASKS and from RETRIES. Nothing of ours writes it.

    KV_tasks       projection: `task.<owner>.<unique>` a view of each task; `active.<server or =>.<owner>.<unique>` of
                   each that has not ended; `recent.<owner or =>` the newest submissions; `checkpoint`
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
from functools import partial
from typing import Any

import structlog

from ..errors import TopologyMismatch
from ..settings import Settings
from .connection import ApiError, Connection, api
from .patience import NotReady, NotYet, Patience

log = structlog.get_logger(__name__)

TASKS = "TASKS"
SERVERS = "SERVERS"
WEBHOOKS = "WEBHOOKS"
TIMERS = "TIMERS"
RETRIES = "RETRIES"
DISPATCH = "DISPATCH"
DUE_CONSUMER = "timekeeper"
DERIVED = (DISPATCH, "KV_tasks", "KV_registry", "KV_heartbeats")
"""What can be had again from the logs, or comes again by itself: not synced where there is one server."""

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014


class FewerReplicas(TopologyMismatch):
    """The setting would give up copies there are. Nothing was changed."""

    def __init__(self, name: str, wanted: int, found: int) -> None:
        super().__init__(
            name, "num_replicas", wanted, found, f"set TASKSTREAM_REPLICAS={found}, or lower the streams' own first"
        )


class DerivedOtherwise(TopologyMismatch):
    """A derived stream was made for one server, and is to be replicated, or the other way round. Nothing was changed.

    JetStream can do neither: 10052, async persist mode is not supported on replicated streams, and cannot be changed.
    """

    def __init__(self, name: str, wanted: str, found: str) -> None:
        super().__init__(
            name,
            "persist_mode",
            wanted,
            found,
            "it was made for another TASKSTREAM_REPLICAS. End every API and worker, then have all that is derived made "
            "anew from the logs: `taskstream rebuild --anew`",
        )


DEDUPLICATION = timedelta(seconds=10)
"""Shortest useful: we send no message ids, the guards protect."""
TUNABLE = frozenset({"max_age", "num_replicas", "placement", "republish"})
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


async def ensure_streams(connection: Connection, settings: Settings, patience: Patience | None = None) -> None:
    """Create every stream that is missing and check those that exist. Safe to repeat, and side by side.

    Raises TopologyMismatch, naming the field, where a stream is not what this version needs; then nothing has been
    changed. Raises NotReady where a cluster could not make or show one in time.
    """
    patience = patience or Patience()
    changes = []
    for wanted in configurations(settings):
        found = await _found(connection, wanted["name"], patience)
        changes.append((wanted, found, _differences(wanted["name"], wanted, found) if found is not None else {}))
    for wanted, found, changed in changes:
        name = wanted["name"]
        if found is None:
            await patience.wait(f"servers for stream {name}", partial(_create, connection, wanted))
        elif changed:
            await patience.wait(f"stream {name} to be changed", partial(_update, connection, found, changed))
            log.info("stream.updated", stream=name, **changed)
    for name in [wanted["name"] for wanted, _, changed in changes if changed.keys() & {"num_replicas", "placement"}]:
        try:
            await patience.wait(f"the copies of {name}", partial(_settled, connection, name))
        except NotReady as error:
            log.warning("stream.unsettled", stream=name, reason=str(error))


def configurations(settings: Settings) -> list[dict[str, Any]]:
    """Return the wanted configuration of every stream, with how often and where it is kept."""
    placement: dict[str, Any] = {}
    if settings.nats_placement_cluster:
        placement["cluster"] = settings.nats_placement_cluster
    if settings.nats_placement_tags:
        placement["tags"] = list(settings.nats_placement_tags)
    kept = {"num_replicas": settings.replicas} | ({"placement": placement} if placement else {})
    return [kept | wanted for wanted in streams(settings)]


async def _found(connection: Connection, name: str, patience: Patience) -> dict[str, Any] | None:
    """Return the configuration a stream has, None if it is not there."""
    try:
        answer = await patience.wait(f"stream {name}", lambda: api(connection, f"STREAM.INFO.{name}"))
    except ApiError as error:
        if error.code == STREAM_NOT_FOUND:
            return None
        raise
    config: dict[str, Any] = answer["config"]
    return config


async def _create(connection: Connection, wanted: dict[str, Any]) -> None:
    name = wanted["name"]
    try:
        await api(connection, f"STREAM.CREATE.{name}", wanted)
    except ApiError as raced:
        if raced.code != STREAM_NAME_IN_USE:
            raise
        _differences(name, wanted, (await api(connection, f"STREAM.INFO.{name}"))["config"])


async def _settled(connection: Connection, name: str) -> None:
    """Return if most copies of a stream are complete; before, it may be without a leader for seconds. Raises NotYet."""
    info = await api(connection, f"STREAM.INFO.{name}")
    replicas = info.get("cluster", {}).get("replicas", [])
    complete = 1 + sum(replica["current"] for replica in replicas)
    if len(replicas) + 1 < info["config"]["num_replicas"] or complete <= (len(replicas) + 1) // 2:
        raise NotYet(f"{complete} of {info['config']['num_replicas']}")


async def _update(connection: Connection, found: dict[str, Any], changed: dict[str, Any]) -> None:
    config = {**found, **changed}
    if config["max_age"]:  # NATS refuses to remember ids for longer than messages
        config["duplicate_window"] = min(config["duplicate_window"], config["max_age"])
    await api(connection, f"STREAM.UPDATE.{config['name']}", config)


def _differences(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the tunable fields to change. Raises TopologyMismatch for any other difference."""
    changed = {}
    if wanted["num_replicas"] < found["num_replicas"]:
        # Most often a process that was not told; the others would lose what they were promised.
        raise FewerReplicas(name, wanted["num_replicas"], found["num_replicas"])
    mode, mode_found = wanted.get("persist_mode", "default"), found.get("persist_mode") or "default"
    if mode != mode_found:
        raise (
            DerivedOtherwise(name, mode, mode_found)
            if name in DERIVED
            else TopologyMismatch(name, "persist_mode", mode, mode_found)
        )
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
    """Create a durable consumer, or bring the one that exists to the wanted configuration.

    One that was not there begins at the beginning: after a power cut NATS may have forgotten a consumer and kept how
    far it was, and would go on from there, past what the stream has been filled with again.
    """
    name = wanted["durable_name"]
    body = {"stream_name": stream, "config": {"name": name, **wanted}}
    is_new = False
    try:
        await api(connection, f"CONSUMER.INFO.{stream}.{name}")
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise
        is_new = True
    made = await api(connection, f"CONSUMER.CREATE.{stream}.{name}", body)
    if is_new and made["delivered"]["stream_seq"]:
        log.warning("consumer.made-anew", stream=stream, consumer=name)
        await api(connection, f"CONSUMER.DELETE.{stream}.{name}")
        await api(connection, f"CONSUMER.CREATE.{stream}.{name}", body)
