"""A server with the dialect `auto` that is away when it is registered: a health check finds out what it speaks."""

from __future__ import annotations

from taskstream.events.server import DialectDetected
from testkit.service import Service

from .test_oip_servers import INFERENCE, KServe, registration


async def test_the_first_check_that_reaches_a_server_finds_out_what_it_speaks(service: Service) -> None:
    async with KServe() as server:
        await server.stop()
        await service.admin.done("POST", "/api/servers", registration(server, dialect="auto"))
        task_id = await service.alice.submit(INFERENCE)

        await server.start()
        await service.admin.server_is("k1", "online")
        details = await service.alice.ended(task_id)

    history = [stored.recorded.event for stored in await service.container.commands.servers.history("k1")]
    assert details["status"] == "FINISHED"
    assert [event.dialect for event in history if isinstance(event, DialectDetected)] == ["oip"]
