"""Makes the topology true: creates what is missing, changes what may be tuned, and refuses any other difference."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from ...errors import TopologyMismatch
from ...settings import Settings
from ..client.connection import Connection
from ..jetstream.api import (
    CONSUMER_NOT_FOUND,
    CONSUMER_NOT_MADE,
    CONSUMER_NOT_UNIQUE,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    api,
)
from .definitions import DERIVED, configurations
from .startup_retry import NotReady, NotYet, StartupRetry

log = structlog.get_logger(__name__)

TUNABLE = frozenset({"max_age", "num_replicas", "placement", "republish"})
"""What a setting may change later; the stream is updated. `subjects` are added to, and never taken away; `sources`
that are missing are put back."""

CONSUMER_NAMES = 9
"""How many names a consumer may have, one after the other."""


class FewerReplicas(TopologyMismatch):
    """The setting would give up copies there are. Nothing was changed."""

    def __init__(self, name: str, wanted: int, found: int) -> None:
        super().__init__(
            name, "num_replicas", wanted, found, f"set TASKSTREAM_REPLICAS={found}, or lower the streams' own first"
        )


class PersistModeDiffers(TopologyMismatch):
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
            "anew from the logs: `taskstream rebuild --recreate`",
        )


async def ensure_streams(connection: Connection, settings: Settings, startup_retry: StartupRetry | None = None) -> None:
    """Create every stream that is missing and check those that exist. Safe to repeat, and side by side.

    Raises TopologyMismatch, naming the field, where a stream is not what this version needs; then nothing has been
    changed. Raises NotReady where a cluster could not make or show one in time.
    """
    startup_retry = startup_retry or StartupRetry()
    changes = []
    for wanted in configurations(settings):
        found = await _found(connection, wanted["name"], startup_retry)
        changes.append((wanted, found, _differences(wanted["name"], wanted, found) if found is not None else {}))
    for wanted, found, changed in changes:
        name = wanted["name"]
        if found is None:
            await startup_retry.wait(f"servers for stream {name}", partial(_create, connection, wanted))
        elif changed:
            await startup_retry.wait(f"stream {name} to be changed", partial(_update, connection, found, changed))
            log.info("stream.updated", stream=name, **changed)
    for name in [wanted["name"] for wanted, _, changed in changes if changed.keys() & {"num_replicas", "placement"}]:
        try:
            await startup_retry.wait(f"the copies of {name}", partial(_settled, connection, name))
        except NotReady as error:
            log.warning("stream.unsettled", stream=name, reason=str(error))


async def _found(connection: Connection, name: str, startup_retry: StartupRetry) -> dict[str, Any] | None:
    """Return the configuration a stream has, None if it is not there."""
    try:
        answer = await startup_retry.wait(f"stream {name}", lambda: api(connection, f"STREAM.INFO.{name}"))
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
            PersistModeDiffers(name, mode, mode_found)
            if name in DERIVED
            else TopologyMismatch(name, "persist_mode", mode, mode_found)
        )
    for field, value in wanted.items():
        # NATS leaves out what is false, zero or empty.
        if _comparable(found.get(field, type(value)())) == value:
            continue
        if field == "subjects" and _has_more(found.get(field) or [], than=value):
            continue
        if field not in TUNABLE and not _is_part(field, found.get(field) or [], value):
            raise TopologyMismatch(name, field, value, found.get(field))
        changed[field] = value
    return changed


def _is_part(field: str, found: Any, wanted: Any) -> bool:
    """Tell whether what a stream has of a field is a part of what is wanted, and has only to be added to."""
    if field == "sources":  # some or all were being set up afresh (see `sources`) by one who was killed
        return all(source in wanted for source in _comparable(found))
    return field == "subjects" and _has_more(wanted, than=found)


def _has_more(subjects: list[str], than: list[str]) -> bool:
    """Tell whether a stream with these subjects has all of others: a newer version's, or one that is to be extended.

    None of a stream that is being restored.
    """
    return set(than) < set(subjects) and bool(than)


def _comparable(value: Any) -> Any:
    """Return a field's value without what changes while the service runs: the floor of sources (see `refill`)."""
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return {key: item for key, item in value.items() if key != "opt_start_seq"} if isinstance(value, dict) else value


async def ensure_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> str:
    """Create a durable consumer, or bring the one that exists to the wanted configuration; return its name.

    That is the wanted one, or has a number before it: what a power cut has left of a consumer may be so broken that
    NATS can neither read nor remove it, and makes no other of that name.
    """
    for number in range(1, CONSUMER_NAMES + 1):
        name = wanted["durable_name"] if number == 1 else f"{number}-{wanted['durable_name']}"
        try:
            await _ensure_consumer(connection, stream, {**wanted, "name": name, "durable_name": name})
        except ApiError as error:
            # Not unique: another process has found this name broken before, and the next one serves.
            if error.code not in (CONSUMER_NOT_MADE, CONSUMER_NOT_UNIQUE) or number == CONSUMER_NAMES:
                raise
            log.warning("consumer.not-made", stream=stream, consumer=name, reason=error.description)
        else:
            return name
    raise AssertionError


async def _ensure_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> None:
    """Do so by one name.

    A consumer that was not there begins at the beginning: after a power cut NATS may have forgotten it and kept how
    far it was, and would go on from there, past what the stream has been filled with again.
    """
    name = wanted["name"]
    body = {"stream_name": stream, "config": wanted}
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
