"""A task is read from what its state follows from, however many reports it has: counted in messages and bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from nats.aio.msg import Msg

from taskstream.clock import unique_id, utc_now
from taskstream.container import Container
from taskstream.events.envelope import Recorded, Stored
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import task_root
from taskstream.events.task import (
    AttemptFailed,
    AttemptStarted,
    ProgressReported,
    StoredResult,
    TaskEvent,
    TaskFailed,
    TaskQueued,
    TaskSucceeded,
)
from taskstream.streams.log import LogEntry
from testkit.histories import ALICE, RESULT, claim, give, ref, submission, wander

REPORTS = 3_000
FEW = 30
"""Messages that a read of a task may cost, whatever its length."""


def data(size: int = 2) -> StoredResult:
    return StoredResult(inline=Raw(b'"' + b"x" * (size - 2) + b'"'), size_bytes=size)


async def append(container: Container, at: TaskRef, given: Sequence[TaskEvent]) -> None:
    """Append events that a server could cause, without deciding each."""
    recorded = [Recorded(id=unique_id(), at=utc_now(), by=ALICE, event=event) for event in given]
    known = await container.commands.tasks.load(at)
    last = known.sequence
    for start in range(0, len(recorded), 500):
        entry = LogEntry(root=task_root(at), events=recorded[start : start + 500], expected=last)
        last = await container.commands.tasks.log.append_together([entry])


async def running(container: Container, at: TaskRef) -> None:
    await give(container.commands, at, submission(), claim())


async def whole(container: Container, at: TaskRef) -> list[Stored[TaskEvent]]:
    return [stored async for step in container.commands.tasks.log.steps(task_root(at)) for stored in step]


class Received:
    """The answers that a container's connection for reads receives from now on."""

    def __init__(self, container: Container) -> None:
        self.messages = 0
        self.bytes = 0
        connection: Any = container.reading
        one, many = connection.request, connection.request_many

        async def request(*given: Any, **named: Any) -> Msg:
            return self._count([await one(*given, **named)])[0]

        async def request_many(*given: Any, **named: Any) -> list[Msg]:
            return self._count(await many(*given, **named))

        connection.request, connection.request_many = request, request_many

    def _count(self, answers: list[Msg]) -> list[Msg]:
        self.messages += len(answers)
        self.bytes += sum(len(answer.data) for answer in answers)
        return answers


def reports(count: int, **fields: Any) -> list[TaskEvent]:
    return [ProgressReported(attempt=1, message=str(number), **fields) for number in range(count)]


async def test_a_task_with_thousands_of_reports_is_read_in_few_messages(container: Container) -> None:
    await running(container, ref())
    await append(container, ref(), reports(REPORTS, progress=5.0, data=data(200), output="x" * 200))

    received = Received(container)
    detail = await container.tasks.detail(ref())

    assert (detail.view.message, detail.view.progress) == (str(REPORTS - 1), 5.0)
    assert received.messages <= FEW
    assert received.bytes <= 20_000


async def test_a_command_on_a_task_with_thousands_of_reports_costs_few_messages(container: Container) -> None:
    await running(container, ref())
    await append(container, ref(), reports(REPORTS))

    received = Received(container)
    known = await container.commands.tasks.load(ref())

    assert known.sequence == REPORTS + 2
    assert received.messages <= FEW


async def test_reports_that_say_that_none_had_data_are_not_searched(container: Container) -> None:
    await running(container, ref())
    await append(container, ref(), reports(REPORTS, progress=5.0, earlier=1))

    received = Received(container)
    detail = await container.tasks.detail(ref())

    assert (detail.view.progress, detail.report and detail.report.data) == (5.0, None)
    assert received.messages <= FEW


async def test_reports_without_data_are_searched_once_and_then_the_new_ones(container: Container) -> None:
    await running(container, ref())
    await append(container, ref(), [*reports(1, progress=5.0, data=data()), *reports(REPORTS)])

    first = Received(container)
    detail = await container.tasks.detail(ref())
    assert (detail.view.progress, detail.report and detail.report.data) == (5.0, data())
    assert first.messages >= REPORTS

    await append(container, ref(), reports(5))
    again = Received(container)
    detail = await container.tasks.detail(ref())
    assert again.messages <= FEW
    assert detail == container.tasks.detail_of(ref(), await whole(container, ref()))


async def test_a_task_retried_by_hand_is_read_without_the_results_of_former_ends(container: Container) -> None:
    rounds = 40
    await give(container.commands, ref(), submission())
    for number in range(1, rounds + 1):
        await append(
            container,
            ref(),
            [
                AttemptStarted(attempt=number, server_id="s1", worker_id="w1", deadline=utc_now() + timedelta(hours=1)),
                TaskFailed(attempt=number, server_id="s1", kind="failed", error=str(number), result=data(50_000)),
                *([TaskQueued(pool="default", priority="normal", reason="", renewed=True)] * (number < rounds)),
            ],
        )

    received = Received(container)
    detail = await container.tasks.detail(ref())

    assert (detail.view.attempt, detail.view.error, detail.result) == (rounds, str(rounds), data(50_000))
    assert received.bytes < 200_000
    assert detail == container.tasks.detail_of(ref(), await whole(container, ref()))


async def test_the_data_of_a_former_attempt_is_not_shown(container: Container) -> None:
    await running(container, ref())
    later = utc_now() + timedelta(hours=1)
    await append(
        container,
        ref(),
        [
            *reports(3, progress=50.0, data=data()),
            AttemptFailed(attempt=1, server_id="s1", kind="error", error="500", retry_at=later),
            AttemptStarted(attempt=2, server_id="s1", worker_id="w1", deadline=later),
            ProgressReported(attempt=2),
            ProgressReported(attempt=2),
        ],
    )

    detail = await container.tasks.detail(ref())

    assert (detail.view.progress, detail.report and detail.report.data) == (None, None)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_to_tasks_they_are_read_as_all_their_events_say(container: Container, seed: int) -> None:
    refs = [ref(number) for number in range(4)]
    chance = random.Random(seed)
    for round_ in range(8):
        await wander(container.commands, refs, 25, seed * 100 + round_)
        for at in refs:
            found = await whole(container, at)
            view = container.tasks.detail_of(at, found).view if found else None
            if view is not None and view.status == "PROCESSING":
                more = [
                    ProgressReported(
                        attempt=view.attempt,
                        progress=chance.choice([None, chance.random()]),
                        data=chance.choice([None, None, RESULT]),
                    )
                    for _ in range(chance.randint(0, 4))
                ]
                await append(container, at, more)
                found = await whole(container, at)
            if found:
                expected = container.tasks.detail_of(at, found)
                assert await container.tasks.detail(at, deleted=True) == expected
                assert isinstance(found[-1].recorded.event, TaskSucceeded) == (expected.view.status == "FINISHED")
