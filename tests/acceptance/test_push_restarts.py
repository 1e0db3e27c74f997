"""Clients cut off at random, from an API that is killed again and again, miss no event and receive none twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from testkit.backend import BackendServer, accept
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.service import Client
from testkit.sse import opened
from testkit.waiting import wait_until

CUTS = 50
KILLS = 4
TASKS = 150
REPORTS = 250
MOST_AT_ONCE = 9
"""Events a client takes before it breaks off, at most."""
PATIENCE_SECONDS = 200.0

Event = dict[str, Any]


class Follower(ABC):
    """A client that follows all of its tasks, and comes again after the last id it had."""

    def __init__(self, client: Client, last: str, chance: random.Random) -> None:
        self.client = client
        self.last = last
        self.chance = chance
        self.events: list[Event] = []
        self.cuts = 0

    @abstractmethod
    def connected(self) -> AsyncIterator[tuple[str, Event]]:
        """Yield ids and events, for as long as a connection lasts."""

    @property
    def steps(self) -> list[tuple[int, str, str]]:
        """Events but for progress, of which the log has fewer than are pushed."""
        return [
            (event["sequence"], event["type"], event["taskId"])
            for event in self.events
            if event["type"] != "ProgressReported"
        ]

    @property
    def output(self) -> str:
        return "".join(event["event"].get("output", "") for event in self.events if event["type"] == "ProgressReported")

    @property
    def ended(self) -> int:
        return sum(event["type"] == "TaskSucceeded" for event in self.events)

    async def run(self, tasks: int, output: int) -> None:
        """Follow until so many tasks have ended and so much output is there, and it has been cut off often enough."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.ended < tasks or len(self.output) < output or self.cuts < CUTS:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with asyncio.timeout(self.chance.uniform(0.1, 0.5)):
                        await self._take(self.chance.randrange(MOST_AT_ONCE))
                self.cuts += 1

    async def _take(self, count: int) -> None:
        async with contextlib.aclosing(self.connected()) as pushed:  # type: ignore[type-var]
            while count:
                self.last, event = await anext(pushed)
                if event:
                    self.events.append(event)
                    count -= 1


class OverSse(Follower):
    async def connected(self) -> AsyncIterator[tuple[str, Event]]:
        async with opened(self.client, "/api/tasks/stream", last=self.last, with_reached=True) as stream:
            async for sent in stream:
                yield sent.id, {} if sent.type == "reached" else sent.data
        raise aiohttp.ClientConnectionError


class OverWebSocket(Follower):
    async def connected(self) -> AsyncIterator[tuple[str, Event]]:
        headers = {"Authorization": f"Bearer {self.client.bearer}"}
        async with self.client.session.ws_connect(f"{self.client.url}/ws", headers=headers) as socket:
            await socket.send_json({"type": "subscribe", "all": True, "after": self.last})
            async for message in socket:
                event = message.json()
                if event["type"] == "reached":
                    yield event["id"], {}
                elif "id" in event:
                    yield event["id"], event
        raise aiohttp.ClientConnectionError


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_missed_and_nothing_is_told_twice(
    processes: Processes, nats: NatsServer, backend: BackendServer, seed: int
) -> None:
    chance = random.Random(seed)
    steady = processes.start("api", "--port", "0", "--nats-url", nats.url)
    followed = processes.start("api", "--port", "0", "--nats-url", nats.url)
    url, followed_url = [(await api.logged("ready"))["url"] for api in (steady, followed)]
    processes.start("worker", "--nats-url", nats.url, PUBLIC_URL=url)
    async with BackendServer(accept) as patient, clients_of(url) as service, clients_of(followed_url) as shaky:
        await service.admin.register(backend, "quick", types=["default"], maxConcurrent=8)
        await service.admin.register(patient, "patient", types=["long"], callback=True, **{"async": True})
        long = await service.alice.submit({"type": "long", "payload": 0})
        await wait_until(lambda: patient.calls, "the call")
        begun = (await service.alice.get(f"/api/task/{long}/events"))["events"]
        followers = [follower(shaky.alice, str(begun[0]["sequence"]), chance) for follower in (OverSse, OverWebSocket)]

        async def submit() -> list[str]:
            return [await service.alice.submit({"payload": number}) for number in range(TASKS)]

        async def report() -> None:
            for number in range(REPORTS):
                await patient.report(patient.calls[0], "PROCESSING", output=f"{number};")
            await patient.report(patient.calls[0], "FINISHED", data=1)

        async def kill() -> None:
            api = followed
            for number in range(KILLS):
                enough = (number + 1) * CUTS // (KILLS + 1)
                await wait_until(lambda enough=enough: min(f.cuts for f in followers) >= enough, "cuts")
                api.kill()
                api = processes.start("api", "--port", followed_url.rpartition(":")[2], "--nats-url", nats.url)
                await api.logged("ready")

        output = "".join(f"{number};" for number in range(REPORTS))
        running = [follower.run(TASKS + 1, len(output)) for follower in followers]
        ids, *_ = await asyncio.gather(submit(), report(), kill(), *running)
        expected = []
        for task_id in [*ids, long]:
            entries = (await service.alice.get(f"/api/task/{task_id}/events?limit=1000"))["events"]
            expected += [
                (entry["sequence"], entry["event"]["type"], task_id)
                for entry in entries
                if entry["event"]["type"] != "ProgressReported" and entry["sequence"] != begun[0]["sequence"]
            ]

    for follower in followers:
        assert follower.steps == sorted(expected)
        assert follower.output == output
        assert follower.cuts >= CUTS
