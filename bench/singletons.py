"""What the parts that exist once in a cell take for each task: they bound the cell, whatever is added to it.

A synthetic log of tasks that have ended is stored (the log's leader, and the copy into the queue), taken from the queue
(one queue), and folded by the scheduler, the projector and an index. Each figure is CPU time per task; its inverse is
the most tasks per second on one core of that part alone.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from taskstream.container import Container, open_container
from taskstream.events.codec import task_codec
from taskstream.events.subjects import task_ref
from taskstream.index.schema import SCHEMA, connect
from taskstream.index.task_index import TaskIndex
from taskstream.projections.task_projection import TaskProjection
from taskstream.scheduling.held_tasks import HeldTasks
from taskstream.scheduling.rules import FleetRules
from taskstream.settings import Settings
from taskstream.streams.jetstream.consumers import Consumer, follow
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.log import decode
from taskstream.streams.topology.definitions import DISPATCH, TASKS, pool_consumer
from taskstream.streams.topology.ensure import ensure_consumer
from testkit.nats import NatsServer
from testkit.usage import cpu_seconds

from .histories import empty_queue, store
from .report import Runs, progress

FOLDED_TOGETHER = 500
"""Events in one batch of a fold: what a second brings at 170 tasks a second."""
TAKEN_TOGETHER = 64


async def measure(options: argparse.Namespace) -> Runs:
    runs = []
    for number in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory(prefix="taskstream-singletons-") as folder, contextlib.ExitStack() as stack:
            server = NatsServer(Path(folder)).start()
            stack.callback(server.stop)
            container = await open_container(Settings(nats_url=server.url), server.url, durability="always")
            try:
                runs.append(await Parts(container, server, Path(folder), options.singleton_tasks).run())
            finally:
                await container.close()
        progress(f"run {number}: done")
    return runs


class Parts:
    """The parts, each over the same tasks."""

    def __init__(self, container: Container, server: NatsServer, folder: Path, tasks: int) -> None:
        self._container = container
        self._server = server
        self._folder = folder
        self._tasks = tasks

    async def run(self) -> dict[str, float]:
        """Return the milliseconds of CPU per task of each part, and tasks per second on one core."""
        events = 0

        async def stored() -> None:
            nonlocal events
            events = await store(self._server.url, self._tasks)

        found = {"nats_log": (await self._cost(stored))[1], "nats_queue": (await self._cost(self._take))[1]}
        await empty_queue(self._container.reading)
        positions = await self._whole_log()
        found["scheduler"] = (await self._cost(lambda: self._schedule(positions)))[0]
        found["projector"], found["nats_views"] = await self._cost(lambda: self._project(positions))
        found["index"] = (await self._cost(lambda: self._index(positions)))[0]
        figures = {"events_per_task": events / self._tasks}
        for part, milliseconds in found.items():
            figures[f"cpu_ms_per_task_{part}"] = milliseconds
            figures[f"tasks_per_second_on_a_core_{part}"] = 1000 / milliseconds
        return figures

    async def _cost(self, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
        """Return the milliseconds of CPU per task that this process took for some work, and that NATS took."""
        pid = self._server.pid
        assert pid is not None
        own, nats = time.process_time(), cpu_seconds(pid)
        await work()
        per_task = 1000 / self._tasks
        return (time.process_time() - own) * per_task, max((cpu_seconds(pid) - nats) * per_task, 1e-6)

    async def _take(self) -> None:
        """Take every task from its queue and acknowledge it, as a worker does."""
        connection = self._container.consuming
        name = await ensure_consumer(connection, DISPATCH, pool_consumer("default", "normal", self._container.settings))
        consumer = Consumer(connection, DISPATCH, name)
        await consumer.open()
        while messages := await consumer.fetch(TAKEN_TOGETHER):
            for message in messages:
                await connection.publish(message.reply, b"+ACK")

    async def _whole_log(self) -> list[Position]:
        found: list[Position] = []
        async with contextlib.aclosing(follow(self._container.reading, TASKS, [">"], 0)) as batches:
            async for positions in batches:
                if not positions:
                    return found
                found += positions
        raise AssertionError("following has no end")

    async def _schedule(self, positions: list[Position]) -> None:
        now = time.time()
        held = HeldTasks(FleetRules(self._container.fleet), 0.0, now)
        for position in positions:
            sequence, recorded = decode(task_codec, position)
            held.apply(task_ref(position.subject), sequence, recorded, now)

    async def _project(self, positions: list[Position]) -> None:
        projection = TaskProjection(self._container.buckets.tasks)
        await projection.resume()
        for start in range(0, len(positions), FOLDED_TOGETHER):
            await projection.apply(positions[start : start + FOLDED_TOGETHER])

    async def _index(self, positions: list[Position]) -> None:
        connection = connect(self._folder / "index.sqlite")
        connection.executescript(SCHEMA)
        index = TaskIndex(connection)
        for start in range(0, len(positions), FOLDED_TOGETHER):
            index.apply(positions[start : start + FOLDED_TOGETHER])
            index.flush()
        connection.close()
