"""Reading single tasks, from their own histories: current without waiting for anybody."""

from __future__ import annotations

import pytest
from msgspec import Raw

from taskstream.commands import task_commands as task
from taskstream.container import Container
from taskstream.errors import NotFound
from taskstream.events.task import StoredResult
from testkit.histories import WORKER, claim, give, ref, submission, success


async def test_a_detail_has_payload_and_result(container: Container) -> None:
    await give(container.commands, ref(), submission(payload=b'{"b" : 1, "a": 2}'))
    before = await container.tasks.detail(ref())
    await give(container.commands, ref(), claim(), success())
    after = await container.tasks.detail(ref())

    assert bytes(before.payload) == bytes(after.payload) == b'{"b" : 1, "a": 2}'
    assert before.result is None
    assert after.result is not None
    assert bytes(after.result.inline) == b'{"data":1}'
    assert (before.view.status, after.view.status) == ("WAITING", "FINISHED")


async def test_a_detail_sees_every_write_that_was_answered_before(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())
    for number in range(50):
        sequence = await give(container.commands, ref(), task.ReportProgress(reporter=WORKER, progress=float(number)))
        detail = await container.tasks.detail(ref())
        assert (detail.view.sequence, detail.view.progress) == (sequence, float(number))


async def test_a_task_queued_anew_has_no_result(container: Container) -> None:
    failure = task.FailTask(reporter=WORKER, error="no", result=StoredResult(inline=Raw(b"1"), size_bytes=1))
    await give(container.commands, ref(), submission(), claim(), failure)
    assert (await container.tasks.detail(ref())).result == failure.result

    await give(container.commands, ref(), task.RetryTask(reason=""))

    assert (await container.tasks.detail(ref())).result is None


async def test_a_large_result_is_named_and_not_read(container: Container) -> None:
    large = StoredResult(object_name="r", size_bytes=32 * 1024 * 1024)
    sequence = await give(container.commands, ref(), submission(), claim(), success(large))

    detail = await container.tasks.detail(ref())

    assert (detail.result, detail.result_sequence) == (large, sequence)
    assert (detail.view.result_bytes, detail.view.ended_sequence) == (large.size_bytes, sequence)


async def test_an_unknown_task_is_not_found(container: Container) -> None:
    with pytest.raises(NotFound):
        await container.tasks.detail(ref())
    with pytest.raises(NotFound):
        await container.tasks.history(ref())


async def test_the_views_of_a_few_tasks_are_those_of_their_histories(container: Container) -> None:
    await give(container.commands, ref(1), submission(), claim(), success())
    await give(container.commands, ref(2), submission(), task.DeleteTask(reason=""))
    await give(container.commands, ref(3), submission())

    found = await container.tasks.views([ref(3), ref(9), ref(2), ref(1)])

    assert [(each.ref, each.view.status) for each in found] == [
        (ref(3), "WAITING"),
        (ref(2), "CANCELLED"),
        (ref(1), "FINISHED"),
    ]
    assert found[1].view.deleted
