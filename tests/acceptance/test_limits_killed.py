"""Two APIs and two workers, each killed in turn under shared limits: none is exceeded, and every task ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import Any

import aiohttp
from aiohttp import web

from testkit.backend import BackendServer, finished
from testkit.nats import NatsServer
from testkit.processes import Process, Processes, all_end, clients_of, legal
from testkit.service import ServiceClients
from testkit.waiting import POLL_SECONDS, wait_until

TASKS = 140
KILLS = 4
CALL_SECONDS = 0.2
OWNER_LIMIT = 5
LIMITS = {"limited": 2, "a": 1, "b": 1}
"""Of the type, and of each concurrency key."""
KILL_AFTER_CALLS = 5
"""Calls of the backend between one kill and the next."""


class Counted(BackendServer):
    """Counts how many run at once in all, and of each group that a payload names."""

    def __init__(self) -> None:
        super().__init__(self.work)
        self.running_of: Counter[str] = Counter()
        self.most_of: Counter[str] = Counter()

    async def work(self, _: BackendServer, task: dict[str, Any], __: web.Request) -> web.StreamResponse:
        group = task["request"]["group"]
        self.running_of[group] += 1
        self.most_of[group] = max(self.most_of[group], self.running_of[group])
        try:
            while self.most_of[group] < LIMITS.get(group, 0):  # the limit is reached, however slowly tasks come
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(CALL_SECONDS)
            return web.json_response(finished(task, {}))
        finally:
            self.running_of[group] -= 1


def body(number: int) -> dict[str, Any]:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("limited", {"type": "limited"}),
        ("a", {"type": "keyed", "concurrencyKey": "a"}),
        ("b", {"type": "keyed", "concurrencyKey": "b"}),
        ("free", {}),
    ]
    group, more = kinds[number % len(kinds)]
    return {"payload": {"group": group}, "attempts": 10, **more}


class Service:
    """Two of each, of which one at a time is killed and started again."""

    def __init__(self, processes: Processes, nats: NatsServer) -> None:
        self._processes = processes
        self._nats = nats
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.doors: list[ServiceClients] = []
        """Of the APIs, in the same order."""
        self.stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        self.apis.append(await self._api())
        self.apis.append(await self._api())
        self.workers += [await self._worker(), await self._worker()]

    async def kill_api(self) -> None:
        self.apis.pop(0).kill()
        self.doors.pop(0)
        self.apis.append(await self._api())

    async def kill_worker(self) -> None:
        self.workers.pop(0).kill()
        self.workers.append(await self._worker())

    async def submit(self, number: int) -> str:
        """Submit a task at either API in turn, until one accepts it."""
        turns = itertools.count(number)

        async def accepted() -> str:
            client = self.doors[next(turns) % len(self.doors)].alice
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                answer = await client.post("/api/task", body(number), headers={"Idempotency-Key": f"task {number}"})
                if answer.status == 200:
                    return str(answer["taskId"])
            return ""

        return await wait_until(accepted, f"task {number} to be accepted")

    async def _api(self) -> Process:
        running = self._processes.start("api", "--nats-url", self._nats.url)
        url = (await running.logged("ready"))["url"]
        self.doors.append(await self.stack.enter_async_context(clients_of(url)))
        return running

    async def _worker(self) -> Process:
        running = self._processes.start("worker", "--nats-url", self._nats.url)
        await running.logged("worker.started")
        return running


async def test_no_limit_is_exceeded_whichever_of_them_is_killed(processes: Processes, nats: NatsServer) -> None:
    service = Service(processes, nats)
    async with Counted() as backend, service.stack:
        await service.start()
        admin = service.doors[0].admin
        assert (
            await admin.put("/api/types/limited", {"pool": "default", "concurrency": LIMITS["limited"]})
        ).status == 200
        assert (await admin.put("/api/types/keyed", {"pool": "default"})).status == 200
        assert (await admin.put("/api/owners/alice/limits", {"concurrency": OWNER_LIMIT})).status == 200
        await admin.register(backend, "only", maxConcurrent=20)

        async with asyncio.TaskGroup() as group:
            submitting: list[asyncio.Task[str]] = []
            for kill in (service.kill_worker, service.kill_api, service.kill_worker, service.kill_api):
                # Not all at once: they could end before a process that was killed is back.
                numbers = range(len(submitting), len(submitting) + TASKS // KILLS)
                submitting += [group.create_task(service.submit(number)) for number in numbers]
                calls = len(backend.calls) + KILL_AFTER_CALLS
                await wait_until(lambda calls=calls: len(backend.calls) >= calls, "more calls")  # type: ignore[misc]
                await kill()
        tasks = [one.result() for one in submitting]
        await all_end(service.doors[0].alice, TASKS)

        for task_id in tasks:
            await legal(service.doors[0].alice, task_id)
    assert len(set(tasks)) == TASKS
    assert backend.most_at_once <= OWNER_LIMIT
    assert {group: backend.most_of[group] for group in LIMITS} == LIMITS
    assert max(Counter((call["task_id"], call["attempt"]) for call in backend.calls).values()) == 1
