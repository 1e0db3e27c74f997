"""The rebuild of the index of tasks: a fold of the whole log, compared with what there is, and stored as a snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from msgspec import Struct

from ..clock import utc_now
from ..container import Container
from ..errors import StoreError
from ..index.comparison import (
    ComparedTask,
    IndexDifference,
    compared_figures,
    compared_tasks,
    difference,
    differing,
)
from ..index.files import FileUnusable, claim, files_in
from ..index.schema import connect
from ..index.snapshots import IndexSnapshots, copy_file
from ..index.task_index import TaskIndex
from ..streams.jetstream.messages import read_some
from ..streams.topology.definitions import TASKS
from ..streams.topology.epochs import LogExtent, read_extent

log = structlog.get_logger(__name__)

FLUSH_AT = 2_000
REPORT_EVENTS = 100_000


class ComparedIndex(Struct, frozen=True, kw_only=True):
    """A file or snapshot beside the fold of the log up to its checkpoint."""

    name: str
    sequence: int
    difference: IndexDifference


class RebuiltIndex(Struct, frozen=True, kw_only=True):
    """The result of a rebuild."""

    events: int
    tasks: int
    compared: list[ComparedIndex]
    unusable: dict[str, str]
    """What could not be compared, each with the reason."""
    is_stored: bool
    """False: the log is empty, and there is nothing to store."""


async def rebuild_index(container: Container) -> RebuiltIndex:
    """Fold the log from its beginning, compare, and store a snapshot. Services may run.

    Raises StoreError, OSError and sqlite3.Error; then no snapshot is stored.
    """
    folder = container.settings.index_folder
    await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="rebuild-") as temporary:
        return await _rebuild(container, folder, Path(temporary))


async def _rebuild(container: Container, folder: Path, temporary: Path) -> RebuiltIndex:
    extent = await read_extent(container.storing)
    snapshots = IndexSnapshots(container.storing)
    copies, unusable = await _copies(folder, temporary, snapshots, extent)
    ends = sorted({min(sequence, extent.last) for _, sequence in copies.values()} | {extent.last})
    file = await asyncio.to_thread(claim, temporary)
    compared: list[ComparedIndex] = []
    try:
        connection = await asyncio.to_thread(file.open)
        with contextlib.closing(connection):
            index = TaskIndex(connection, extent.epochs[-1].id)
            index.position = extent.first - 1
            for end in ends:
                await _fold_to(container, index, end)
                for name, (copy, sequence) in copies.items():
                    if sequence == end:
                        found = await asyncio.to_thread(_compare, copy, connection, extent.first)
                        compared.append(ComparedIndex(name=name, sequence=sequence, difference=found))
            rows, events = index.rows, extent.last - extent.first + 1
            if index.stored < extent.first:
                return RebuiltIndex(events=0, tasks=0, compared=compared, unusable=unusable, is_stored=False)
        copy = temporary / "snapshot.sqlite"
        epoch, sequence = await asyncio.to_thread(copy_file, file.path, copy)
        await snapshots.store(copy, epoch, sequence)
    finally:
        file.release()
    return RebuiltIndex(events=events, tasks=rows, compared=compared, unusable=unusable, is_stored=True)


async def _copies(
    folder: Path, temporary: Path, snapshots: IndexSnapshots, extent: LogExtent
) -> tuple[dict[str, tuple[Path, int]], dict[str, str]]:
    """Return the files of the folder and the newest snapshot, each with its checkpoint; and what is unusable."""
    copies: dict[str, tuple[Path, int]] = {}
    unusable: dict[str, str] = {}
    for path in files_in(folder):
        copy = temporary / f"of-{path.name}"
        try:
            _, sequence = await asyncio.to_thread(copy_file, path, copy)
            copies[str(path)] = (copy, sequence)
        except (sqlite3.Error, OSError) as error:
            unusable[str(path)] = str(error)
    snapshot = await snapshots.latest(extent)
    if snapshot is not None:
        name, copy = f"snapshot {snapshot.name}", temporary / "of-snapshot.sqlite"
        try:
            await snapshots.load(snapshot, copy)
            copies[name] = (copy, snapshot.sequence)
        except (FileUnusable, OSError) as error:
            unusable[name] = str(error)
    for name, (_, sequence) in list(copies.items()):
        if not extent.first - 1 <= sequence <= extent.last or not sequence:
            del copies[name]
            unusable[name] = f"its checkpoint {sequence:,} is not in the log ({extent.first:,} to {extent.last:,})"
    return copies, unusable


async def _fold_to(container: Container, index: TaskIndex, end: int) -> None:
    """Fold and store the events up to a sequence."""
    reported = index.position
    while index.position < end:
        positions = await read_some(container.storing, TASKS, ">", index.position + 1)
        if not positions:
            raise StoreError(f"{TASKS} has no event {index.position + 1:,}: no replica has caught up; try again")
        await asyncio.to_thread(index.apply, [each for each in positions if each.sequence <= end])
        if index.changed >= FLUSH_AT or positions[-1].sequence >= end:
            await asyncio.to_thread(index.flush)
        if index.position - reported >= REPORT_EVENTS:
            reported = index.position
            log.info("rebuild.progress", events=reported, of=end)


def _compare(copy: Path, fresh: sqlite3.Connection, first: int) -> IndexDifference:
    """Return how a file differs from a fold, apart from tasks whose beginning the log no longer has.

    Figures are compared while the log has its beginning: those of what has aged out remain in a file.
    """

    def kept(tasks: Iterator[ComparedTask]) -> Iterator[ComparedTask]:
        return (task for task in tasks if task.created_sequence >= first)

    with contextlib.closing(connect(copy, read_only=True)) as found:
        different = difference(kept(compared_tasks(found)), kept(compared_tasks(fresh)))
        if first > 1:
            return different
        now = utc_now()
        return different._replace(figures=differing(compared_figures(found, now), compared_figures(fresh, now)))
