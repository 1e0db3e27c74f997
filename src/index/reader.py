"""Queries of the index: in threads of their own, a few at once, each with a time limit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import MsgspecError

from ..errors import IndexBusy, IndexNotReady, QueryTooSlow, TooManyReads
from ..streams.turns import Turns
from .schema import connect

T = TypeVar("T")

QUERIES_AT_ONCE = 4
"""SQLite lets go of Python's lock while it works, so more threads than cores gain nothing."""
QUERIES_OF_ONE_USER = 2
MOST_WAITING = 256
"""Queries of one user that may wait; further ones are refused at once."""
PATIENCE_SECONDS = 5.0
"""How long a query may wait to begin."""
QUERY_SECONDS = 2.0
"""How long a query may take."""
CACHE_KIBIBYTES = 4_096
"""Page cache of one connection."""


class ReadableIndex(Protocol):
    """An index file that may be replaced by another at any time."""

    @property
    def path(self) -> Path | None:
        """The present file; None: there is none."""

    @property
    def generation(self) -> int:
        """Number of the present file: another one after each replacement."""

    def check(self) -> None:
        """Raise OSError unless what has the name of the file now is what is written. For any thread."""

    def doubt(self, generation: int, reason: str) -> bool:
        """Have the file of a generation built again, as a reader had trouble with it; return True if it will be."""

    def current(self) -> Awaitable[None]:
        """Wait until the file reflects every event that was stored before the call. Raises IndexNotReady."""


class IndexReader:
    """Runs queries on read-only connections; the event loop never waits for SQLite."""

    def __init__(self, index: ReadableIndex) -> None:
        self._index = index
        self._turns = Turns(QUERIES_AT_ONCE, QUERIES_OF_ONE_USER, MOST_WAITING)
        self._threads = ThreadPoolExecutor(QUERIES_AT_ONCE, "index-query")
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0
        """Of the file that the idle connections read."""

    async def run(self, query: Callable[[sqlite3.Connection], T], user: str, *, current: bool = True) -> T:
        """Return what a function reads, in one transaction, after every event stored before the call.

        It runs in a thread, and may use nothing that changes in another one. `user`: the token of the caller; each has
        QUERIES_OF_ONE_USER at once. `current`: False to read the index as it is. Raises IndexNotReady, IndexBusy, and
        QueryTooSlow for a query that takes longer than QUERY_SECONDS.
        """
        if current:
            await self._index.current()
        try:
            await self._turns.take(user, PATIENCE_SECONDS)
        except TooManyReads:
            raise IndexBusy from None
        try:
            connection, generation = await self._connection()
        except BaseException:
            self._turns.give_back(user)
            raise
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, _read, connection, query)
        limit = loop.call_later(QUERY_SECONDS, connection.interrupt)
        running.add_done_callback(lambda done: self._done(done, limit, user, connection, generation))
        started = loop.time()
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                connection.interrupt()
            raise
        except (sqlite3.Error, MsgspecError) as error:
            if _is_interrupted(error) and loop.time() - started >= QUERY_SECONDS:
                raise QueryTooSlow(QUERY_SECONDS) from error
            if generation != self._index.generation or (
                _is_damage(error) and self._index.doubt(generation, str(error))
            ):
                raise IndexNotReady("the index of tasks is being rebuilt; retry later") from error
            raise

    def close_idle(self) -> None:
        """Close the idle connections: the next queries open new ones."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def close(self) -> None:
        """Close the idle connections; those in use are closed at the end of their query."""
        self._generation = -1
        self.close_idle()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _connection(self) -> tuple[sqlite3.Connection, int]:
        """Return a connection to the present file, and its generation."""
        path, generation = self._index.path, self._index.generation
        if path is None:
            raise IndexNotReady("the index of tasks cannot be read now; retry later")
        if generation != self._generation:
            self.close_idle()
            self._generation = generation
        if self._idle:
            return self._idle.pop(), generation
        try:
            connection = await asyncio.get_running_loop().run_in_executor(self._threads, _open, path, self._index)
        except (sqlite3.Error, OSError) as error:
            self._index.doubt(generation, str(error))
            raise IndexNotReady("the index of tasks cannot be read now; retry later") from error
        return connection, generation

    def _done(
        self,
        done: asyncio.Future[T],
        limit: asyncio.TimerHandle,
        user: str,
        connection: sqlite3.Connection,
        generation: int,
    ) -> None:
        limit.cancel()
        self._turns.give_back(user)
        if generation == self._generation == self._index.generation and not connection.in_transaction:
            self._idle.append(connection)
        else:
            connection.close()
        if not done.cancelled():
            done.exception()  # whoever asked may be gone


def _open(path: Path, index: ReadableIndex) -> sqlite3.Connection:
    """Return a connection to the file that is written. Raises OSError, sqlite3.Error."""
    connection = connect(path, read_only=True)
    try:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        connection.execute("SELECT 1 FROM checkpoint").fetchone()  # opens all parts of the file
        index.check()
    except BaseException:
        connection.close()
        raise
    return connection


def _is_interrupted(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def _is_damage(error: Exception) -> bool:
    """Return True for what a query finds in a damaged file only."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, MsgspecError) or code & 0xFF in _DAMAGES


_DAMAGES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}


def _read(connection: sqlite3.Connection, query: Callable[[sqlite3.Connection], T]) -> T:
    """Return what a query reads, of one state of the file."""
    connection.execute("BEGIN")
    try:
        return query(connection)
    finally:
        connection.rollback()
