"""The kit for backends: the same functions behind ASGI, aiohttp, callbacks and a puller, on a real service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web

from taskstream_client import AsyncClient, NotFound, Progress, TaskFailed
from taskstream_client.server import Busy, Failed, Job, JobCancelled, Puller, Reject, Server
from testkit.service import Service, token
from testkit.waiting import wait_until

KINDS = ["asgi", "aiohttp", "callback", "puller"]
KEY = "the key of this server"


class Shouter:
    """A server of the test with one function for each of its promises."""

    def __init__(self, *, callback: bool = False, capacity: int = 4) -> None:
        self.server = Server(capacity=capacity, callback=callback, api_key=KEY)
        self.let_go = asyncio.Event()
        self.seen: list[Job] = []
        self.left: list[str] = []
        self.thread_left = threading.Event()
        for handler in (self.shout, self.reject, self.fail_once, self.hold, self.hold_in_thread, self.unfit, self.busy):
            self.server.predict(handler.__name__)(handler)

    async def shout(self, job: Job) -> Any:
        self.seen.append(job)
        words = job.payload["text"].split()
        for number, word in enumerate(words, 1):
            job.report(100 * number / len(words), f"word {number}", output=word.upper() + " ", log=f"line {number}")
            await asyncio.sleep(0)
        return {"shouted": " ".join(words).upper()}

    async def reject(self, job: Job) -> Any:
        if job.payload.get("late"):
            job.report(10)
            await asyncio.sleep(0.01)
        raise Reject("`text` must be text")

    def fail_once(self, job: Job) -> Any:
        if job.attempt == 1:
            if job.payload.get("late"):
                job.report(10)
            raise Failed("out of memory")
        return job.attempt

    async def hold(self, job: Job) -> Any:
        self.seen.append(job)
        job.report(1)
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.left.append(job.id)
            raise
        return "held"

    def hold_in_thread(self, job: Job) -> Any:
        self.seen.append(job)
        try:
            while not self.let_go.is_set():
                job.report(2)
                self.thread_left.wait(0.01)
        except JobCancelled:
            self.thread_left.set()
            raise
        return "held"

    async def unfit(self, job: Job) -> Any:
        return object()

    async def busy(self, job: Job) -> Any:
        if len(self.seen) < 1:
            self.seen.append(job)
            raise Busy(0.25)
        return "at last"


@contextlib.asynccontextmanager
async def over_asgi(server: Server) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(server, log_level="error", lifespan="on", ws="none")
        running = uvicorn.Server(config)
        running.install_signal_handlers = lambda: None  # type: ignore[method-assign]
        running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        serving = asyncio.create_task(running.serve([listening]))
        await wait_until(lambda: running.started, "uvicorn to listen")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = running.force_exit = True
            await serving


@contextlib.asynccontextmanager
async def over_aiohttp(server: Server) -> AsyncIterator[str]:
    runner = web.AppRunner(server.aiohttp_app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def registered(kind: str, service: Service, root: AsyncClient, **more: Any) -> AsyncIterator[Shouter]:
    """Run a server of a kind and register it."""
    shouter = Shouter(callback=kind == "callback", **more)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shouter.let_go.set)
        if kind == "puller":
            await root.servers.register("one", max_concurrent=shouter.server.capacity)
            bearer = token("one", "service")
            puller = Puller(shouter.server, "one", url=service.url, token=bearer, wait=5, grace=0.1)
            pulling = asyncio.create_task(puller.run())
            stack.push_async_callback(asyncio.wait_for, pulling, 60)
            stack.callback(puller.stop)
        else:
            over = over_aiohttp if kind == "aiohttp" else over_asgi
            url = await stack.enter_async_context(over(shouter.server))
            callback = True if kind == "callback" else None
            await root.servers.register(
                "one",
                predict=f"{url}/predict",
                health=f"{url}/health",
                callback=callback,
                api_key=KEY,
                max_concurrent=shouter.server.capacity,
            )
        await service.admin.server_is("one", "online")
        yield shouter


@pytest.mark.parametrize("kind", KINDS)
async def test_a_function_reports_progress_and_returns_the_result(
    kind: str, service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    shown: list[Any] = []
    async with registered(kind, service, root) as shouter:
        result = await alice.run("shout", {"text": "a b c"}, progress=shown.append, timeout=60)

    assert result == {"shouted": "A B C"}
    reports = [update for update in shown if isinstance(update, Progress)]
    assert "".join(report.output for report in reports) == "A B C "
    assert [line for report in reports for line in report.lines] == ["line 1", "line 2", "line 3"]
    assert reports[-1].progress == 100
    (job,) = shouter.seen
    assert (job.type, job.attempt, job.payload) == ("shout", 1, {"text": "a b c"})
    assert job.deadline is not None
    assert job.headers["x-request-id"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "after a report"])
async def test_a_rejected_task_fails_for_good_and_a_failed_attempt_is_repeated(
    kind: str, late: bool, service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    async with registered(kind, service, root):
        with pytest.raises(TaskFailed, match="`text` must be text") as failed:
            await alice.run("reject", {"late": late}, timeout=60)
        assert failed.value.task.attempt == 1
        if kind != "callback":
            assert await alice.run("fail_once", {"late": late}, timeout=60) == 2
        with pytest.raises(TaskFailed, match="no JSON"):
            await alice.run("unfit", {}, timeout=60)


@pytest.mark.parametrize("kind", ["asgi", "aiohttp", "puller"])
@pytest.mark.parametrize("name", ["hold", "hold_in_thread"])
async def test_a_cancelled_task_ends_the_work(
    kind: str, name: str, service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    async with registered(kind, service, root) as shouter:
        task = await alice.submit(name, {})
        await wait_until(lambda: shouter.seen, "the work")
        await alice.cancel(task.id)

        await wait_until(lambda: shouter.left or shouter.thread_left.is_set(), "the end of the work")
        assert shouter.seen[0].cancelled
        await wait_until(lambda: shouter.server.running == 0, "a free slot")


async def test_an_accepted_task_hears_of_its_cancellation_with_its_next_report(
    service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    async with registered("callback", service, root) as shouter:
        task = await alice.submit("hold_in_thread", {})
        await wait_until(lambda: shouter.seen, "the work")
        await alice.cancel(task.id)

        await wait_until(shouter.thread_left.is_set, "the end of the work")


@pytest.mark.parametrize("kind", ["asgi", "aiohttp", "puller"])
async def test_a_busy_server_costs_no_attempt(
    kind: str, service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    async with registered(kind, service, root):
        task = await alice.submit("busy", {}, attempts=1)

        assert (await alice.wait(task.id, timeout=60)).data == "at last"


async def test_a_full_server_answers_429_and_says_so(service: Service, root: AsyncClient) -> None:
    shouter = Shouter(capacity=1)
    call = {"task_id": "t", "type": "hold", "request": {}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with over_asgi(shouter.server) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        first = asyncio.create_task(http.post("/predict", json=call))
        await wait_until(lambda: shouter.seen, "the work")
        second = await http.post("/predict", json=call)
        health = await http.get("/health")
        shouter.let_go.set()
        assert (await first).status_code == 200

    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert health.json() == {"status": "ok", "running": 1, "capacity": 1}


@pytest.mark.parametrize("over", [over_asgi, over_aiohttp])
async def test_callers_without_the_key_and_calls_of_others_are_refused(over: Any) -> None:
    shouter = Shouter()
    key = {"Authorization": f"Bearer {KEY}"}
    shout = {"task_id": "t", "type": "shout", "request": {"text": "a"}}
    async with over(shouter.server) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/predict", json=shout)).status_code == 401
        assert (await http.post("/predict", json=shout, headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await http.post("/predict", json=shout, headers=key)).status_code == 200
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"task_id": 1, "request": {}}',
            b"\xff",
            b'{"task_id":"t","request":0,"type":"x"}',
        ):
            assert (await http.post("/predict", content=body, headers=key)).status_code == 400, body
        assert (await http.get("/other")).status_code == 404
        assert not [job for job in shouter.seen if job.payload != {"text": "a"}]


async def test_health_is_what_the_check_says() -> None:
    server = Server()
    healthy = False

    @server.health
    async def check() -> bool:
        return healthy

    async with over_asgi(server) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/health")).status_code == 503
        healthy = True
        assert (await http.get("/health")).status_code == 200


async def test_a_stopped_puller_gives_its_attempts_back(
    service: Service, root: AsyncClient, alice: AsyncClient
) -> None:
    await root.servers.register("one", max_concurrent=1)
    shouter = Shouter()
    puller = Puller(shouter.server, "one", url=service.url, token=token("one", "service"), wait=5, grace=0.1)
    pulling = asyncio.create_task(puller.run())
    task = await alice.submit("hold", {}, attempts=1)
    await wait_until(lambda: shouter.seen, "the work")
    puller.stop()
    await pulling

    async with registered("puller", service, root) as other:
        other.let_go.set()
        assert (await alice.wait(task.id, timeout=60)).data == "held"
    assert "AttemptReturned" in [event.type async for event in alice.tasks.events(task.id)]


async def test_a_puller_of_an_unknown_server_ends_with_the_reason(service: Service) -> None:
    puller = Puller(Server(), "nobody", url=service.url, token=token("root", "admin"))

    with pytest.raises(NotFound):
        await puller.run()


async def test_a_slow_reader_gets_fewer_updates_and_all_output() -> None:
    job = Job(id="t", type="x", payload={}, attempt=1)
    for number in range(1000):
        job.report(number / 10, output=f"{number} ")
    job.report(output="y" * 200_000)
    found: list[dict[str, Any]] = []
    while (update := job.take()) is not None:
        found.append(update)

    assert len(found) < 10
    assert "".join(update.get("output", "") for update in found).startswith("0 1 2 3 ")
    assert max(len(update["output"]) for update in found) <= 64 * 1024
    assert found[0]["progress"] == 99.9
