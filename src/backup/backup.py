"""The backup of a running service.

It contains the logs (`TASKS`, `SERVERS`, `WEBHOOKS`, `SCHEDULES`, `OPERATIONS`, `BATCH_JOBS`, `FILES`, `KEYS`),
`KV_secrets`, `KV_deliveries`, `OBJ_results` and `OBJ_files`. It does not contain the queue, timers and projections.
After a restore JetStream fills the queue from the log, a worker that takes a task from the queue sets the timer of its
retry or deadline, and the reconciler sets health checks and the timers of schedules. Leases and heartbeats would be out
of date.

The order of the snapshots makes them consistent:

1. Deliveries, so none is past the end of the log. Some may be repeated.
2. Schedules. A run that has fired is in the log, or is submitted after the restore. A run that fires again finds its
   task, whose id is derived from the run.
   Operations. What they say of tasks is in the log. The restore pauses those that run.
   Batch jobs, likewise. Those that run go on: a batch of tasks that came after this snapshot is found by its id.
3. `TASKS`. Whatever an event refers to is written before the event and kept after it, so it is taken later.
4. Secrets, servers and webhooks. Secrets are also destroyed when they are replaced, so these snapshots are repeated
   if a secret came or went in between. The key of a task that ended meanwhile is gone; the task does not run again.
5. Results; files, and then their bytes. The bytes of a file that was deleted in between may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..clock import utc_now
from ..nats_server.folder import nats_of as folder_nats
from ..nats_server.folder import size_of
from ..settings import Settings
from ..streams.client.access import Access
from ..streams.client.connection import Connection, open_connection
from ..streams.jetstream.api import find_stream
from ..streams.jetstream.messages import last_sequence
from ..streams.topology.definitions import (
    BATCH_JOBS,
    FILE_OBJECTS,
    FILES,
    KEYS,
    OPERATIONS,
    SCHEDULES,
    SERVERS,
    TASKS,
    WEBHOOKS,
)
from ..streams.topology.server_checks import inspect
from ..streams.topology.startup_retry import StartupRetry, leader_elected
from .folder import (
    DELIVERIES,
    FORMAT,
    RESULTS,
    SECRETS,
    STREAMS,
    BackupError,
    Manifest,
    NothingToBackUp,
    Part,
    Progress,
    Writer,
    empty,
    make_folder,
    write_manifest,
)
from .snapshots import take_snapshot

FLEET_TRIES = 10
"""Attempts to take secrets, servers and webhooks without a change in between. Each takes milliseconds."""
RESTORING = "restoring."
"""Prefix of a stream's subjects while it is restored: no process can append to it, and no service starts on it."""


async def back_up(connection: Connection, folder: Path, progress: Progress) -> Manifest:
    """Back up into an empty or new folder while the service runs.

    Raises FolderNotEmpty, NothingToBackUp, BackupError, StoreError. After any error the folder is empty again.
    """
    nats = (await inspect(connection, None, None)).version
    made_at = utc_now()
    await _require_whole(connection)
    make_folder(folder)
    try:
        deliveries = await _take(connection, DELIVERIES, folder, progress)
        schedules = await _take(connection, SCHEDULES, folder, progress)
        operations = await _take(connection, OPERATIONS, folder, progress)
        batch_jobs = await _take(connection, BATCH_JOBS, folder, progress)
        tasks = await _take(connection, TASKS, folder, progress)
        secrets, servers, webhooks = await _take_registrations(connection, folder, progress)
        results = await _take(connection, RESULTS, folder, progress)
        files = await _take(connection, FILES, folder, progress)
        file_objects = await _take(connection, FILE_OBJECTS, folder, progress)
        keys = await _take(connection, KEYS, folder, progress)  # last: with the latest revocations
        manifest = Manifest(
            format=FORMAT,
            made_at=made_at,
            taskstream=version("taskstream"),
            nats=nats,
            streams=[
                deliveries,
                schedules,
                operations,
                batch_jobs,
                tasks,
                servers,
                webhooks,
                secrets,
                results,
                files,
                file_objects,
                keys,
            ],
        )
        await asyncio.to_thread(write_manifest, folder, manifest)
    except BaseException:
        empty(folder)
        raise
    return manifest


async def _require_whole(connection: Connection) -> None:
    infos = {name: await find_stream(connection, name) for name in STREAMS}
    if any(info is not None and is_being_restored(info["config"]) for info in infos.values()):
        raise NothingToBackUp(
            "a restore into this NATS is running or was interrupted: finish it first (`taskstream restore --again`)"
        )
    for name, info in infos.items():
        if info is None:
            raise NothingToBackUp(f"this NATS has no stream {name}: check --nats-url")


def is_being_restored(config: dict[str, Any]) -> bool:
    """Return True if an unfinished restore has made the stream."""
    return any(subject.startswith(RESTORING) for subject in config.get("subjects", []))


async def _take_registrations(connection: Connection, folder: Path, progress: Progress) -> tuple[Part, Part, Part]:
    """Take secrets, servers and webhooks so that every secret they name is included.

    Raises BackupError if secrets change during each of FLEET_TRIES attempts.
    """
    for _ in range(FLEET_TRIES):
        before = await _last_secret(connection)
        secrets = await _take(connection, SECRETS, folder, progress)
        servers = await _take(connection, SERVERS, folder, progress)
        webhooks = await _take(connection, WEBHOOKS, folder, progress)
        if await _last_secret(connection) == before:
            return secrets, servers, webhooks
    raise BackupError("the secrets keep changing: try again when fewer servers and webhooks are being registered")


async def _last_secret(connection: Connection) -> list[int]:
    """Return numbers that grow with each change of a secret of a server or webhook; tasks' secrets change too often."""
    return [await last_sequence(connection, SECRETS, f"$KV.secrets.{kind}.>") for kind in ("server", "webhook")]


async def _take(connection: Connection, name: str, folder: Path, progress: Progress) -> Part:
    path = folder / f"{name}.snapshot"
    with Writer(path, name, progress) as writer:
        snapshot = await take_snapshot(connection, name, writer.write)
        await asyncio.to_thread(writer.sync)
    state = snapshot.state
    return Part(
        name=name,
        file=path.name,
        config=snapshot.config,
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        messages=state["messages"],
        bytes=state["bytes"],
        file_bytes=writer.size,
        sha256=writer.digest.hexdigest(),
    )


@contextlib.asynccontextmanager
async def nats_of(settings: Settings) -> AsyncIterator[str]:
    """Yield the URL of the settings' NATS, else of the data folder's, which is started for the duration unless it runs.

    Raises NoData, EmbeddedNatsError.
    """
    if settings.nats_url is not None:
        yield settings.nats_url
    else:
        async with folder_nats(data_folder(settings), settings.max_storage) as url:
            yield url


def servers_of(settings: Settings) -> int:
    """Return the number of nats-servers that the data folder was made with. Raises NoData."""
    return size_of(data_folder(settings))


@contextlib.asynccontextmanager
async def source(settings: Settings) -> AsyncIterator[Connection]:
    """Connect to the NATS of the settings or of the data folder. Raises as `nats_of` does, and StoreUnavailable."""
    async with nats_of(settings) as url:
        connection = await open_connection(url, "backup", Access.from_settings(settings))
        try:
            await leader_elected(connection, StartupRetry())
            yield connection
        finally:
            await connection.close()


def data_folder(settings: Settings) -> Path:
    """Return the folder of the embedded nats-server."""
    return Path(settings.data_dir).expanduser().resolve()
