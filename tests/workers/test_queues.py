"""The queues that a worker looks at: those with anything to do, however many others there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as some
from nats.aio.msg import Msg

from taskstream.events.task import PRIORITIES
from taskstream.settings import Settings
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.workers.dispatch.queues import Lane, PoolQueue, Queues

POOLS = 100


class PlayedConsumer:
    """A consumer whose messages come when a test says so."""

    is_gone = False

    def __init__(self) -> None:
        self.receive: Callable[[Msg | None], None] | None = None
        self.late: Callable[[], None] = lambda: None

    def on_late(self, react: Callable[[], None]) -> None:
        self.late = react

    async def wait(self, receive: Callable[[Msg | None], None], expires_seconds: float) -> None:
        self.receive = receive

    async def fetch(self, most: int) -> list[Msg]:
        return []


def opened(pools: int = POOLS) -> Queues:
    queues = Queues(cast(Connection, None), Settings(), lambda: None)
    for pool in map(str, range(pools)):
        for priority in PRIORITIES:
            first, bulk = (
                PoolQueue(cast(Consumer, PlayedConsumer()), pool, priority, lambda: None, bulk=bulk)
                for bulk in (False, True)
            )
            queues._add(priority, pool, Lane(first, bulk))
    return queues


def consumer_of(queue: PoolQueue) -> PlayedConsumer:
    return cast(PlayedConsumer, queue._consumer)


def message(sequence: int = 1) -> Msg:
    return Msg(cast(Any, None), "dispatch.0.normal.a.b", f"$JS.ACK.DISPATCH.c.1.{sequence}.{sequence}.1.0")


async def found_empty(queues: Queues) -> None:
    for queue in queues.in_order():
        await queue.fetch(1)
        await queue.wait()


async def test_a_worker_looks_at_no_queue_that_waits_for_a_message() -> None:
    queues = opened()
    assert len(queues.stirred()) == 3 * POOLS
    await found_empty(queues)
    assert queues.stirred() == []

    lane = queues.lanes()[7]
    receive = consumer_of(lane.bulk).receive
    assert receive is not None
    receive(message())

    assert queues.stirred() == [lane]


async def test_a_queue_whose_request_ended_without_a_message_is_looked_at() -> None:
    queues = opened()
    await found_empty(queues)
    lane = queues.lanes()[7]
    receive = consumer_of(lane.first).receive
    assert receive is not None
    receive(None)

    assert queues.stirred() == [lane]
    await lane.first.wait()
    assert queues.stirred() == []


async def test_lost_news_are_found_by_a_look_around() -> None:
    queues = opened(1)
    await found_empty(queues)
    assert queues.stirred() == []
    lane = queues.lanes()[0]
    lane.first._waits = False  # without a call that says so
    assert queues.stirred() == []
    queues._look_around()
    assert queues.stirred() == [lane]


async def test_a_queue_whose_consumer_is_gone_is_looked_at_though_it_waits() -> None:
    queues = opened(1)
    await found_empty(queues)
    assert queues.stirred() == []
    lane = queues.lanes()[0]
    consumer_of(lane.first).is_gone = True
    queues._look_around()
    assert queues.stirred() == [lane]


async def test_lanes_come_by_priority_then_by_their_last_turn() -> None:
    queues = opened(3)
    before = queues.stirred()
    assert [lane.first.priority for lane in before] == sorted(
        (lane.first.priority for lane in before), key=PRIORITIES.index
    )
    queues.record_turn(before[0])
    assert queues.stirred() == [*before[1:3], before[0], *before[3:]]


@given(
    steps=some.lists(
        some.tuples(
            some.integers(0, 11), some.sampled_from(["empty", "wait", "message", "none", "late", "nak", "lost"])
        )
    )
)
async def test_whatever_happens_every_queue_with_anything_to_do_is_looked_at(steps: list[tuple[int, str]]) -> None:
    queues = opened(2)
    await found_empty(queues)
    for number, step in steps:
        queue = queues.in_order()[number]
        consumer = consumer_of(queue)
        match step:
            case "empty":
                queue.delivered = []
                await queue.fetch(1)
            case "wait":
                await queue.wait()
            case "message" | "none" if consumer.receive is not None:
                receive, consumer.receive = consumer.receive, None
                receive(message() if step == "message" else None)
            case "late":
                consumer.late()
            case "nak":
                queue.record_nak(message())
            case "lost":
                queues.all_may_have_more()
        stirred = queues.stirred()
        for lane in queues.lanes():
            has_work = any(each.has_more or not each._waits for each in (lane.first, lane.bulk))
            assert (lane in stirred) == has_work
