"""After a kill -9 JetStream fills the queue again from the floor, not from the beginning of the log."""

from __future__ import annotations

from taskstream.container import Core
from taskstream.settings import Settings
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.streams.topology.definitions import DISPATCH, TASKS, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer, ensure_streams
from taskstream.streams.topology.refill import raise_floor
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

    assert await raise_floor(core.reading, 201)
    await restart(nats, core.appending, core.reading, core.consuming)
    await publish(core, range(200, 201))

    await queued_to_be(core, 1)


async def test_raising_the_floor_loses_and_doubles_nothing_at_or_above_it(core: Core) -> None:
    """Also of what is on its way into the queue at that moment."""
    await publish(core, range(50))
    await drain(core, 50)

    for start in range(50, 100, 10):
        await publish(core, range(start, start + 10))
        await raise_floor(core.reading, 47 + start // 10 - 5)

    await queued_to_be(core, 50)


async def test_the_floor_is_never_lowered(core: Core) -> None:
    assert await raise_floor(core.reading, 7)
    assert not await raise_floor(core.reading, 7)
    assert not await raise_floor(core.reading, 3)


async def test_a_raised_floor_is_no_mismatch_at_the_next_start(core: Core) -> None:
    assert await raise_floor(core.reading, 3)

    await ensure_streams(core.appending, core.settings)

    config = (await api(core.reading, f"STREAM.INFO.{DISPATCH}"))["config"]
    assert [source["opt_start_seq"] for source in config["sources"] if source["name"] == TASKS] == [3, 3]
