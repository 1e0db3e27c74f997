"""The creation and update of streams and consumers: any difference that is not tunable is an error."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from ...errors import TopologyMismatch
from ...settings import Settings
from ..client.connection import Connection, NotPermitted
from ..jetstream.api import (
    CONSUMER_NOT_FOUND,
    CONSUMER_NOT_MADE,
    CONSUMER_NOT_UNIQUE,
    STREAM_NAME_IN_USE,
    ApiError,
    api,
    find_stream,
)
from .definitions import DERIVED, TASKS, configurations
from .epochs import EPOCHS, derived_epoch, epochs_in, new_epoch
from .startup_retry import NotReady, NotYet, StartupRetry

log = structlog.get_logger(__name__)

TUNABLE = frozenset({"max_age", "num_replicas", "placement", "republish"})
"""Fields that a setting may change later; the stream is updated. Missing `subjects` and `sources` are added, and none
are removed."""

CONSUMER_NAMES = 9
"""Names that are tried for a consumer, one after the other."""


class FewerReplicas(TopologyMismatch):
    """The setting asks for fewer replicas than the stream has. Nothing was changed."""

    def __init__(self, name: str, wanted: int, found: int) -> None:
        super().__init__(
            name,
            "num_replicas",
            wanted,
            found,
            f"set TASKSTREAM_REPLICAS={found}, or lower the replicas of the streams first",
        )


class PersistModeDiffers(TopologyMismatch):
    """A derived stream without replicas must become replicated, or the reverse. Nothing was changed.

    JetStream supports neither: 10052, async persist mode is not supported on replicated streams, and cannot be changed.
    """

    def __init__(self, name: str, wanted: str, found: str) -> None:
        super().__init__(
            name,
            "persist_mode",
            wanted,
            found,
            "it was made for another TASKSTREAM_REPLICAS. Stop every API and worker, then recreate all derived streams "
            "from the logs: `taskstream rebuild --recreate`",
        )


async def ensure_streams(connection: Connection, settings: Settings, startup_retry: StartupRetry | None = None) -> None:
    """Create every missing stream and check the others. Safe to repeat, also by several processes at once.

    Raises TopologyMismatch, naming the field, if a stream is not what this version needs; then nothing was changed.
    Raises NotReady if the cluster could not create or return a stream in time.
    """
    startup_retry = startup_retry or StartupRetry()
    changes = []
    for wanted in configurations(settings):
        name = wanted["name"]
        info = await startup_retry.wait(f"stream {name}", partial(find_stream, connection, name))
        found = info["config"] if info else None
        changes.append((wanted, found, _differences(name, wanted, found) if found is not None else {}))
    for wanted, found, changed in changes:
        name = wanted["name"]
        if found is None:
            await startup_retry.wait(f"servers for stream {name}", partial(_create, connection, wanted))
        elif changed:
            await startup_retry.wait(f"stream {name} to be changed", partial(_update, connection, found, changed))
            log.info("stream.updated", stream=name, **changed)
    await _add_epoch(connection, startup_retry)
    for name in [wanted["name"] for wanted, _, changed in changes if changed.keys() & {"num_replicas", "placement"}]:
        try:
            await startup_retry.wait(f"the copies of {name}", partial(_settled, connection, name))
        except NotReady as error:
            log.warning("stream.replicas-incomplete", stream=name, reason=str(error))


async def _create(connection: Connection, wanted: dict[str, Any]) -> None:
    name = wanted["name"]
    identity = {"metadata": new_epoch(1)} if name == TASKS else {}
    try:
        await api(connection, f"STREAM.CREATE.{name}", wanted | identity)
    except ApiError as raced:
        if raced.code != STREAM_NAME_IN_USE:
            raise
        found = await find_stream(connection, name)
        if found is None:
            raise NotYet(f"another process is creating {name}") from raced
        _differences(name, wanted, found["config"])


async def _add_epoch(connection: Connection, startup_retry: StartupRetry) -> None:
    """Give an epoch to a log of tasks that an older version created: the one that it is taken to have without this."""
    info = await startup_retry.wait(f"stream {TASKS}", partial(api, connection, f"STREAM.INFO.{TASKS}"))
    metadata = info["config"].get("metadata") or {}
    if epochs_in(metadata):
        return
    changed = {"metadata": metadata | {EPOCHS: str(derived_epoch(info))}}
    try:
        await startup_retry.wait(f"stream {TASKS} to be changed", partial(_update, connection, info["config"], changed))
    except NotPermitted as error:
        log.warning("stream.no-epoch", stream=TASKS, reason=str(error))


async def _settled(connection: Connection, name: str) -> None:
    """Return if most replicas of a stream are complete; before, it may lack a leader for seconds. Raises NotYet."""
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
        # Most often one process with an old setting; the others rely on the replicas.
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
    """Return True if the value of a field is a part of the wanted one, so missing items can be added."""
    if field == "sources":  # a process that restarted sources (see `sources`) was killed
        return all(source in wanted for source in _comparable(found))
    return field == "subjects" and _has_more(wanted, than=found)


def _has_more(subjects: list[str], than: list[str]) -> bool:
    """Return True if a stream has all subjects in `than` and more: a newer version made it, or it must be extended.

    False for a stream that is being restored.
    """
    return set(than) < set(subjects) and bool(than)


def _comparable(value: Any) -> Any:
    """Return a field's value without the floor of sources, which changes while the service runs (see `sources`)."""
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return {key: item for key, item in value.items() if key != "opt_start_seq"} if isinstance(value, dict) else value


async def ensure_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> str:
    """Create a durable consumer, or update the existing one; return its name.

    The name is the wanted one or has a number before it: a power cut can leave a consumer so broken that NATS can
    neither read it, nor remove it, nor create another one of that name.
    """
    for number in range(1, CONSUMER_NAMES + 1):
        name = wanted["durable_name"] if number == 1 else f"{number}-{wanted['durable_name']}"
        try:
            await _ensure_consumer(connection, stream, {**wanted, "name": name, "durable_name": name})
        except ApiError as error:
            # Not unique: another process has found this name broken before and uses the next one.
            if error.code not in (CONSUMER_NOT_MADE, CONSUMER_NOT_UNIQUE) or number == CONSUMER_NAMES:
                raise
            log.warning("consumer.broken", stream=stream, consumer=name, reason=error.description)
        else:
            return name
    raise AssertionError


async def _ensure_consumer(connection: Connection, stream: str, wanted: dict[str, Any]) -> None:
    """Create or update a consumer of one name.

    A new consumer must start at the first message. After a power cut NATS may have lost the consumer and kept its
    position; it would skip the messages that the stream was filled with again.
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
    skipped = made["delivered"]["stream_seq"] if is_new else 0
    if skipped and skipped >= (await api(connection, f"STREAM.INFO.{stream}"))["state"]["first_seq"]:
        log.warning("consumer.recreated", stream=stream, consumer=name)
        await api(connection, f"CONSUMER.DELETE.{stream}.{name}")
        await api(connection, f"CONSUMER.CREATE.{stream}.{name}", body)
