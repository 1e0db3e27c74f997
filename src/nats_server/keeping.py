"""The embedded NATS of a running service: restarted when it dies, and when it met a full disk that has space again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from ..settings import Settings
from .cluster import EmbeddedCluster, check_size
from .server import EmbeddedNats

log = structlog.get_logger(__name__)

RESTART_PAUSE_SECONDS = 0.5
WATCHED_SECONDS = 2.0
"""How often the disk is looked at."""
FULL_BYTES = 1024 * 1024
"""With less free space on its disk, a write of NATS may have failed unseen."""
AGAIN_SHARE = 1.1
"""NATS is restarted once the free space is so many times the reserve."""
RESTART_PAUSES_SECONDS = (0.0, 60.0, 600.0)
"""Shortest times before the first, the second and each further restart of an embedded NATS that is out of space."""


class KeptNats:
    """The servers of an embedded NATS."""

    def __init__(self, nodes: Sequence[EmbeddedNats], url: str) -> None:
        self.url = url
        """For clients, with user and password. The same after every restart."""
        self.nodes = nodes
        self.reserve_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Take the size of the store's reserve, as the service measures it: with less free, no restart would help."""
        self.reserve_bytes = size_bytes

    def is_out_of_space(self) -> bool:
        return any(node.is_out_of_space() for node in self.nodes)

    async def restart(self) -> None:
        """End the servers; each is started again at once."""
        for node in self.nodes:
            await node.end()


class Restart:
    """Restarts an embedded NATS that met a full disk, once there is space: until then it stores nothing more."""

    def __init__(self, is_out_of_space: Callable[[], bool], restart: Callable[[], Awaitable[None]]) -> None:
        """`is_out_of_space`: whether it said so since its last start. It may block for a moment: it reads a file."""
        self._is_out_of_space = is_out_of_space
        self._restart = restart
        self._disk_was_full = False
        self._restarts = 0
        self._restarted_at = float("-inf")

    async def attend(self, free_bytes: int, enough_bytes: float) -> None:
        """Restart NATS if it is out of space and `free_bytes` are enough, unless it was restarted for that lately."""
        self._disk_was_full |= free_bytes < FULL_BYTES  # then NATS cannot even say so: its log is on that disk
        if not (self._disk_was_full or await asyncio.to_thread(self._is_out_of_space)):
            return
        if free_bytes < max(enough_bytes, FULL_BYTES):
            return
        pause = RESTART_PAUSES_SECONDS[min(self._restarts, len(RESTART_PAUSES_SECONDS) - 1)]
        if time.monotonic() < self._restarted_at + pause:
            return
        self._restarts += 1
        self._restarted_at = time.monotonic()
        self._disk_was_full = False
        log.error(
            "nats.out-of-space",
            action="restarting it: the disk has space again, and NATS stores nothing more after a write met a full one",
            restarts=self._restarts,
        )
        await self._restart()


@contextlib.asynccontextmanager
async def embedded_nats(settings: Settings) -> AsyncIterator[KeptNats]:
    """Run an embedded NATS; a server that dies is restarted on the same port and store."""
    folder = Path(settings.data_dir)
    check_size(folder, settings.cluster)
    async with AsyncExitStack() as stack:
        if settings.cluster == 1:
            nats = await stack.enter_async_context(EmbeddedNats(folder, max_storage=settings.max_storage))
            kept = KeptNats([nats], nats.url)
        else:
            cluster = EmbeddedCluster(folder, settings.cluster, max_storage=settings.max_storage)
            await stack.enter_async_context(cluster)
            kept = KeptNats(cluster.nodes, cluster.url)
        watches = [asyncio.create_task(_keep_running(node), name="nats-restarter") for node in kept.nodes]
        watches.append(asyncio.create_task(_watch_space(kept, folder), name="nats-space"))
        try:
            yield kept
        finally:
            for task in watches:
                task.cancel()
            await asyncio.wait(watches)


async def _keep_running(nats: EmbeddedNats) -> None:
    while True:
        await nats.exited.wait()
        log.error("nats.died", url=nats.address, action="restarting it")
        try:
            await nats.start()
        except Exception:
            log.exception("nats.restart-failed")
            await asyncio.sleep(RESTART_PAUSE_SECONDS)


async def _watch_space(kept: KeptNats, folder: Path) -> None:
    restart = Restart(kept.is_out_of_space, kept.restart)
    while True:
        with contextlib.suppress(OSError):
            await restart.attend(await asyncio.to_thread(_free_bytes, folder), AGAIN_SHARE * kept.reserve_bytes)
        await asyncio.sleep(WATCHED_SECONDS)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder.expanduser()).free
