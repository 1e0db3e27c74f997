"""`taskstream up` in several processes: each may be killed, and the whole ends together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from testkit.backend import BackendServer, hold
from testkit.nats import NatsServer
from testkit.processes import Processes, Up, clients_of
from testkit.service import ServiceClients
from testkit.waiting import wait_until

OURS = {"supervisor", "spawner", "api-1", "api-2", "worker-1", "worker-2"}


def alive(pids: dict[str, int]) -> list[str]:
    """Return the names of those that still run: a zombie does not."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    return [name for name, pid in pids.items() if runs(pid)]


async def killed(up: Up, *names: str) -> dict[str, int]:
    """Kill processes at once; return all as they are when those, and what ended with them, run again."""
    before = up.pids()
    for name in names:
        os.kill(before[name], signal.SIGKILL)

    def is_whole() -> dict[str, int] | None:
        now = up.pids()
        return now if now.keys() == before.keys() and all(now[name] != before[name] for name in names) else None

    await wait_until(is_whole, f"{names} to run again")
    return up.pids()


async def is_ready(service: ServiceClients) -> None:
    async def ready() -> bool:
        return bool((await service.anonymous.get("/health/ready"))["status"] == "ok")

    await wait_until(ready, "the service to be whole again")


async def scraped(up: Up) -> str:
    """Return the metrics, over a connection of its own: any API may answer."""
    async with clients_of(up.url) as other:
        return str((await other.anonymous.get("/metrics")).body)


async def test_each_process_may_be_killed_and_the_others_go_on(processes: Processes, backend: BackendServer) -> None:
    up = await processes.up(APIS="2", WORKERS="2")
    started = up.pids()
    assert started.keys() == OURS | {"nats-server"}
    assert {entry["name"] for entry in up.entries("process.ready")} == OURS - {"supervisor", "spawner"}
    assert len(list(Path(f"/proc/{started['spawner']}/task").iterdir())) == 1, "a fork of threads is not safe"
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "echo")
        await service.alice.ended(await service.alice.submit({"payload": 1}))
        for _ in range(6):
            page = await scraped(up)
            for name in ("api-1", "api-2", "worker-1", "worker-2"):
                assert f'taskstream_process_restarts{{process="{name}"}} 0.0' in page, name
            assert 'taskstream_tasks_submitted_total{pool="default",priority="normal",process="api-' in page
            assert 'outcome="succeeded",process="worker-' in page
            assert page.count("# TYPE taskstream_attempts_total counter") == 1

        now = await killed(up, "worker-1", "api-2")
        assert {name for name in now if now[name] != started[name]} == {"worker-1", "api-2"}
        await is_ready(service)
        ended = {entry["name"]: entry for entry in up.entries("process.ended")}
        assert ended.keys() == {"worker-1", "api-2"}
        assert ended["worker-1"]["reason"] == "signal SIGKILL"
        page = await scraped(up)
        assert 'taskstream_process_restarts{process="worker-1"} 1.0' in page
        assert 'taskstream_process_restarts{process="worker-2"} 0.0' in page

        again = await killed(up, "spawner")
        assert {name for name in again if again[name] == now[name]} == {"supervisor", "nats-server"}
        await is_ready(service)
        await service.alice.ended(await service.alice.submit({"payload": 2}))
    up.terminate()
    assert await up.ended() == 0
    assert not alive(started | now | again)


async def test_readiness_names_a_process_that_does_not_run(processes: Processes) -> None:
    up = await processes.up(WORKERS="1")
    async with clients_of(up.url) as service:
        os.kill(up.pids()["worker-1"], signal.SIGKILL)

        async def degraded() -> list[str] | None:
            answer = await service.anonymous.get("/health/ready")
            assert answer.status == 200
            return list(answer["warnings"]) if answer["status"] == "degraded" else None

        warnings = await wait_until(degraded, "the API to notice")
        assert any("worker-1" in warning for warning in warnings)
        await is_ready(service)


async def test_nothing_outlives_a_killed_supervisor_and_the_next_start_succeeds(processes: Processes) -> None:
    up = await processes.up(APIS="2", WORKERS="1")
    before = up.pids()

    up.kill()
    await up.serve()  # at once, on the same port and folder

    assert not set(alive(before))
    async with clients_of(up.url) as service:
        assert (await service.alice.post("/api/task", {"payload": {}})).status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
async def test_a_signal_to_all_of_them_stops_them_in_order(
    processes: Processes, nats: NatsServer, backend: BackendServer, number: int
) -> None:
    backend.answer = hold
    up = await processes.up(WORKERS="1", NATS_URL=nats.url, SHUTDOWN_GRACE="600", DRAIN="1")
    pids = up.pids()
    assert pids.keys() == {"supervisor", "spawner", "api-1", "worker-1"}
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "held")
        await service.alice.submit({"payload": {}})
        await wait_until(lambda: backend.calls, "the call")

        for pid in pids.values():  # as a terminal and systemd may do
            os.kill(pid, number)

        await up.logged("draining")
        assert (await service.anonymous.get("/health/ready"))["status"] == "draining"
        await wait_until(lambda: up.entries("worker.stopping"), "the worker to be told")
        assert alive(pids) == ["supervisor", "spawner", "worker-1"]
        backend.let_go.set()
    assert await up.ended() == 0
    assert not alive(pids)
    assert len(up.entries("worker.stopped")) == 1
    assert not up.entries("process.ended")


async def test_a_second_signal_ends_all_at_once(processes: Processes) -> None:
    up = await processes.up(WORKERS="1", DRAIN="600")
    pids = up.pids()
    up.terminate()
    await up.logged("draining")

    up.terminate()

    assert await up.ended() == -signal.SIGTERM
    await wait_until(lambda: not alive(pids), "all to end")


async def test_without_workers_of_its_own_it_is_one_process(processes: Processes, backend: BackendServer) -> None:
    up = await processes.up(WORKERS="0")
    assert up.pids().keys() == {"supervisor", "nats-server"}
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "echo")
        await service.alice.ended(await service.alice.submit({"payload": 1}))
        assert "process=" not in await scraped(up)
    assert '"process"' not in up.output()
