"""The streams of a restore, which stay closed until all of them are complete.

Until then each stream has an unused subject: no process can append to it, no service starts on it (the check of the
streams fails), and a second restore recognises what the first one left. `TASKS` is opened last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from ..settings import Settings
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api, find_stream
from ..streams.topology.definitions import DISPATCH, RETRIES, SCHEDULES, SERVERS, TASKS, WEBHOOKS, configurations
from ..streams.topology.ensure import ensure_streams
from .backup import RESTORING, is_being_restored
from .folder import (
    DELIVERIES,
    RESULTS,
    SECRETS,
    Damaged,
    Manifest,
    Part,
    Progress,
    RestoreInterrupted,
    TargetNotEmpty,
    chunks_of,
    file_of,
)
from .snapshots import Snapshot, restore_snapshot

log = structlog.get_logger(__name__)

ORDER = (RESULTS, SECRETS, WEBHOOKS, SERVERS, DELIVERIES, SCHEDULES, TASKS)
"""Streams that others refer to come first."""
MARK = "taskstream.restored"
"""Metadata key of a restored stream; the value is when the backup was made."""


async def require_empty(connection: Connection, settings: Settings) -> None:
    """Raise RestoreInterrupted or TargetNotEmpty if NATS has any stream of Taskstream."""
    there = {wanted["name"]: await find_stream(connection, wanted["name"]) for wanted in configurations(settings)}
    infos = {name: info for name, info in there.items() if info is not None}
    if any(is_being_restored(info["config"]) for info in infos.values()):
        raise RestoreInterrupted(list(infos))
    if infos:
        raise TargetNotEmpty(list(infos))


async def remove_unfinished(connection: Connection) -> None:
    """Delete the streams of an unfinished restore. Does nothing once TASKS is open: then the restore was finished."""
    infos = {name: info for name in ORDER if (info := await find_stream(connection, name))}
    log_info = infos.get(TASKS)
    if log_info is not None and not is_being_restored(log_info["config"]):
        return
    for name, info in infos.items():
        if MARK in info["config"].get("metadata", {}):
            await api(connection, f"STREAM.DELETE.{name}")
            log.info("restore.removed", stream=name)


async def restore_streams(
    connection: Connection, folder: Path, manifest: Manifest, settings: Settings, progress: Progress
) -> None:
    """Create every stream of a backup, closed. Raises Damaged, ApiError, StoreUnavailable; some may be left then."""
    for name in ORDER:
        await _put_back(connection, folder, manifest, manifest.part(name), settings, progress)


async def _put_back(
    connection: Connection, folder: Path, manifest: Manifest, part: Part, settings: Settings, progress: Progress
) -> None:
    # Replicas, placement and age come from the present settings, not from the backup.
    config = _wanted(part.name, settings) | {
        "subjects": [f"{RESTORING}{part.name}"],
        "metadata": {MARK: f"{manifest.made_at:%Y-%m-%dT%H:%M:%SZ}"},
    }
    if config.get("max_age") and "duplicate_window" in config:  # NATS refuses to remember ids for longer than messages
        config["duplicate_window"] = min(config["duplicate_window"], config["max_age"])

    def counted() -> Iterator[bytes]:
        done = 0
        for chunk in chunks_of(file_of(folder, part)):
            yield chunk
            done += len(chunk)
            progress(part.name, done, part.file_bytes)

    state = {"messages": part.messages, "bytes": part.bytes, "first_seq": part.first_sequence}
    state["last_seq"] = part.last_sequence
    restored = await restore_snapshot(connection, Snapshot(config=config, state=state), counted())
    if restored["last_seq"] != part.last_sequence:
        raise Damaged(f"{part.name} ends at {restored['last_seq']}, the manifest says {part.last_sequence}")
    keeps_all = not config.get("max_age") and not config.get("allow_msg_ttl")
    if keeps_all and restored["messages"] != part.messages:
        raise Damaged(f"{part.name} has {restored['messages']} messages, the manifest says {part.messages}")


def _wanted(name: str, settings: Settings) -> dict[str, Any]:
    return next(wanted for wanted in configurations(settings) if wanted["name"] == name)


async def open_streams(connection: Connection, settings: Settings) -> None:
    """Open the streams: give them their subjects, TASKS last."""
    for name in ORDER:
        config = (await api(connection, f"STREAM.INFO.{name}"))["config"]
        await api(connection, f"STREAM.UPDATE.{name}", config | {"subjects": _wanted(name, settings)["subjects"]})


async def create_queue(connection: Connection, settings: Settings, floor: int) -> None:
    """Create the queue so that JetStream fills it from the oldest unfinished task, not from the whole log (ADR 9)."""
    for name in (RETRIES, DISPATCH):
        wanted = _wanted(name, settings)
        for source in wanted.get("sources", []):
            if source["name"] == TASKS:
                source["opt_start_seq"] = floor
        await api(connection, f"STREAM.CREATE.{name}", wanted)
    await ensure_streams(connection, settings)
