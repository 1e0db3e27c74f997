"""The recreation of derived streams, empty: JetStream cannot replicate a stream made for one server (`persist_mode`).

Their content comes back: JetStream fills DISPATCH from its floor, the projections are rebuilt from the logs, and
servers send new heartbeats.
"""

from __future__ import annotations

import asyncio

import structlog

from ...errors import TaskstreamError
from ...settings import Settings
from ..buckets import Bucket
from ..client.connection import Connection
from ..jetstream.api import api, find_stream
from ..leases import RENEWALS_PER_TTL
from .definitions import DERIVED, DISPATCH, configurations

log = structlog.get_logger(__name__)


class WorkersRunning(TaskstreamError):
    """Workers use the streams to recreate. Nothing was changed."""

    def __init__(self, processes: list[str]) -> None:
        super().__init__(
            f"these workers still run: {', '.join(processes)}. Stop every worker first: they would continue from their "
            "memory of the deleted streams"
        )


async def recreate_derived(connection: Connection, settings: Settings) -> list[str]:
    """Delete every derived stream and create it as the settings describe it; return the names.

    Raises WorkersRunning, or StoreUnavailable: then streams may be missing, which the next start creates.
    """
    if running := await renewing(Bucket(connection, "leases"), settings.lease_ttl):
        raise WorkersRunning(running)
    wanted = {config["name"]: config for config in configurations(settings)}
    made = []
    for name in DERIVED:
        found = await find_stream(connection, name)
        if found is None:
            continue
        await api(connection, f"STREAM.DELETE.{name}")
        kept = {"sources": found["config"]["sources"]} if name == DISPATCH else {}  # they include the floor (ADR 9)
        await api(connection, f"STREAM.CREATE.{name}", wanted[name] | kept)
        log.info("stream.recreated", stream=name)
        made.append(name)
    return made


async def renewing(leases: Bucket, ttl_seconds: float) -> list[str]:
    """Return the processes that renew their presence within half a time-to-live.

    Only a full period shows that no process renews. The bucket is read twice, not watched: without the permission to
    subscribe, a watch would report no process.
    """
    before = {entry.key: entry.revision for entry in await leases.scan("process.*")}
    await asyncio.sleep(2 * ttl_seconds / RENEWALS_PER_TTL)
    after = {entry.key: entry.revision for entry in await leases.scan("process.*")}
    return sorted(key.removeprefix("process.") for key, revision in after.items() if before.get(key) != revision)
