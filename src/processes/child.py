"""A child of `taskstream up`: an API or a worker, told by the supervisor when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import uvloop

from ..api.scrape import metrics_text
from ..container import Container, open_container
from ..running import drain, running_api, running_worker, tune_memory
from ..runtime import logs, metrics
from ..runtime.failures import explained
from ..runtime.siblings import Siblings
from .messages import (
    AskMetrics,
    ChildReady,
    CollectMetrics,
    Fork,
    GaveUp,
    Halted,
    Link,
    MetricsPage,
    MetricsPages,
    Reserve,
    States,
    StopChild,
    ToChild,
)

LOOK_SECONDS = 1.0
"""How often what has halted is looked for."""
PAGES_SECONDS = 3.0
"""How long a scrape waits for the metrics of the others."""


def run(order: Fork, link: socket.socket, listener: socket.socket) -> int:
    """Run the child to its end; return its exit status."""
    logs.configure(order.settings, order.name)
    return uvloop.run(_run(order, link, listener))


async def _run(order: Fork, end: socket.socket, listener: socket.socket) -> int:
    link = await Link.over(end)
    supervisor = Supervisor(link, order.name)
    try:
        async with supervisor.heard(), AsyncExitStack() as stack:
            opened = await open_container(
                order.settings, order.nats_url, "always" if order.is_embedded else None, order.name
            )
            container = await stack.enter_async_context(supervisor.known_to(opened))
            if order.role == "api":
                server = await stack.enter_async_context(running_api(container, listener))
            else:
                await stack.enter_async_context(running_worker(container))
            metrics.restarts.set(order.restarts)
            tune_memory()
            link.send(ChildReady())
            await supervisor.stop.wait()
            container.draining = True
            if order.role == "api":
                await drain(container, server)
    except Exception as error:
        failure = explained(error)
        if failure is None:
            raise
        link.send(GaveUp(status=failure[0], text=failure[1]))
        await link.sent()
        return failure[0]
    finally:
        link.close()
    return 0


class Supervisor:
    """The supervisor as a child knows it. Without it the child ends at once."""

    def __init__(self, link: Link, name: str) -> None:
        self.stop = asyncio.Event()
        """Set when this process is told to stop."""
        self._link = link
        self._container: Container | None = None
        self._siblings = Siblings(name, self._pages)
        self._reserve_bytes = 0
        self._collection = 0
        """The number of the latest one."""
        self._collecting: asyncio.Future[list[str]] | None = None
        """The collection of metrics that scrapes of the same time share."""
        self._answers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        """Do what it says until the block ends."""
        listening = asyncio.create_task(self._listen(), name="supervisor")
        try:
            yield
        finally:
            listening.cancel()

    @contextlib.asynccontextmanager
    async def known_to(self, container: Container) -> AsyncIterator[Container]:
        """Start the container; it knows the other processes, and the supervisor what it reports."""
        container.siblings = self._siblings
        container.space.reports(self._report_reserve)
        async with container:
            self._container = container
            reporting = asyncio.create_task(self._report_halted(container), name="halted")
            try:
                yield container
            finally:
                reporting.cancel()

    async def _listen(self) -> None:
        while (body := await self._link.receive()) is not None:
            match msgspec.msgpack.decode(body, type=ToChild):
                case StopChild():
                    self.stop.set()
                case States(states=states):
                    self._siblings.states = states
                case AskMetrics(number=number):
                    answer = asyncio.create_task(self._send_page(number), name="metrics")
                    self._answers.add(answer)
                    answer.add_done_callback(self._answers.discard)
                case MetricsPages(number=number, texts=texts):
                    if number == self._collection and self._collecting is not None and not self._collecting.done():
                        self._collecting.set_result(texts)
        os.kill(os.getpid(), signal.SIGKILL)  # the supervisor is gone

    async def _send_page(self, number: int) -> None:
        text = await metrics_text(self._container) if self._container is not None else ""
        self._link.send(MetricsPage(number=number, text=text))

    async def _pages(self) -> list[str]:
        """Return the metrics of the other processes that answer."""
        if self._collecting is None:
            self._collecting = asyncio.get_running_loop().create_future()
            self._collection += 1
            self._link.send(CollectMetrics(number=self._collection))
        collecting = self._collecting
        try:
            return await asyncio.wait_for(asyncio.shield(collecting), PAGES_SECONDS)
        except TimeoutError:
            return []
        finally:
            if self._collecting is collecting:
                self._collecting = None

    def _report_reserve(self, size_bytes: int) -> None:
        if size_bytes != self._reserve_bytes:
            self._reserve_bytes = size_bytes
            self._link.send(Reserve(size_bytes=size_bytes))

    async def _report_halted(self, container: Container) -> None:
        reported: dict[str, str] = {}
        while True:
            if (halted := container.services.halted) != reported:
                reported = halted
                self._link.send(Halted(services=halted))
            await asyncio.sleep(LOOK_SECONDS)
