"""Ends a connection to a server that no longer answers: nats-py alone waits for ever on one that was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from .client import NatsClient

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 2.0
MISSES = 2
"""Unanswered pings after which the socket is dropped."""


async def watch(client: NatsClient, answers: Callable[[float], Awaitable[bool]]) -> None:
    """Drop the socket of a server that no longer answers, so that nats-py connects to another; until cancelled.

    `answers` tells whether the server does, within so many seconds.
    """
    misses = 0
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        if not client.is_connected or await answers(PERIOD_SECONDS):
            misses = 0
            continue
        misses += 1
        if misses >= MISSES:
            log.warning("nats.silent", action="connection dropped")
            await client.drop()
            misses = 0
