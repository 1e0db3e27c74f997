"""The restore of a backup into an empty NATS, and its check in a temporary nats-server.

A partial restore is never used. On an external NATS the streams stay closed until all are there (`restored_streams`).
In a data folder the restore works in a subfolder, which is renamed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import structlog
from msgspec import Struct
from msgspec.structs import replace

from ..container import open_container
from ..nats_server.cluster import check_size
from ..nats_server.config import CONFIG, with_values
from ..nats_server.server import STORE, EmbeddedNats, end_stale_server, lock
from ..settings import Settings, variable
from ..streams.buckets import Bucket
from ..streams.client.access import MEANT_FOR_A_GIVEN_NATS, Access
from ..streams.client.connection import Connection, open_connection
from ..streams.topology.server_checks import Durability, inspect
from ..streams.topology.startup_retry import StartupRetry, leader_elected
from ..vault.sealing import Sealer
from ..vault.secrets import SecretStore
from .backup import data_folder
from .folder import Damaged, Manifest, Progress, TargetNotEmpty, check_files, read_manifest, sync_folder
from .rebuild import rebuild
from .restored_streams import create_queue, open_streams, remove_unfinished, require_empty, restore_streams
from .verify import VerifyReport, verify_logs

log = structlog.get_logger(__name__)

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
            f"servers: {report.servers:,}, types: {report.types:,}, schedules: {report.schedules:,}",
            f"events of tasks: {report.events:,}{last}",
        ]

    def warnings(self) -> list[str]:
        """Return each problem with what to do about it."""
        problems = []
        if self.report.sealed:
            problems.append(
                f"the API keys of these servers do not open: {', '.join(self.report.sealed)}. Set "
                f"{variable('seal_keys')} (or the JWT secret) to the keys they were sealed with, or register the "
                "servers again"
            )
        if self.report.lost_results:
            problems.append(
                f"{self.report.lost_results:,} large results are not in the object store: they may be past retention"
            )
        problems += [f"{fault}: run the version that wrote it" for fault in self.report.faults]
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
            await remove_unfinished(connection)
        await require_empty(connection, settings)
        found_there = await _fill(connection, folder, manifest, settings, progress)
        await open_streams(connection, settings)
        await create_queue(connection, settings, found_there.floor)
    async with await open_container(settings, url, durability) as container:
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
    check_size(target, 1)
    if (target / STORE).exists():
        raise TargetNotEmpty([str(target / STORE)])
    target.mkdir(mode=0o700, parents=True, exist_ok=True)


def _alone(settings: Settings) -> Settings:
    """Return the settings for one embedded nats-server: without those for an external NATS."""
    defaults = Settings()
    given = ("replicas", "nats_url", "nats_monitor_url", *MEANT_FOR_A_GIVEN_NATS)
    return replace(settings, **{name: getattr(defaults, name) for name in given})


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
    await restore_streams(connection, folder, manifest, settings, progress)
    return await verify_logs(connection, SecretStore(Bucket(connection, "secrets"), Sealer.from_settings(settings)))


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
