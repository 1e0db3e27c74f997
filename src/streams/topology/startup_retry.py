"""Retries while NATS starts: its servers need time to find each other and to elect leaders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from ...errors import OutcomeUnknown, StoreUnavailable
from ..client.connection import Connection, NoResponders
from ..jetstream.api import ApiError, api

log = structlog.get_logger(__name__)

T = TypeVar("T")

START_SECONDS = 60.0
"""After a restart JetStream's election takes up to 9 s, and the streams' elections follow."""
TRY_SECONDS = 1.0
PAUSE_SECONDS = 0.1
NOT_YET = frozenset({10005, 10008, 10118, 10124})
"""No suitable peers for placement (a server may join yet); JetStream temporarily unavailable; stream offline; a move in
progress."""


class NotReady(StoreUnavailable):
    """NATS was not ready in time."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"NATS is not ready: waited for {what}: {reason}")


class NotYet(StoreUnavailable):
    """Raised by an attempt that must be repeated."""


class StartupRetry:
    """Repeats calls that NATS cannot answer yet, for `seconds` in all, and logs what it waits for."""

    def __init__(self, seconds: float = START_SECONDS) -> None:
        self._give_up_at = time.monotonic() + seconds
        self._said: tuple[str, str] | None = None

    async def wait(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `attempt`, which must be safe to repeat. Raises NotReady, and permanent errors."""
        while True:
            try:
                return await attempt()
            except (ApiError, OutcomeUnknown, NoResponders, NotYet) as error:
                if isinstance(error, ApiError) and error.code not in NOT_YET:
                    raise
                if time.monotonic() > self._give_up_at:
                    raise NotReady(what, str(error)) from error
                reason = str(error)
            if self._said != (what, reason):
                self._said = (what, reason)
                log.info("nats.waiting", until=what, reason=reason)
            await asyncio.sleep(PAUSE_SECONDS)


async def leader_elected(connection: Connection, startup_retry: StartupRetry) -> None:
    """Return once JetStream answers. Raises NotReady, or ApiError if it is not enabled for our account."""
    await startup_retry.wait("JetStream to answer", lambda: api(connection, "INFO", timeout_seconds=TRY_SECONDS))
