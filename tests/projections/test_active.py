"""How far the projection of tasks is, in a log that has other messages as well."""

from __future__ import annotations

from taskstream.container import Container
from taskstream.projections.active import is_projected
from taskstream.projections.task_projection import TaskProjection
from taskstream.streams.jetstream.messages import read_last
from testkit.histories import claim, give, ref, submission, success, whole_log
from testkit.waiting import wait_until


async def test_what_is_no_event_of_a_task_need_not_be_projected(container: Container) -> None:
    assert await is_projected(container.buckets.tasks, 0)
    await container.appending.request("scheduler.fence", b"{}")
    assert await is_projected(container.buckets.tasks, 1)

    await container.appending.request("task.alice.1.noted", b"{}")
    await container.appending.request("scheduler.fence", b"{}")

    assert await is_projected(container.buckets.tasks, 1)
    assert not await is_projected(container.buckets.tasks, 2)
    assert not await is_projected(container.buckets.tasks, 3)
    await container.buckets.tasks.put("checkpoint", b"2")
    assert await is_projected(container.buckets.tasks, 3)


async def test_the_keys_of_ended_tasks_are_gone_within_seconds(container: Container) -> None:
    """Else a user with a thousand quick tasks a minute would not see a slow one on the first page of a list."""
    projection = TaskProjection(container.buckets.tasks)
    await projection.resume()
    for number in range(20):
        await give(container.commands, ref(number), submission(), claim(), *([success()] if number else []))
    await projection.apply(await whole_log(container.reading))
    await projection.write_all()

    async def left() -> bool:
        found = await read_last(container.reading, "KV_tasks", ["$KV.tasks.active.*.alice.*"])
        return [position.subject.rpartition(".")[2] for position in found] == [ref(0).unique]

    await wait_until(left, "the marker of every ended task to be gone", 20)
