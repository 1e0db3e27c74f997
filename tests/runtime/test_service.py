"""The base of all services: whatever the work of one does, it lets everything else in the process run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from taskstream.errors import StoreUnavailable
from taskstream.runtime.service import SHORTEST_PAUSE_SECONDS, Service
from testkit.ticks import ticking


class Counting(Service):
    """A service that counts its runs."""

    def __init__(self, **more: float) -> None:
        super().__init__("counting", **more)
        self.runs = 0

    async def run_once(self) -> Mapping[str, int]:
        self.runs += 1
        return {}


class Failing(Counting):
    async def run_once(self) -> Mapping[str, int]:
        await super().run_once()
        raise StoreUnavailable("no connection to NATS")


class Broken(Counting):
    async def run_once(self) -> Mapping[str, int]:
        await super().run_once()
        raise RuntimeError("a bug")


class Waiting(Counting):
    """Each run waits for something else."""

    async def run_once(self) -> Mapping[str, int]:
        await asyncio.sleep(0)
        return await super().run_once()


@pytest.mark.parametrize("kind", [Counting, Failing, Broken], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("pause_seconds", [0.0, 1e-6])
async def test_no_service_runs_more_often_than_the_shortest_pause_allows(
    kind: type[Counting], pause_seconds: float
) -> None:
    service = kind(period_seconds=pause_seconds, retry_seconds=pause_seconds)
    async with ticking(SHORTEST_PAUSE_SECONDS, service.run()) as ticks:
        await ticks.passed(5)

    assert 1 <= service.runs <= 2 * ticks.count + 3


async def test_a_service_without_a_period_goes_on_at_once_if_its_run_waited() -> None:
    service = Waiting(period_seconds=0.0)
    async with ticking(SHORTEST_PAUSE_SECONDS, service.run()) as ticks:
        await ticks.passed(3)

    assert service.runs > 20 * ticks.count


async def test_a_wake_ends_the_pause_and_one_during_a_run_the_next_pause() -> None:
    service = Counting(period_seconds=3600.0)
    async with ticking(SHORTEST_PAUSE_SECONDS, service.run()) as ticks:
        await ticks.until(lambda: service.runs == 1)
        service.wake()
        await ticks.until(lambda: service.runs == 2)
        service.wake()
        service.wake()
        await ticks.until(lambda: service.runs == 3)
        await ticks.passed(3)

    assert service.runs == 3


async def test_only_a_service_that_failed_retries_when_told_that_the_store_may_be_back() -> None:
    failing, well = Failing(period_seconds=3600.0, retry_seconds=3600.0), Counting(period_seconds=3600.0)
    async with ticking(SHORTEST_PAUSE_SECONDS, failing.run(), well.run()) as ticks:
        await ticks.passed(3)
        for service in (failing, well):
            service.retry()
        await ticks.until(lambda: failing.runs == 2)

    assert well.runs == 1


async def test_a_stop_ends_the_pause() -> None:
    service = Counting(period_seconds=3600.0)
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    await service.stop()
    await running
