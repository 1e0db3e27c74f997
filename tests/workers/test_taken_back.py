"""What a worker had in hand when it was killed is handed out again when the next one starts."""

from __future__ import annotations

from taskstream.running import running_worker
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.streams.topology.definitions import DISPATCH, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer
from testkit.backend import BackendServer
from testkit.service import Service, running_service
from testkit.waiting import wait_until

LONGER_THAN_TESTS_WAIT_SECONDS = 600.0


async def take_out(service: Service) -> None:
    """Take a task out of the queue, and do nothing with it."""
    container = service.container
    name = await ensure_consumer(container.consuming, DISPATCH, pool_consumer("default", "normal", container.settings))
    consumer = Consumer(container.consuming, DISPATCH, name)
    await consumer.open()

    async def fetched() -> bool:
        return bool(await consumer.fetch(1))

    await wait_until(fetched, "the task to be taken out")


async def in_flight(service: Service) -> int:
    info = await api(service.container.reading, f"CONSUMER.INFO.{DISPATCH}.pool-normal-default")
    return int(info["num_ack_pending"])


async def test_the_next_worker_is_handed_it_at_once(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, worker=False, ack_wait=LONGER_THAN_TESTS_WAIT_SECONDS) as service:
        await service.admin.register(backend, "echo", online=False)
        task_id = await service.alice.submit({"payload": {}})
        await take_out(service)

        async with running_worker(service.container):
            assert (await service.alice.ended(task_id))["attempt"] == 1


async def test_it_is_left_alone_while_another_worker_lives(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, worker=False, ack_wait=LONGER_THAN_TESTS_WAIT_SECONDS) as service:
        await service.admin.register(backend, "echo", online=False)
        await service.alice.submit({"payload": {}})
        await take_out(service)
        await service.container.membership("worker").renew()

        async with running_worker(service.container):
            assert await in_flight(service) == 1
