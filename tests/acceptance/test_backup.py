"""A backup is taken under load, everything is killed, and the service goes on from the restored data elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from taskstream.backup.folder import read_manifest
from taskstream.streams.client.connection import open_connection
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, accept, echo, finished, hold, status
from testkit.histories import whole_log
from testkit.load import Load, work
from testkit.processes import Processes, Up, all_end, clients_of, legal
from testkit.service import Client, ServiceClients
from testkit.sse import opened, sequence_of
from testkit.waiting import wait_until

LOAD = 400
LARGE = {"text": "x" * 700_000}
IMAGE = b"\x89PNG\xff" * 100_000


async def large(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    return web.json_response(finished(task, LARGE))


async def image(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    return web.Response(body=IMAGE, content_type="image/png")


async def log_of(up: Up) -> list[Position]:
    """Return the whole log of tasks of a running `up`."""
    connection = await open_connection(up.nats_url, "test")
    try:
        return await whole_log(connection)
    finally:
        await connection.close()


def upto(log: list[Position], last: int) -> list[Position]:
    """Return a log up to a sequence."""
    return [position for position in log if position.sequence <= last]


async def done(processes: Processes, *arguments: str) -> str:
    """Run a command to its end, which must be a good one; return what it printed."""
    command = processes.start(*arguments)
    assert await command.ended() == 0, command.tail()
    return command.tail()


@pytest.fixture
async def backends() -> AsyncIterator[dict[str, BackendServer]]:
    """Servers by name, which is also the type of task each serves."""
    answers = {
        "default": work(),
        "large": large,
        "image": image,
        "reported": accept,
        "slow": hold,
        "flaky": status(503, headers={"Retry-After": "5"}),
    }
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(BackendServer(answer)) for name, answer in answers.items()}


async def register(service: ServiceClients, backends: dict[str, BackendServer]) -> None:
    for name, backend in backends.items():
        more: dict[str, Any] = {"async": True, "callback": True} if name == "reported" else {}
        await service.admin.register(backend, name, types=[name], apiKey=f"key of {name}", **more)


async def begin(service: ServiceClients, backends: dict[str, BackendServer]) -> dict[str, str]:
    """Return tasks in every state that a backup may meet: ended, in a call, accepted, waiting for a busy server."""
    alice = service.alice
    tasks = {name: await alice.submit({"type": name, "payload": {}}) for name in ("large", "image")}
    for task_id in tasks.values():
        await alice.ended(task_id)
    tasks["reported"] = await alice.submit({"type": "reported", "payload": {}})
    await wait_until(lambda: len(backends["reported"].calls) == 1, "the call that will be reported on")
    tasks["unreported"] = await alice.submit({"type": "reported", "payload": {}, "timeout": 6})
    tasks["slow"] = await alice.submit({"type": "slow", "payload": {}})
    tasks["flaky"] = await alice.submit({"type": "flaky", "payload": {}})
    last = {
        "reported": "AttemptAccepted",
        "unreported": "AttemptAccepted",
        "slow": "AttemptStarted",
        "flaky": "AttemptReturned",
    }

    async def are_there() -> bool:
        return all([(await alice.history(tasks[name]))[-1]["type"] == kind for name, kind in last.items()])

    await wait_until(are_there, "a task in each state")
    return tasks


async def test_a_backup_under_load_is_restored_with_all_that_was_acknowledged(
    processes: Processes, tmp_path: Path, backends: dict[str, BackendServer]
) -> None:
    folder = tmp_path / "backup"
    up = await processes.up()
    async with clients_of(up.url) as service:
        await register(service, backends)
        tasks = await begin(service, backends)
        load = Load(service.alice, LOAD)
        submitting = asyncio.create_task(load.run())
        await wait_until(lambda: len(load.acknowledged) > LOAD // 4, "some of the load")
        promised = dict(load.acknowledged)

        await done(processes, "backup", str(folder), "--data-dir", str(up.data))

        await submitting
        original = await log_of(up)
        up.kill_all()

    processes.folder = tmp_path / "elsewhere"
    processes.folder.mkdir()
    told = await done(processes, "restore", str(folder), "--data-dir", str(processes.folder / "data"))
    for name in ("reported", "slow", "flaky"):
        backends[name].answer = echo
    backends["slow"].let_go.set()
    up = await processes.up(up.port)  # the same port: the call that is still to be reported on was told it
    async with clients_of(up.url) as service:
        last = read_manifest(folder).part(TASKS).last_sequence
        submitted = sum(".submitted." in event.subject for event in original if event.sequence <= last)
        assert f"tasks: {submitted}," in told
        reported = backends["reported"]
        assert (await reported.report(reported.calls[0], "FINISHED", data={"n": 1}))[0] == 200
        await all_end(service.alice, submitted)

        assert upto(await log_of(up), last) == upto(original, last), "the same events at the same sequences"
        await check_ends(service, tasks, promised)
        servers = (await service.admin.get("/api/servers"))["servers"]
        assert sorted(server["id"] for server in servers) == sorted(backends)
        for name, backend in backends.items():
            assert {headers["Authorization"] for headers in backend.headers} == {f"Bearer key of {name}"}

        # What came after the backup is not there; whoever submits under a key can do so again.
        load.client = service.alice
        for number in set(range(LOAD)) - set(promised):
            assert (await load.again(number)).status == 200
        await all_end(service.alice, LOAD + len(tasks))
        assert (await done(processes, "rebuild", "--nats-url", up.nats_url)).count("no differences") == 3


async def check_ends(service: ServiceClients, tasks: dict[str, str], promised: dict[int, str]) -> None:
    """See that each promised task has ended, once, by a legal history, and the others after the attempts they need."""
    for number, task_id in promised.items():
        end = (await legal(service.alice, task_id))[-1]
        assert end["result"]["inline"]["data"] == {"number": number}
    for name, attempts in {"large": 1, "image": 1, "reported": 1, "unreported": 2, "slow": 2, "flaky": 2}.items():
        end = (await legal(service.alice, tasks[name]))[-1]
        assert end["type"] == "TaskSucceeded"
        assert end["attempt"] == attempts or (attempts == 2 and end["attempt"] > 2), end  # a slow machine took longer
    assert (await service.alice.details(tasks["large"]))["result"]["data"] == LARGE
    file = (await service.alice.details(tasks["image"]))["result"]["data"]["$ref"]
    alice = service.alice
    async with alice.session.get(alice.url + file, headers={"Authorization": f"Bearer {alice.bearer}"}) as response:
        assert (response.status, await response.read()) == (200, IMAGE)


async def test_without_a_service_the_data_folder_is_backed_up_all_the_same(
    processes: Processes, tmp_path: Path
) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        await service.alice.submit({"payload": {}})
    up.kill_all()
    await done(processes, "backup", str(tmp_path / "backup"), "--data-dir", str(up.data))
    told = await done(processes, "restore", "--check", str(tmp_path / "backup"))
    assert "tasks: 1, of which 1 have not ended" in told


class Follower:
    """A client that comes with an id, until it has an event of a task."""

    def __init__(self, client: Client, last: str, task_id: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._client = client
        self._last = last
        self._task_id = task_id

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.heard]

    async def over_sse(self, path: str) -> Self:
        async with asyncio.timeout(60), opened(self._client, path, self._last, with_reached=True) as stream:
            async for sent in stream:
                if self._has_heard(sent.data | {"id": sent.id}):
                    break
        return self

    async def over_websocket(self, **scope: Any) -> Self:
        headers = {"Authorization": f"Bearer {self._client.bearer}"}
        url = f"{self._client.url}/ws"
        async with asyncio.timeout(60), self._client.session.ws_connect(url, headers=headers) as socket:
            await socket.send_json({"type": "subscribe", "after": self._last, **scope})
            await socket.receive_json()
            async for message in socket:
                if self._has_heard(message.json()):
                    break
        return self

    def _has_heard(self, message: dict[str, Any]) -> bool:
        self.heard.append(message)
        return message.get("taskId") == self._task_id and message["type"] != "state"


async def test_after_a_restore_a_client_with_an_id_of_the_former_log_misses_nothing(
    processes: Processes, tmp_path: Path
) -> None:
    """Past the end, or below the end and of what was lost; an id from before the backup goes on."""
    up = await processes.up()
    async with clients_of(up.url) as service:
        batch = await service.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}])
        task_id = batch["taskIds"][1]

        async def id_of(task_id: str) -> str:
            heard = (await Follower(service.alice, "0", task_id).over_sse("/api/tasks/stream")).heard
            return str(heard[-1]["id"])

        kept = await id_of(task_id)
        await done(processes, "backup", str(tmp_path / "backup"), "--data-dir", str(up.data))
        lost = [await service.alice.submit({"payload": number}) for number in range(10)]
        below_end, past_end = await id_of(lost[0]), await id_of(lost[-1])
        up.kill_all()

    processes.folder = tmp_path / "elsewhere"
    processes.folder.mkdir()
    await done(processes, "restore", str(tmp_path / "backup"), "--data-dir", str(processes.folder / "data"))
    up = await processes.up()
    async with clients_of(up.url) as service:
        alice = service.alice
        for place in range(3):  # the restored log passes one of the ids
            await alice.submit({"payload": f"new {place}"})
        assert sequence_of(below_end) < (await log_of(up))[-1].sequence < sequence_of(past_end)
        followers: dict[str, list[Follower]] = {}
        following = []
        for last in (kept, below_end, past_end):
            of_last = followers[last] = [Follower(alice, last, task_id) for _ in range(6)]
            for path in ("tasks", f"task/{task_id}", f"batches/{batch['batchId']}"):
                following.append(of_last[len(following) % 6].over_sse(f"/api/{path}/stream"))
            for scope in ({"all": True}, {"task": task_id}, {"batch": batch["batchId"]}):
                following.append(of_last[len(following) % 6].over_websocket(**scope))
        running = asyncio.gather(*following)
        everybody = [follower for of_last in followers.values() for follower in of_last]
        await wait_until(lambda: running.done() or all(follower.heard for follower in everybody), "all to be answered")
        await alice.done("POST", f"/api/task/{task_id}/cancel")
        await running

    assert {follower.types[-1] for follower in everybody} == {"TaskCancelled"}
    for follower in followers[kept]:
        assert not {"reset", "state"} & set(follower.types)
    for follower in followers[below_end] + followers[past_end]:
        assert follower.types[0] == "reset"
        states = [message["taskId"] for message in follower.heard if message["type"] == "state"]
        assert task_id in states
