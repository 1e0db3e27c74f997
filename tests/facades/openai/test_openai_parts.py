"""Parts of streams in the log: the first at once, the others summed up with their places."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskstream.backends.dialects.dialect import Update
from taskstream.commands.task_commands import Reporter
from taskstream.events.envelope import Actor
from taskstream.events.ids import TaskRef
from taskstream.events.stream_parts import one_part
from taskstream.events.task import ProgressReported
from testkit.histories import claim, give, ref, submission
from testkit.service import Service, running_service

REPORTER = Reporter(kind="worker", attempt=1)
WORKER = Actor("worker", "w1")
TEXTS = [f'{{"choices":[{{"delta":{{"content":"word {number}"}}}}]}}' for number in range(40)]


@pytest.fixture
async def api(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, worker=False) as service:
        yield service


async def report(api: Service, task: TaskRef, *updates: Update) -> None:
    known = await api.container.commands.tasks.load(task)
    for update in updates:
        await api.container.reports.progress(task, update, REPORTER, by=WORKER, cause="", known=known)


async def reports_in_the_log(api: Service, task: TaskRef) -> list[ProgressReported]:
    found, _ = await api.container.tasks.history_page(task, 0, 1_000)
    events = [stored.recorded.event for stored in found]
    return [event for event in events if isinstance(event, ProgressReported)]


async def test_the_first_part_of_a_stream_is_in_the_log_before_anybody_has_it(api: Service) -> None:
    task = ref(1)
    await give(api.container.commands, task, submission(), claim())
    await report(api, task, *[Update(message=str(number)) for number in range(20)])  # no more report is stored at once

    await report(api, task, Update(output="a", parts=one_part(0, TEXTS[0])))

    last = (await reports_in_the_log(api, task))[-1]
    assert last.parts is not None
    assert list(last.parts.texts()) == [TEXTS[0]]


async def test_stored_reports_have_every_part_once_and_say_which(api: Service) -> None:
    task = ref(2)
    await give(api.container.commands, task, submission(), claim())
    await report(api, task, *[Update(parts=one_part(place, text)) for place, text in enumerate(TEXTS)])
    await api.container.reports.flush(task)

    texts: list[str] = []
    stored = await reports_in_the_log(api, task)
    for each in stored:
        assert each.parts is not None
        assert each.parts.first == len(texts)
        texts += each.parts.texts()

    assert texts == TEXTS
    assert len(stored) < len(TEXTS)
    assert sum(each.parts.characters for each in stored if each.parts) < sum(map(len, TEXTS)) / 2
