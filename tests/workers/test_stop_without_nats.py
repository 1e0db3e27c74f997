"""A worker that is asked to end while NATS is away ends all the same."""

from __future__ import annotations

from taskstream.container import open_core
from taskstream.running import running_worker
from tests.support.nats import NatsServer
from tests.support.outage import end
from tests.support.service import quick_settings


async def test_it_ends_without_an_error(nats: NatsServer) -> None:
    settings = quick_settings(nats_url=nats.url)
    async with await open_core(settings, nats.url, durability="always") as core:
        async with running_worker(core) as worker:
            await end(nats, core.appending, core.reading, core.consuming)
        assert not worker.members.is_current
