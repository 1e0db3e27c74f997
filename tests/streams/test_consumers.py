"""Pulling from a durable consumer: what is there, or the next that comes."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from taskstream.container import Container
from taskstream.errors import StoreUnavailable
from taskstream.streams.jetstream import consumers as pulling
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer, delivery_info
from taskstream.streams.topology.definitions import DISPATCH, TASKS, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer
from testkit.histories import give, ref, submission
from testkit.nats import NatsServer
from testkit.outage import begin, end
from testkit.waiting import wait_until

NAME = "pool-normal-default"


@pytest.fixture
async def consumer(container: Container) -> Consumer:
    await ensure_consumer(container.consuming, DISPATCH, pool_consumer("default", "normal", container.settings))
    consumer = Consumer(container.consuming, DISPATCH, NAME)
    await consumer.open()
    return consumer


async def dispatched(container: Container, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await give(container.commands, ref(number), submission())

    async def filled() -> bool:
        return int((await api(container.reading, f"STREAM.INFO.{DISPATCH}"))["state"]["last_seq"]) >= start + count

    await wait_until(filled, f"{start + count} dispatched")


async def waiting_pulls(container: Container) -> int:
    return int((await api(container.reading, f"CONSUMER.INFO.{DISPATCH}.{NAME}"))["num_waiting"])


class Brought:
    """What a waiting pull brought, once."""

    def __init__(self) -> None:
        self.all: list[Msg | None] = []

    def __call__(self, message: Msg | None) -> None:
        self.all.append(message)


async def test_a_fetch_takes_what_is_there_up_to_its_size_in_order(container: Container, consumer: Consumer) -> None:
    await dispatched(container, 5)

    first = await consumer.fetch(3)
    second = await consumer.fetch(3)

    subjects = [message.subject for message in first + second]
    assert subjects == [f"dispatch.default.normal.alice.{ref(number).unique}" for number in range(5)]
    assert [len(first), len(second)] == [3, 2]
    assert [delivery_info(message).pending for message in first] == [4, 3, 2]
    assert [delivery_info(message).stream_sequence for message in first] == [1, 2, 3]
    assert {delivery_info(message).delivered for message in first} == {1}


async def test_a_fetch_where_nothing_is_there_is_empty_at_once(consumer: Consumer) -> None:
    assert await consumer.fetch(10, timeout_seconds=60) == []


async def test_a_fetch_from_a_consumer_that_does_not_exist_is_empty(container: Container) -> None:
    none = Consumer(container.consuming, DISPATCH, "none")
    await none.open()

    assert await none.fetch(1, timeout_seconds=60) == []


async def test_what_one_fetches_another_does_not_get(container: Container, consumer: Consumer) -> None:
    other = Consumer(container.reading, DISPATCH, NAME)
    await other.open()
    await dispatched(container, 20)

    taken = await asyncio.gather(consumer.fetch(15), other.fetch(15))

    subjects = [message.subject for messages in taken for message in messages]
    assert len(subjects) == len(set(subjects)) == 20


async def test_what_was_given_back_comes_again_and_says_so(container: Container, consumer: Consumer) -> None:
    await dispatched(container, 1)
    [message] = await consumer.fetch(1)
    await message.nak()

    async def again() -> list[Msg]:
        return await consumer.fetch(1)

    [second] = await wait_until(again, "the message again")
    assert delivery_info(second).delivered == 2


async def test_what_was_acknowledged_is_gone(container: Container, consumer: Consumer) -> None:
    await dispatched(container, 1)
    [message] = await consumer.fetch(1)
    await message.ack_sync()

    assert (await api(container.reading, f"STREAM.INFO.{DISPATCH}"))["state"]["messages"] == 0


async def test_a_wait_brings_the_next_message_when_it_comes(container: Container, consumer: Consumer) -> None:
    brought = Brought()
    await consumer.wait(brought, 30)
    assert brought.all == []

    await dispatched(container, 1)
    await wait_until(lambda: brought.all, "the message")

    [message] = brought.all
    assert message is not None
    assert message.subject.startswith("dispatch.default.normal.")


async def test_a_wait_without_any_message_ends_with_none_once(container: Container, consumer: Consumer) -> None:
    brought = Brought()
    await consumer.wait(brought, 0.05)
    await wait_until(lambda: brought.all, "the end of the wait")

    assert brought.all == [None]
    await dispatched(container, 1)
    assert len(await consumer.fetch(1)) == 1
    assert brought.all == [None]


async def test_a_wait_without_nats_is_refused(container: Container, consumer: Consumer, nats: NatsServer) -> None:
    await end(nats, container.consuming)
    brought = Brought()

    with pytest.raises(StoreUnavailable):
        await consumer.wait(brought, 30)

    assert brought.all == []


async def test_a_wait_that_nats_forgot_ends_by_itself(
    container: Container, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "ANSWER_GRACE_SECONDS", 0.1)
    brought = Brought()
    consumer._subject = "nobody.answers.here"  # as a server of a cluster that was killed
    await container.reading.listen(consumer._subject, lambda _: None)

    await consumer.wait(brought, 0.1)

    await wait_until(lambda: brought.all, "the end of the wait")
    assert brought.all == [None]


async def test_a_wait_ends_with_its_connection_however_long_it_was_to_be(
    container: Container, consumer: Consumer, nats: NatsServer
) -> None:
    brought = Brought()
    await consumer.wait(brought, 3600)

    await end(nats, container.consuming)
    assert brought.all == [None]

    await begin(nats, container.consuming, container.reading, container.appending)
    await consumer.wait(brought, 3600)
    await dispatched(container, 1)
    await wait_until(lambda: len(brought.all) == 2, "the next message")
    assert isinstance(brought.all[1], Msg)


async def test_a_fetch_ends_with_its_connection_however_long_it_was_to_be(
    container: Container, consumer: Consumer, nats: NatsServer
) -> None:
    nats.pause()
    fetching = asyncio.create_task(consumer.fetch(1, timeout_seconds=3600))
    await asyncio.sleep(0)
    nats.kill()

    with pytest.raises(StoreUnavailable, match="lost"):
        await fetching


async def test_a_pause_ends_as_soon_as_the_connection_is_back(container: Container, nats: NatsServer) -> None:
    await end(nats, container.consuming)
    pausing = asyncio.create_task(container.consuming.pause(3600))

    await begin(nats, container.consuming)

    await pausing


async def test_a_message_that_comes_after_its_wait_was_given_up_is_fetched(
    container: Container, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = Brought()
    await consumer.wait(brought, 30)

    async def asked() -> bool:
        return await waiting_pulls(container) == 1

    await wait_until(asked, "the request to be there")
    consumer._finish(None)  # as its timer does
    await dispatched(container, 1)

    async def late() -> list[Msg]:
        return await consumer.fetch(1)

    assert len(await wait_until(late, "the late message")) == 1
    assert brought.all == [None]


async def test_a_fetch_without_nats_is_unavailable_and_finds_everything_afterwards(
    container: Container, consumer: Consumer, nats: NatsServer
) -> None:
    await dispatched(container, 3)
    await end(nats, container.consuming, container.reading)
    with pytest.raises(StoreUnavailable):
        await consumer.fetch(3)

    await begin(nats, container.consuming, container.reading)

    assert len(await consumer.fetch(3)) == 3


async def test_the_sequence_of_the_event_comes_with_its_copy(container: Container, consumer: Consumer) -> None:
    await give(container.commands, ref(9), submission())
    await dispatched(container, 1, start=1)

    messages = await consumer.fetch(2)

    sources = [(message.headers or {})["Nats-Stream-Source"].split()[:2] for message in messages]
    assert sources == [[TASKS, "1"], [TASKS, "2"]]


async def test_the_late_end_of_a_fetch_does_not_end_the_next_one(
    container: Container, consumer: Consumer, nats: NatsServer
) -> None:
    nats.pause()
    assert await consumer.fetch(1, timeout_seconds=0.1) == []
    nats.resume()
    await container.consuming.flush()  # the answer comes before this one's

    await dispatched(container, 2)

    assert len(await consumer.fetch(3)) == 2


async def test_what_comes_after_its_request_has_ended_is_announced_and_fetched(
    container: Container, consumer: Consumer
) -> None:
    late: list[None] = []
    consumer.on_late(lambda: late.append(None))
    brought = Brought()
    await consumer.wait(brought, 30.0)
    await wait_until(lambda: waits(container, 1), "the request")
    consumer._on_leader(DISPATCH, NAME)  # it counts as lost, and NATS has it nevertheless
    assert brought.all == [None]

    await dispatched(container, 1)

    await wait_until(lambda: late, "the message that nobody waits for")
    assert len(await consumer.fetch(5)) == 1
    assert late == [None]


async def test_what_comes_after_a_fetch_was_given_up_is_announced_too(container: Container, consumer: Consumer) -> None:
    late: list[None] = []
    consumer.on_late(lambda: late.append(None))
    pull = b'{"batch": 1, "expires": 30000000000}'  # one that NATS answers when the fetch has long ended
    await container.consuming.publish(f"$JS.API.CONSUMER.MSG.NEXT.{DISPATCH}.{NAME}", pull, consumer._fetch_inbox)
    await wait_until(lambda: waits(container, 1), "the request")

    await dispatched(container, 1)

    await wait_until(lambda: late, "the message that nobody waits for")
    assert len(await consumer.fetch(5)) == 1


async def waits(container: Container, count: int) -> bool:
    return await waiting_pulls(container) == count
