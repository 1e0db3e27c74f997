"""A consumer that somebody deletes, or a crash breaks, is made again: nothing else would ever ask for a task."""

from __future__ import annotations

import asyncio
import time

from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH, DUE_CONSUMER, TIMERS
from testkit.backend import BackendServer, echo, hold
from testkit.link import Link
from testkit.nats import NatsServer
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import called, submit_all

IDLE_SECONDS = 1.0


async def test_dispatch_goes_on_when_the_consumers_of_a_pool_are_deleted(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "echo")
    await service.alice.ended(await service.alice.submit({"payload": {}}))
    for priority in ("high", "normal", "low"):
        await api(service.container.reading, f"CONSUMER.DELETE.{DISPATCH}.pool-{priority}-default")

    for priority in ("low", "normal", "high"):
        await service.alice.ended(await service.alice.submit({"payload": {}, "priority": priority}))


async def test_checks_go_on_when_the_consumer_of_timers_is_deleted(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")
    await api(service.container.reading, f"CONSUMER.DELETE.{TIMERS}.{DUE_CONSUMER}")

    checks = backend.health_checks
    await wait_until(lambda: backend.health_checks > checks + 1, "further health checks")


async def test_what_a_power_cut_leaves_of_a_consumer_does_not_stop_dispatch(nats: NatsServer) -> None:
    """Files of zeros: NATS neither reads nor removes them, and makes no consumer of that name."""
    async with BackendServer() as backend, running_service(nats.url) as service:
        await service.admin.register(backend, "echo")
        await service.alice.ended(await service.alice.submit({"payload": {}}))
        nats.stop()
        for stream, consumer in ((DISPATCH, "pool-normal-default"), (TIMERS, DUE_CONSUMER)):
            (state,) = nats.folder.glob(f"**/{stream}/obs/{consumer}/o.dat")
            state.write_bytes(bytes(19))
        nats.start()

        checks = backend.health_checks
        for priority in ("low", "normal", "high"):
            await service.alice.ended(await service.alice.submit({"payload": {}, "priority": priority}))
        await wait_until(lambda: backend.health_checks > checks + 1, "further health checks")

        async def nothing_waits() -> bool:
            pool = await service.admin.get("/api/pools/default")
            return bool(pool["waiting"] == {"high": 0, "normal": 0, "low": 0})

        await wait_until(nothing_waits, "the count to show an empty pool")


async def test_a_consumer_that_cannot_be_made_stops_no_other_queue(service: Service, backend: BackendServer) -> None:
    """Somebody's own consumer of a pool's queue: NATS makes no other one for the same messages."""
    stray = {"durable_name": "stray", "filter_subjects": ["dispatch.taken.>"], "ack_policy": "explicit"}
    body = {"stream_name": DISPATCH, "config": stray}
    await api(service.container.reading, f"CONSUMER.CREATE.{DISPATCH}.stray", body)
    await service.admin.register(backend, "echo")
    await service.admin.done("PUT", "/api/types/taken", {"pool": "taken"})
    await service.alice.ended(await service.alice.submit({"payload": {}}))
    await api(service.container.reading, f"CONSUMER.DELETE.{DISPATCH}.pool-normal-default")

    waiting = await service.alice.submit({"payload": {}, "type": "taken"})
    await service.alice.ended(await service.alice.submit({"payload": {}}))

    await api(service.container.reading, f"CONSUMER.DELETE.{DISPATCH}.stray")
    await service.alice.ended(waiting)


async def test_a_consumer_deleted_while_the_link_is_half_open_stops_nothing(
    nats: NatsServer, connection: Connection, backend: BackendServer
) -> None:
    async with Link(nats.port) as link, running_service(link.url) as service:
        await service.admin.register(backend, "one", maxConcurrent=1)
        backend.answer = hold
        await submit_all(service.alice, [{"payload": number} for number in range(8)])
        await called(backend, 1)
        link.set("half_open")
        for name in ("pool-normal-default", "bulk-normal-default"):
            await api(connection, f"CONSUMER.DELETE.{DISPATCH}.{name}")
        backend.answer = echo
        backend.let_go.set()
        link.set("pass")

        async def queue_is_empty() -> bool:
            info = await api(connection, f"STREAM.INFO.{DISPATCH}")
            return bool(info["state"]["messages"] == 0)

        await called(backend, 8)
        await wait_until(queue_is_empty, "every task to leave the queue")


async def test_a_worker_does_not_spin_meanwhile(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")
    await api(service.container.reading, f"CONSUMER.DELETE.{DISPATCH}.pool-normal-default")
    await api(service.container.reading, f"CONSUMER.DELETE.{TIMERS}.{DUE_CONSUMER}")

    before = time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    assert time.process_time() - before < IDLE_SECONDS / 3
