"""Messages in flight: their ack wait is extended until they are acked or nak'ed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta

import msgspec
from nats.aio.msg import Msg

from ...errors import StoreUnavailable
from ...instants import nanoseconds
from ...runtime.service import Service
from ...streams.client.connection import Connection

BEATS_PER_ACK_WAIT = 3


class InFlight(Service):
    """The messages that this process works on."""

    def __init__(self, connection: Connection, ack_wait_seconds: float) -> None:
        super().__init__("in-flight", period_seconds=ack_wait_seconds / BEATS_PER_ACK_WAIT)
        self._connection = connection
        self._replies: set[str] = set()

    async def run_once(self) -> Mapping[str, int]:
        """Extend the ack wait of every message in flight; return their number."""
        replies = list(self._replies)
        for reply in replies:
            with contextlib.suppress(StoreUnavailable):
                await self._connection.publish(reply, b"+WPI")
        return {"extended": len(replies)}

    def add(self, message: Msg) -> None:
        """Extend the ack wait of a message from now on."""
        self._replies.add(message.reply)

    async def ack(self, message: Msg) -> None:
        """Ack the message. If NATS is away, the message is redelivered, and then found to be stale."""
        await self._answer(message, b"+ACK")

    async def nak(self, message: Msg, delay: timedelta = timedelta(0)) -> None:
        """Have the message redelivered, to any worker, after a delay."""
        body = b"-NAK " + msgspec.json.encode({"delay": nanoseconds(delay)}) if delay else b"-NAK"
        await self._answer(message, body)

    async def _answer(self, message: Msg, body: bytes) -> None:
        self._replies.discard(message.reply)
        with contextlib.suppress(StoreUnavailable):
            await self._connection.publish(message.reply, body)
