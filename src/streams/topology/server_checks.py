"""Checks of the NATS server: its version, its durability, its clock."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from ...clock import utc_now
from ...errors import StoreUnavailable, TaskstreamError
from ...wire.connections import open_session
from ..client.access import ANYBODY, Access, shown
from ..client.connection import Connection

log = structlog.get_logger(__name__)

MINIMUM_VERSION = (2, 15, 0)
"""Older servers ignore `sync_interval: always` in places, and copy a source again from its beginning after a drain."""
LARGEST_CLOCK_DIFFERENCE = timedelta(seconds=1)
"""Retries and deadlines fire by NATS' clock and are checked against ours."""

Durability = Literal["always", "interval", "unknown"]


class NatsTooOld(TaskstreamError):
    def __init__(self, version: str) -> None:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        super().__init__(f"nats-server {version} is too old: upgrade it to {wanted} or newer")


class ServerChecks(Struct, frozen=True, kw_only=True):
    version: str
    durability: Durability
    """`always`: acknowledged writes are on disk. `unknown`: no monitor URL, and NATS does not tell clients."""
    clock_difference_ms: float
    """How far NATS' clock is ahead of ours."""
    max_storage: int | None = None
    """`max_file_store` of the server; None: unknown."""

    def warnings(self) -> list[str]:
        """Return each weakness with what to do about it."""
        found = []
        if self.durability == "interval":
            found.append(
                "NATS acknowledges before it has synced: a power cut can lose acknowledged tasks. "
                "Set `jetstream { sync_interval: always }`"
            )
        if self.durability == "unknown":
            found.append(
                "cannot check that NATS syncs before it acknowledges. Set TASKSTREAM_NATS_MONITOR_URL, and "
                "`jetstream { sync_interval: always }` on every server"
            )
        if abs(self.clock_difference_ms) > LARGEST_CLOCK_DIFFERENCE / timedelta(milliseconds=1):
            found.append(f"NATS' clock differs from ours by {self.clock_difference_ms:.0f} ms. Synchronise the clocks")
        return found

    def warn(self) -> None:
        for text in self.warnings():
            log.warning("server-checks.warning", warning=text)


async def inspect(
    connection: Connection, monitor_url: str | None, known: Durability | None, access: Access = ANYBODY
) -> ServerChecks:
    """Check the server. Raises NatsTooOld, or StoreUnavailable if JetStream is not enabled.

    The TLS settings of `access` apply to its monitoring port too.
    """
    version = connection.server_version
    if _numbers(version) < MINIMUM_VERSION:
        raise NatsTooOld(version)
    durability, max_storage = await _monitored(monitor_url, access)
    return ServerChecks(
        version=version,
        durability=known or durability,
        clock_difference_ms=await clock_difference_ms(connection),
        max_storage=max_storage,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


class StreamSize(NamedTuple):
    messages: int
    size_bytes: int


class ListedStreams(NamedTuple):
    """What one list of NATS' streams shows."""

    clock_difference_ms: float
    """How many milliseconds NATS' clock is ahead of ours; 0 if the round trip can explain the difference."""
    sizes: dict[str, StreamSize]
    """By stream; of an account with more than 256 streams, the first ones by name."""


async def list_streams(connection: Connection) -> ListedStreams:
    """Return the sizes of the streams, and how far NATS' clock is ahead.

    The answer takes 4 s while streams elect their leaders. Raises StoreUnavailable.
    """
    before = utc_now()
    answer = msgspec.json.decode((await connection.request("$JS.API.STREAM.LIST", b"{}")).data)
    after = utc_now()
    if error := answer.get("error"):
        raise StoreUnavailable(f"JetStream is not usable: {error.get('description')}")
    streams = answer.get("streams") or []
    sizes = {
        entry["config"]["name"]: StreamSize(int(entry["state"]["messages"]), int(entry["state"]["bytes"]))
        for entry in streams
    }
    stamps = [entry["ts"] for entry in streams if entry.get("ts")]
    if not stamps:
        return ListedStreams(0.0, sizes)
    half_trip = (after - before) / 2
    ahead = msgspec.convert(stamps[0], datetime) - (before + half_trip)
    return ListedStreams(0.0 if abs(ahead) <= half_trip else ahead / timedelta(milliseconds=1), sizes)


async def clock_difference_ms(connection: Connection) -> float:
    """Return how many milliseconds NATS' clock is ahead of ours; 0 if the round trip can explain the difference."""
    return (await list_streams(connection)).clock_difference_ms


async def _monitored(monitor_url: str | None, access: Access) -> tuple[Durability, int | None]:
    """Return how a server syncs, and its `max_file_store`."""
    if monitor_url is None:
        return "unknown", None
    try:
        async with (
            open_session(timeout=aiohttp.ClientTimeout(total=3)) as session,
            session.get(f"{monitor_url.rstrip('/')}/varz", ssl=access.ssl_context()) as response,
        ):
            config: dict[str, Any] = (await response.json()).get("jetstream", {}).get("config", {})
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.warning("monitor.no-answer", url=shown(monitor_url), reason=shown(str(error)))
        return "unknown", None
    return "always" if config.get("sync_always") else "interval", int(config.get("max_storage", 0)) or None
