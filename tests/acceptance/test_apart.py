"""API and workers as processes of their own, on a nats-server of its own: the same service as `taskstream up`."""

from __future__ import annotations

import asyncio

from testkit.backend import BackendServer
from testkit.load import work
from testkit.nats import NatsServer
from testkit.processes import Processes, all_end, clients_of, legal
from testkit.waiting import wait_until

SERVERS = 12
ROUND = 120


async def test_two_of_each_are_one_service(processes: Processes, nats: NatsServer, backend: BackendServer) -> None:
    apis = [processes.start("api", "--port", "0", "--nats-url", nats.url) for _ in range(2)]
    workers = [processes.start("worker", "--nats-url", nats.url) for _ in range(2)]
    ids = {(await worker.logged("worker.started"))["worker"] for worker in workers}
    urls = [(await api.logged("ready"))["url"] for api in apis]
    backend.answer = work(0.05)
    async with clients_of(urls[0]) as one, clients_of(urls[1]) as other:
        for number in range(SERVERS):
            client = (one if number % 2 else other).admin
            await client.register(backend, f"server-{number}", online=False, maxConcurrent=2)
            seen = await (other if number % 2 else one).admin.get(f"/api/servers/server-{number}")
            assert seen.status == 200

        async def submit(number: int) -> str:
            here, there = (one, other) if number % 2 else (other, one)
            task_id = await here.alice.submit({"payload": {"number": number}})
            read, history, page = await asyncio.gather(
                there.alice.get(f"/api/task/{task_id}"),
                there.alice.get(f"/api/task/{task_id}/events"),
                there.alice.get("/api/tasks?limit=200"),
            )
            assert read.status == 200, read
            assert history["events"][0]["event"]["type"] == "TaskSubmitted"
            assert task_id in [task["id"] for task in page["tasks"]]
            return task_id

        tasks: list[str] = []
        started_by: set[str] = set()
        while started_by != ids and len(tasks) < 10 * ROUND:  # the first worker has all servers until they are shared
            round_ = await asyncio.gather(*map(submit, range(len(tasks), len(tasks) + ROUND)))
            tasks += round_
            await all_end(one.alice, len(tasks))
            await all_end(other.alice, len(tasks))
            for task_id in round_:
                events = await legal(other.alice, task_id)
                assert events[-1]["type"] == "TaskSucceeded"
                started_by |= {event["worker_id"] for event in events if event["type"] == "AttemptStarted"}
    assert started_by == ids
    assert len(backend.calls) == len(tasks)
    assert backend.most_at_once <= 2 * SERVERS


async def test_what_one_api_changes_the_other_shows_at_once(
    processes: Processes, nats: NatsServer, backend: BackendServer
) -> None:
    apis = [processes.start("api", "--port", "0", "--nats-url", nats.url) for _ in range(2)]
    urls = [(await api.logged("ready"))["url"] for api in apis]
    async with clients_of(urls[0]) as one, clients_of(urls[1]) as other:
        for _ in range(20):
            task_id = await one.alice.submit({"payload": {}})
            assert (await other.alice.post(f"/api/task/{task_id}/cancel")).status == 200
            assert (await one.alice.details(task_id))["status"] == "CANCELLED"
            listed = await one.alice.get("/api/tasks?status=CANCELLED&limit=1")
            assert listed["tasks"][0]["id"] == task_id
            assert (await one.alice.post(f"/api/task/{task_id}/retry")).status == 200
            assert (await other.alice.details(task_id))["status"] == "WAITING"
        body = backend.registration("echo")
        assert (await one.admin.post("/api/servers", body)).status == 200
        assert "echo" in [server["id"] for server in (await other.admin.get("/api/servers"))["servers"]]
        assert (await other.admin.delete("/api/servers/echo")).status == 200
        assert (await one.admin.get("/api/servers"))["servers"] == []
        assert (await one.admin.put("/api/types/x", {"schema": {"required": ["a"]}})).status == 200
        assert [kind["name"] for kind in (await other.alice.get("/api/types"))["types"]] == ["default", "x"]


async def test_without_nats_it_says_503_and_when_to_come_again(processes: Processes, nats: NatsServer) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url)
    async with clients_of((await api.logged("ready"))["url"]) as service:
        task_id = await service.alice.submit({"payload": {}})

        nats.kill()

        refused, read, ready = await asyncio.gather(
            service.alice.post("/api/task", {"payload": {"n": 2}}, headers={"Idempotency-Key": "k"}),
            service.alice.get(f"/api/task/{task_id}"),
            service.alice.get("/health/ready"),
        )
        assert (refused.status, read.status, ready.status) == (503, 503, 503)
        for answer in (refused, read):
            assert int(answer.headers["Retry-After"]) > 0
            assert answer["error"]
        assert (await service.alice.get("/health/live")).status == 200

        nats.start()

        async def ready_again() -> bool:
            return (await service.alice.get("/health/ready")).status == 200

        await wait_until(ready_again, "the API to be ready again")
        again = await service.alice.post("/api/task", {"payload": {"n": 2}}, headers={"Idempotency-Key": "k"})
        assert again.status == 200
        assert (await service.alice.details(task_id))["status"] == "WAITING"


async def test_a_rebuild_beside_a_running_worker_finds_no_difference(
    processes: Processes, nats: NatsServer, backend: BackendServer
) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url)
    processes.start("worker", "--nats-url", nats.url)
    async with clients_of((await api.logged("ready"))["url"]) as service:
        await service.admin.register(backend, "echo")
        tasks = [await service.alice.submit({"payload": {"n": n}}) for n in range(30)]
        await all_end(service.alice, len(tasks))

        async def projected() -> bool:
            return (await service.alice.get("/health/ready"))["projection_lag_events"] == 0

        await wait_until(projected, "the projection to be current")
        rebuild = processes.start("rebuild", "--nats-url", nats.url)

        assert await rebuild.ended() == 0
        said = rebuild.log.read_text()
        assert said.count("no differences") == 3, said
        events = [len(await service.alice.history(task_id)) for task_id in tasks]
        assert f"{sum(events)} events" in said, said
        after = await service.alice.submit({"payload": {"n": -1}})
        await service.alice.ended(after)
        assert (await service.alice.get("/api/tasks?limit=1"))["tasks"][0]["id"] == after
