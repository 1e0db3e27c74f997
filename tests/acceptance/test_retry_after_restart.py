"""Retries are messages dated in the future: they come by themselves, also after a restart."""

from __future__ import annotations

from testkit.backend import BackendServer, at_first, status
from testkit.processes import Processes, clients_of, legal
from testkit.service import ServiceClients


async def retried(service: ServiceClients) -> list[str]:
    """Submit a task and return the types of its events once it has ended."""
    task_id = await service.alice.submit({"payload": {}})
    assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    return [event["type"] for event in await legal(service.alice, task_id)]


async def test_a_retry_comes_by_its_timer_and_needs_no_reconciler(processes: Processes, backend: BackendServer) -> None:
    backend.answer = at_first(status(500))
    up = await processes.up()
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "failing")
        wanted = ["TaskSubmitted", "AttemptStarted", "AttemptFailed", "AttemptStarted", "TaskSucceeded"]
        assert await retried(service) == wanted

        up.kill_all()

        up = await processes.up(up.port)
        assert await retried(service) == wanted
