"""Routes about the service: its processes, who does which job, and its settings."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import NamedTuple

import msgspec

from ...container import Container
from ...errors import StoreError
from ...instants import iso, parse_nats_time
from ...settings import described, unknown
from ...streams.jetstream.api import ApiError, api
from ...streams.jetstream.messages import NO_MESSAGE_FOUND
from ...streams.leases import Presence
from ..auth.access import READERS_OF_ALL
from ..parameters import Cursor, Limit, page_of
from ..routing import RouteHandler, Routes
from ..schemas.processes import (
    ApiProcess,
    SchedulerInfo,
    SettingInfo,
    SettingsAnswer,
    WorkerPage,
    WorkerProcess,
)
from .system import halted_of

PRESENCE, LEASE, SERVER_LEASE = "process.", "lease.", "server."
WORKER = "worker-"
"""Beginning of the ids of workers; APIs announce themselves, too, for the lease of the operations."""
LOOKED_AT_ONCE = 16


class _Seen(NamedTuple):
    """A presence, and when it was last renewed, by NATS' clock."""

    presence: Presence
    at: datetime


class _Jobs(NamedTuple):
    """The leases by their holders."""

    named: Mapping[str, Sequence[str]]
    servers: Mapping[str, int]


async def _seen(container: Container, worker: str) -> _Seen | None:
    """Return the presence of a worker, None if it has left meanwhile. Raises StoreUnavailable."""
    bucket = container.buckets.leases
    try:
        wanted = {"last_by_subj": f"$KV.{bucket.name}.{PRESENCE}{worker}"}
        message = (await api(container.reading, f"STREAM.MSG.GET.{bucket.stream}", wanted))["message"]
    except ApiError as error:
        if error.code == NO_MESSAGE_FOUND:
            return None
        raise
    value = base64.b64decode(message.get("data", ""))
    return _Seen(msgspec.json.decode(value, type=Presence), parse_nats_time(message["time"])) if value else None


async def _jobs(container: Container) -> _Jobs:
    """Return who holds which lease. Raises StoreUnavailable."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    servers: Counter[str] = Counter()
    for entry in await container.buckets.leases.scan(f"{LEASE}>"):
        name, holder = entry.key.removeprefix(LEASE), entry.value.decode()
        if name.startswith(SERVER_LEASE):
            servers[holder] += 1
        else:
            named[holder].append(name)
    return _Jobs(named, servers)


async def worker_page(container: Container, limit: int, cursor: str | None) -> WorkerPage:
    """Return a page of the workers. Raises StoreUnavailable."""
    bucket = container.buckets.leases
    info = await api(container.reading, f"STREAM.INFO.{bucket.stream}")
    read_at = parse_nats_time(info["ts"])
    processes = [entry.key.removeprefix(PRESENCE) for entry in await bucket.scan(f"{PRESENCE}*")]
    announced = [process for process in processes if process.startswith(WORKER)]
    shown, following = page_of(announced, limit, cursor)
    jobs = await _jobs(container)
    places = asyncio.Semaphore(LOOKED_AT_ONCE)

    async def look(worker: str) -> _Seen | None:
        async with places:
            return await _seen(container, worker)

    found = zip(shown, await asyncio.gather(*map(look, shown)), strict=True)
    ttl = timedelta(seconds=container.settings.lease_ttl)
    report = container.submissions.admission.depth()
    return WorkerPage(
        workers=[_process(worker, seen, read_at, ttl, jobs) for worker, seen in found if seen is not None],
        next_cursor=following,
        api=await api_process(container),
        scheduler=SchedulerInfo(
            worker=next((worker for worker, names in jobs.named.items() if "scheduler" in names), None),
            reported_at=iso(report.counted_at) if report.counted_at else None,
        ),
        read_at=iso(read_at),
    )


def _process(worker: str, seen: _Seen, now: datetime, ttl: timedelta, jobs: _Jobs) -> WorkerProcess:
    presence = seen.presence
    return WorkerProcess(
        id=worker,
        host=presence.host_name or None,
        pid=presence.pid,
        version=presence.version or None,
        started_at=iso(presence.started_at) if presence.started_at else None,
        last_seen=iso(seen.at),
        alive=now - seen.at < ttl,
        leases=sorted(jobs.named.get(worker, ())),
        servers=jobs.servers.get(worker, 0),
    )


async def api_process(container: Container) -> ApiProcess:
    """Return what this process says about itself."""
    lag: int | None = None
    if container.indexer.is_running:
        with contextlib.suppress(StoreError):
            lag = (await container.indexer.status()).lag_events
    return ApiProcess(
        name=container.siblings.name,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("taskstream"),
        index_lag_events=lag,
        missing=list(container.siblings.missing),
        halted=halted_of(container),
    )


def process_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Service")

    @routes.get("/workers", "List workers", "A page of workers, by id", roles=READERS_OF_ALL)
    async def list_workers(limit: Limit = 50, cursor: Cursor = None) -> WorkerPage:
        """List the workers that have announced themselves, with the jobs that each of them does alone.

        `api` is the process that answers; others are not announced.
        """
        return await worker_page(container, limit, cursor)

    @routes.get("/settings", "Read the settings", "All settings of the process that answers", roles=("admin",))
    async def get_settings() -> SettingsAnswer:
        """Return each setting with its value, its default, and where the value is from; secrets are not shown."""
        return SettingsAnswer(
            settings=[
                SettingInfo(
                    name=each.name,
                    value=each.value,
                    default=each.default,
                    source=each.source,
                    secret=each.is_secret,
                    meaning=each.meaning,
                )
                for each in described(container.settings)
            ],
            unknown=unknown(),
        )

    return routes.handlers
