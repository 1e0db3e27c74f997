"""A worker that is asked to end while NATS is away ends all the same."""

from __future__ import annotations

from taskstream.container import open_container
from taskstream.running import running_worker
from testkit.nats import NatsServer
from testkit.outage import end
from testkit.service import quick_settings


async def test_it_ends_without_an_error(nats: NatsServer) -> None:
    settings = quick_settings(nats_url=nats.url)
    async with await open_container(settings, nats.url, durability="always") as container:
        async with running_worker(container) as worker:
            await end(nats, container.appending, container.reading, container.consuming)
        assert not worker.members.is_current
