"""The service that keeps the index of a process up to date with the log, and says how far it is.

Authoritative: the log. Safety: the rows and the checkpoint change together, and a file whose checkpoint the log does
not have is discarded. Liveness: whatever is wrong with the file, it is folded again while the process serves everything
else. Callers must tolerate IndexNotReady.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import structlog

from ..errors import IndexNotReady, StoreError
from ..runtime import metrics
from ..runtime.service import Service
from ..runtime.shared_reads import SharedReads
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import Position, position_at, read_some
from ..streams.tail import LogReplaced, Tail
from ..streams.topology.definitions import TASKS
from ..streams.topology.epochs import LogExtent, read_extent
from .files import FileUnusable, IndexFile, boot_id, claim, close_durably, remove_abandoned
from .snapshots import IndexSnapshots, copy_file, is_due
from .task_index import Changes, Checkpoint, TaskIndex, digest, read_checkpoint

log = structlog.get_logger(__name__)

T = TypeVar("T")
State = Literal["filling", "current", "behind"]

FOLDED_AT_ONCE = 128
"""Events that are folded before the event loop does something else: about a millisecond."""
FOLDED_BYTES = 512 * 1024
"""Likewise, in bytes: large payloads take longer to parse."""
FLUSH_AT = 1_000
"""Changed tasks that are stored together, unless a reader waits for them: most have ended, and are stored once."""
MOST_CHANGED = 2 * FLUSH_AT
"""Changed tasks beyond which the fold waits for the file."""
FLUSH_SECONDS = 2.0
"""How long a change may stay in memory while nobody asks."""
FLUSH_EVENTS = 4_000
"""Events that are stored together at most: an index with BEHIND_EVENTS in memory would count as behind."""
READ_AT_ONCE = 1_000
NEAR = 1_000
"""Events before the end from which on an index that is filled reads with everybody else."""
WAIT_SECONDS = 2.0
"""How long a reader waits for the index to reflect what was stored before."""
BEHIND_EVENTS = 5_000
"""Lag from which on the index counts as behind."""
EXTENT_SECONDS = 30.0
"""How often the beginning of the log is looked at, to remove what has aged out."""
SNAPSHOT_SECONDS = 30.0
"""How often a process looks whether a snapshot is due."""
START_SECONDS = 60.0
"""How long a starting process may count as not ready because of its index."""
DOUBTED_SECONDS = 60.0
"""Age of a file from which on a reader's trouble with it is believed: no reader makes it be built again and again."""
RETRY_SECONDS = 5.0
"""Pause before a new attempt with a file that could not be written."""


class IndexStatus(NamedTuple):
    state: State
    lag_events: int
    """Events of the log that the file does not reflect."""
    percent: float
    """Part of the log that it reflects."""
    warning: str = ""
    holds_start: bool = False
    """The process has just started, and should get no requests yet."""


class _Failed(StoreError):
    """The file could not be used; it was discarded."""


class Indexer(Service):
    """Folds the log into the index file of this process."""

    def __init__(
        self,
        folder: Path,
        tail: Tail,
        reading: Connection,
        filling: Connection,
        may_store: Callable[[], bool],
    ) -> None:
        """`tail`: of the whole TASKS log. `filling`: for large reads. `may_store`: False while space is short."""
        super().__init__("index", retry_seconds=RETRY_SECONDS)
        self._folder = folder
        self._tail = tail
        self._reading = reading
        self._filling = filling
        self._snapshots = IndexSnapshots(filling)
        self._may_store = may_store
        self._snapshot_at = 0
        """Sequence of the last snapshot that is known."""
        self._writer = ThreadPoolExecutor(1, "index-write")
        self._extents = SharedReads[None, LogExtent](self._look)
        self._file: IndexFile | None = None
        self._index: TaskIndex | None = None
        self._extent: LogExtent | None = None
        """The log when it was looked at last."""
        self._due = asyncio.Event()
        """A flush is due."""
        self._flushed = asyncio.Event()
        """A flush has ended."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """Readers that wait for a sequence."""
        self._was_current = False
        """It has reached the end of the log that there was when it was opened."""
        self._is_at_end: int | None = None
        """The sequence to store before it has."""
        self._started_at: float | None = None
        self._trouble = ""
        """Why there is no file."""
        self._doubt = ""
        """Why the file must be built again, as a reader found."""
        self._opened_at = 0.0
        self.generation = 0
        self.rebuilds = 0

    # What readers see

    @property
    def path(self) -> Path | None:
        return self._file.path if self._file is not None and self._index is not None else None

    @property
    def is_running(self) -> bool:
        """Return True in a process that has an index."""
        return self._started_at is not None

    @property
    def rows(self) -> int:
        """Tasks in the file."""
        return self._index.rows if self._index is not None else 0

    async def current(self) -> None:
        """Wait until the file reflects every event that was stored before the call. Raises IndexNotReady."""
        extent = await self._extents.get(None)
        await self.reached(extent.last if extent.first <= extent.last else 0)

    async def reached(self, sequence: int) -> None:
        """Wait until the file reflects the log up to a sequence, WAIT_SECONDS at most. Raises IndexNotReady."""
        index = self._index
        if index is not None and index.stored >= sequence and self._was_current:
            return
        if sequence - (index.position if index is not None else 0) > BEHIND_EVENTS or self.halted or self._trouble:
            raise IndexNotReady(self._progress())
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (sequence, reached)
        self._waiting.append(waiting)
        if index is not None:
            self._set_due(index)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await reached
        except TimeoutError:
            raise IndexNotReady(self._progress()) from None
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)

    async def status(self) -> IndexStatus:
        """Return how far the index is. Raises StoreUnavailable."""
        extent = await self._extents.get(None)
        stored = self._index.stored if self._index else 0
        lag = max(0, extent.last - max(stored, extent.first - 1))
        length = extent.last - extent.first + 1
        percent = 100.0 if not lag else round(100 * (1 - lag / length), 1)
        if self._was_current:
            return IndexStatus("behind" if lag > BEHIND_EVENTS else "current", lag, percent)
        age = 0.0 if self._started_at is None else asyncio.get_running_loop().time() - self._started_at
        holds = age < START_SECONDS and self.halted is None
        return IndexStatus("filling", lag, percent, self._progress(percent), holds)

    def _progress(self, percent: float | None = None) -> str:
        if self.halted is not None:
            return f"lists are not available here: {self.halted}; run the version that wrote the event"
        if self._trouble:
            return f"lists are not available here: {self._trouble}"
        if self._was_current:
            lag = self._known_extent().last - (self._index.stored if self._index else 0)
            return f"the index of tasks is {lag:,} events behind; tasks are not affected; retry later"
        if percent is None:
            percent = self._percent()
        return f"the index of tasks is being filled ({percent:g} %): lists are not available yet; retry later"

    def _percent(self) -> float:
        extent, index = self._extent, self._index
        if extent is None or index is None or extent.last < extent.first:
            return 0.0
        return round(max(0.0, 100 * (index.stored - extent.first + 1) / (extent.last - extent.first + 1)), 1)

    async def _look(self, _: None) -> LogExtent:
        index = self._index
        self._extent = await read_extent(self._reading, reaches=index.position if index else 0)
        return self._extent

    def check(self) -> None:
        """Raise OSError unless what has the name of the file now is what is written. For any thread."""
        file = self._file
        if file is not None:
            file.check()

    def doubt(self, generation: int, reason: str) -> bool:
        """Have the file of a generation built again, as a reader had trouble with it; return True if it will be."""
        if generation != self.generation:
            return True
        is_old = asyncio.get_running_loop().time() - self._opened_at >= DOUBTED_SECONDS
        try:
            self.check()
        except OSError as error:
            reason, is_old = str(error), True
        if is_old and not self._doubt:
            self._doubt = reason
            self._due.set()
        return bool(self._doubt)

    # The work

    async def run(self) -> None:
        self._started_at = asyncio.get_running_loop().time()
        try:
            await super().run()
        finally:
            if self._file is not None:
                self._file.release()
            self._writer.shutdown(wait=False)

    async def _serve(self) -> None:
        """Keep one file up to date until it or the log is replaced."""
        connection: sqlite3.Connection | None = None
        try:
            connection = await self._open()
            index = TaskIndex(connection, self._epoch(), boot_id())
            assert self._file is not None
            await self._write(self._file.remember)
            self._index = index
            index.position = index.stored = max(index.stored, self._known_extent().first - 1)
            self._opened_at = asyncio.get_running_loop().time()
            self.generation += 1
            self._trouble = ""
            await self._serve_together(self._follow(index), self._flush_on(index), self._snapshot_on())
        except LogReplaced:
            log.warning("index.log-replaced")
            await self._discard(connection)
        except StoreError:
            await self._close(connection)
            raise
        except Exception as error:  # what a damaged file has may make any code fail
            self._trouble = f"its file in {self._folder} cannot be used: {error}"
            log.warning("index.failed", folder=str(self._folder), reason=str(error), action="it is built again")
            await self._discard(connection)
            raise _Failed(self._trouble) from error
        except BaseException:
            await self._close(connection)
            raise
        else:
            await self._close(connection)

    def _known_extent(self) -> LogExtent:
        assert self._extent is not None
        return self._extent

    def _epoch(self) -> str:
        return self._known_extent().epochs[-1].id

    async def _open(self) -> sqlite3.Connection:
        """Return a connection to a file that is a fold of this log; an unusable one is discarded."""
        if self._file is not None and not await self._write(lambda file: file.is_held, self._file):
            self._file.release()
            self._file = None
        if self._file is None:
            self._file = await self._write(claim, self._folder)
            await self._write(remove_abandoned, self._folder)
        await self._extents.get(None)
        try:
            connection = await self._write(self._file.open)
            checkpoint = await self._write(read_checkpoint, connection)
            if checkpoint.sequence and await self._has(checkpoint):
                return connection
            await self._write(connection.close)
            if not checkpoint.sequence:
                await self._write(self._file.discard)
                return await self._open_new(self._file)
            raise FileUnusable("it is of another log, or of a part of this one that is gone")
        except FileUnusable as error:
            log.warning("index.discarded", path=str(self._file.path), reason=str(error))
            self._count_rebuild()
        await self._write(self._file.discard)
        return await self._open_new(self._file)

    async def _open_new(self, file: IndexFile) -> sqlite3.Connection:
        """Return a connection to a new file: a snapshot if there is one, else an empty one."""
        try:
            snapshot = await self._snapshots.latest(self._known_extent())
            if snapshot is not None:
                await self._snapshots.load(snapshot, file.path)
                connection = await self._write(file.open)
                if await self._has(await self._write(read_checkpoint, connection)):
                    log.info("index.snapshot-loaded", sequence=snapshot.sequence)
                    return connection
                await self._write(connection.close)
                raise FileUnusable("it is of another log")
        except (FileUnusable, StoreError) as error:
            log.warning("index.snapshot-ignored", reason=str(error), action="the log is folded from its beginning")
        await self._write(file.discard)
        return await self._write(file.open)

    async def _has(self, checkpoint: Checkpoint) -> bool:
        """Return True if the log has the event of a checkpoint, and everything after it."""
        extent = await read_extent(self._reading, reaches=checkpoint.sequence)
        if not extent.has(checkpoint.epoch, checkpoint.sequence) or checkpoint.sequence < extent.first - 1:
            return False
        if checkpoint.sequence < extent.first:
            return True
        position = await position_at(self._reading, TASKS, checkpoint.sequence)
        return position is not None and digest(position) == checkpoint.event

    async def _follow(self, index: TaskIndex) -> None:
        end = self._known_extent().last
        while index.position < end - NEAR:
            positions = await read_some(self._filling, TASKS, ">", index.position + 1, READ_AT_ONCE)
            if not positions:
                break
            await self._fold(index, positions)
        if index.position >= end:
            self._set_current(index)
        async with contextlib.aclosing(self._tail.follow(index.position)) as batches:
            async for positions in batches:
                await self._fold(index, positions)
                if not positions or index.position >= end:
                    self._set_current(index)

    async def _fold(self, index: TaskIndex, positions: Sequence[Position]) -> None:
        for number, piece in enumerate(_pieces(positions)):
            if number:
                await asyncio.sleep(0)
            left = index.fold(piece, {})
            while left:
                left = index.fold(left, await self._write(index.load, index.missing(left)))
            self._set_due(index)
            while index.changed >= MOST_CHANGED:
                self._flushed.clear()
                await self._flushed.wait()

    def _set_due(self, index: TaskIndex) -> None:
        is_much = index.changed >= FLUSH_AT or index.position - index.stored >= FLUSH_EVENTS
        if is_much or any(sequence <= index.position for sequence, _ in self._waiting):
            self._due.set()

    def _set_current(self, index: TaskIndex) -> None:
        if not self._was_current and self._is_at_end is None:
            self._is_at_end = index.position
            self._due.set()

    async def _flush_on(self, index: TaskIndex) -> None:
        """Store what changed, whenever it is due."""
        looked_at = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._due.wait()
            self._due.clear()
            await self._flush(index)
            if time.monotonic() - looked_at >= EXTENT_SECONDS:
                looked_at = time.monotonic()
                await self._prune(index)

    async def _snapshot_on(self) -> None:
        """Store a snapshot whenever one is due, if no other process does."""
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            with contextlib.suppress(StoreError):
                await self.snapshot_if_due()

    async def snapshot_if_due(self) -> bool:
        """Store a snapshot if it is due and this process' turn; return True if it was stored. Raises StoreError."""
        index = self._index
        if index is None or not (
            self._was_current and self._may_store() and is_due(index.stored - self._snapshot_at, index.rows)
        ):
            return False
        latest = await self._snapshots.latest(await self._extents.get(None))
        self._snapshot_at = latest.sequence if latest else 0
        if not is_due(index.stored - self._snapshot_at, index.rows) or not await self._snapshots.take_turn():
            return False
        await self.store_snapshot()
        return True

    async def store_snapshot(self) -> None:
        """Store a snapshot of the file as it is. Raises StoreError, and IndexNotReady without a file."""
        if self.path is None:
            raise IndexNotReady(self._progress())
        copy = self.path.with_suffix(".copy")
        try:
            epoch, sequence = await asyncio.to_thread(copy_file, self.path, copy)
            await self._snapshots.store(copy, epoch, sequence)
            self._snapshot_at = sequence
        except (sqlite3.Error, OSError) as error:
            log.warning("index.snapshot-failed", reason=str(error))
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)

    async def _flush(self, index: TaskIndex) -> None:
        first = self._known_extent().first
        if self._doubt:
            raise OSError(self._doubt)
        if index.position > index.stored or first > index.first_sequence:
            changes = index.take(first)
            started = time.perf_counter()
            await self._write(self._store, index, changes)
            metrics.index_flush_seconds.observe(time.perf_counter() - started)
        self._flushed.set()
        if self._is_at_end is not None and index.stored >= self._is_at_end:
            self._was_current, self._is_at_end = True, None
            log.info("index.current", sequence=index.stored)
        for sequence, reached in self._waiting if self._was_current else ():
            if sequence <= index.stored and not reached.done():
                reached.set_result(None)

    def _store(self, index: TaskIndex, changes: Changes) -> None:
        """Store changes in the file that readers find. Raises OSError, sqlite3.Error."""
        index.write(changes)
        self.check()

    async def _prune(self, index: TaskIndex) -> None:
        with contextlib.suppress(StoreError):
            await self._extents.get(None)
            await self._flush(index)
            await self._write(self.check)
            while await self._write(index.prune):
                await self._flush(index)

    async def _write(self, work: Callable[..., T], *given: object) -> T:
        """Run something in the thread of the writer."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *given)

    async def _close(self, connection: sqlite3.Connection | None) -> None:
        self._forget()
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._write(close_durably, connection)

    async def _discard(self, connection: sqlite3.Connection | None) -> None:
        self._forget()
        self._count_rebuild()
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._write(connection.close)
        if self._file is not None:
            with contextlib.suppress(OSError):
                await self._write(self._file.discard)

    def _forget(self) -> None:
        self._index = None
        self._doubt = ""
        self.generation += 1
        self._was_current, self._is_at_end = False, None

    def _count_rebuild(self) -> None:
        self.rebuilds += 1
        metrics.index_rebuilds.inc()


def _pieces(positions: Sequence[Position]) -> Sequence[Sequence[Position]]:
    """Return events in pieces that do not take long to fold."""
    pieces: list[list[Position]] = []
    size = 0
    for position in positions:
        if not pieces or len(pieces[-1]) >= FOLDED_AT_ONCE or size >= FOLDED_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(position)
        size += len(position.data)
    return pieces
