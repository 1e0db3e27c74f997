"""The whole of `taskstream up` is killed or ended under load, and started again on the same folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from testkit.backend import BackendServer, hold
from testkit.load import Load, report_later, work
from testkit.processes import Processes, Up, all_end, clients_of, legal
from testkit.service import Client
from testkit.waiting import wait_until

TASKS = 300


async def check_load(client: Client, load: Load) -> None:
    """Check that each acknowledged task succeeded once, with its own result, by a legal history."""
    await all_end(client, load.count)
    assert len(set(load.acknowledged.values())) == load.count, "one task for each key"
    gate = asyncio.Semaphore(16)

    async def check(number: int, task_id: str) -> None:
        async with gate:
            end = (await legal(client, task_id))[-1]
            assert end["type"] == "TaskSucceeded", end
            assert end["result"]["inline"]["data"] == {"number": number}

    await asyncio.gather(*(check(number, task_id) for number, task_id in load.acknowledged.items()))


@contextlib.asynccontextmanager
async def under_load(
    processes: Processes, backend: BackendServer, count: int = TASKS, **settings: str
) -> AsyncIterator[tuple[Up, Load]]:
    """Run a service with a server that answers and one that reports, under load; check the load after the block."""
    backend.answer = work()
    async with BackendServer(report_later) as patient:
        up = await processes.up(**settings)
        async with clients_of(up.url) as service:
            await service.admin.register(backend, "quick")
            await service.admin.register(patient, "patient", **{"async": True, "callback": True})
            load = Load(service.alice, count)
            submitting = asyncio.create_task(load.run())
            yield up, load
            await submitting
            await check_load(service.alice, load)


async def acknowledged(load: Load, count: int) -> dict[int, str]:
    """Wait for so many acknowledged tasks; return them by number."""
    await wait_until(lambda: len(load.acknowledged) >= count, f"{count} acknowledged tasks")
    return dict(load.acknowledged)


async def test_no_acknowledged_task_is_lost_and_each_ends_once(processes: Processes, backend: BackendServer) -> None:
    promised: dict[int, str] = {}
    async with under_load(processes, backend) as (up, load):
        for part in (TASKS // 6, TASKS // 2):
            promised = await acknowledged(load, part)

            up.kill_all()

            await up.serve()
        await acknowledged(load, TASKS)
        for number, task_id in promised.items():
            assert load.acknowledged[number] == task_id
            answer = await load.again(number)
            assert (answer.status, answer["taskId"]) == (200, task_id)  # repeating makes no further task


async def test_nats_alone_is_started_again_and_nothing_is_lost(processes: Processes, backend: BackendServer) -> None:
    async with under_load(processes, backend) as (up, load):
        for part in (TASKS // 6, TASKS // 2):
            await acknowledged(load, part)
            killed = up.nats_pid

            up.kill_nats()

            await wait_until(lambda killed=killed: up.nats_pid not in (None, killed), "another nats-server")
    assert load.lost == 0
    assert all(status == 503 and "Retry-After" in headers for status, headers in load.refused)
    assert up.pid


async def test_a_graceful_end_hands_back_what_takes_too_long(processes: Processes, backend: BackendServer) -> None:
    backend.answer = work(0.1)
    async with BackendServer(hold) as slow:
        up = await processes.up()
        async with clients_of(up.url) as service:
            await service.admin.register(backend, "quick", types=["default"])
            await service.admin.register(slow, "slow", types=["long"])
            long = [await service.alice.submit({"type": "long", "payload": {}}) for _ in range(3)]
            load = Load(service.alice, TASKS)
            submitting = asyncio.create_task(load.run())
            await wait_until(lambda: len(slow.calls) == 3 and len(load.acknowledged) > TASKS // 3, "calls under way")

            up.terminate()

            assert await up.ended() == 0
            assert slow.broken_off == 3
            up = await processes.up(up.port)
            await wait_until(lambda: len(slow.calls) == 6, "the long ones to be called again")
            slow.let_go.set()
            await submitting
            await all_end(service.alice, load.count + len(long))
            for task_id in long:
                types = [event["type"] for event in await legal(service.alice, task_id)]
                assert types == [
                    "TaskSubmitted",
                    "AttemptStarted",
                    "AttemptReturned",
                    "AttemptStarted",
                    "TaskSucceeded",
                ]
            for task_id in load.acknowledged.values():
                failed = [event for event in await legal(service.alice, task_id) if event["type"] == "AttemptFailed"]
                assert not failed


async def test_what_was_done_is_not_done_again(processes: Processes, backend: BackendServer) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "echo")
        done = [await service.alice.submit({"payload": {"n": n}}) for n in range(40)]
        await all_end(service.alice, len(done))

        up.kill_all()

        up = await processes.up(up.port)
        # What came back into the queue would be before this one.
        last = await service.alice.submit({"payload": {"n": -1}})
        await service.alice.ended(last)
        for task_id in done:
            await legal(service.alice, task_id)
    assert Counter(call["task_id"] for call in backend.calls) == Counter([*done, last])
