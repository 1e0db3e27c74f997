"""The streams that are open in a process, and the limits on them: per user and in all.

A stream is a response of server-sent events, a request that waits for the end of a task, a WebSocket, or a subscription
of one. It takes a place before it reads anything, and gives the place back at its end, whatever ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from ..errors import StreamsExhausted, TooManyStreams
from ..runtime import metrics

STARTS_AT_ONCE = 32
"""Streams of a process that read their first states at the same time. More slow down the reads of others."""
STARTS_OF_ONE_USER = 4
"""Of one user; the others of this user wait for their turn."""


class Place:
    """The place of an open stream. Ends with `close`, or as a context manager; closing twice is safe."""

    def __init__(self, streams: OpenStreams, user: str) -> None:
        self._streams: OpenStreams | None = streams
        self.user = user

    def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams.leave(self.user)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenStreams:
    """Counts the open streams of each user. A limit of 0 is none."""

    def __init__(self, per_user: int, in_all: int) -> None:
        self._per_user = per_user
        self._in_all = in_all
        self._open: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, user: str) -> int:
        """Return the number of a user's open streams."""
        return self._open.get(user, 0)

    def open(self, user: str) -> Place:
        """Take a place. Raises TooManyStreams, or StreamsExhausted if this process has no place left for anybody."""
        if self._per_user and self.of(user) >= self._per_user:
            metrics.streams_refused.labels("user").inc()
            raise TooManyStreams(self._per_user, self.of(user))
        if self._in_all and self._count >= self._in_all:
            metrics.streams_refused.labels("process").inc()
            raise StreamsExhausted(self._in_all)
        self._open[user] = self.of(user) + 1
        self._count += 1
        metrics.streams_open.set(self._count)
        return Place(self, user)

    def leave(self, user: str) -> None:
        """Give a place back; called by the place."""
        self._count -= 1
        self._open[user] -= 1
        if not self._open[user]:
            del self._open[user]
        metrics.streams_open.set(self._count)


class Starts:
    """The turns of streams that start. They read states, so a bounded number of them runs at once, few of one user."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(STARTS_AT_ONCE)
        self._of_users: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """By user: the turns, and how many streams have or await one."""

    @contextlib.asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn, and take it."""
        turns, streams = self._of_users.get(user) or (asyncio.Semaphore(STARTS_OF_ONE_USER), 0)
        self._of_users[user] = (turns, streams + 1)
        try:
            async with turns, self._turns:
                yield
        finally:
            turns, streams = self._of_users.pop(user)
            if streams > 1:
                self._of_users[user] = (turns, streams - 1)
