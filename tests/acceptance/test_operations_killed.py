"""API processes are killed while an operation runs: each task gets its command once, and the counts are right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from taskstream.container import open_container
from taskstream.streams.jetstream.messages import read
from taskstream.streams.topology.definitions import TASKS
from taskstream.streams.topology.epochs import read_extent
from testkit.nats import NatsServer
from testkit.processes import Process, Processes, clients_of
from testkit.service import Client, ServiceClients, quick_settings
from testkit.waiting import wait_until

TASKS_SUBMITTED = 2_400
BATCH = 400


async def submitted(client: Client, count: int = TASKS_SUBMITTED) -> list[str]:
    """Submit tasks that no server runs; return their ids."""
    ids: list[str] = []
    while len(ids) < count:
        answer = await client.done("POST", "/api/tasks/batch", [{"payload": {}}] * min(BATCH, count - len(ids)))
        ids += answer["taskIds"]
    return ids


async def events_by_cause(url: str, word: str) -> Counter[tuple[str, str]]:
    """Return how many events of a kind each task has, by the cause of the events."""
    async with await open_container(quick_settings(), url, durability="always") as container:
        found = await read(container.reading, TASKS, f"task.*.*.{word}.>")
        return Counter((position.subject.split(".")[2], json.loads(position.data)["cause"]) for position in found)


async def last_event(url: str) -> int:
    """Return the sequence of the last event of the log."""
    async with await open_container(quick_settings(), url, durability="always") as container:
        return (await read_extent(container.reading)).last


async def appended(url: str, sequence: int) -> None:
    """Wait until the log has this sequence: an operation that appends is in the middle of a page then."""
    async with await open_container(quick_settings(), url, durability="always") as container:

        async def look() -> bool:
            return (await read_extent(container.reading)).last >= sequence

        await wait_until(look, f"the event {sequence}")


async def test_of_two_apis_either_may_be_killed_in_the_middle(processes: Processes, nats: NatsServer) -> None:
    async def api() -> tuple[Process, ServiceClients, Any]:
        process = processes.start("api", "--nats-url", nats.url)
        context = clients_of((await process.logged("ready"))["url"])
        return process, await context.__aenter__(), context

    running = [await api(), await api()]
    try:
        ids = await submitted(running[0][1].alice)
        before = await last_event(nats.url)
        started = await running[0][1].alice.done(
            "POST", "/api/operations", {"action": "cancel", "filter": {"type": ["default"]}}
        )
        for kill in range(4):
            await appended(nats.url, before + 60 + 300 * kill)
            process, _, context = running.pop(0)
            process.kill()
            await context.__aexit__(None, None, None)
            running.append(await api())
        done = await running[0][1].alice.until(
            f"/api/operations/{started['id']}", lambda body: body["state"] == "done", "the end"
        )
    finally:
        for _, _, context in running:
            await context.__aexit__(None, None, None)

    counts = {name: value for name, value in done["counts"].items() if name != "refused"}
    assert counts == {"matched": len(ids), "done": len(ids), "unchanged": 0}
    cause = f"operation:{started['id']}"
    expected = {(task_id.partition("~")[0], cause): 1 for task_id in ids}
    assert await events_by_cause(nats.url, "cancelled") == expected


async def test_all_of_it_is_killed_and_a_retry_goes_on(processes: Processes) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        ids = await submitted(service.alice, 1_200)
        cancel = await service.alice.done(
            "POST", "/api/operations", {"action": "cancel", "filter": {"type": ["default"]}}
        )
        await service.alice.until(f"/api/operations/{cancel['id']}", lambda body: body["state"] == "done", "the cancel")
        before = await last_event(up.nats_url)
        retry = await service.alice.done(
            "POST", "/api/operations", {"action": "retry", "filter": {"status": ["CANCELLED"]}}
        )
        for kill in range(2):
            await appended(up.nats_url, before + 60 + 300 * kill)
            up.kill_all()
            up = await processes.up(up.port)
        done = await service.alice.until(
            f"/api/operations/{retry['id']}", lambda body: body["state"] == "done", "the end"
        )

        assert (done["counts"]["done"], done["counts"]["refused"]) == (len(ids), [])
        found = await events_by_cause(up.nats_url, "queued")
    cause = f"operation:{retry['id']}"
    assert {each: count for each, count in found.items() if each[1] == cause} == {
        (task_id.partition("~")[0], cause): 1 for task_id in ids
    }


async def test_an_operation_is_paused_by_a_restore(processes: Processes, tmp_path: Path) -> None:
    """What it did may be why there is a restore."""
    up = await processes.up()
    async with clients_of(up.url) as service:
        await submitted(service.alice, 800)
        started = await service.alice.done(
            "POST", "/api/operations", {"action": "delete", "filter": {"type": ["default"]}}
        )
        await service.alice.done("POST", f"/api/operations/{started['id']}/pause", {})
        await service.alice.done("POST", f"/api/operations/{started['id']}/resume")
        up.kill_all()
        backup = processes.start("backup", str(tmp_path / "backup"), "--data-dir", str(up.data))
        assert await backup.ended() == 0, backup.tail()

        processes.folder = tmp_path / "elsewhere"
        processes.folder.mkdir()
        restore = processes.start("restore", str(tmp_path / "backup"), "--data-dir", str(processes.folder / "data"))
        assert await restore.ended() == 0, restore.tail()
        up = await processes.up(up.port)
        found = await service.alice.done("GET", f"/api/operations/{started['id']}")

    assert found["state"] in {"pausing", "paused"}
    assert "restored from a backup" in found["stateReason"]
