"""Makes the derived streams anew, empty: JetStream refuses to replicate what was made for one server (`persist_mode`).

What they held comes again: DISPATCH is filled by JetStream from its floor on, the projections are rebuilt from the
logs, and heartbeats come with the next beat.
"""

from __future__ import annotations

import asyncio

import structlog

from ...errors import TaskstreamError
from ...settings import Settings
from ..buckets import Bucket
from ..client.connection import Connection
from ..jetstream.api import STREAM_NOT_FOUND, ApiError, api
from ..leases import RENEWALS_PER_TTL
from .definitions import DERIVED, DISPATCH, configurations

log = structlog.get_logger(__name__)


class WorkersRunning(TaskstreamError):
    """Somebody works on what was to be made anew. Nothing was changed."""

    def __init__(self, processes: list[str]) -> None:
        super().__init__(f"{', '.join(processes)} still run: end every worker first")


async def recreate_derived(connection: Connection, settings: Settings) -> list[str]:
    """Delete every derived stream and make it as the settings say; return their names.

    Raises StillRunning, or StoreUnavailable: then some may be missing, and the next start makes them.
    """
    if running := await renewing(Bucket(connection, "leases"), settings.lease_ttl):
        raise WorkersRunning(running)
    wanted = {config["name"]: config for config in configurations(settings)}
    made = []
    for name in DERIVED:
        try:
            found = (await api(connection, f"STREAM.INFO.{name}"))["config"]
        except ApiError as error:
            if error.code == STREAM_NOT_FOUND:
                continue
            raise
        await api(connection, f"STREAM.DELETE.{name}")
        kept = {"sources": found["sources"]} if name == DISPATCH else {}  # they know the floor (ADR 9)
        await api(connection, f"STREAM.CREATE.{name}", wanted[name] | kept)
        log.info("stream.made-anew", stream=name)
        made.append(name)
    return made


async def renewing(leases: Bucket, ttl_seconds: float) -> list[str]:
    """Return the processes that renewed their presence while we looked, for half a time-to-live.

    Nothing else could be waited for: that nobody renews only shows when the time for it has passed. It is asked for and
    not listened for, because who may not subscribe hears nothing, as if there were nobody.
    """
    before = {entry.key: entry.revision for entry in await leases.scan("process.*")}
    await asyncio.sleep(2 * ttl_seconds / RENEWALS_PER_TTL)
    after = {entry.key: entry.revision for entry in await leases.scan("process.*")}
    return sorted(key.removeprefix("process.") for key, revision in after.items() if before.get(key) != revision)
