"""The stock worker of RunPod's SDK, with the variables of docs/servers.md, behind a real service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from testkit.processes import Up
from testkit.service import SECRET, ServiceClients
from testkit.waiting import wait_until

from .programs import RUNPOD, Running
from .registrations import exported, not_supported, registration

pytestmark = pytest.mark.timeout(240)
SECTION = "RunPod workers"
UNSUPPORTED = {
    ("runpod", "streamed_output"): "no generator",
    ("runpod", "detection"): "`auto`", ("runpod-stream", "detection"): "`auto`",
    ("runpod", "busy"): "busy answers", ("runpod-stream", "busy"): "busy answers",
}  # fmt: skip


class Worker:
    """A worker, and another one to take its place, for a pulled server of their own."""

    def __init__(self, name: str, up: Up, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.name = self.id = name
        self.type = f"of-{name}"
        env = exported(SECTION, up.url, self.id, SECRET) | {"RUNPOD_PING_INTERVAL": "1000", "PROGRESS": "1"}
        folder = tmp_path_factory.mktemp("worker")
        self.running = Running(RUNPOD[name], folder / "first", **env)
        self.spare = Running(RUNPOD[name], folder / "second", **env | {"RUNPOD_POD_ID": "worker-2"})

    async def submit(self, service: ServiceClients, mode: str = "quick", **asked: Any) -> str:
        """Submit a task for these workers."""
        return await service.alice.submit({"type": self.type, "payload": {"text": "hello world", "mode": mode} | asked})

    async def said(self, service: ServiceClients, task_id: str) -> str:
        """Wait for a task's success and return the text of its result."""
        details = await service.alice.ended(task_id)
        assert details["status"] == "FINISHED", details
        data = details["result"]["data"]
        return "".join(data).strip() if isinstance(data, list) else str(data["shouted"])


@pytest.fixture(scope="session", params=list(RUNPOD))
def worker(request: pytest.FixtureRequest, up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that is not started yet."""
    worker = Worker(request.param, up, tmp_path_factory)
    worker.running.hold("hold-setup")
    try:
        yield worker
    finally:
        for each in (worker.running, worker.spare):
            each.kill()


@pytest.fixture
def case(request: pytest.FixtureRequest, worker: Worker) -> str:
    """The name of the case. One that the program cannot do ends here: the page must say so."""
    name = str(request.node.name.partition("[")[0].removeprefix("test_"))
    words = UNSUPPORTED.get((worker.name, name))
    if words is not None:
        request.node.user_properties.append(("table", "no"))
        assert words in not_supported(SECTION)
    return "" if words is not None else name


@contextlib.asynccontextmanager
async def pulling(service: ServiceClients, worker: Worker) -> AsyncIterator[None]:
    """Have the worker take jobs; slow ones end at the end."""
    body = registration(SECTION) | {"id": worker.id, "types": [worker.type]}
    await service.admin.done("POST", "/api/servers", body)
    worker.running.let_go("hold-setup")
    worker.running.let_go("release")
    if not worker.running.started:
        worker.running.start()
    await service.admin.server_is(worker.id, "online")
    try:
        yield
    finally:
        worker.running.hold("release")


async def slow(service: ServiceClients, worker: Worker) -> str:
    """Submit a slow task and return its id once the handler runs."""
    before = len(worker.running.trace())
    task_id = await worker.submit(service, "slow")
    await wait_until(lambda: "step" in worker.running.trace()[before:], "the handler to run", 60)
    return task_id


async def test_setup(service: ServiceClients, worker: Worker, case: str) -> None:
    """A server whose workers are loading is offline, with a reason; then it is online."""
    body = registration(SECTION) | {"id": worker.id, "types": [worker.type]}
    await service.admin.done("POST", "/api/servers", body)
    worker.running.start()
    await wait_until(lambda: "setup" in worker.running.trace(), "its setup to begin", 60)

    found = await service.admin.done("GET", f"/api/servers/{worker.id}")
    assert found["status"] == "offline"
    assert found["statusReason"]
    worker.running.let_go("hold-setup")
    await service.admin.server_is(worker.id, "online")


async def test_detection(worker: Worker, case: str) -> None:
    """Nothing calls a worker, so there is nothing to detect."""
    assert not case


async def test_result(service: ServiceClients, worker: Worker, case: str) -> None:
    """The result is what the handler returned, or yielded."""
    async with pulling(service, worker):
        assert await worker.said(service, await worker.submit(service)) == "HELLO WORLD"


async def reported(service: ServiceClients, task_id: str, key: str) -> Any:
    """Wait for a report of a running task that has a field; return its value."""

    async def look() -> Any:
        history = await service.alice.history(task_id)
        return next((event[key] for event in history if event["type"] == "ProgressReported" and event.get(key)), None)

    return await wait_until(look, f"a report with `{key}`", 60)


async def test_streamed_output(service: ServiceClients, worker: Worker, case: str) -> None:
    """What a generator yields is an event while it runs."""
    if not case:
        return
    async with pulling(service, worker):
        task_id = await slow(service, worker)
        assert await reported(service, task_id, "output") == "HELLO "
        worker.running.hold("release")
        assert await worker.said(service, task_id) == "HELLO WORLD"


async def test_progress(service: ServiceClients, worker: Worker, case: str) -> None:
    """What the handler reports is an event while it runs."""
    async with pulling(service, worker):
        task_id = await slow(service, worker)
        assert await reported(service, task_id, "message") == "said 1 of 2"
        worker.running.hold("release")
        assert await worker.said(service, task_id) == "HELLO WORLD"


async def test_wrong_input(service: ServiceClients, worker: Worker, case: str) -> None:
    """Input that the handler cannot take fails the task at its first attempt, with the reason."""
    async with pulling(service, worker):
        ended = await service.alice.ended(await worker.submit(service, text=5))
        assert (ended["status"], ended["attempt"]) == ("FAILED", 1), ended
        assert "split" in ended["error"]


async def test_failed(service: ServiceClients, worker: Worker, case: str) -> None:
    """A handler that raises fails the task, with the reason."""
    async with pulling(service, worker):
        ended = await service.alice.ended(await worker.submit(service, "fail"))
        assert ended["status"] == "FAILED", ended
        assert "the model broke on its second word" in ended["error"]


async def test_busy(worker: Worker, case: str) -> None:
    """A worker asks only while it is free."""
    assert not case


async def test_cancel(service: ServiceClients, worker: Worker, case: str, request: pytest.FixtureRequest) -> None:
    """The handler stops, and the outcome is reported."""
    async with pulling(service, worker):
        task_id = await slow(service, worker)
        await service.alice.done("POST", f"/api/task/{task_id}/cancel")
        details = await service.alice.until(
            f"/api/task/{task_id}", lambda task: task["taskDetails"]["cancelOutcome"], "what became of the attempt"
        )
        request.node.user_properties.append(("table", details["taskDetails"]["cancelOutcome"]))
        assert details["taskDetails"]["cancelOutcome"] == "confirmed"
        assert worker.running.trace()[-1] == "stopped"


async def test_killed(service: ServiceClients, worker: Worker, case: str) -> None:
    """A worker that is killed loses its attempt; another worker does the work."""
    async with pulling(service, worker):
        task_id = await slow(service, worker)
        worker.running.kill()
        worker.spare.hold("release")
        worker.spare.start()

        assert await worker.said(service, task_id) == "HELLO WORLD"
        assert any(line.startswith("start slow") for line in worker.spare.trace())
        failed = [event for event in await service.alice.history(task_id) if event["type"] == "AttemptFailed"]
        assert len(failed) == 1
