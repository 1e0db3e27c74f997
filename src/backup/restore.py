"""The restore of a backup into an empty NATS, and its check in a temporary nats-server.

A partial restore is never used. In a data folder the restore works in a subfolder, which is renamed at the end. On an
external NATS the streams stay closed until all are complete: each has an unused subject, so no process can append to
it, no service starts on it (the check of the streams fails), and a second restore recognises what the first one left.
`TASKS` is opened last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from ..commands.operation import PauseOperation
from ..container import Container, open_container
from ..errors import UnreadableEvent
from ..events.envelope import Actor
from ..nats_server.cluster import PLAN
from ..nats_server.config import CONFIG, with_values
from ..nats_server.server import STORE, EmbeddedNats, end_stale_server, lock
from ..projections.operations import OPERATION_STATES, operation_refs
from ..projections.webhooks import load_webhooks
from ..settings import Settings, variable
from ..streams.buckets import Bucket
from ..streams.client.access import Access, without_external_nats
from ..streams.client.connection import Connection, open_connection
from ..streams.jetstream.api import ApiError, api, find_stream
from ..streams.topology.definitions import (
    BATCH_JOBS,
    DISPATCH,
    FILE_OBJECTS,
    FILES,
    KEYS,
    OPERATIONS,
    RETRIES,
    SCHEDULES,
    SERVERS,
    TASKS,
    WEBHOOKS,
    configurations,
)
from ..streams.topology.ensure import ensure_streams
from ..streams.topology.epochs import epochs_in, new_epoch, read_extent
from ..streams.topology.server_checks import Durability, inspect
from ..streams.topology.startup_retry import StartupRetry, leader_elected
from ..vault.key_file import KEY_FILE
from ..vault.sealing import Sealer
from ..vault.secrets import SecretStore
from .backup import RESTORING, data_folder, is_being_restored
from .folder import (
    DELIVERIES,
    RESULTS,
    SECRETS,
    BackupError,
    Damaged,
    Manifest,
    Part,
    Progress,
    RestoreInterrupted,
    TargetNotEmpty,
    check_files,
    chunks_of,
    file_of,
    read_manifest,
    sync_folder,
)
from .rebuild import rebuild
from .snapshots import Snapshot, restore_snapshot
from .verify import VerifyReport, verify_logs

log = structlog.get_logger(__name__)

ORDER = (
    RESULTS,
    FILE_OBJECTS,
    FILES,
    SECRETS,
    WEBHOOKS,
    SERVERS,
    DELIVERIES,
    SCHEDULES,
    OPERATIONS,
    BATCH_JOBS,
    KEYS,
    TASKS,
)
"""Streams that others refer to come first."""
MARK = "taskstream.restored"
"""Metadata key of a restored stream; the value is when the backup was made."""
STAGE = "restoring"
"""Subfolder of the data folder in which a restore works until its store is complete."""


class Restored(Struct, frozen=True, kw_only=True):
    """The content of a backup, from reading all of it."""

    manifest: Manifest
    report: VerifyReport

    def lines(self, verdict: str) -> list[str]:
        """Return the summary for the terminal."""
        manifest, report = self.manifest, self.report
        last = f"; the last event, {report.last_sequence:,}, is of {_instant(report.last_at)}" if report.last_at else ""
        return [
            f"{verdict}: the backup of {_instant(manifest.made_at)} "
            f"(taskstream {manifest.taskstream}, NATS {manifest.nats})",
            f"tasks: {report.tasks:,}, of which {len(report.unfinished):,} have not ended",
            f"servers: {report.servers:,}, types: {report.types:,}, schedules: {report.schedules:,}, "
            f"files: {report.files:,}, API keys: {report.keys:,}",
            f"events of tasks: {report.events:,}{last}",
        ]

    def warnings(self) -> list[str]:
        """Return each problem with what to do about it."""
        problems = []
        if self.report.missing_key:
            problems.append(
                f"the secrets were sealed with the key {self.report.missing_key} (its fingerprint), which is missing: "
                f"before the service starts, restore {KEY_FILE} into the data folder, or set {variable('seal_keys')}. "
                "No backup contains the key"
            )
        if self.report.sealed:
            problems.append(
                f"the API keys of these servers do not open: {', '.join(self.report.sealed)}. Set "
                f"{variable('seal_keys')} to the keys they were sealed with, or register the servers again"
            )
        if self.report.lost_results:
            problems.append(
                f"{self.report.lost_results:,} large results are not in the object store: they may be past retention"
            )
        problems += [f"{fault}: run the version that wrote the event" for fault in self.report.faults]
        return problems


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


async def check(folder: Path, settings: Settings, progress: Progress) -> Restored:
    """Restore a backup into a temporary nats-server and read every event.

    Needs disk space for the whole store in the temporary folder. Raises as `restore` does.
    """
    manifest = await _verified(folder, progress)
    with tempfile.TemporaryDirectory(prefix="taskstream-check-") as temporary:
        async with _quick_nats(Path(temporary), settings) as url:
            alone = _alone(settings)
            async with _connected(url, alone) as connection:
                read = await _fill(connection, folder, manifest, alone, progress)
    if read.faults:
        raise Damaged("; ".join(read.faults))
    return Restored(manifest=manifest, report=read)


async def restore(folder: Path, settings: Settings, progress: Progress, *, again: bool) -> Restored:
    """Restore a backup into the NATS of the settings, or else into the data folder, which must have no store yet.

    `again`: first remove what an interrupted restore has left. An event that does not decode is restored and reported
    among the warnings; the workers then build the projections. Raises BackupError, ApiError, StoreUnavailable: no
    service uses what is left then, and `again` removes it.
    """
    manifest = await _verified(folder, progress)
    if settings.nats_url is not None:
        return await _into_nats(settings.nats_url, folder, manifest, settings, progress, again=again)
    return await _into_folder(data_folder(settings), folder, manifest, settings, progress)


async def _verified(folder: Path, progress: Progress) -> Manifest:
    manifest = read_manifest(folder)
    await asyncio.to_thread(check_files, folder, manifest, progress)
    return manifest


async def _into_nats(
    url: str,
    folder: Path,
    manifest: Manifest,
    settings: Settings,
    progress: Progress,
    durability: Durability | None = None,
    *,
    again: bool = False,
) -> Restored:
    async with _connected(url, settings) as connection:
        if again:
            await _remove_unfinished(connection)
        await _require_empty(connection, settings)
        found_there = await _fill(connection, folder, manifest, settings, progress)
        await _open_streams(connection, manifest, settings)
        await _create_queue(connection, settings, found_there.floor)
    async with await open_container(settings, url, durability) as container:
        await start_webhooks(container)
        await pause_operations(container)
        if not found_there.faults:
            await rebuild(container)
    return Restored(manifest=manifest, report=found_there)


async def _into_folder(
    target: Path, folder: Path, manifest: Manifest, settings: Settings, progress: Progress
) -> Restored:
    _make_target(target)
    stage = target / STAGE
    with lock(target):  # keeps out a service and another restore
        if stage.exists():
            await end_stale_server(stage)
            shutil.rmtree(stage)
        try:
            async with _quick_nats(stage, settings) as url:
                restored = await _into_nats(url, folder, manifest, _alone(settings), progress, "always")
            await asyncio.to_thread(_sync_all, stage / STORE)
            (stage / STORE).rename(target / STORE)
            sync_folder(target)
        finally:
            shutil.rmtree(stage)
    return restored


def _make_target(target: Path) -> None:
    if (target / STORE).exists() or (target / PLAN).exists():
        raise TargetNotEmpty([], target)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)


def _alone(settings: Settings) -> Settings:
    """Return the settings for one embedded nats-server: without those for an external NATS."""
    return replace(without_external_nats(settings), replicas=1)


@contextlib.asynccontextmanager
async def _quick_nats(folder: Path, settings: Settings) -> AsyncIterator[str]:
    """Run a nats-server that does not sync each message: the store is synced at the end, or deleted."""
    async with EmbeddedNats(folder, max_storage=settings.max_storage, config=_quick_config(folder)) as nats:
        yield nats.url


def _quick_config(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    config = folder / "quick.conf"
    config.write_text(with_values(CONFIG.read_text(), {"sync_interval": '"2m"'}))
    return config


@contextlib.asynccontextmanager
async def _connected(url: str, settings: Settings) -> AsyncIterator[Connection]:
    access = Access.from_settings(settings)
    connection = await open_connection(url, "restore", access)
    try:
        await leader_elected(connection, StartupRetry())
        await inspect(connection, None, None, access)
        yield connection
    finally:
        await connection.close()


async def _fill(
    connection: Connection, folder: Path, manifest: Manifest, settings: Settings, progress: Progress
) -> VerifyReport:
    """Create every stream of a backup, closed, and verify them. Raises as `restore` does."""
    for name in filter(manifest.has, ORDER):
        await _put_back(connection, folder, manifest, manifest.part(name), settings, progress)
    return await verify_logs(connection, SecretStore(Bucket(connection, "secrets"), Sealer.for_secrets(settings)))


def _sync_all(folder: Path) -> None:
    """Sync every file and folder of a tree to disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(path) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(path))


# Streams, which stay closed until all are complete


async def _require_empty(connection: Connection, settings: Settings) -> None:
    """Raise RestoreInterrupted or TargetNotEmpty if NATS has any stream of Taskstream."""
    there = {wanted["name"]: await find_stream(connection, wanted["name"]) for wanted in configurations(settings)}
    infos = {name: info for name, info in there.items() if info is not None}
    if any(is_being_restored(info["config"]) for info in infos.values()):
        raise RestoreInterrupted(list(infos))
    if infos:
        raise TargetNotEmpty(list(infos))


async def _remove_unfinished(connection: Connection) -> None:
    """Delete the streams of an unfinished restore. Does nothing once TASKS is open: then the restore was finished."""
    infos = {name: info for name in ORDER if (info := await find_stream(connection, name))}
    log_info = infos.get(TASKS)
    if log_info is not None and not is_being_restored(log_info["config"]):
        return
    for name, info in infos.items():
        if MARK in info["config"].get("metadata", {}):
            await api(connection, f"STREAM.DELETE.{name}")
            log.info("restore.removed", stream=name)


async def _put_back(
    connection: Connection, folder: Path, manifest: Manifest, part: Part, settings: Settings, progress: Progress
) -> None:
    # Replicas, placement and age come from the present settings, not from the backup.
    config = _wanted(part.name, settings) | {
        "subjects": [f"{RESTORING}{part.name}"],
        "metadata": {MARK: f"{manifest.made_at:%Y-%m-%dT%H:%M:%SZ}"},
    }
    if part.name == TASKS:  # what was written after the backup is not here: its positions are others from now on
        config["metadata"] |= new_epoch(part.last_sequence + 1, epochs_in(part.metadata))
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
    try:
        restored = await restore_snapshot(connection, Snapshot(config=config, state=state), counted())
    except ApiError as error:
        raise BackupError(
            f"NATS cannot restore {part.name} from {file_of(folder, part)} ({error.description}): if the file is "
            "damaged, use another backup; if NATS' disk is full, free some space"
        ) from error
    if restored["last_seq"] != part.last_sequence:
        raise Damaged(f"{part.name} ends at {restored['last_seq']}, the manifest says {part.last_sequence}")
    keeps_all = not config.get("max_age") and not config.get("allow_msg_ttl")
    if keeps_all and restored["messages"] != part.messages:
        raise Damaged(f"{part.name} has {restored['messages']} messages, the manifest says {part.messages}")


def _wanted(name: str, settings: Settings) -> dict[str, Any]:
    return next(wanted for wanted in configurations(settings) if wanted["name"] == name)


async def _open_streams(connection: Connection, manifest: Manifest, settings: Settings) -> None:
    """Open the streams: give them their subjects, TASKS last."""
    for name in filter(manifest.has, ORDER):
        config = (await api(connection, f"STREAM.INFO.{name}"))["config"]
        await api(connection, f"STREAM.UPDATE.{name}", config | {"subjects": _wanted(name, settings)["subjects"]})


async def _create_queue(connection: Connection, settings: Settings, floor: int) -> None:
    """Create the queue so that JetStream fills it from the oldest unfinished task, not from the whole log (ADR 9)."""
    for name in (RETRIES, DISPATCH):
        wanted = _wanted(name, settings)
        for source in wanted.get("sources", []):
            if source["name"] == TASKS:
                source["opt_start_seq"] = floor
        await api(connection, f"STREAM.CREATE.{name}", wanted)
    await ensure_streams(connection, settings)


async def start_webhooks(container: Container) -> None:
    """Make webhooks that were registered while the backup was made start at the end of the log that is restored."""
    end = (await read_extent(container.reading)).last
    try:
        registry = await load_webhooks(container.reading, None)
    except UnreadableEvent as error:  # a worker would halt there too
        log.warning("restore.webhooks-unreadable", reason=str(error))
        return
    for ref, webhook in registry.registered():
        await container.deliveries.start(ref, webhook.after, end)


async def pause_operations(container: Container) -> None:
    """Pause the operations that were running: what they did may be why there is a restore."""
    refs = await operation_refs(container.reading, None)
    try:
        found = await OPERATION_STATES.load(container.reading, refs)
    except UnreadableEvent as error:
        log.warning("restore.operations-unreadable", reason=str(error))
        return
    for ref, operation in found.items():
        if operation.ending is None and not operation.paused:
            command = PauseOperation(reason="restored from a backup; resume it if it is still wanted")
            await container.commands.operations.handle(ref, command, by=Actor("system", "restore"))
