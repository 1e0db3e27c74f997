"""Real model servers, registered as docs/servers.md says, behind a real service. `make test-servers` runs this."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.service import ServiceClients
from testkit.waiting import wait_until

from .conftest import Server
from .programs import Running
from .registrations import at, not_supported, registration

pytestmark = pytest.mark.timeout(240)


class Call:
    """Submits tasks of one case to a server that is registered for it alone."""

    def __init__(self, service: ServiceClients, server: Server, case: str) -> None:
        self.service = service
        self.server = server
        self.tried = server.tried
        self.type = f"{server.tried.program}-{server.tried.place}-{case}"

    async def register(self, running: Running, number: int = 1, *, online: bool = True, **more: Any) -> str:
        """Register a program as the page says, for this case's type; return the server's id."""
        body = at(registration(self.tried.section, self.tried.place), running.port)
        server_id = f"{self.type}-{number}"
        await self.service.admin.done("POST", "/api/servers", body | {"id": server_id, "types": [self.type]} | more)
        if online:
            await self.service.admin.server_is(server_id, "online")
        return server_id

    async def submit(self, mode: str = "quick", payload: Any = None, **more: Any) -> str:
        """Submit `hello world` in a mode, or a payload."""
        asked = self.tried.payload("hello world", mode) if payload is None else payload
        return await self.service.alice.submit({"type": self.type, "payload": asked} | more)

    async def said(self, task_id: str) -> str:
        """Wait for a task's success and return the text of its result."""
        details = await self.service.alice.ended(task_id)
        assert details["status"] == "FINISHED", details
        return self.tried.said(details["result"]["data"])

    async def runs(self, running: Running | None = None) -> None:
        """Wait until a slow call has begun in the model."""
        trace = (running or self.server.running).trace
        before = len(trace())
        await wait_until(lambda: "step" in trace()[before:], "a slow call to run", 60)

    async def reported(self, task_id: str, key: str) -> Any:
        """Wait for a report of a running task that has a field; return its value."""

        async def look() -> Any:
            history = await self.service.alice.history(task_id)
            return next(
                (event[key] for event in history if event["type"] == "ProgressReported" and event.get(key)), None
            )

        return await wait_until(look, f"a report with `{key}`", 60)


@contextlib.asynccontextmanager
async def calls(service: ServiceClients, server: Server, case: str, **more: Any) -> AsyncIterator[Call]:
    """Register the program for a case; have its slow calls end, and remove it, at the end."""
    await server.ready()
    call = Call(service, server, case)
    server.running.let_go("release")
    await call.register(server.running, **more)
    try:
        yield call
    finally:
        server.running.hold("release")
        await service.admin.call("DELETE", f"/api/servers/{call.type}-1")


@pytest.fixture
def case(request: pytest.FixtureRequest, server: Server) -> str:
    """The name of the case. One that the program cannot do ends here: the page must say so."""
    name = request.node.name.partition("[")[0].removeprefix("test_")
    words = server.tried.unsupported.get(name)
    if words is not None:
        request.node.user_properties.append(("table", "no"))
        assert words in not_supported(server.tried.section), f"{server.tried.section}: `Not supported` lacks {words!r}"
    return "" if words is not None else str(name)


async def test_setup(service: ServiceClients, server: Server, case: str) -> None:
    """A program that is still loading is offline, with a reason; then it is online."""
    running = server.running
    call = Call(service, server, case)
    if running.program.up:
        await wait_until(lambda: "setup" in running.trace(), "its setup to begin", 60)
    server_id = await call.register(running, online=False)

    async def explained() -> Any:
        found = await service.admin.done("GET", f"/api/servers/{server_id}")
        return (found["status"], found["statusReason"])

    async def is_explained() -> bool:
        status, reason = await explained()
        return status == "offline" and bool(reason) and server.tried.setup_reason in reason

    try:
        await wait_until(is_explained, "it to be offline, with a reason", 10)
    except AssertionError:
        pytest.fail(f"while it loads: {await explained()}")
    assert "ready" not in running.trace()

    await server.ready()
    await service.admin.server_is(server_id, "online")
    await service.admin.done("DELETE", f"/api/servers/{server_id}")


async def test_detection(service: ServiceClients, server: Server, case: str) -> None:
    """`auto` finds the dialect, and tasks run with it."""
    if not case:
        return
    await server.ready()
    call = Call(service, server, case)
    body = at(registration(server.tried.section, server.tried.place), server.running.port)
    told = {key: value for key, value in body.items() if key not in ("preset", "exchange")}
    server_id = f"{call.type}-1"
    await service.admin.done("POST", "/api/servers", told | {"dialect": "auto", "id": server_id, "types": [call.type]})
    await service.admin.server_is(server_id, "online")
    found = await service.admin.done("GET", f"/api/servers/{server_id}")

    assert found["dialectDetected"] is not None
    assert found["dialectDetected"].items() >= server.tried.auto.items()
    assert await call.said(await call.submit()) == "HELLO WORLD"
    await service.admin.done("DELETE", f"/api/servers/{server_id}")


async def test_result(service: ServiceClients, server: Server, case: str) -> None:
    """The result is what the program answered."""
    async with calls(service, server, case) as call:
        assert await call.said(await call.submit()) == "HELLO WORLD"

        asked = {"payload": server.tried.payload("hello world", "quick"), "timeout": 30}
        tried = await service.admin.done("POST", f"/api/servers/{call.type}-1/try", asked)
        assert tried["verdict"]["outcome"] == "completed", tried


async def test_streamed_output(service: ServiceClients, server: Server, case: str) -> None:
    """Output is an event while the call runs, and whole at the end."""
    if not case:
        return
    async with calls(service, server, case) as call:
        task_id = await call.submit("slow")
        assert (await call.reported(task_id, "output")).split() == ["HELLO"]
        server.running.hold("release")
        assert await call.said(task_id) == "HELLO WORLD"
        history = await service.alice.history(task_id)
        output = "".join(event.get("output", "") for event in history if event["type"] == "ProgressReported")
        assert output.replace(" ", "") in ("HELLOWORLD", "HELLO")  # the last piece may come with the result


async def test_progress(service: ServiceClients, server: Server, case: str) -> None:
    """A percentage, a line of the log or data of the program's is an event while the call runs."""
    if not case:
        return
    async with calls(service, server, case) as call:
        task_id = await call.submit("slow")
        if "cog" in server.tried.program:
            assert any("said HELLO" in line for line in await call.reported(task_id, "lines"))
        else:
            assert await call.reported(task_id, "progress") == 50
        server.running.hold("release")
        assert await call.said(task_id) == "HELLO WORLD"


async def test_wrong_input(service: ServiceClients, server: Server, case: str) -> None:
    """Input that the program refuses fails the task at its first attempt, with the program's reason."""
    async with calls(service, server, case) as call:
        ended = await service.alice.ended(await call.submit(payload=server.tried.wrong))
        assert (ended["status"], ended["attempt"]) == ("FAILED", 1), ended
        assert server.tried.wrong_reason in ended["error"]


async def test_failed(service: ServiceClients, server: Server, case: str) -> None:
    """A model that raises fails the task, with the reason as far as the program tells it."""
    async with calls(service, server, case) as call:
        ended = await service.alice.ended(await call.submit("fail", attempts=2))
        assert ended["status"] == "FAILED", ended
        assert server.tried.failed_reason in ended["error"]
        assert await call.said(await call.submit()) == "HELLO WORLD"


async def test_busy(service: ServiceClients, server: Server, case: str) -> None:
    """A program that is full says so: the task waits, and loses no attempt."""
    if not case:
        return
    async with calls(service, server, case, maxConcurrent=server.tried.fills + 3) as call:
        started = server.running.trace().count("start slow")
        first = [await call.submit("slow") for _ in range(server.tried.fills)]
        await wait_until(
            lambda: server.running.trace().count("start slow") >= started + server.tried.fills, "it to be full", 60
        )
        others = [await call.submit() for _ in range(3)]

        async def returned() -> bool:
            histories = [await service.alice.history(each) for each in others]
            return any(e["type"] == "AttemptReturned" and e["kind"] == "busy" for history in histories for e in history)

        await wait_until(returned, "a task to come back from the busy program", 60)
        server.running.hold("release")
        for each in (*first, *others):
            assert await call.said(each) == "HELLO WORLD"
            assert not [e for e in await service.alice.history(each) if e["type"] == "AttemptFailed"]


async def test_cancel(service: ServiceClients, server: Server, case: str, request: pytest.FixtureRequest) -> None:
    """The task ends at once, and what became of the program's work is reported."""
    async with calls(service, server, case) as call:
        task_id = await call.submit("slow")
        await call.runs()
        await service.alice.done("POST", f"/api/task/{task_id}/cancel")
        assert (await service.alice.details(task_id))["status"] == "CANCELLED"
        details = await service.alice.until(
            f"/api/task/{task_id}", lambda task: task["taskDetails"]["cancelOutcome"], "what became of the attempt"
        )
        request.node.user_properties.append(("table", details["taskDetails"]["cancelOutcome"]))
        assert details["taskDetails"]["cancelOutcome"] == server.tried.cancel

        trace = server.running.trace
        if server.tried.stops:
            await wait_until(lambda: trace()[-1] == "stopped", "the model to stop", 30)
        elif server.tried.stops is False:
            steps = trace().count("step")
            await wait_until(lambda: trace().count("step") > steps + 5, "the model to go on, as it does", 30)


async def test_killed(service: ServiceClients, server: Server, case: str) -> None:
    """A program that is killed during a call loses the attempt; another server does the work."""
    async with calls(service, server, case) as call:
        task_id = await call.submit("slow")
        await call.runs()
        server.spare.hold("release")
        server.spare.start()
        await server.spare.ready()
        await call.register(server.spare, 2)
        server.running.kill()

        assert await call.said(task_id) == "HELLO WORLD"
        assert (await service.alice.details(task_id))["serverId"] == f"{call.type}-2"
        failed = [event for event in await service.alice.history(task_id) if event["type"] == "AttemptFailed"]
        assert {event["server_id"] for event in failed} == {f"{call.type}-1"}  # perhaps called again while it was dead
        assert any(line.startswith("start slow") for line in server.spare.trace())
        await service.admin.done("DELETE", f"/api/servers/{call.type}-2")
