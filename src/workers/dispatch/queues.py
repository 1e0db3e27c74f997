"""The queues of ready tasks as one worker sees them: which may have something, and where it waits for news."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from nats.aio.msg import Msg

from ...events.ids import token
from ...events.subjects import pool_filter
from ...events.task import PRIORITIES, Priority
from ...scheduling.queue_order import Ahead
from ...settings import Settings
from ...streams.backlog import Backlog
from ...streams.client.connection import Connection
from ...streams.jetstream.consumers import Consumer, DeliveryInfo, delivery_info
from ...streams.topology.definitions import DISPATCH, pool_consumer
from ...streams.topology.ensure import ensure_consumer

log = structlog.get_logger(__name__)

NEWS_EXPIRES_SECONDS = 5.0
"""How long one request for the next message stays with NATS. One that is restarted forgets it: news is so late then."""


class PoolQueue:
    """One pool at one priority."""

    def __init__(self, consumer: Consumer, pool: str, priority: Priority, arrived: Callable[[], None]) -> None:
        self.pool = pool
        self.priority = priority
        self.may_have_more = True
        """False once it was found empty; then a waiting request brings the next message."""
        self.brought: list[Msg] = []
        """Messages that a waiting request brought."""
        self.in_vain = 0
        """Tasks taken out and given back, as no server could take them, since any of the pool has started."""
        self.filter = pool_filter(token(pool), priority)
        self.fetched_at = time.monotonic()
        """When something was last taken out, or nothing was found; monotonic."""
        self.looked_at = self.fetched_at
        """When what waits was last looked at without taking it out; monotonic."""
        self._undelivered = 0
        """As many as were not handed out to anybody, when last looked."""
        self._head_at: datetime | None = None
        """Since when the first of these waits, or another that was before it; None: there is none, or nobody looked."""
        self._returned: dict[int, datetime] = {}
        """By place in the queue: those given back here for want of room, and since when they wait. They are handed out
        before all others."""
        self._consumer = consumer
        self._waits = False
        self._arrived = arrived

    @property
    def is_gone(self) -> bool:
        """Whether NATS has said that its consumer is not there."""
        return self._consumer.is_gone

    def is_back(self, consumer_name: str) -> None:
        """Its consumer was made again; it starts with whatever is in the queue."""
        self._consumer.is_back(consumer_name)
        self.may_have_more = True

    @property
    def is_awaited(self) -> bool:
        """Whether its next message is asked for already, or known to be there."""
        return self._waits or self.may_have_more

    async def fetch(self, most: int) -> list[Msg]:
        """Take up to `most` messages that are there."""
        messages = await self._consumer.fetch(most)
        self._taken([delivery_info(message) for message in messages])
        return messages

    @property
    def ahead(self) -> Ahead:
        """What those of lower priority have to know of it."""
        return Ahead(self.may_have_more or bool(self.brought), self.in_vain)

    def returned(self, message: Msg) -> None:
        """A message was given back at once: there was no room for it, or it was not its turn."""
        self.may_have_more = True
        given_back = delivery_info(message)
        self._returned[given_back.stream_sequence] = _stored_at(given_back)

    def looked(self, backlog: Backlog, head_at: datetime | None) -> None:
        """Somebody has looked at what waits, without taking it out."""
        self.looked_at = time.monotonic()
        self._undelivered, self._head_at = backlog.waiting, head_at
        if not backlog.in_hand:
            self._returned.clear()  # others have taken them

    @property
    def waiting(self) -> int:
        """How many tasks wait, as far as is known here."""
        return self._undelivered + len(self._returned)

    @property
    def oldest_at(self) -> datetime | None:
        """Since when the oldest task has waited, as far as is known here; None: nothing is known to wait. UTC."""
        head = [self._head_at] if self._head_at else []
        return min([*head, *self._returned.values()], default=None)

    def _taken(self, deliveries: Sequence[DeliveryInfo]) -> None:
        self.fetched_at = time.monotonic()
        for each in deliveries:
            self._returned.pop(each.stream_sequence, None)
        fresh = [each for each in deliveries if each.delivered == 1]
        if fresh or not deliveries:
            self._returned.clear()  # those that come back come first: there are none
        self._undelivered = deliveries[-1].pending if deliveries else 0
        self.may_have_more = self._undelivered > 0 or bool(self._returned)
        if not self._undelivered:
            self._head_at = None
        elif fresh and self._head_at is not None:
            self._head_at = _stored_at(fresh[-1])  # what follows is younger, if only by a moment

    async def wait(self) -> None:
        """Have the next message brought, unless it is awaited already."""
        if self.is_awaited:
            return
        self._waits = True
        await self._consumer.wait(self._bring, NEWS_EXPIRES_SECONDS)

    def _bring(self, message: Msg | None) -> None:
        self._waits = False
        if message is not None:
            self.brought.append(message)
            self._taken([delivery_info(message)])
        self._arrived()


def _stored_at(taken: DeliveryInfo) -> datetime:
    return datetime.fromtimestamp(taken.stored_nanoseconds / 1e9, UTC)


class Queues:
    """The queues of all pools, strictest priority first; made as pools become known."""

    def __init__(self, connection: Connection, settings: Settings, arrived: Callable[[], None]) -> None:
        self._connection = connection
        self._settings = settings
        self._arrived = arrived
        self._queues: dict[tuple[Priority, str], PoolQueue] = {}

    async def know(self, pools: set[str]) -> None:
        """Make the queues of pools that are new, and the consumers that are gone. Raises StoreUnavailable."""
        for priority in PRIORITIES:
            for pool in sorted(pools):
                queue = self._queues.get((priority, pool))
                if queue is None:
                    consumer = Consumer(self._connection, DISPATCH, await self._make_consumer(priority, pool))
                    await consumer.open()
                    self._queues[priority, pool] = PoolQueue(consumer, pool, priority, self._arrived)
                elif queue.is_gone:
                    log.warning("queue.consumer-gone", pool=pool, priority=priority, action="making it again")
                    queue.is_back(await self._make_consumer(priority, pool))

    async def _make_consumer(self, priority: Priority, pool: str) -> str:
        """Return the consumer's name."""
        return await ensure_consumer(self._connection, DISPATCH, pool_consumer(token(pool), priority, self._settings))

    def in_order(self) -> list[PoolQueue]:
        """Return the queues, high priority first."""
        return [queue for priority in PRIORITIES for (at, _), queue in self._queues.items() if at == priority]

    def above(self, queue: PoolQueue) -> list[PoolQueue]:
        """Return the queues of a pool whose priority is higher than that of one."""
        higher = PRIORITIES[: PRIORITIES.index(queue.priority)]
        return [self._queues[priority, queue.pool] for priority in higher if (priority, queue.pool) in self._queues]

    def has_started(self, pool: str) -> None:
        """A task of a pool starts: what was looked through in vain is looked through again."""
        for priority in PRIORITIES:
            if (queue := self._queues.get((priority, pool))) is not None:
                queue.in_vain = 0

    def take_turns(self) -> None:
        """Let another pool be first next time, among the queues of each priority."""
        for priority in PRIORITIES:
            key = next((key for key in self._queues if key[0] == priority), None)
            if key is not None:
                self._queues[key] = self._queues.pop(key)

    def all_may_have_more(self) -> None:
        """Look into every queue again: a consumer was made anew, or the connection."""
        for queue in self._queues.values():
            queue.may_have_more = True
