"""A slot is free when the log says that its attempt is over, not when somebody is about to say so."""

from __future__ import annotations

import nats
import pytest
from nats.js.errors import APIError

from testkit.backend import BackendServer, accept
from testkit.service import running_service
from testkit.waiting import wait_until


async def test_an_end_that_the_log_refuses_frees_nothing(nats_url: str, backend: BackendServer) -> None:
    backend.answer = accept
    async with running_service(nats_url) as service, BackendServer() as other:
        await service.admin.register(
            backend, "patient", **{"async": True, "callback": True, "maxConcurrent": 1, "types": ["default"]}
        )
        assert (await service.admin.put("/api/types/probe", {})).status == 200
        await service.admin.register(other, "other", types=["probe"])
        first = await service.alice.submit({"payload": 1})
        await wait_until(lambda: len(backend.calls) == 1, "the call")
        second = await service.alice.submit({"payload": 2})

        client = await nats.connect(nats_url)
        unique, owner = first.split("~")
        stale = {"Nats-Expected-Last-Sequence": "1"}
        with pytest.raises(APIError):
            await client.jetstream().publish(f"task.{owner}.{unique}.attempt_failed.patient", b"{}", headers=stale)
        await client.close()

        for _ in range(3):  # by then the worker would have started the second one long ago
            await service.alice.ended(await service.alice.submit({"payload": 3, "type": "probe"}))
        assert [call["request"] for call in backend.calls] == [1]
        await backend.report(backend.calls[0], "FINISHED")
        await wait_until(lambda: len(backend.calls) == 2, "the second call, once the first has ended")
        await backend.report(backend.calls[1], "FINISHED")
        assert (await service.alice.ended(second))["status"] == "FINISHED"
