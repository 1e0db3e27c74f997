"""A worker of its own dies in the middle of a call."""

from __future__ import annotations

from testkit.backend import BackendServer, accept, hold
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of, legal
from testkit.waiting import wait_until


async def test_its_task_is_run_again_by_another_and_ends_once(
    processes: Processes, nats: NatsServer, backend: BackendServer
) -> None:
    api = processes.start("api", "--nats-url", nats.url)
    workers = [processes.start("worker", "--nats-url", nats.url) for _ in range(2)]
    by_id = {(await worker.logged("worker.started"))["worker"]: worker for worker in workers}
    backend.answer = hold
    async with clients_of((await api.logged("ready"))["url"]) as service:
        await service.admin.register(backend, "only")
        task_id = await service.alice.submit({"payload": {}})
        await wait_until(lambda: len(backend.calls) == 1, "the call")
        (started,) = [event for event in await service.alice.history(task_id) if event["type"] == "AttemptStarted"]
        first = by_id.pop(started["worker_id"])
        (survivor,) = by_id

        first.kill()

        await wait_until(lambda: len(backend.calls) == 2, "the second call")
        backend.let_go.set()
        details = await service.alice.ended(task_id)
        events = await legal(service.alice, task_id)
    assert details["status"] == "FINISHED"
    assert details["result"]["data"] == {"held": True}
    assert [event["type"] for event in events] == [
        "TaskSubmitted",
        "AttemptStarted",
        "AttemptFailed",
        "AttemptStarted",
        "TaskSucceeded",
    ]
    assert events[2]["kind"] == "worker_lost"
    assert events[3]["worker_id"] == survivor
    assert [call["attempt"] for call in backend.calls] == [1, 2]


async def test_what_a_callback_server_has_accepted_goes_on_without_the_worker(
    processes: Processes, nats: NatsServer, backend: BackendServer
) -> None:
    api = processes.start("api", "--nats-url", nats.url)
    url = (await api.logged("ready"))["url"]
    worker = processes.start("worker", "--nats-url", nats.url, PUBLIC_URL=url)
    backend.answer = accept
    async with clients_of(url) as service:
        await service.admin.register(backend, "patient", **{"async": True, "callback": True})
        task_id = await service.alice.submit({"payload": {}})

        async def accepted() -> bool:
            return any(event["type"] == "AttemptAccepted" for event in await service.alice.history(task_id))

        await wait_until(accepted, "the acceptance")

        worker.kill()

        status, _ = await backend.report(backend.calls[0], "FINISHED", data={"n": 1})
        assert status == 200
        details = await service.alice.ended(task_id)
        await legal(service.alice, task_id)
    assert (details["status"], details["attempt"]) == ("FINISHED", 1)
