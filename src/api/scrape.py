"""The metrics of this process, brought up to date for a scrape."""

from __future__ import annotations

import asyncio
import contextlib
import math
import platform
import shutil
from collections.abc import Collection
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ..clock import utc_now
from ..commands.server import CircuitIsClosed
from ..container import Container
from ..errors import StoreError
from ..events.task import PRIORITIES
from ..index.lists import SERVICE
from ..index.query import TaskQuery
from ..index.search import count
from ..instants import epoch_seconds
from ..projections.active import is_projected, projected
from ..projections.dead_letters import KINDS
from ..projections.fleet import Fleet
from ..runtime import metrics
from ..streams.jetstream.api import api
from ..streams.topology.definitions import TASKS, configurations
from ..streams.topology.server_checks import list_streams
from ..submission.admission import QueueDepth

LOOK_SECONDS = 1.0
"""How long a scrape waits for the list of NATS' streams, which takes longer while they elect leaders, and the index."""
DEAD_LETTERS = TaskQuery(statuses=frozenset({"FAILED"}), failures=KINDS)
count_dead_letters = partial(count, query=DEAD_LETTERS)
RELEASE = version("taskstream")
PYTHON = platform.python_version()


async def metrics_text(container: Container) -> str:
    """Return the present metrics of this process in Prometheus' text format."""
    await observe(container)
    return metrics.page(container.siblings.name)


async def observe(container: Container) -> None:
    """Update the gauges; without NATS those of the store keep their last values."""
    fleet, pools = container.fleet, container.fleet.pools()
    metrics.build_info.labels(RELEASE, PYTHON, container.server_checks.version).set(1)
    metrics.nats_connected.set(is_connected(container))
    metrics.processes_missing.set(len(container.siblings.missing))
    for state, servers in server_states(container).items():
        metrics.servers.labels(state).set(servers)
    for observe_more in container.on_scrape:
        observe_more(pools)
    observe_services(container)
    drop_gone(fleet)
    observe_depth(container.submissions.admission.depth(), pools)
    await asyncio.gather(observe_disks(container), observe_log(container), observe_streams(container))


def is_connected(container: Container) -> bool:
    """Return True if all connections to NATS are up."""
    return all(each.is_connected for each in (container.appending, container.reading, container.consuming))


def observe_services(container: Container) -> None:
    """Update which services of this process have halted."""
    halted = container.services.halted
    metrics.service_halted.clear()  # a webhook that had halted may be deleted
    for name in {service.name for service in container.services} | halted.keys():
        metrics.service_halted.labels(name).set(name in halted)


async def observe_log(container: Container) -> None:
    """Update how far readers of the log are behind, and the number of dead letters."""
    with contextlib.suppress(StoreError, TimeoutError):
        last = await last_of_log(container)
        metrics.projection_lag.labels("tasks").set(await lag_behind(container, last))
        if reflected := container.submissions.admission.reflected:
            metrics.scheduler_lag.set(max(0, last - reflected))
        if container.indexer.is_running:
            metrics.index_lag.set((await container.indexer.status()).lag_events)
            metrics.index_rows.set(container.indexer.rows)
            async with asyncio.timeout(LOOK_SECONDS):
                found = await container.index.run(count_dead_letters, SERVICE, current=False)
            metrics.dead_letters.set(found.number)


async def observe_streams(container: Container) -> None:
    """Update the sizes of our streams, and the difference of the clocks."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            listed = await list_streams(container.reading)
        metrics.clock_difference.set(listed.clock_difference_ms / 1_000)
        for wanted in configurations(container.settings):
            if (size := listed.sizes.get(wanted["name"])) is not None:
                metrics.stream_messages.labels(wanted["name"]).set(size.messages)
                metrics.stream_bytes.labels(wanted["name"]).set(size.size_bytes)


async def observe_disks(container: Container) -> None:
    """Update the space on the disks of the folders that this process, or its NATS, writes to."""
    settings = container.settings
    folders = {"data": Path(settings.data_dir)} if settings.nats_url is None else {}
    if container.indexer.is_running:
        folders["index"] = settings.index_folder
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            size, free = await asyncio.to_thread(disk_usage, folder)
            metrics.disk_size.labels(name).set(size)
            metrics.disk_free.labels(name).set(free)


def disk_usage(folder: Path) -> tuple[int, int]:
    """Return the size of a folder's disk and the bytes free on it. Raises OSError."""
    usage = shutil.disk_usage(folder.expanduser())
    return usage.total, usage.free


async def last_of_log(container: Container) -> int:
    """Return the last sequence of the log of tasks. Raises StoreError."""
    return int((await api(container.reading, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])


async def lag_behind(container: Container, last: int) -> int:
    """Return the number of task events up to a sequence that the projection has not read yet. Raises StoreError."""
    if await is_projected(container.buckets.tasks, last):
        return 0
    return max(0, last - await projected(container.buckets.tasks))


async def projection_lag(container: Container) -> int:
    """Return the number of task events that the projection has not read yet. Raises StoreError."""
    return await lag_behind(container, await last_of_log(container))


def server_states(container: Container) -> dict[str, int]:
    """Return the number of servers by state."""
    counts = {"online": 0, "offline": 0, "maintenance": 0, "circuit_open": 0}
    for server in container.fleet.servers():
        counts["online" if server.online else "offline"] += 1
        counts["maintenance"] += server.maintenance
        counts["circuit_open"] += not isinstance(server.circuit, CircuitIsClosed)
    return counts


def drop_gone(fleet: Fleet) -> None:
    """Drop the metrics of servers and pools that are gone, so that the number of series does not grow for ever."""
    servers = {server.server_id for server in fleet.servers()}
    for of_servers in (metrics.attempts, metrics.attempts_reported, metrics.attempt_seconds, metrics.running):
        metrics.keep(of_servers, servers)
    for of_pools in (metrics.submitted, metrics.task_start_seconds, metrics.task_end_seconds, metrics.ended):
        metrics.keep(of_pools, fleet.pools())


def observe_depth(depth: QueueDepth, pools: Collection[str]) -> None:
    """Update the gauges of the queue's depth. A pool in which nothing waits has 0, and is not missing."""
    now = utc_now()
    metrics.queue_depth_age.set(math.inf if depth.counted_at is None else (now - depth.counted_at).total_seconds())
    metrics.queue_depth.clear()
    metrics.oldest_waiting.clear()
    if depth.counted_at is None:
        return
    metrics.held.set(depth.held)
    for pool in pools:
        metrics.oldest_waiting.labels(pool).set(0)
        for priority in PRIORITIES:
            metrics.queue_depth.labels(pool, priority, "queued").set(0)
    for each in depth.depths:
        metrics.queue_depth.labels(each.pool, each.priority, each.reason).set(each.count)
    for pool, since in depth.oldest.items():
        metrics.oldest_waiting.labels(pool).set(max(0.0, epoch_seconds(now) - since))
