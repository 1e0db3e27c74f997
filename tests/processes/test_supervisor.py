"""The supervisor and its children, with children that are played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from taskstream.processes import supervisor
from taskstream.processes.messages import (
    AskMetrics,
    ChildReady,
    CollectMetrics,
    Fork,
    GaveUp,
    Halted,
    Link,
    Message,
    MetricsPage,
    MetricsPages,
    Reserve,
    States,
    StopChild,
    ToChild,
)
from taskstream.processes.supervisor import Children
from taskstream.runtime.failures import ProcessFailed
from taskstream.settings import Settings
from testkit.waiting import wait_until


class Played:
    """A child that the test plays."""

    def __init__(self, order: Fork, link: Link) -> None:
        self.order = order
        self.heard: list[Any] = []
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._link = link
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (body := await self._link.receive()) is not None:
            self.heard.append(msgspec.msgpack.decode(body, type=ToChild))

    def say(self, message: Message) -> None:
        self._link.send(message)

    def end(self, status: int = 0) -> None:
        self._link.close()
        self.exit.set_result(status)

    async def hears(self, kind: type[Message]) -> Any:
        def heard() -> Any:
            return next((each for each in self.heard if isinstance(each, kind)), None)

        return await wait_until(heard, f"{self.order.name} to hear {kind.__name__}")

    def states(self) -> dict[str, str]:
        latest = [each for each in self.heard if isinstance(each, States)][-1]
        return {name: sibling.state for name, sibling in latest.states.items()}


class PlayedSpawner:
    """Forks nothing: the test plays each child."""

    def __init__(self) -> None:
        self.forked: list[Played] = []

    async def fork(self, order: Fork, link: socket.socket, listener: socket.socket) -> int:
        self.forked.append(Played(order, await Link.over(link.dup())))
        return len(self.forked)

    async def exit_status(self, pid: int) -> int:
        return await self.forked[pid - 1].exit

    async def close(self) -> None:
        for each in self.forked:
            if not each.exit.done():
                each.end(-signal.SIGKILL)

    def latest(self, name: str) -> Played:
        return [each for each in self.forked if each.order.name == name][-1]


@contextlib.asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[tuple[Children, PlayedSpawner, list[int]]]:
    """Yield children that are ready, their spawner, and the reserves that were reported."""
    spawner, reserves = PlayedSpawner(), list[int]()
    with socket.socket() as listener:
        children = Children(Settings(**settings), "nats://x", spawner, listener, reserves.append)  # type: ignore[arg-type]
        starting = asyncio.create_task(children.start())
        wanted = settings["apis"] + settings["workers"]
        await wait_until(lambda: len(spawner.forked) == wanted, "all to be forked")
        for each in spawner.forked:
            assert not starting.done()
            each.say(ChildReady())
        await starting
        yield children, spawner, reserves
        await children.close()


async def test_apis_stop_before_workers() -> None:
    async with started(apis=2, workers=1) as (children, spawner, _):
        stopping = asyncio.create_task(children.stop())
        for name in ("api-1", "api-2"):
            await spawner.latest(name).hears(StopChild)
        assert not any(isinstance(each, StopChild) for each in spawner.latest("worker-1").heard)
        spawner.latest("api-1").end()
        spawner.latest("api-2").end()
        await spawner.latest("worker-1").hears(StopChild)
        assert not stopping.done()
        spawner.latest("worker-1").end()
        await stopping
        assert len(spawner.forked) == 3


async def test_a_child_that_ends_is_started_again_and_the_others_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    async with started(apis=1, workers=1) as (_, spawner, _):
        api = spawner.latest("api-1")
        await wait_until(lambda: api.states() == {"worker-1": "ready"}, "the API to know")
        spawner.latest("worker-1").say(Halted(services={"scheduler": "why"}))
        spawner.latest("worker-1").end(-signal.SIGKILL)
        await wait_until(lambda: api.states() == {"worker-1": "restarting"}, "the API to know")
        await wait_until(lambda: len(spawner.forked) == 3, "another worker")
        assert spawner.latest("worker-1").order.restarts == 1
        spawner.latest("worker-1").say(ChildReady())
        await wait_until(lambda: api.states() == {"worker-1": "ready"}, "the API to know")
        assert not [each for each in api.heard if isinstance(each, States)][-1].states["worker-1"].halted


async def test_the_pause_grows_while_a_child_keeps_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with started(apis=1, workers=1) as (_, spawner, _):
        monkeypatch.setattr("taskstream.processes.supervisor.asyncio.sleep", noted)
        for number in range(9):
            spawner.latest("worker-1").say(GaveUp(status=1, text="no NATS"))
            spawner.latest("worker-1").end(1)
            while len(spawner.forked) < number + 3:
                await sleep(0.001)
        monkeypatch.undo()
    assert [each for each in pauses if each >= supervisor.FIRST_PAUSE_SECONDS][:8] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [(GaveUp(status=2, text="a setting"), 2, "^a setting$"), (None, 1, "worker-1 ended at its start: exit status 3")],
    ids=["reason", "none"],
)
async def test_a_child_that_ends_at_the_first_start_is_the_error_of_all(
    said: GaveUp | None, status: int, text: str
) -> None:
    spawner = PlayedSpawner()
    with socket.socket() as listener:
        children = Children(Settings(workers=1), "nats://x", spawner, listener)  # type: ignore[arg-type]
        starting = asyncio.create_task(children.start())
        await wait_until(lambda: len(spawner.forked) == 2, "all to be forked")
        spawner.latest("api-1").say(ChildReady())
        if said:
            spawner.latest("worker-1").say(said)
        spawner.latest("worker-1").end(3)
        with pytest.raises(ProcessFailed, match=text) as failed:
            await starting
        await children.close()
    assert failed.value.status == status
    assert len(spawner.forked) == 2


async def test_a_scrape_gets_the_pages_of_those_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAGE_SECONDS", 0.2)
    async with started(apis=2, workers=2) as (_, spawner, _):
        spawner.latest("api-1").say(CollectMetrics(number=7))
        for name in ("api-2", "worker-1", "worker-2"):
            asked = await spawner.latest(name).hears(AskMetrics)
            if name != "worker-2":
                spawner.latest(name).say(MetricsPage(number=asked.number, text=name))
        pages = await spawner.latest("api-1").hears(MetricsPages)
        assert (pages.number, pages.texts) == (7, ["api-2", "worker-1"])
        assert not any(isinstance(each, AskMetrics) for each in spawner.latest("api-1").heard)


async def test_the_reserve_of_the_store_reaches_the_one_who_restarts_nats() -> None:
    async with started(apis=1, workers=1) as (_, spawner, reserves):
        spawner.latest("worker-1").say(Reserve(size_bytes=5))
        await wait_until(lambda: reserves == [5], "the reserve")


def test_the_supervisor_imports_little() -> None:
    names = "litestar", "uvicorn", "aiohttp", "nats", "uvloop", "cryptography", "prometheus_client"
    code = f"import sys, taskstream.cli; print([name for name in {names!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
