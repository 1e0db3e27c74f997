"""The tail of a stream: one consumer per process for any number of readers.

Each reader starts after a sequence of its own. A reader that starts before the kept messages, or falls behind, reads
the stream at its own pace until it has caught up; it does not slow down the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable
from operator import attrgetter

from ..errors import TaskstreamError
from .client.connection import Connection
from .jetstream.consumers import FOLLOW_BATCH, follow
from .jetstream.messages import STALE_REPLICA_PAUSE_SECONDS, Position, read_some

KEPT = 4_096
"""Messages kept in memory; up to twice as many for a moment."""
KEPT_BYTES = 8 * 1024 * 1024
"""Bytes of payload kept in memory; up to twice as many for a moment."""
MOST_AT_ONCE = 2 * FOLLOW_BATCH
QUIET_SECONDS = 0.02
"""How long quiet messages wait, at most, for one for which the readers are woken at once."""
_sequence = attrgetter("sequence")


class LogReplaced(TaskstreamError):
    """NATS has another stream now: an older one was restored, or the last messages of this one were lost."""


class Tail:
    """The tail of one stream; reads as long as it has readers."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        filter_subject: str,
        has: Callable[[Position], Awaitable[bool]] | None = None,
        *,
        is_quiet: Callable[[str], bool] = lambda subject: False,  # noqa: ARG005
    ) -> None:
        """`has`: returns True if the stream still has a message that was read; asked after each lost connection.

        If it has not, every reader gets LogReplaced. `is_quiet`: returns True for subjects of messages for which no
        reader need be woken at once.
        """
        self._has = has
        self._last: Position | None = None
        """The last message that was read."""
        self._generation = 0
        """Of the stream: how often it was replaced."""
        self._is_replaced = False
        """The messages that are kept are of a former stream."""
        self._connection = connection
        self._stream = stream
        self._filter = filter_subject
        self._kept: list[Position] = []
        """All messages on the filter after `_begin` up to `_end`."""
        self._kept_bytes = 0
        self._begin = 0
        self._end = 0
        self._is_quiet = is_quiet
        self._waking: asyncio.TimerHandle | None = None
        """The coming news of quiet messages."""
        self._source: asyncio.Task[None] | None = None
        self._ends = 0
        """How often the end of the stream was reached."""
        self._is_at_end = False
        self._readers: set[asyncio.Event] = set()
        """Set when there are new messages, or the end is reached."""

    @property
    def reader_count(self) -> int:
        return len(self._readers)

    def find(self, sequence: int) -> Position | None:
        """Return the message at a sequence, None if it is not in memory."""
        place = bisect_left(self._kept, sequence, key=_sequence)
        if place < len(self._kept) and self._kept[place].sequence == sequence:
            return self._kept[place]
        return None

    async def follow(self, after: int, linger_seconds: float = 0.0) -> AsyncGenerator[list[Position], None]:
        """Yield the messages after a sequence as `consumers.follow` does, without end.

        An empty list means that all messages up to now have been yielded. Raises StoreError if a reader that is behind
        cannot read on, and LogReplaced.
        """
        news = self._join(after)
        generation = self._generation
        reported = self._ends
        has_lingered = False
        try:
            while True:
                news.clear()
                if generation != self._generation:
                    raise LogReplaced(f"{self._stream} was replaced")
                is_near = after >= self._begin
                positions = self._kept_after(after) if is_near else await self._read(after)
                # A batch that does not reach the end is full, of few messages if they are large.
                is_last = bool(positions) and positions[-1].sequence >= self._end
                if linger_seconds and not has_lingered and is_last and len(positions) < FOLLOW_BATCH:
                    await asyncio.sleep(linger_seconds)
                    has_lingered = True
                    continue
                has_lingered = False
                if positions:
                    after = positions[-1].sequence
                    yield positions
                elif not is_near:  # from a replica that lags behind
                    await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
                elif self._is_at_end and reported != self._ends:
                    reported = self._ends
                    yield []
                else:
                    if self._source is not None and self._source.done():
                        self._source.result()
                    await news.wait()
        finally:
            self._leave(news)

    def _join(self, after: int) -> asyncio.Event:
        news = asyncio.Event()
        if not self._readers or self._is_replaced:
            self._forget(after)
        self._readers.add(news)
        # Restart also a running consumer: only a new one reports the current end.
        self._stop()
        self._source = asyncio.create_task(self._keep(), name=f"tail-{self._stream}")
        return news

    def _leave(self, news: asyncio.Event) -> None:
        self._readers.discard(news)
        if not self._readers:
            self._stop()
            self._forget(0)

    def _stop(self) -> None:
        if self._source is not None:
            self._source.cancel()
            self._source = None
        self._is_at_end = False

    def _forget(self, after: int) -> None:
        self._begin = self._end = after
        self._kept, self._kept_bytes = [], 0
        self._last = None
        self._is_replaced = False

    async def _keep(self) -> None:
        """Read new messages until stopped."""
        try:
            following = follow(self._connection, self._stream, [self._filter], self._end, check=self._check_last)
            async with contextlib.aclosing(following) as batches:
                async for positions in batches:
                    self._take(positions)
                    is_quiet = all(self._is_quiet(position.subject) for position in positions)
                    if is_quiet and (positions or self._waking is not None):  # the end is reported after each message
                        self._publish_soon()
                    else:
                        self._publish()
        except LogReplaced:
            self._generation += 1
            self._is_replaced = True
        finally:
            self._publish()

    async def _check_last(self) -> None:
        if self._has is not None and self._last is not None and not await self._has(self._last):
            raise LogReplaced

    def _take(self, positions: list[Position]) -> None:
        self._is_at_end = not positions
        if not positions:
            self._ends += 1
            return
        self._last = positions[-1]
        self._kept += positions
        self._kept_bytes += sum(len(position.data) for position in positions)
        self._end = positions[-1].sequence
        if len(self._kept) > 2 * KEPT:
            self._drop(len(self._kept) - KEPT)
        while self._kept_bytes > 2 * KEPT_BYTES:
            self._drop(max(1, len(self._kept) // 2))

    def _drop(self, count: int) -> None:
        """Drop the oldest messages."""
        dropped, self._kept = self._kept[:count], self._kept[count:]
        self._kept_bytes -= sum(len(position.data) for position in dropped)
        self._begin = dropped[-1].sequence

    def _publish_soon(self) -> None:
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._publish)

    def _publish(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        for news in self._readers:
            news.set()

    def _kept_after(self, after: int) -> list[Position]:
        place = bisect_right(self._kept, after, key=_sequence)
        return self._kept[place : place + MOST_AT_ONCE]

    async def _read(self, after: int) -> list[Position]:
        return await read_some(self._connection, self._stream, self._filter, after + 1, FOLLOW_BATCH)
