"""The streams that are open in a process, and the limits on them: per user and in all.

A stream is a response of server-sent events, a request that waits for the end of a task, a WebSocket, or a subscription
of one. It takes a place before it reads anything, and gives the place back at its end, whatever ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ..errors import StreamsExhausted, TooManyStreams
from ..runtime import metrics
from ..runtime.places import Place, Places

STARTS_AT_ONCE = 32
"""Streams of a process that read their first states at the same time. More slow down the reads of others."""
STARTS_OF_ONE_USER = 4
"""Of one user; the others of this user wait for their turn."""


class OpenStreams(Places):
    """The open streams of each user. Raises TooManyStreams, or StreamsExhausted if the process has no place left."""

    def __init__(self, per_user: int, in_all: int) -> None:
        super().__init__(per_user, in_all)

    def open(self, user: str) -> Place:
        """Take a place. Raises TooManyStreams, StreamsExhausted."""
        place = super().open(user)
        metrics.streams_open.set(len(self))
        return place

    def leave(self, user: str) -> None:
        super().leave(user)
        metrics.streams_open.set(len(self))

    def refusal(self, limit: int, taken: int, *, is_of_holder: bool) -> Exception:
        metrics.streams_refused.labels("user" if is_of_holder else "process").inc()
        return TooManyStreams(limit, taken) if is_of_holder else StreamsExhausted(limit)


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
