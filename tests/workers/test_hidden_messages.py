"""A queue that a crash made older than its consumers: what they take for acked is delivered all the same."""

from __future__ import annotations

import shutil

from taskstream.running import running_worker
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.streams.topology.definitions import DISPATCH, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer
from testkit import outage
from testkit.backend import BackendServer
from testkit.nats import NatsServer
from testkit.service import Service, running_service
from testkit.waiting import wait_until

TASKS_COUNT = 5
ACKED = 3


def connections(service: Service) -> list[Connection]:
    container = service.container
    return [container.reading, container.appending, container.consuming]


async def queued(service: Service) -> int:
    return int((await api(service.container.reading, f"STREAM.INFO.{DISPATCH}"))["state"]["messages"])


async def ack_some(service: Service) -> None:
    """Take messages out of the queue and ack them, as workers do."""
    container = service.container
    name = await ensure_consumer(container.consuming, DISPATCH, pool_consumer("default", "normal", container.settings))
    consumer = Consumer(container.consuming, DISPATCH, name)
    await consumer.open()
    for message in await consumer.fetch(ACKED):
        await container.consuming.publish(message.reply, b"+ACK")

    async def removed() -> bool:
        return await queued(service) == TASKS_COUNT - ACKED

    await wait_until(removed, "the acked messages to be removed")


async def test_a_task_whose_message_counts_as_acked_is_delivered(nats: NatsServer) -> None:
    async with BackendServer() as backend, running_service(nats.url, worker=False) as service:
        await service.admin.register(backend, "echo", online=False)
        task_ids = [await service.alice.submit({"payload": {}}) for _ in range(TASKS_COUNT)]

        async def all_queued() -> bool:
            return await queued(service) == TASKS_COUNT

        await wait_until(all_queued, "the tasks to be queued")
        await outage.end(nats, *connections(service), gently=True)  # NATS writes all that it has
        (older,) = nats.folder.glob(f"**/{DISPATCH}/msgs")
        copy = nats.folder / "older"
        shutil.copytree(older, copy)
        await outage.begin(nats, *connections(service))
        await ack_some(service)
        await outage.end(nats, *connections(service), gently=True)
        shutil.rmtree(older)
        shutil.copytree(copy, older)
        await outage.begin(nats, *connections(service))

        async with running_worker(service.container):
            for task_id in task_ids:
                await service.alice.ended(task_id)
