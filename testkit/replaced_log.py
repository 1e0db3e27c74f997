"""A log, replaced by an older one as a restore does it, under a service that runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from taskstream.backup.snapshots import restore_snapshot, take_snapshot
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import TASKS
from taskstream.streams.topology.epochs import epochs_in, new_epoch


async def saved_log(connection: Connection, stream: str = TASKS) -> Callable[[Connection], Awaitable[None]]:
    """Save the log as it is; return a function that puts it in place of the one that is there then."""
    chunks: list[bytes] = []
    snapshot = await take_snapshot(connection, stream, chunks.append)

    async def put_back(connection: Connection) -> None:
        await api(connection, f"STREAM.DELETE.{stream}")
        epoch = new_epoch(snapshot.state["last_seq"] + 1, epochs_in(snapshot.config.get("metadata")))
        restored = replace(snapshot, config=snapshot.config | {"metadata": epoch})
        await restore_snapshot(connection, restored, chunks)

    return put_back
