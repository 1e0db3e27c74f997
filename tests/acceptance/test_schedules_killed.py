"""Workers are killed while schedules fall due every second: nothing fires twice, nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskstream.container import open_container
from taskstream.events.codec import schedule_codec
from taskstream.events.schedule import Run, ScheduleFired
from taskstream.events.subjects import schedule_ref
from taskstream.streams.jetstream.messages import read
from taskstream.streams.log import decode
from taskstream.streams.topology.definitions import SCHEDULES, TIMERS
from testkit.nats import NatsServer
from testkit.processes import Process, Processes, clients_of
from testkit.service import Client, ServiceClients, quick_settings
from testkit.waiting import wait_until

COUNT = 12
PATIENT = {"cron": "* * * * * *", "task": {"payload": {}}, "missed": "catch_up", "catchUp": 100}


async def create(client: Client, **more: Any) -> str:
    answer = await client.post("/api/schedules", {**PATIENT, **more})
    assert answer.status == 200, answer
    return str(answer["id"])


async def fired_of(client: Client, schedule_id: str) -> int:
    answer = await client.get(f"/api/schedules/{schedule_id}")
    assert answer.status == 200, answer
    return int(answer["counts"]["fired"])


async def fired_more(client: Client, ids: list[str], more: int) -> None:
    """Wait until each of these has fired so often again."""
    before = {schedule_id: await fired_of(client, schedule_id) for schedule_id in ids}

    async def look() -> bool:
        return all([await fired_of(client, schedule_id) >= before[schedule_id] + more for schedule_id in ids])

    await wait_until(look, f"{more} more runs of each")


async def pause_all(client: Client, ids: list[str]) -> None:
    for schedule_id in ids:
        assert (await client.post(f"/api/schedules/{schedule_id}/pause")).status == 200


async def tasks_by_schedule(client: Client) -> dict[str, list[str]]:
    """Return the ids of all tasks, by the schedule that submitted each."""
    found: dict[str, list[str]] = {}
    for page in await client.pages("/api/tasks", "tasks", "limit=200"):
        histories = await asyncio.gather(*(client.history(task["id"]) for task in page))
        for task, history in zip(page, histories, strict=True):
            found.setdefault(history[0]["schedule"], []).append(task["id"])
    return found


async def fired_runs(url: str) -> dict[str, list[Run]]:
    """Return the runs of each schedule, as its log has them."""
    async with await open_container(quick_settings(), url, durability="always") as container:
        runs: dict[str, list[Run]] = {}
        for position in await read(container.reading, SCHEDULES, "schedule.*.*.schedule_fired"):
            event = decode(schedule_codec, position).recorded.event
            assert isinstance(event, ScheduleFired)
            runs.setdefault(schedule_ref(position.subject).id, []).extend(event.runs)
        return runs


async def until_due(url: str, is_so: Callable[[int], bool], what: str) -> None:
    """Wait until the number of due timers of schedules is as wanted."""
    async with await open_container(quick_settings(), url, durability="always") as container:

        async def look() -> bool:
            return is_so(len(await read(container.reading, TIMERS, "due.schedule.>")))

        await wait_until(look, what)


def assert_each_second_once(runs: dict[str, list[Run]], tasks: dict[str, list[str]], ids: list[str]) -> None:
    for schedule_id in ids:
        seconds = [int(run.occurrence.timestamp()) for run in runs[schedule_id]]
        assert seconds == list(range(seconds[0], seconds[0] + len(seconds)))
        assert sorted(tasks[schedule_id]) == sorted(run.task_id for run in runs[schedule_id])


async def test_of_two_workers_either_may_be_killed(processes: Processes, nats: NatsServer) -> None:
    def worker() -> Process:
        return processes.start("worker", "--nats-url", nats.url)

    api = processes.start("api", "--nats-url", nats.url)
    workers = [worker(), worker()]
    for one in workers:
        await one.logged("worker.started")
    async with clients_of((await api.logged("ready"))["url"]) as service:
        ids = [await create(service.alice) for _ in range(COUNT)]
        await fired_more(service.alice, ids, 1)
        for _ in range(2):
            workers.pop(0).kill()
            await fired_more(service.alice, ids, 1)
            workers.append(worker())
            await workers[-1].logged("worker.started")
        for one in workers:
            one.kill()
        await until_due(nats.url, lambda due: due >= COUNT, "all schedules to fall due")
        await worker().logged("worker.started")
        await fired_more(service.alice, ids, 3)

        await all_is_well(service, nats.url, ids)


async def test_nothing_is_lost_when_all_of_it_is_killed(processes: Processes) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        ids = [await create(service.alice) for _ in range(COUNT)]
        await fired_more(service.alice, ids, 1)

        for _ in range(2):
            up.kill_all()
            up = await processes.up(up.port)
            await fired_more(service.alice, ids, 2)

        await all_is_well(service, up.nats_url, ids)


async def test_what_is_restored_from_a_backup_goes_on(processes: Processes, tmp_path: Path) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        ids = [await create(service.alice) for _ in range(COUNT)]
        await fired_more(service.alice, ids, 1)
        backup = processes.start("backup", str(tmp_path / "backup"), "--data-dir", str(up.data))
        assert await backup.ended() == 0, backup.tail()
        up.kill_all()

        processes.folder = tmp_path / "elsewhere"
        processes.folder.mkdir()
        restore = processes.start("restore", str(tmp_path / "backup"), "--data-dir", str(processes.folder / "data"))
        assert await restore.ended() == 0, restore.tail()
        assert f", schedules: {COUNT}, " in restore.tail()
        up = await processes.up(up.port)
        await fired_more(service.alice, ids, 2)

        await all_is_well(service, up.nats_url, ids)


async def all_is_well(service: ServiceClients, url: str, ids: list[str]) -> None:
    await pause_all(service.alice, ids)
    await until_due(url, lambda due: not due, "the workers to have dealt with what was due")
    assert_each_second_once(await fired_runs(url), await tasks_by_schedule(service.alice), ids)
