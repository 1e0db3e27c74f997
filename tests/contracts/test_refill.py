"""After a kill -9 JetStream fills the queue again from the floor, not from the beginning of the log."""

from __future__ import annotations

from taskstream.core import Core
from taskstream.settings import Settings
from taskstream.streams.connection import api
from taskstream.streams.pulling import Consumer
from taskstream.streams.refill import MARGIN, raise_floor
from taskstream.streams.topology import DISPATCH, TASKS, ensure_consumer, ensure_streams, pool_consumer
from tests.support.nats import NatsServer
from tests.support.outage import restart
from tests.support.waiting import wait_until


async def publish(core: Core, numbers: range) -> None:
    for number in numbers:
        await core.appending.request(f"task.alice.{number}.submitted.default.normal", b"{}")


async def queued(core: Core) -> int:
    return int((await api(core.reading, f"STREAM.INFO.{DISPATCH}"))["state"]["messages"])


async def queued_to_be(core: Core, count: int) -> None:
    async def look() -> bool:
        return await queued(core) == count

    await wait_until(look, f"{count} messages in the queue")


async def drain(core: Core, count: int) -> None:
    await queued_to_be(core, count)
    await ensure_consumer(core.consuming, DISPATCH, pool_consumer("default", "normal", Settings()))
    consumer = Consumer(core.consuming, DISPATCH, "pool-normal-default")
    await consumer.open()
    for message in await consumer.fetch(count):
        await core.consuming.publish(message.reply, b"+ACK")
    await queued_to_be(core, 0)


async def test_a_drained_queue_is_filled_again_only_from_the_floor(core: Core, nats: NatsServer) -> None:
    await publish(core, range(200))
    await drain(core, 200)

    assert await raise_floor(core.reading) == 201
    await restart(nats, core.appending, core.reading, core.consuming)
    await publish(core, range(200, 201))

    await queued_to_be(core, 1)


async def test_the_floor_leaves_what_is_queued_and_what_comes(core: Core) -> None:
    await publish(core, range(3))
    await queued_to_be(core, 3)
    floor = await raise_floor(core.reading)
    await publish(core, range(3, 6))

    await queued_to_be(core, 6)
    assert floor == 1


async def test_the_floor_stays_below_the_oldest_task_that_is_queued(core: Core) -> None:
    await publish(core, range(5))
    await drain(core, 5)
    await raise_floor(core.reading)
    await publish(core, range(5, 6))
    await queued_to_be(core, 1)

    assert MARGIN > 6  # so it is not moved for so few
    assert await raise_floor(core.reading) is None


async def test_a_raised_floor_is_no_mismatch_at_the_next_start(core: Core) -> None:
    await publish(core, range(2))
    await drain(core, 2)
    assert await raise_floor(core.reading) == 3

    await ensure_streams(core.appending, core.settings)

    config = (await api(core.reading, f"STREAM.INFO.{DISPATCH}"))["config"]
    assert [source["opt_start_seq"] for source in config["sources"] if source["name"] == TASKS] == [3, 3]
