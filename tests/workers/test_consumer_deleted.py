"""A consumer that somebody deletes is made again: nothing else would ever ask the queue for a task."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskstream.streams.jetstream import api
from taskstream.streams.topology import DISPATCH, DUE_CONSUMER, TIMERS, pool_consumer_name
from tests.support.backend import BackendServer
from tests.support.service import Service
from tests.support.waiting import wait_until


async def test_dispatch_goes_on_when_the_consumers_of_a_pool_are_deleted(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "echo")
    await service.alice.ended(await service.alice.submit({"payload": {}}))
    for priority in ("high", "normal", "low"):
        await api(service.core.reading, f"CONSUMER.DELETE.{DISPATCH}.{pool_consumer_name('default', priority)}")

    for priority in ("low", "normal", "high"):
        await service.alice.ended(await service.alice.submit({"payload": {}, "priority": priority}))


async def test_checks_go_on_when_the_consumer_of_timers_is_deleted(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "echo")
    await api(service.core.reading, f"CONSUMER.DELETE.{TIMERS}.{DUE_CONSUMER}")

    checks = backend.health_checks
    await wait_until(lambda: backend.health_checks > checks + 1, "further health checks")


@pytest.mark.parametrize("idle_seconds", [1.0])
async def test_a_worker_does_not_spin_meanwhile(service: Service, backend: BackendServer, idle_seconds: float) -> None:
    await service.admin.register(backend, "echo")
    await api(service.core.reading, f"CONSUMER.DELETE.{DISPATCH}.{pool_consumer_name('default', 'normal')}")
    await api(service.core.reading, f"CONSUMER.DELETE.{TIMERS}.{DUE_CONSUMER}")

    before = time.process_time()
    await asyncio.sleep(idle_seconds)
    assert time.process_time() - before < idle_seconds / 3
