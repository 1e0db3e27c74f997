"""A service that cannot read an event halts, and says so in `/health/ready` and the metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from taskstream.errors import StoreUnavailable, UnreadableEvent
from taskstream.events.subjects import task_root
from taskstream.runtime.service import Service, Services
from testkit.backend import BackendServer, hold
from testkit.histories import ref
from testkit.receiver import HookReceiver, register
from testkit.service import Service as RunningService
from testkit.service import running_service
from testkit.waiting import wait_until

from .behaviour import called

UNREADABLE = {
    "scheduler": f"{task_root(ref())}.held",
    "projector-tasks": f"{task_root(ref())}.progressed",
    "index": f"{task_root(ref())}.accepted",
    "webhook-sender": "webhook.alice.0123456789abcdef.renamed",
}
"""Every service that folds a log, with the subject of an event that it reads."""


UNREADABLE_EVENT = UnreadableEvent("task.alice.x.held", 7, "unknown")


async def gauge(service: RunningService, name: str) -> float:
    page = (await service.anonymous.get("/metrics")).body
    (line,) = [line for line in page.splitlines() if line.startswith(f'taskstream_service_halted{{service="{name}"}}')]
    return float(line.split()[1])


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_halted_service_is_named_in_health_and_metrics(nats_url: str, name: str) -> None:
    async with running_service(nats_url) as service:
        assert await gauge(service, name) == 0
        assert (await service.anonymous.get("/health/ready"))["halted"] == {}

        answer = await service.container.appending.request(UNREADABLE[name], b"{}")
        assert "error" not in json.loads(answer.data), answer.data

        async def halted() -> str | None:
            found: dict[str, str] = (await service.anonymous.get("/health/ready"))["halted"]
            return found.get(name)

        assert UNREADABLE[name] in str(await wait_until(halted, f"{name} to halt"))
        assert await gauge(service, name) == 1
        assert (await service.anonymous.get("/health/ready")).status == 200


async def test_running_tasks_are_counted_while_the_index_is_halted(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url) as service:
        admin = service.admin
        await admin.register(backend, "one")
        await service.alice.submit({"payload": 1})
        await called(backend, 1)
        await service.container.appending.request(UNREADABLE["index"], b"{}")
        await wait_until(lambda: service.container.indexer.halted, "the index to halt")

        def runs(server: Any) -> bool:
            return bool(server["activeTasks"] == 1)

        await admin.until("/api/servers", lambda page: runs(page["servers"][0]), "the task in the list of servers")
        assert runs(await admin.done("GET", "/api/servers/one"))
        await admin.done("GET", "/api/pools")
        drain = await admin.done("POST", "/api/servers/one/drain")
        assert (drain["running"], drain["drained"]) == (1, False)
        backend.let_go.set()


async def test_a_webhook_halts_before_an_event_it_cannot_read_and_others_go_on(nats_url: str) -> None:
    async with running_service(nats_url) as service, HookReceiver() as alices, HookReceiver() as bobs:
        halting, _ = await register(service.alice, alices, events=["all"])
        await register(service.bob, bobs, events=["all"])
        subject = f"{task_root(ref())}.succeeded.s1"
        await service.container.appending.request(subject, b"{}")

        async def halted() -> str | None:
            found: dict[str, str] = (await service.anonymous.get("/health/ready"))["halted"]
            return found.get(f"webhook:{halting}")

        assert subject in str(await wait_until(halted, "the webhook to halt"))
        assert await gauge(service, f"webhook:{halting}") == 1
        await service.bob.submit({"payload": 1})
        (message,) = await bobs.has(1)
        assert message.type == "task.submitted"
        assert (await service.alice.delete(f"/api/webhooks/{halting}")).status == 200
        await wait_until(lambda: f"webhook:{halting}" not in service.container.services.halted, "it to be gone")
        assert f"webhook:{halting}" not in (await service.anonymous.get("/metrics")).body


class Lease:
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.released = 0

    @property
    def period_seconds(self) -> float:
        return 0.01

    async def acquire(self) -> bool:
        return self.answers.pop(0) if self.answers else True

    async def release(self) -> None:
        self.released += 1


class Worked(Service):
    """Meets in each run what it is given."""

    def __init__(self, *met: Exception | None, lease: Lease | None = None) -> None:
        super().__init__("worked", lease=lease, period_seconds=0.001)
        self.met = list(met)
        self.runs = 0

    async def run_once(self) -> Mapping[str, int]:
        self.runs += 1
        found = self.met.pop(0)
        if found is not None:
            raise found
        return {}


async def test_a_service_goes_on_after_any_error_but_an_unreadable_event() -> None:
    lease = Lease()
    service = Worked(StoreUnavailable("away"), None, UNREADABLE_EVENT, None, lease=lease)

    await asyncio.wait_for(service.run(), 60)

    assert (service.runs, lease.released) == (3, 1)
    assert "event 7" in (service.halted or "")


async def test_a_service_without_its_lease_stands_by() -> None:
    service = Worked(UNREADABLE_EVENT, lease=Lease(False, False, True))

    await asyncio.wait_for(service.run(), 60)

    assert service.runs == 1


async def test_a_stopped_service_releases_its_lease_and_ends() -> None:
    lease = Lease()
    service = Worked(*[None] * 10_000, lease=lease)
    services = Services()
    services.start(service)
    await wait_until(lambda: service.runs, "a run")

    await service.stop()
    await asyncio.wait_for(asyncio.gather(*services._running.values()), 60)

    assert (lease.released, services.halted) == (1, {})
