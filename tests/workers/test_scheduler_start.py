"""A scheduler that takes over knows the tasks whose ends are in views ahead of the projection's checkpoint."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from taskstream.container import Container
from taskstream.events.envelope import Stored
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import SCHEDULER_BACKLOG, TASK_SUBJECTS
from taskstream.events.task import TaskEvent
from taskstream.projections.active import projected
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.projections.task_projection import TaskProjection
from taskstream.streams.tail import Tail
from taskstream.streams.topology.definitions import TASKS
from taskstream.workers.scheduler import Scheduler
from testkit.histories import claim, give, ref, submission, success, whole_log
from testkit.waiting import wait_until

ENDED = [ref(number) for number in range(20)]
RUNNING = ref(100)


async def project(container: Container) -> None:
    projection = TaskProjection(container.buckets.tasks)
    await projection.resume()
    await projection.apply(await whole_log(container.reading))
    await projection.write_all()


async def test_a_scheduler_that_takes_over_reads_no_history_of_a_task_that_has_ended(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, tasks = container.commands, container.buckets.tasks
    await asyncio.gather(*(give(commands, each, submission(), claim()) for each in [*ENDED, RUNNING]))
    await project(container)
    checkpoint = await projected(tasks)
    await asyncio.gather(*(give(commands, each, success()) for each in ENDED))
    await project(container)
    await tasks.put(CHECKPOINT, b"%d" % checkpoint)
    read: list[TaskRef] = []
    load = commands.tasks.history

    async def history(of: TaskRef) -> list[Stored[TaskEvent]]:
        read.append(of)
        return await load(of)

    monkeypatch.setattr(commands.tasks, "history", history)
    acted = asyncio.Event()

    async def on_report(_: Msg) -> None:
        acted.set()

    await container.reading.subscribe(SCHEDULER_BACKLOG, on_report)
    members = container.membership("worker")
    container.services.start(members, Scheduler(container, members, Tail(container.reading, TASKS, TASK_SUBJECTS)))

    await wait_until(acted.is_set, "the scheduler to have acted and to report its backlog")
    assert read == []
