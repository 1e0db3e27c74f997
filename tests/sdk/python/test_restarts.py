"""The Python client over kills and restarts of the service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp

from taskstream_client import AsyncClient, Ended, Progress
from testkit.backend import BackendServer, finished, hold, reporting
from testkit.processes import Processes, clients_of
from testkit.service import token
from testkit.waiting import wait_until

PIECES = 120
KILLS = 3


async def test_a_stream_over_kills_of_the_service_has_all_and_nothing_twice(
    processes: Processes, backend: BackendServer
) -> None:
    """Reports go on while the service is down: the server sends each until it is taken."""
    go_on = asyncio.Semaphore(0)

    async def work(server: BackendServer, task: dict[str, Any]) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {task['callback_token']}"}) as session:
            for number in range(PIECES):
                await go_on.acquire()
                report = {"status": "PROCESSING", "progress": 100 * number / PIECES, "output": f"{number} "}
                await _sent(session, task["callback_url"], {"metadata": report})
            await _sent(session, task["callback_url"], finished(task, {"pieces": PIECES}))

    backend.answer = reporting(work)
    up = await processes.up()
    async with clients_of(up.url) as clients:
        await clients.admin.register(backend, "one", **{"async": True, "callback": True})
    seen: list[Any] = []

    async def follow(client: AsyncClient, task_id: str) -> None:
        async for update in client.stream(task_id, after="0"):
            seen.append(update)  # noqa: PERF401 - the test looks at it meanwhile

    def output() -> str:
        return "".join(each.output for each in seen if isinstance(each, Progress))

    async with AsyncClient(up.url, token("alice")) as client:
        task = await client.submit("shout", {})
        following = asyncio.create_task(follow(client, task.id))
        waiting = asyncio.create_task(client.wait(task.id))
        for kill in range(1, KILLS + 1):
            until = PIECES * kill // (KILLS + 1)
            for _ in range(until - len(output().split())):
                go_on.release()
            await wait_until(lambda until=until: len(output().split()) >= until, f"{until} pieces")  # type: ignore[misc]
            up.kill_all()
            await up.serve()
        for _ in range(PIECES):
            go_on.release()
        await following
        ended = await waiting

    assert output().split() == [str(number) for number in range(PIECES)]
    places = [update.sequence for update in seen if getattr(update, "sequence", None) is not None]
    assert places == sorted(set(places))
    assert isinstance(seen[-1], Ended)
    assert ended.data == {"pieces": PIECES}


async def _sent(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.put(url, json=body) as answer:
                if answer.status < 500:
                    assert answer.status == 200, await answer.text()
                    return
        await asyncio.sleep(0.02)


async def test_submissions_over_a_kill_are_each_stored_once(processes: Processes) -> None:
    up = await processes.up()
    async with AsyncClient(up.url, token("alice")) as client:
        tasks = [asyncio.create_task(client.submit("shout", {"n": n}, delay=3600)) for n in range(60)]
        await wait_until(lambda: any(each.done() for each in tasks), "a first answer")
        up.kill_all()
        await up.serve()
        submitted = [task.id for task in await asyncio.gather(*tasks)]

        assert sorted([task.id async for task in client.tasks.list()]) == sorted(submitted)


async def test_run_waits_over_a_restart_of_the_service(processes: Processes, backend: BackendServer) -> None:
    backend.answer = hold
    up = await processes.up()
    async with clients_of(up.url) as clients:
        await clients.admin.register(backend, "one")
    async with AsyncClient(up.url, token("alice")) as client:
        run = asyncio.create_task(client.run("shout", {}))
        await wait_until(lambda: backend.running, "the call")
        up.kill()
        await up.serve()
        backend.let_go.set()

        assert await run == {"held": True}
