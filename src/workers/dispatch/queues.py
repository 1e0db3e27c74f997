"""The queues of ready tasks as one worker knows them: which may have messages, and how long those have waited."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from nats.aio.msg import Msg

from ...errors import StoreUnavailable
from ...events.ids import token
from ...events.subjects import dispatched_ref, pool_filter
from ...events.task import PRIORITIES, Priority
from ...instants import from_nanoseconds
from ...scheduling.bulk_turns import BulkTurns
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
MAKE_AGAIN_SECONDS = 1.0
LOOK_AROUND_SECONDS = 5.0
"""How often queues with nothing to do are looked at all the same."""
MADE_AT_ONCE = 16
"""Consumers that are created at the same time."""


class PoolQueue:
    """One of the two queues of a pool and priority: the first queue, or the bulk queue."""

    def __init__(
        self, consumer: Consumer, pool: str, priority: Priority, arrived: Callable[[], None], *, bulk: bool = False
    ) -> None:
        self.pool = pool
        self.priority = priority
        self.bulk = bulk
        self.stir: Callable[[], None] = _nothing
        """Called whenever it may have more, or has no pending request any more."""
        self._may_have_more = True
        self.delivered: list[Msg] = []
        """Messages that pending requests brought, not placed yet."""
        self.unplaced = 0
        """Tasks nak'ed because no server could take them, since the last start of a task of the pool."""
        self.filter = pool_filter(token(pool), priority, bulk=bulk)
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
        consumer.on_late(self._on_late)

    @property
    def is_gone(self) -> bool:
        """True once NATS has said that its consumer does not exist."""
        return self._consumer.is_gone

    def is_back(self, consumer_name: str) -> None:
        """Record that its consumer was created again; it starts with whatever is in the queue."""
        self._consumer.is_back(consumer_name)
        self.may_have_more = True

    @property
    def may_have_more(self) -> bool:
        """False once it was found empty; then a pending request brings the next message."""
        return self._may_have_more

    @may_have_more.setter
    def may_have_more(self, may: bool) -> None:
        self._may_have_more = may
        if may:
            self.stir()

    @property
    def is_quiet(self) -> bool:
        """True while there is nothing to do for it but to wait for its pending request."""
        return self._waits and not self.has_more and not self.is_gone

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
    def has_more(self) -> bool:
        """True if it has messages, as far as this worker knows."""
        return self.may_have_more or bool(self.delivered)

    @property
    def ahead(self) -> Ahead:
        """What queues of lower priority have to know of it."""
        return Ahead(self.has_more, self.unplaced)

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

    def waited(self, now: datetime) -> float:
        """Return the seconds that its oldest task has waited, as far as known."""
        oldest_at = self.oldest_at
        return (now - oldest_at).total_seconds() if oldest_at else 0.0

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
            self.stir()
            raise

    def _on_delivery(self, message: Msg | None) -> None:
        self._waits = False
        self.stir()
        if message is not None:
            self.delivered.append(message)
            self._taken([delivery_info(message)])
        self._arrived()

    def _on_late(self) -> None:
        """Fetch soon: a message came for which no call waited, and the next fetch returns it."""
        self.may_have_more = True
        self._arrived()


def _nothing() -> None:
    """Do nothing."""


def _stored_at(info: DeliveryInfo) -> datetime:
    return from_nanoseconds(info.stored_nanoseconds)


def _last_turn(lane: Lane) -> int:
    return lane.last_turn


class Lane:
    """The two queues of one pool and priority, and whose turn it is."""

    def __init__(self, first: PoolQueue, bulk: PoolQueue) -> None:
        self.first = first
        self.bulk = bulk
        self.last_turn = 0
        """Number of the turn in which tasks were last taken from it."""
        self._turns = BulkTurns()

    @property
    def in_turn(self) -> tuple[PoolQueue, PoolQueue]:
        """Both queues, in the order in which they are served now."""
        is_bulks = self.bulk.has_more and self._turns.is_bulks(first_has_more=self.first.has_more)
        return (self.bulk, self.first) if is_bulks else (self.first, self.bulk)

    @property
    def is_quiet(self) -> bool:
        """True while there is nothing to do for both but to wait for their pending requests."""
        return self.first.is_quiet and self.bulk.is_quiet

    def share(self, queue: PoolQueue, most: int) -> int:
        """Return how many tasks to take from one of the queues now, if `most` may be taken from both."""
        if queue.bulk:
            return self._turns.most_of_bulk(most, first_has_more=self.first.has_more)
        return self._turns.most_of_first(most, bulk_has_more=self.bulk.has_more)

    def took(self, queue: PoolQueue, messages: Sequence[Msg]) -> None:
        """Record tasks that were taken from one of the queues."""
        if queue.bulk:
            self._turns.took_bulk(len(messages))
        elif self.bulk.has_more:
            for message in messages:
                self._turns.took_first(dispatched_ref(message.subject).owner)
        else:
            self._turns.bulk_is_empty()

    def aged(self, ageing_seconds: float, now: datetime) -> PoolQueue | None:
        """Return the queue whose oldest task has waited too long; of both the one whose turn it is; None if neither."""
        aged = [queue for queue in self.in_turn if queue.may_have_more and queue.waited(now) > ageing_seconds]
        return aged[0] if aged else None


class Queues:
    """The queues of all pools, highest priority first; opened as pools become known."""

    def __init__(self, connection: Connection, settings: Settings, arrived: Callable[[], None]) -> None:
        self._connection = connection
        self._settings = settings
        self._arrived = arrived
        self._lanes: dict[tuple[Priority, str], Lane] = {}
        self._complete: set[str] = set()
        """Pools all of whose queues are open."""
        self._stirred: dict[Priority, set[Lane]] = {priority: set() for priority in PRIORITIES}
        """The lanes that are not quiet, and perhaps others. A worker may have hundreds of pools, few of them busy."""
        self._look_at = 0.0
        """When all lanes are looked at again, monotonic."""
        self._turns = itertools.count(1)
        self._make_at = 0.0
        """When consumers may be created again after a failure, monotonic."""

    async def open(self, pools: set[str]) -> None:
        """Open the queues of new pools, and create consumers that are gone again.

        What fails is tried again by later calls, after MAKE_AGAIN_SECONDS: one consumer that NATS does not create must
        not keep the other queues from being served. Raises StoreUnavailable without a connection, or if no queue is
        open.
        """
        if time.monotonic() < self._make_at:
            return
        self._make_at = 0.0
        self._look_around()
        missing = pools - self._complete
        new = [(priority, pool) for priority in PRIORITIES for pool in sorted(missing - self._known(priority))]
        gone = [queue for lane in self.stirred() for queue in (lane.first, lane.bulk) if queue.is_gone]
        if not new and not gone:
            return
        places = asyncio.Semaphore(MADE_AT_ONCE)

        async def make(one: Awaitable[None]) -> None:
            async with places:
                await one

        if gone:
            log.warning("queues.consumers-gone", queues=[queue.filter for queue in gone], action="creating them again")
        makes = [*(self._open(priority, pool) for priority, pool in new), *map(self._recreate, gone)]
        outcomes = await asyncio.gather(*map(make, makes), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, StoreUnavailable) or not self._connection.is_connected or not self._lanes:
                    raise outcome
                self._make_at = time.monotonic() + MAKE_AGAIN_SECONDS
                log.warning("queues.not-open", reason=str(outcome), action="others are served; trying again")

    @property
    def open_at(self) -> float:
        """When `open` tries again what failed, monotonic; infinity: nothing failed."""
        return self._make_at or math.inf

    async def _open(self, priority: Priority, pool: str) -> None:
        first, bulk = await self._queue(priority, pool), await self._queue(priority, pool, bulk=True)
        self._add(priority, pool, Lane(first, bulk))

    def _add(self, priority: Priority, pool: str, lane: Lane) -> None:
        self._lanes[priority, pool] = lane
        self.record_turn(lane)
        stirred = self._stirred[priority]

        def stir() -> None:
            stirred.add(lane)

        lane.first.stir = lane.bulk.stir = stir
        stir()
        if all((each, pool) in self._lanes for each in PRIORITIES):
            self._complete.add(pool)

    def _look_around(self) -> None:
        """Look at all lanes now and then: news can be lost."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_AROUND_SECONDS
            for (priority, _), lane in self._lanes.items():
                self._stirred[priority].add(lane)

    async def _queue(self, priority: Priority, pool: str, *, bulk: bool = False) -> PoolQueue:
        consumer = Consumer(self._connection, DISPATCH, await self._ensure_consumer(priority, pool, bulk=bulk))
        await consumer.open()
        return PoolQueue(consumer, pool, priority, self._arrived, bulk=bulk)

    async def _recreate(self, queue: PoolQueue) -> None:
        queue.is_back(await self._ensure_consumer(queue.priority, queue.pool, bulk=queue.bulk))

    async def _ensure_consumer(self, priority: Priority, pool: str, *, bulk: bool) -> str:
        """Return the consumer's name."""
        wanted = pool_consumer(token(pool), priority, self._settings, bulk=bulk)
        return await ensure_consumer(self._connection, DISPATCH, wanted)

    def _known(self, priority: Priority) -> set[str]:
        return {pool for at, pool in self._lanes if at == priority}

    def lanes(self) -> list[Lane]:
        """Return the pairs of queues, high priority first."""
        return [lane for priority in PRIORITIES for (at, _), lane in self._lanes.items() if at == priority]

    def stirred(self) -> list[Lane]:
        """Return the lanes with anything to do, high priority first, then the one served longest ago."""
        found: list[Lane] = []
        for stirred in filter(None, self._stirred.values()):
            stirred -= {lane for lane in stirred if lane.is_quiet}
            found += sorted(stirred, key=_last_turn)
        return found

    def in_order(self) -> list[PoolQueue]:
        """Return all queues, high priority first."""
        return [queue for lane in self.lanes() for queue in (lane.first, lane.bulk)]

    def above(self, queue: PoolQueue) -> list[PoolQueue]:
        """Return the queues of the same pool that have a higher priority."""
        higher = PRIORITIES[: PRIORITIES.index(queue.priority)]
        lanes = (self._lanes.get((priority, queue.pool)) for priority in higher)
        return [each for lane in lanes if lane is not None for each in (lane.first, lane.bulk)]

    def record_start(self, pool: str) -> None:
        """Record that a task of a pool has started: tasks that could not be placed may have a server now."""
        for priority in PRIORITIES:
            if (lane := self._lanes.get((priority, pool))) is not None:
                lane.first.unplaced = lane.bulk.unplaced = 0

    def record_turn(self, lane: Lane) -> None:
        """Record that tasks were taken from a lane: the others of its priority come first now."""
        lane.last_turn = next(self._turns)

    def all_may_have_more(self) -> None:
        """Serve every queue again: the connection was lost, and messages may have come meanwhile."""
        for queue in self.in_order():
            queue.may_have_more = True
