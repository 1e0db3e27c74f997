"""The queues of ready tasks as one worker knows them: which may have messages, and how long those have waited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from nats.aio.msg import Msg

from ...errors import StoreUnavailable
from ...events.ids import token
from ...events.subjects import pool_filter
from ...events.task import PRIORITIES, Priority
from ...instants import from_nanoseconds
from ...scheduling.queue_order import Ahead
from ...settings import Settings
from ...streams.backlog import Backlog
from ...streams.client.connection import Connection
from ...streams.jetstream.consumers import Consumer, DeliveryInfo, delivery_info
from ...streams.topology.definitions import DISPATCH, pool_consumer
from ...streams.topology.ensure import ensure_consumer

log = structlog.get_logger(__name__)

NEWS_EXPIRES_SECONDS = 5.0
"""How long one request for the next message stays with NATS. A lost connection ends it at once."""


RECREATED_AT_ONCE = 16


class PoolQueue:
    """One pool at one priority."""

    def __init__(self, consumer: Consumer, pool: str, priority: Priority, arrived: Callable[[], None]) -> None:
        self.pool = pool
        self.priority = priority
        self.may_have_more = True
        """False once it was found empty; then a pending request brings the next message."""
        self.delivered: list[Msg] = []
        """Messages that pending requests brought, not placed yet."""
        self.unplaced = 0
        """Tasks nak'ed because no server could take them, since the last start of a task of the pool."""
        self.filter = pool_filter(token(pool), priority)
        self.fetched_at = time.monotonic()
        """When messages were last taken, or none were found; monotonic."""
        self.measured_at = self.fetched_at
        """When the backlog was last measured without taking messages; monotonic."""
        self._undelivered = 0
        """Messages that no worker had, at the last measurement."""
        self._head_at: datetime | None = None
        """Since when the first of these waits, or an earlier one; None: there is none, or it was never measured."""
        self._returned: dict[int, datetime] = {}
        """By stream sequence: messages nak'ed at once, and since when they wait. JetStream delivers them first."""
        self._consumer = consumer
        self._waits = False
        self._arrived = arrived

    @property
    def is_gone(self) -> bool:
        """True once NATS has said that its consumer does not exist."""
        return self._consumer.is_gone

    def is_back(self, consumer_name: str) -> None:
        """Record that its consumer was created again; it starts with whatever is in the queue."""
        self._consumer.is_back(consumer_name)
        self.may_have_more = True

    @property
    def is_awaited(self) -> bool:
        """True if its next message is requested already, or known to be there."""
        return self._waits or self.may_have_more

    async def fetch(self, most: int) -> list[Msg]:
        """Take up to `most` of the messages that are there."""
        messages = await self._consumer.fetch(most)
        self._taken([delivery_info(message) for message in messages])
        return messages

    @property
    def ahead(self) -> Ahead:
        """What queues of lower priority have to know of it."""
        return Ahead(self.may_have_more or bool(self.delivered), self.unplaced)

    def record_nak(self, message: Msg) -> None:
        """Record that a message was nak'ed at once."""
        self.may_have_more = True
        info = delivery_info(message)
        self._returned[info.stream_sequence] = _stored_at(info)

    def measured(self, backlog: Backlog, head_at: datetime | None) -> None:
        """Record a measurement of the backlog."""
        self.measured_at = time.monotonic()
        self._undelivered, self._head_at = backlog.waiting, head_at
        if not backlog.in_hand:
            self._returned.clear()  # other workers have taken them

    @property
    def waiting(self) -> int:
        """How many tasks wait, as far as this worker knows."""
        return self._undelivered + len(self._returned)

    @property
    def oldest_at(self) -> datetime | None:
        """Since when the oldest task has waited, UTC, as far as this worker knows; None: no task is known to wait."""
        head = [self._head_at] if self._head_at else []
        return min([*head, *self._returned.values()], default=None)

    def _taken(self, deliveries: Sequence[DeliveryInfo]) -> None:
        self.fetched_at = time.monotonic()
        for each in deliveries:
            self._returned.pop(each.stream_sequence, None)
        fresh = [each for each in deliveries if each.delivered == 1]
        if fresh or not deliveries:
            self._returned.clear()  # returned messages come first, so there are none left
        self._undelivered = deliveries[-1].pending if deliveries else 0
        self.may_have_more = self._undelivered > 0 or bool(self._returned)
        if not self._undelivered:
            self._head_at = None
        elif fresh and self._head_at is not None:
            self._head_at = _stored_at(fresh[-1])  # the next one is younger

    async def wait(self) -> None:
        """Request the next message, unless it is requested already. Raises StoreUnavailable without a connection."""
        if self.is_awaited:
            return
        self._waits = True
        try:
            await self._consumer.wait(self._on_delivery, NEWS_EXPIRES_SECONDS)
        except StoreUnavailable:
            self._waits = False
            raise

    def _on_delivery(self, message: Msg | None) -> None:
        self._waits = False
        if message is not None:
            self.delivered.append(message)
            self._taken([delivery_info(message)])
        self._arrived()


def _stored_at(info: DeliveryInfo) -> datetime:
    return from_nanoseconds(info.stored_nanoseconds)


class Queues:
    """The queues of all pools, highest priority first; opened as pools become known."""

    def __init__(self, connection: Connection, settings: Settings, arrived: Callable[[], None]) -> None:
        self._connection = connection
        self._settings = settings
        self._arrived = arrived
        self._queues: dict[tuple[Priority, str], PoolQueue] = {}

    async def open(self, pools: set[str]) -> None:
        """Open the queues of new pools, and create consumers that are gone again. Raises StoreUnavailable."""
        gone: list[PoolQueue] = []
        for priority in PRIORITIES:
            for pool in sorted(pools):
                queue = self._queues.get((priority, pool))
                if queue is None:
                    consumer = Consumer(self._connection, DISPATCH, await self._ensure_consumer(priority, pool))
                    await consumer.open()
                    self._queues[priority, pool] = PoolQueue(consumer, pool, priority, self._arrived)
                elif queue.is_gone:
                    gone.append(queue)
        if gone:
            await self._recreate(gone)

    async def _recreate(self, gone: Sequence[PoolQueue]) -> None:
        places = asyncio.Semaphore(RECREATED_AT_ONCE)

        async def recreate(queue: PoolQueue) -> None:
            async with places:
                queue.is_back(await self._ensure_consumer(queue.priority, queue.pool))

        log.warning("queues.consumers-gone", queues=[queue.filter for queue in gone], action="creating them again")
        outcomes = await asyncio.gather(*map(recreate, gone), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _ensure_consumer(self, priority: Priority, pool: str) -> str:
        """Return the consumer's name."""
        return await ensure_consumer(self._connection, DISPATCH, pool_consumer(token(pool), priority, self._settings))

    def in_order(self) -> list[PoolQueue]:
        """Return the queues, high priority first."""
        return [queue for priority in PRIORITIES for (at, _), queue in self._queues.items() if at == priority]

    def above(self, queue: PoolQueue) -> list[PoolQueue]:
        """Return the queues of the same pool that have a higher priority."""
        higher = PRIORITIES[: PRIORITIES.index(queue.priority)]
        return [self._queues[priority, queue.pool] for priority in higher if (priority, queue.pool) in self._queues]

    def record_start(self, pool: str) -> None:
        """Record that a task of a pool has started: tasks that could not be placed may have a server now."""
        for priority in PRIORITIES:
            if (queue := self._queues.get((priority, pool))) is not None:
                queue.unplaced = 0

    def rotate(self) -> None:
        """Put another pool first among the queues of each priority."""
        for priority in PRIORITIES:
            key = next((key for key in self._queues if key[0] == priority), None)
            if key is not None:
                self._queues[key] = self._queues.pop(key)

    def all_may_have_more(self) -> None:
        """Serve every queue again: the connection was lost, and messages may have come meanwhile."""
        for queue in self._queues.values():
            queue.may_have_more = True
