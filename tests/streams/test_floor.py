"""After a kill -9 JetStream fills the queue again from the floor, not from the beginning of the log."""

from __future__ import annotations

from taskstream.container import Container
from taskstream.settings import Settings
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.streams.topology.definitions import DISPATCH, TASKS, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer, ensure_streams
from taskstream.streams.topology.sources import raise_floor
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.waiting import wait_until


async def publish(container: Container, numbers: range) -> None:
    for number in numbers:
        await container.appending.request(f"task.alice.{number}.submitted.default.normal", b"{}")


async def queued(container: Container) -> int:
    return int((await api(container.reading, f"STREAM.INFO.{DISPATCH}"))["state"]["messages"])


async def queued_to_be(container: Container, count: int) -> None:
    async def look() -> bool:
        return await queued(container) == count

    await wait_until(look, f"{count} messages in the queue")


async def drain(container: Container, count: int) -> None:
    await queued_to_be(container, count)
    await ensure_consumer(container.consuming, DISPATCH, pool_consumer("default", "normal", Settings()))
    consumer = Consumer(container.consuming, DISPATCH, "pool-normal-default")
    await consumer.open()
    for message in await consumer.fetch(count):
        await container.consuming.publish(message.reply, b"+ACK")
    await queued_to_be(container, 0)


async def test_a_drained_queue_is_filled_again_only_from_the_floor(container: Container, nats: NatsServer) -> None:
    await publish(container, range(200))
    await drain(container, 200)

    assert await raise_floor(container.reading, 201)
    await restart(nats, container.appending, container.reading, container.consuming)
    await publish(container, range(200, 201))

    await queued_to_be(container, 1)


async def test_raising_the_floor_loses_and_doubles_nothing_at_or_above_it(container: Container) -> None:
    """Also of what is on its way into the queue at that moment."""
    await publish(container, range(50))
    await drain(container, 50)

    for start in range(50, 100, 10):
        await publish(container, range(start, start + 10))
        await raise_floor(container.reading, 47 + start // 10 - 5)

    await queued_to_be(container, 50)


async def test_the_floor_is_never_lowered(container: Container) -> None:
    assert await raise_floor(container.reading, 7)
    assert not await raise_floor(container.reading, 7)
    assert not await raise_floor(container.reading, 3)


async def test_a_raised_floor_is_no_mismatch_at_the_next_start(container: Container) -> None:
    assert await raise_floor(container.reading, 3)

    await ensure_streams(container.appending, container.settings)

    config = (await api(container.reading, f"STREAM.INFO.{DISPATCH}"))["config"]
    assert [source["opt_start_seq"] for source in config["sources"] if source["name"] == TASKS] == [3, 3]
