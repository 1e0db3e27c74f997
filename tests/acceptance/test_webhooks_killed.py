"""The sender of webhooks is killed while it sends: every delivery is made in the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web

from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.receiver import HookReceiver, Message, register, settled
from testkit.service import ServiceClients
from testkit.waiting import wait_until

TASKS = 42
QUICK = {"WEBHOOK_RETRY_BASE": "0.1", "WEBHOOK_RETRY_CAP": "0.5", "WEBHOOK_ATTEMPTS": "50"}


class Flaky:
    """Takes a moment for each, and fails every third call."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.calls = 0

    async def __call__(self, message: Message) -> web.StreamResponse:
        self.calls += 1
        await asyncio.sleep(0.02)
        if self.calls % 3 == 0:
            return web.Response(status=500)
        self.taken[message.body["data"]["taskId"]] += 1
        return web.Response(status=204)


async def cancel_many(service: ServiceClients, count: int) -> set[str]:
    """Submit tasks that no server runs, and end them."""
    ended = set()
    for _ in range(count):
        task_id = await service.alice.submit({"payload": {}})
        assert (await service.alice.post(f"/api/task/{task_id}/cancel")).status == 200
        ended.add(task_id)
    return ended


@contextlib.asynccontextmanager
async def interrupted(service: ServiceClients) -> AsyncIterator[None]:
    """Have webhooks sent; the block interrupts that. Check that all are delivered in the end."""
    flaky = Flaky()
    async with HookReceiver(flaky) as receiver:
        webhook_id, _ = await register(service.alice, receiver)
        wanted = await cancel_many(service, TASKS)
        await wait_until(lambda: len(flaky.taken) >= TASKS // 6, "some of them")
        yield
        wanted |= await cancel_many(service, TASKS // 6)
        await wait_until(lambda: flaky.taken.keys() >= wanted, "all of them")
        found = await settled(service.alice, webhook_id, "delivered", len(wanted))
    assert {delivery["taskId"] for delivery in found} == wanted == set(flaky.taken)


async def test_another_worker_goes_on_where_the_killed_one_was(processes: Processes, nats: NatsServer) -> None:
    api = processes.start("api", "--nats-url", nats.url)
    workers = [processes.start("worker", "--nats-url", nats.url, **QUICK) for _ in range(2)]
    for worker in workers:
        await worker.logged("worker.started")
    async with clients_of((await api.logged("ready"))["url"]) as service, interrupted(service):
        (sender,) = [worker for worker in workers if worker.entries("webhook-sender.started")]
        sender.kill()


async def test_nothing_is_lost_when_all_of_it_is_killed(processes: Processes) -> None:
    up = await processes.up(**QUICK)
    async with clients_of(up.url) as service, interrupted(service):
        up.kill_all()
        await up.serve()
