"""API and worker as users of NATS that may do what deploy/nats/permissions.conf says and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskstream.streams.client.access import Access
from taskstream.streams.client.connection import NotPermitted, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import TASKS
from taskstream.streams.topology.epochs import read_extent
from testkit.backend import BackendServer, hold, status
from testkit.load import report_later
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.queue_surface import MODEL
from testkit.receiver import HookReceiver
from testkit.service import ServiceClients
from testkit.sse import opened, received
from testkit.waiting import wait_until

PERMISSIONS = Path(__file__).parents[2] / "deploy" / "nats" / "permissions.conf"
PASSWORD = "of-the-tests"


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    for user in ("API", "WORKER", "SETUP"):
        monkeypatch.setenv(f"NATS_{user}_PASSWORD", PASSWORD)
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "permissions.conf").write_text(PERMISSIONS.read_text())
    server = NatsServer(tmp_path / "nats", "include ./permissions.conf")
    server.start()
    yield server
    server.stop()


def as_user(name: str, nats: NatsServer) -> dict[str, str]:
    return {
        "NATS_URL": nats.url,
        "NATS_USER": name,
        "NATS_PASSWORD": PASSWORD,
        "NATS_INBOX_PREFIX": f"_INBOX_{name}",
    }


async def test_each_part_may_do_its_work_and_nothing_else(
    processes: Processes, guarded: NatsServer, backend: BackendServer
) -> None:
    setup = processes.start("rebuild", **as_user("setup", guarded))
    assert await setup.ended() == 0, setup.tail()
    api_process = processes.start("api", "--port", "0", INLINE_RESULT="100", **as_user("api", guarded))
    url = (await api_process.logged("ready"))["url"]
    worker = processes.start("worker", INLINE_RESULT="100", PUBLIC_URL=url, **as_user("worker", guarded))
    await worker.logged("worker.started")
    async with clients_of(url) as service, BackendServer(report_later) as patient, BackendServer(hold) as slow:
        await service.admin.put("/api/types/slow", {"attempts": 1})
        await service.admin.put("/api/types/patient", {"attempts": 2})
        await service.admin.register(backend, "echo", types=["default"], apiKey="key-of-the-backend")
        await service.admin.register(slow, "slow", types=["slow"])
        await service.admin.register(patient, "patient", types=["patient"], **{"async": True, "callback": True})
        small = [await service.alice.submit({"payload": {"n": n}}) for n in range(20)]
        small += [await service.alice.submit({"type": "patient", "payload": {"number": n}}) for n in range(3)]
        large = await service.alice.submit({"payload": {"text": "x" * 10_000}})
        cancelled = await service.alice.submit({"type": "slow", "payload": {}})
        await wait_until(lambda: slow.calls, "a call to cancel")
        assert (await service.alice.post(f"/api/task/{cancelled}/cancel")).status == 200
        for task_id in (*small, large):
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        backend.answer = status(500)
        failed = await service.alice.submit({"payload": {}})
        assert (await service.alice.ended(failed))["status"] == "FAILED"
        assert (await service.alice.post(f"/api/task/{failed}/retry")).status == 200
        await service.alice.ended(failed)
        await push_does_its_work(service)
        await the_scheduler_does_its_work(service)
        await schedules_do_their_work(service)
        await operations_do_their_work(service)
        await keys_do_their_work(service)
        await service.admin.post("/api/servers/echo/heartbeat", {})
        for action in ("pause", "resume"):
            assert (await service.admin.post(f"/api/pools/default/{action}")).status == 200
            assert (await service.admin.post(f"/api/types/slow/{action}")).status == 200
        assert (await service.admin.get("/api/pools"))["pools"]
        await service.admin.post("/api/servers/echo/maintenance")
        assert (await service.admin.delete("/api/servers/echo")).status == 200
        assert len((await service.alice.get("/api/tasks"))["tasks"]) == 27
        ready = await service.alice.get("/health/ready")
        assert ready.status == 200
        assert (await service.alice.get("/metrics")).status == 200
    again = processes.start("rebuild", **as_user("setup", guarded))
    assert await again.ended() == 0, again.tail()
    for process in (worker, api_process):
        process.terminate()
        assert await process.ended() == 0
        assert not process.entries("nats.not-permitted")
    assert not re.findall(r".*Violation.*", (guarded.folder / "nats.log").read_text())


async def push_does_its_work(service: ServiceClients) -> None:
    """Cancel a task with a key of its own, and receive that by stream and by webhook."""
    async with HookReceiver() as receiver:
        registered = await service.alice.post("/api/webhooks", {"url": receiver.url})
        assert registered.status == 200, registered
        queued = await service.alice.post("/api/projects/novel/queue-chapters", headers=MODEL)
        async with opened(service.alice, f"/api/task/{queued['taskId']}/stream") as stream:
            assert (await received(stream, 1))[0].type == "state"
        await service.alice.post(f"/api/queue/tasks/{queued['taskId']}/cancel")
        await wait_until(lambda: receiver.messages, "the webhook to be told")
        webhook_id = registered["webhook"]["id"]
        assert (await service.alice.delete(f"/api/webhooks/{webhook_id}")).status == 200


async def the_scheduler_does_its_work(service: ServiceClients) -> None:
    """Have tasks held, which are somebody else's, ask why, and have them queued."""
    bob = service.client("bob")
    assert (await service.admin.put("/api/types/slow", {"concurrency": 1})).status == 200
    first, second = [await bob.submit({"type": "slow", "payload": {}}) for _ in range(2)]

    async def is_explained() -> bool:
        why = await bob.get(f"/api/task/{second}/why")
        return why["keeper"] == "answered" and why["holds"][0]["data"].get("counted") == 1

    await wait_until(is_explained, "the scheduler to say that the limit is reached")
    assert "TaskQueued" in [event["type"] for event in await bob.history(first)]
    for task_id in (second, first):
        assert (await bob.post(f"/api/task/{task_id}/cancel")).status == 200


async def schedules_do_their_work(service: ServiceClients) -> None:
    """Have a schedule fire, which is somebody else's, and delete it."""
    created = await service.admin.post("/api/schedules", {"cron": "* * * * * *", "task": {"payload": {}}})
    assert created.status == 200, created

    async def has_fired() -> bool:
        return bool((await service.admin.get(f"/api/schedules/{created['id']}"))["counts"]["fired"])

    await wait_until(has_fired, "the schedule to fire")
    assert len((await service.admin.get("/api/schedules"))["schedules"]) == 1
    assert (await service.admin.delete(f"/api/schedules/{created['id']}")).status == 200


async def operations_do_their_work(service: ServiceClients) -> None:
    """Cancel tasks, which are somebody else's, by an operation."""
    carol = service.client("carol")
    task_id = await carol.submit({"type": "slow", "payload": {}})
    started = await carol.done("POST", "/api/operations", {"action": "cancel", "filter": {"type": ["slow"]}})
    done = await carol.until(f"/api/operations/{started['id']}", lambda body: body["state"] == "done", "the end")
    assert (done["counts"]["done"], (await carol.details(task_id))["status"]) == (1, "CANCELLED")


async def keys_do_their_work(service: ServiceClients) -> None:
    """Make, use and revoke a key: each process of the API hears of it."""
    dora = service.client("dora")
    made = await dora.done("POST", "/api/keys", {"name": "a program", "roles": ["user"]})
    with_key, where = service.bearing(made["key"]), f"/api/keys/{made['details']['id']}"
    assert (await with_key.get("/api/me")).status == 200
    await dora.until(where, lambda key: key["lastUsedAt"] is not None, "the last use")
    assert (await dora.done("DELETE", where))["confirmed"] is True
    assert (await with_key.get("/api/me")).status == 401


async def test_what_is_forbidden_is_said_to_be_so(guarded: NatsServer) -> None:
    access = Access(user="api", password=PASSWORD, inbox_prefix="_INBOX_api")
    connection = await open_connection(guarded.url, "test", access)

    for subject in ("STREAM.CREATE.TASKS", "STREAM.DELETE.TASKS", "STREAM.PURGE.TASKS", "STREAM.UPDATE.TASKS"):
        with pytest.raises(NotPermitted, match=rf"\$JS\.API\.{subject}: see docs/operations\.md"):
            await api(connection, subject, {}, timeout_seconds=0.3)

    await connection.close()


async def test_a_part_without_its_streams_says_what_it_may_not(processes: Processes, guarded: NatsServer) -> None:
    refused = processes.start("api", "--port", "0", **as_user("api", guarded))

    assert await refused.ended() == 1
    assert "NATS does not permit us to publish to $JS.API.STREAM.CREATE.TASKS" in refused.tail()
    assert "Traceback" not in refused.tail()


async def test_a_wrong_password_ends_the_start_at_once(processes: Processes, guarded: NatsServer) -> None:
    refused = processes.start("worker", **as_user("worker", guarded) | {"NATS_PASSWORD": "swordfish"})

    assert await refused.ended() == 1
    assert "taskstream: NATS refuses user 'worker' with that password" in refused.tail()
    assert "Traceback" not in refused.tail()
    assert "swordfish" not in refused.tail()


async def test_a_log_of_an_older_version_has_an_epoch_though_the_api_may_not_store_it(
    processes: Processes, guarded: NatsServer
) -> None:
    setup = processes.start("rebuild", **as_user("setup", guarded))
    assert await setup.ended() == 0, setup.tail()
    access = Access(user="setup", password=PASSWORD, inbox_prefix="_INBOX_setup")
    connection = await open_connection(guarded.url, "test", access)
    config = (await api(connection, f"STREAM.INFO.{TASKS}"))["config"]
    await api(connection, f"STREAM.UPDATE.{TASKS}", config | {"metadata": {}})
    derived = (await read_extent(connection)).epochs
    api_process = processes.start("api", "--port", "0", **as_user("api", guarded))
    await api_process.logged("stream.no-epoch")
    url = (await api_process.logged("ready"))["url"]
    async with clients_of(url) as service, opened(service.alice, "/api/tasks/stream", with_reached=True) as stream:
        [reached] = await received(stream, 1)
    assert reached.id == f"{derived[0].id}-0"

    setup = processes.start("rebuild", **as_user("setup", guarded))
    assert await setup.ended() == 0, setup.tail()
    assert (await read_extent(connection)).epochs == derived
    await connection.close()
