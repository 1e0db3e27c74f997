"""The NATS of a data folder: the one that a service runs on it, or one that is started for a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from ..settings import InvalidSettings
from .cluster import PLAN, EmbeddedCluster, read_plan
from .config import HOST
from .server import (
    EXECUTABLE,
    PASSWORD_FILE,
    PID_FILE,
    STORE,
    DataFolderInUse,
    EmbeddedNats,
    read_pid,
    take_port,
    with_user,
)

READY_SECONDS = 15.0
"""How long a server may take that another process starts or ends on the folder."""
PAUSE_SECONDS = 0.1


class NoData(InvalidSettings):
    """The folder has no store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"no data in {folder}: set --data-dir to the folder of `taskstream up`, or --nats-url")


def size_of(folder: Path) -> int:
    """Return the number of nats-servers that the folder was made with. Raises NoData."""
    if plan := read_plan(folder / PLAN):
        return len(plan.ports)
    if not (folder / STORE).is_dir():
        raise NoData(folder)
    return 1


def url_of_running(folder: Path) -> str | None:
    """Return the URL of the servers that run on a folder, with user and password; None if they are not ready."""
    plan = read_plan(folder / PLAN)
    ports = (
        [ports.client for ports in plan.ports]
        if plan
        else [take_port(folder / f"{EXECUTABLE}_{read_pid(folder / PID_FILE)}.ports")]
    )
    try:
        password = (folder / PASSWORD_FILE).read_text()
    except FileNotFoundError:
        return None
    return None if None in ports else ",".join(with_user(f"nats://{HOST}:{port}", password) for port in ports)


@contextlib.asynccontextmanager
async def nats_of(folder: Path, max_storage: int = 0) -> AsyncIterator[str]:
    """Yield the URL of the folder's NATS. It is started for the duration unless a service runs it.

    Raises NoData if the folder has no store, DataFolderInUse if a server is being started or ended on it and does not
    get ready, or an EmbeddedNatsError.
    """
    size = size_of(folder)
    give_up_at = time.monotonic() + READY_SECONDS
    async with contextlib.AsyncExitStack() as stack:
        while True:
            started: EmbeddedNats | EmbeddedCluster = (
                EmbeddedNats(folder, max_storage=max_storage)
                if size == 1
                else EmbeddedCluster(folder, size, max_storage=max_storage)
            )
            try:
                await stack.enter_async_context(started)
                url = started.url
                break
            except DataFolderInUse:
                if running := url_of_running(folder):
                    url = running
                    break
                if time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
        yield url
