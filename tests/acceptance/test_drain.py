"""An API that is asked to end sends balancers away first, and answers whatever comes until they have had the time."""

from __future__ import annotations

import signal
import socket

import aiohttp
import pytest

from testkit.backend import BackendServer, hold
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.waiting import wait_until


async def test_while_draining_it_still_answers_and_closes_connections(processes: Processes, nats: NatsServer) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url, DRAIN="600")
    async with clients_of((await api.logged("ready"))["url"]) as service:
        before = await service.alice.post("/api/task", {"payload": {}})
        assert "close" not in before.headers.get("Connection", "")
        assert (await service.alice.get("/health/ready")).status == 200

        api.terminate()
        await api.logged("draining")

        ready = await service.alice.get("/health/ready")
        assert (ready.status, ready["status"]) == (503, "draining")
        assert (await service.alice.get("/health/live")).status == 200
        after = await service.alice.post("/api/task", {"payload": {}})
        assert (after.status, after.headers["Connection"]) == (200, "close")


async def test_after_the_drain_it_ends_and_accepts_no_connection(processes: Processes, nats: NatsServer) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url, DRAIN="0.1")
    async with clients_of((await api.logged("ready"))["url"]) as service:
        assert (await service.alice.get("/health/live")).status == 200

        api.terminate()

        assert await api.ended() == 0
        assert len(api.entries("draining")) == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await service.alice.get("/health/live")


async def test_a_second_signal_ends_it_at_once(processes: Processes, nats: NatsServer) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url, DRAIN="600")
    await api.logged("ready")
    api.terminate()
    await api.logged("draining")

    api.terminate()

    assert await api.ended() == -signal.SIGTERM


async def test_a_worker_says_so_too_until_its_last_call_has_ended(
    processes: Processes, nats: NatsServer, backend: BackendServer
) -> None:
    api = processes.start("api", "--port", "0", "--nats-url", nats.url)
    url = (await api.logged("ready"))["url"]
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = str(reserved.getsockname()[1])
    worker = processes.start("worker", "--nats-url", nats.url, "--metrics-port", port, SHUTDOWN_GRACE="600")
    await worker.logged("worker.started")
    backend.answer = hold
    async with clients_of(url) as service, clients_of(f"http://127.0.0.1:{port}") as side:
        await service.admin.register(backend, "held")
        task_id = await service.alice.submit({"payload": {}})
        await wait_until(lambda: backend.calls, "the call")

        worker.terminate()

        async def draining() -> bool:
            answer = await side.alice.get("/health/ready")
            return answer.status == 503 and answer["status"] == "draining"

        await wait_until(draining, "the worker to say that it is draining")
        backend.let_go.set()
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        assert await worker.ended() == 0
